"""What users do in a run: seed, update, roll back, unseed, call, read; an open loop that waits for
nobody.

Decides: who does what when, and what each answer promised.
Does not know: faults; whether a promise is kept (``sim.verdict.checkers`` asks).
Invariants: each name has one home machine, whose users alone publish it, one command at a time, so
    that what was acknowledged last is what must stand. A call begins at its time whatever became of
    the calls before.
Source: docs/internals/simulator.md#the-parts.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pollen.core.commands import PinCommand, Seeded, UnseedCommand
from pollen.core.effects import Reply
from pollen.core.ids import MILLISECOND, SECOND, RequestId
from pollen.core.rng import Rng
from pollen.core.versionwords import RollbackCommand
from pollen.sim.muscles import modules
from pollen.sim.muscles.blobs import Read
from pollen.sim.muscles.calls import Call
from pollen.sim.world.machine import Machine
from pollen.sim.world.world import World

_TICK_NS = 250 * MILLISECOND
# Somebody reads a blob so often.
_READ_NS = SECOND
# How large blobs are: in one piece and in several.
_SIZES = (1 << 10, 1 << 17, 1 << 20, 6 << 20, 9 << 20, 20 << 20)
# A command without an answer for so long is given up: its node died with it.
_PATIENCE_NS = 15 * SECOND


@dataclass(slots=True, frozen=True)
class Promise:
    """What an acknowledged command left behind: the seed's hash, empty when it was withdrawn."""

    at: int
    seed: str


@dataclass(slots=True, eq=False)
class Name:
    """One name of the workload and what its home was promised."""

    name: str
    home: str
    version: int = 0
    asked: RequestId | None = None
    asked_at: int = 0
    is_unseed: bool = False
    is_open: bool = False
    is_blob: bool = False
    promises: list[Promise] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Pin:
    """A blob's name that a user pinned on one machine, or let go of. ``is_open``: what stands is
    not known; ``losses``: of its disk, when it was acknowledged."""

    machine: str
    name: str
    is_wanted: bool = False
    is_pinned: bool = False
    asked: RequestId | None = None
    asked_at: int = 0
    is_open: bool = False
    losses: int = 0


