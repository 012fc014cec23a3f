"""The words in which scenarios are written: what somebody does, and what must then be so.

Decides: how long a scenario waits for what it expects.
Does not know: which scenario speaks.
Invariants: every expectation is counted and fails with a reason in words.
Source: TigerBeetle ``replica_test.zig``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from pollen.core.commands import Status, StatusCommand, UnseedCommand
from pollen.core.effects import Reply
from pollen.core.ids import DAY, HOUR, MINUTE, SECOND
from pollen.core.rng import Rng
from pollen.core.trust import Tier
from pollen.sim.mischief.faults import Faults
from pollen.sim.mischief.workload import Workload
from pollen.sim.muscles import modules
from pollen.sim.muscles.calls import Call
from pollen.sim.muscles.weather import Cut
from pollen.sim.verdict import checkers, observe
from pollen.sim.verdict.checkers import Case
from pollen.sim.verdict.outcome import Outcome
from pollen.sim.verdict.trial import node_names
from pollen.sim.world.machine import Machine
from pollen.sim.world.world import World

# Between two looks of a node at what it may forget less than twice their distance may pass.
_LOOK_NS = 19 * MINUTE


class Scene:
    """A world with verbs. ``checks`` counts the expectations that were looked at."""

    def __init__(self, number: int) -> None:
        rng = Rng(number)
        self.world = World(rng.draw())
        self.rng = rng
        self.checks: dict[str, int] = {}
        self.outcome = Outcome(self.world)
        self._cuts: list[Cut] = []

    # -- doing ------------------------------------------------------------------------------------

    def cluster(self, count: int, *, leaves: int = 0, admins: int = 1) -> list[str]:
        """So many nodes, linked. The first has the root key, the first ``admins`` are admins, the
        last ``leaves`` cannot publish.
        """
        names = node_names(count)
        last = names[count - leaves :] if leaves else ()
        self.world.found_all(names, leaves=last, admins=names[:admins])
        self.passes(5)
        return names

    def passes(self, seconds: float) -> None:
        """Time goes by."""
        self.world.run(int(seconds * SECOND))

    def days_pass(self, days: int) -> None:
        """Days go by, ten at once, with half a minute of life after each ten."""
        for begun in range(0, days, 10):
            self.world.skip(min(10, days - begun) * DAY)
            self.passes(30)

    def hours_pass(self, hours: int) -> None:
        """Hours in which every node looks around as often as it does: what counts the time that
        it was awake counts them.
        """
        for _ in range(hours * HOUR // _LOOK_NS):
            self.world.skip(_LOOK_NS - SECOND // 10)
            self.passes(0.1)

    def machine(self, name: str) -> Machine:
        """One machine."""
        return self.world.machines[name]

    def seeds(self, node: str, name: str, data: bytes = b"module", **options: Any) -> str:
        """A user publishes; the hash of the seed. It must be acknowledged."""
        reply = self.world.seed(node, name, data, **options)
        self.expect("acknowledged", not reply.slug, f"{node} seeds {name}: {reply.slug}")
        return str(reply.result.seed) if reply.result is not None else ""  # type: ignore[attr-defined]

    def seeds_file(self, node: str, name: str, size: int, **options: Any) -> bytes:
        """A user publishes a file of so many bytes; its content id. It must be acknowledged."""
        data = f"{node}/{name}/{size}".encode()
        content = modules.make(data, modules.Module(size=size, functions=(), is_file=True))
        self.seeds(node, name, data, **options)
        return content

    def disks_with(self, content: bytes) -> list[str]:
        """The machines, running or not, on whose disk a content is."""
        return [m.name for m in self.world.machines.values() if content in m.content]

    def reads(self, node: str, name: str) -> str:
        """Somebody reads a blob: empty when all of it came, else the slug."""
        plane = self.machine(node).plane
        if plane is None:
            return "unanswered"
        read = plane.blobs.read(name)
        self.world.run_until(lambda: read.ended > 0, 30 * SECOND)
        return read.slug if read.ended else "unanswered"

    def dies(self, name: str) -> None:
        """A machine is gone for good without a word, and its disk with it."""
        self.world.crash(name)
        machine = self.machine(name)
        machine.is_gone = True
        machine.content.clear()
        machine.losses += 1

    def unseeds(self, node: str, name: str) -> Reply:
        """A user withdraws; the answer, whatever it is."""
        return self.world.command(node, UnseedCommand(target=name))

    def cuts(self, one: list[str], other: list[str]) -> None:
        """Nothing passes between the two groups."""
        rule = Cut(frozenset(one), frozenset(other), True)
        self._cuts.append(rule)
        self.world.network.weather.cuts.append(rule)
        self.world.trace.note(self.world.now, "", "fault", f"{' '.join(one)} | {' '.join(other)}")

    def heals(self) -> None:
        """Everything passes again."""
        for rule in self._cuts:
            self.world.network.weather.cuts.remove(rule)
        self._cuts = []
        self.world.network.release_held()
        self.world.trace.note(self.world.now, "", "fault", "the cut heals")

    def tier_of(self, name: str) -> Tier:
        """The tier that a machine of ``cluster`` was given."""
        return Tier.ADMIN if self.machine(name).root is not None else Tier.PUBLISHER

    # -- expecting --------------------------------------------------------------------------------

    def expect(self, claim: str, holds: bool, reason: str = "") -> None:
        """It must be so now."""
        self.checks[claim] = self.checks.get(claim, 0) + 1
        if not holds:
            raise AssertionError(f"{claim}: {reason}" if reason else claim)

    def becomes(self, claim: str, holds: Callable[[], bool], within: float = 30) -> float:
        """It must become so within so many seconds; how long it took."""
        began = self.world.now
        held = self.world.run_until(holds, int(within * SECOND))
        self.expect(claim, held, f"not within {within:g} s")
        return (self.world.now - began) / SECOND

    def settles(self, within: float = 60) -> float:
        """All invariants must hold within so many seconds."""
        world = self.world
        faults = Faults(world, Rng(1), [])
        case = Case(world, faults, Workload(world, Rng(1), names=0, calls_per_second=1))
        looks = [*checkers.ALWAYS, *checkers.SETTLED]

        def odd() -> list[str]:
            """The first thing that each checker saw."""
            return [f"{checkers.name_of(c)}: {t}" for c in looks for t in case.look(c)[:1]]

        began = world.now
        held = world.run_until(lambda: not odd(), int(within * SECOND), SECOND // 2)
        for name, count in case.counts.items():
            self.checks[name] = self.checks.get(name, 0) + count
        self.expect("settles", held, f"not within {within:g} s: {'; '.join(odd())}")
        return (world.now - began) / SECOND

    def seed_known(self, node: str, name: str) -> str:
        """The hash of the live seed that a name means to a node; empty when there is none."""
        holding = observe.names_of(self.machine(node)).get(name)
        return holding.holder.seed.hex() if holding is not None and holding.is_live else ""

    def status(self, node: str) -> Status:
        """What ``pln status`` says on a node."""
        return cast(Status, self.world.ask(node, StatusCommand()))

    def is_member(self, at: str, name: str) -> bool:
        """Whether a machine is in the tables of another one."""
        return self.machine(name).key in self.machine(at).peers

    def members_with(self, name: str, nodes: list[str]) -> list[str]:
        """Those of the nodes that have a machine in their tables."""
        return [node for node in nodes if self.is_member(node, name)]

    def links_of(self, name: str) -> list[str]:
        """Who is linked with a machine so that calls may pass."""
        ends = self.world.network.ends_of(self.machine(name))
        return sorted(self.world.by_key[end.peer].name for end in ends if end.is_routed)

    def hosts(self, name: str) -> list[str]:
        """The machines on which the seed that the name means there is loaded."""
        found = []
        for machine in self.world.machines.values():
            known = self.seed_known(machine.name, name)
            if machine.is_up and known and bytes.fromhex(known) in machine.loaded:
                found.append(machine.name)
        return found

    def call(self, node: str, name: str, *, idempotent: bool = False) -> str:
        """A call from a node: empty when it succeeded, else the slug."""
        call = self.called(node, name, idempotent=idempotent)
        return call.slug if call.ended else "unanswered"

    def called(self, node: str, name: str, *, idempotent: bool = False) -> Call:
        """The same, with all that became of it."""
        workload = Workload(self.world, Rng(self.rng.draw()), names=0, calls_per_second=1)
        call = workload.call(self.machine(node), name, idempotent=idempotent)
        self.world.run_until(lambda: call.ended > 0, 6 * SECOND)
        return call