class Workload:
    """The users of one run."""

    def __init__(
        self, world: World, rng: Rng, *, names: int, calls_per_second: int, blobs: int = 0
    ) -> None:
        self.world = world
        self.rng = rng
        self.names: list[Name] = []
        self.blobs: list[Name] = []
        self.calls: list[Call] = []
        self.reads: list[Read] = []
        self.pins: dict[tuple[str, str], Pin] = {}
        self.counts: dict[str, int] = {}
        self._rate = calls_per_second
        self._is_on = False
        homes = [m.name for m in world.machines.values() if not m.is_malicious]
        for i in range(names):
            self.names.append(Name(f"seed-{i}", homes[rng.below(len(homes))]))
        for i in range(blobs):
            self.blobs.append(Name(f"blob-{i}", homes[rng.below(len(homes))], is_blob=True))

    @property
    def all_names(self) -> list[Name]:
        """The names of modules, then those of blobs."""
        return [*self.names, *self.blobs]

    # -- the stream -------------------------------------------------------------------------------

    def begin(self) -> None:
        """Users are at their keyboards from now on."""
        self._is_on = True
        for name in self.all_names:
            self.publish(name)
        self.world.schedule(_TICK_NS, self._tick)
        if self.blobs:
            self.world.schedule(_READ_NS, self._next_read)
        self.world.schedule(SECOND // self._rate, self._next_call)

    def end(self) -> None:
        """Nobody asks for anything new."""
        self._is_on = False

    def _tick(self) -> None:
        self.read_answers()
        if not self._is_on:
            return
        for name in self.all_names:
            draw = self.rng.below(1_000)
            if draw < 12:
                self.publish(name)
            elif draw < 17:
                self.withdraw(name)
            elif draw < 21:
                self.roll_back(name)
            elif draw < 26 and name.is_blob:
                self.pin(name)
        self.world.schedule(_TICK_NS, self._tick)

    def _next_call(self) -> None:
        if not self._is_on:
            return
        name = self.names[self.rng.below(len(self.names))]
        machines = [m for m in self.world.machines.values() if m.is_up and not m.is_malicious]
        if machines:
            self.call(machines[self.rng.below(len(machines))], name.name)
        self.world.schedule(SECOND // self._rate, self._next_call)

    # -- commands ---------------------------------------------------------------------------------

    def publish(self, name: Name) -> None:
        """Seed or update a name at its home, when that runs and nothing else is under way."""
        machine = self.world.machines[name.home]
        if name.asked is not None or not machine.is_up:
            return
        data = f"{name.name}/{name.version + 1}".encode()
        module = self._module(name)
        if module.is_file and module.size > machine.free_bytes:
            self._count("uploads-refused")
            return
        name.version += 1
        modules.make(data, module)
        options: dict[str, object] = {"min_replicas": 1 + self.rng.below(3)}
        if not name.is_blob:
            options["memory_bytes"] = 1 << 24
        if self.rng.below(2) and not name.is_blob:
            options["idempotent"] = True
        command = self.world.seed_command(name.home, name.name, data, **options)
        name.asked = self.world.ask_later(name.home, command)
        name.asked_at, name.is_unseed = self.world.now, False
        self._count("seeds-asked")

    def _module(self, name: Name) -> modules.Module:
        """What the next version is made of: a quick module, or a file of a mixed size."""
        if name.is_blob:
            size = _SIZES[self.rng.below(len(_SIZES))]
            return modules.Module(size=size, functions=(), is_file=True)
        return modules.Module(run_ns=(1 + self.rng.below(8)) * MILLISECOND)

    def withdraw(self, name: Name) -> None:
        """Unseed a name at its home."""
        machine = self.world.machines[name.home]
        if name.asked is not None or not machine.is_up or not name.promises:
            return
        if not name.promises[-1].seed:
            return
        name.asked = self.world.ask_later(name.home, UnseedCommand(target=name.name))
        name.asked_at, name.is_unseed = self.world.now, True
        self._count("unseeds-asked")

    def roll_back(self, name: Name) -> None:
        """Publish the version before again, at its home."""
        machine = self.world.machines[name.home]
        if name.asked is not None or not machine.is_up or not name.promises:
            return
        name.asked = self.world.ask_later(name.home, RollbackCommand(target=name.name))
        name.asked_at, name.is_unseed = self.world.now, False
        self._count("rollbacks-asked")

    def pin(self, name: Name) -> None:
        """Pin a blob on some machine, or let go of it where it is pinned."""
        machines = [m for m in self.world.machines.values() if m.is_up and not m.is_malicious]
        if not machines:
            return
        machine = machines[self.rng.below(len(machines))]
        pin = self.pins.setdefault((machine.name, name.name), Pin(machine.name, name.name))
        if pin.asked is None:
            pin.is_wanted = not pin.is_pinned
            command = PinCommand(target=name.name, is_pinned=pin.is_wanted)
            pin.asked, pin.asked_at = self.world.ask_later(machine.name, command), self.world.now
            self._count("pins-asked")

    def _read_pins(self) -> None:
        for pin in self.pins.values():
            machine = self.world.machines[pin.machine]
            reply = None if pin.asked is None else machine.replies.pop(pin.asked, None)
            if reply is not None:
                pin.asked = None
                if not reply.slug:
                    pin.is_pinned, pin.is_open = pin.is_wanted, False
                    pin.losses = machine.losses
            elif pin.asked is not None and self.world.now > pin.asked_at + _PATIENCE_NS:
                pin.asked, pin.is_open = None, True

    def read_answers(self) -> None:
        """Note what was acknowledged since the last look."""
        self._read_pins()
        for name in self.all_names:
            if name.asked is None:
                continue
            reply = self.world.machines[name.home].replies.pop(name.asked, None)
            if reply is not None:
                self._note(name, reply)
                name.asked, name.is_open = None, False
            elif self.world.now > name.asked_at + _PATIENCE_NS:
                # It may have happened or not: what stands afterwards is either.
                name.asked, name.is_open = None, True
                self._count("answers-lost")

    def _note(self, name: Name, reply: Reply) -> None:
        if reply.slug:
            self._count(f"refused-{reply.slug}")
            return
        seed = reply.result.seed if isinstance(reply.result, Seeded) else ""
        name.promises.append(Promise(self.world.now, "" if name.is_unseed else seed))
        self._count("acknowledged")

    # -- calls ------------------------------------------------------------------------------------

    def call(self, machine: Machine, name: str, *, idempotent: bool | None = None) -> Call:
        """One call at a machine's door."""
        now = self.world.now
        call = Call(
            call=self.rng.draw() << 64 | self.rng.draw(),
            origin=machine.name,
            name=name,
            began=now,
            deadline=now + 5 * SECOND,
            idempotent=bool(self.rng.below(2)) if idempotent is None else idempotent,
        )
        self.calls.append(call)
        self._count("calls")
        if machine.plane is not None:
            machine.plane.calls.begin(call)
        return call

    # -- readers ----------------------------------------------------------------------------------

    def _next_read(self) -> None:
        if not self._is_on:
            return
        name = self.blobs[self.rng.below(len(self.blobs))]
        machines = [m for m in self.world.machines.values() if m.is_up and not m.is_malicious]
        if machines:
            self.read(machines[self.rng.below(len(machines))], name.name)
        self.world.schedule(_READ_NS, self._next_read)

    def read(self, machine: Machine, name: str) -> Read | None:
        """Somebody reads a blob at a machine; None where no process runs."""
        if machine.plane is None:
            return None
        read = machine.plane.blobs.read(name)
        self.reads.append(read)
        self._count("reads")
        return read

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def outcome(self) -> dict[str, int]:
        """How many calls ended how: ``ok``, the slug of an error, or ``unanswered``."""
        found: dict[str, int] = {}
        for call in self.calls:
            key = (call.slug or "ok") if call.ended else "unanswered"
            found[key] = found.get(key, 0) + 1
        return found
