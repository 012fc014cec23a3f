"""What goes wrong in a run: small rules, each with a chance, a shortest and a longest time.

Decides: when a rule strikes, whom, and for how long; the same generator draws the same misfortune.
Does not know: what must hold meanwhile; a rule only turns a knob of the world.
Invariants: what a rule turned it turns back at the end of its time; ``heal`` ends every rule and
    starts every machine that is down. Each strike is counted under the rule's name.
Source: docs/design/style.md#simulator, docs/internals/simulator.md#faults;
    turmoil-net ``rule.rs``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pollen.core import events as ev
from pollen.core.commands import DrainCommand
from pollen.core.ids import DAY, HOUR, MILLISECOND, MINUTE, SECOND
from pollen.core.rng import Rng
from pollen.sim.muscles.weather import Cut
from pollen.sim.world.machine import Image, Machine
from pollen.sim.world.world import World, reset_clock

Undo = Callable[[], None]
# After so many ticks without a fault one is made.
_QUIET_TICKS = 80
# The process ends so long after it said that it leaves.
_LEAVING_NS = 5 * SECOND
# A machine dies for good only where so many are.
_LEAST = 4
_TICK_NS = 250 * MILLISECOND


@dataclass(slots=True, frozen=True)
class Rule:
    """One kind of fault. ``chance_bp``: of striking in one tick (a quarter of a second).

    ``begin`` strikes for the time given and returns what undoes it, or None when it found no
    victim. ``least_ns`` to ``most_ns`` is how long it lasts.
    """

    name: str
    begin: Callable[[Faults, int], Undo | None]
    chance_bp: int
    least_ns: int
    most_ns: int


class Faults:
    """The misfortune of one run."""

    def __init__(self, world: World, rng: Rng, rules: list[Rule]) -> None:
        self.world = world
        self.rng = rng
        self._rules = rules
        self._undos: dict[int, tuple[str, Undo]] = {}
        self._strikes = 0
        self._ticks = 0
        self._is_on = False
        self.images: dict[str, Image] = {}
        self.spoiled: dict[str, int] = {}
        self.counts: dict[str, int] = {}

    # -- striking ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """From now on a rule may strike in each tick."""
        self._is_on = True
        self.world.schedule(_TICK_NS, self._tick)

    def _tick(self) -> None:
        if not self._is_on:
            return
        for rule in self._rules:
            if self.rng.below(10_000) < rule.chance_bp:
                self.strike(rule)
        self._ticks += 1
        if self._ticks >= _QUIET_TICKS and not self._strikes:
            # A run without any fault would prove nothing.
            self.strike(self._rules[self.rng.below(len(self._rules))])
        self.world.schedule(_TICK_NS, self._tick)

    def strike(self, rule: Rule) -> None:
        """This rule, now."""
        lasts = rule.least_ns + self.rng.below(rule.most_ns - rule.least_ns + 1)
        undo = rule.begin(self, lasts)
        if undo is None:
            return
        self.counts[rule.name] = self.counts.get(rule.name, 0) + 1
        self._strikes += 1
        number = self._strikes
        self._undos[number] = (rule.name, undo)
        self.world.schedule(lasts, self._end, number)

    def _end(self, number: int) -> None:
        held = self._undos.pop(number, None)
        if held is not None:
            held[1]()

    def heal(self) -> None:
        """No rule stands, nothing strikes any more, every machine runs, every clock is right."""
        self._is_on = False
        for number in list(self._undos):
            self._end(number)
        weather = self.world.network.weather
        weather.cuts, weather.slow, weather.loss_bp = [], {}, 0
        self.world.network.release_held()
        for machine in list(self.world.machines.values()):
            machine.clock.wall_offset = 0
            if machine.is_frozen:
                self.world.thaw(machine.name)
            if machine.node is None and not machine.is_gone:
                self.world.start(machine.name)
        self.world.trace.note(self.world.now, "", "fault", "everything heals")

    # -- what rules draw --------------------------------------------------------------------------

    def some(self, *, is_up: bool = True) -> Machine | None:
        """One machine by chance: one that runs and moves, or any that may."""
        found = [m for m in self.world.machines.values() if (m.is_up if is_up else not m.is_gone)]
        return found[self.rng.below(len(found))] if found else None

    def halves(self) -> tuple[list[str], list[str]]:
        """All machines in two parts by chance, neither of them empty when there are two."""
        names = list(self.world.machines)
        self.rng.shuffle(names)
        at = 1 + self.rng.below(max(1, len(names) - 1))
        return sorted(names[:at]), sorted(names[at:])

    def note(self, where: str, text: str) -> None:
        """A line of the timeline."""
        self.world.trace.note(self.world.now, where, "fault", text)

    def cut(self, one: list[str], other: list[str], *, is_symmetric: bool) -> Undo | None:
        """Nothing passes from the one to the other."""
        if not one or not other:
            return None
        network = self.world.network
        rule = Cut(frozenset(one), frozenset(other), is_symmetric)
        network.weather.cuts.append(rule)
        arrow = "|" if is_symmetric else "->|"
        self.note("", f"cut: {' '.join(one)} {arrow} {' '.join(other)}")

        def undo() -> None:
            if rule in network.weather.cuts:
                network.weather.cuts.remove(rule)
                self.note("", f"cut ends: {' '.join(one)} {arrow} {' '.join(other)}")
                network.release_held()

        return undo

    def restart_later(self, machine: Machine) -> Undo:
        """The undo of every fault that ends a process."""
        boots = machine.boots

        def undo() -> None:
            if machine.node is None and machine.boots == boots and not machine.is_gone:
                reset_clock(
                    machine,
                    self.world.now,
                    1 + self.rng.below(10 * MINUTE),
                    self.rng.below(401) - 200,
                )
                self.world.start(machine.name)

        return undo


# -- the rules ------------------------------------------------------------------------------------


def partition(faults: Faults, lasts: int) -> Undo | None:
    """Two halves hear nothing of each other."""
    return faults.cut(*faults.halves(), is_symmetric=True)


def partition_one_way(faults: Faults, lasts: int) -> Undo | None:
    """One half hears the other, not the other way round."""
    return faults.cut(*faults.halves(), is_symmetric=False)


def isolate(faults: Faults, lasts: int) -> Undo | None:
    """One machine alone behind a broken cable."""
    machine = faults.some()
    if machine is None:
        return None
    others = [name for name in faults.world.machines if name != machine.name]
    return faults.cut([machine.name], others, is_symmetric=True)


def break_link(faults: Faults, lasts: int) -> Undo | None:
    """A connection ends for no reason of either brain."""
    machine = faults.some()
    ends = [] if machine is None else list(faults.world.network.ends_of(machine))
    if not ends or machine is None:
        return None
    faults.world.network.reset(ends[faults.rng.below(len(ends))])
    faults.note(machine.name, "loses a link")
    return lambda: None


def slow_down(faults: Faults, lasts: int) -> Undo | None:
    """All that one machine sends and gets takes longer."""
    machine = faults.some()
    if machine is None:
        return None
    slow, name = faults.world.network.weather.slow, machine.name
    slow[name] = faults.rng.below(300) * MILLISECOND
    faults.note(name, f"is slow: {slow[name] // MILLISECOND} ms each way")

    def undo() -> None:
        slow.pop(name, None)

    return undo


def lose_packets(faults: Faults, lasts: int) -> Undo | None:
    """A burst of loss on every way."""
    weather = faults.world.network.weather
    before = weather.loss_bp
    weather.loss_bp = 500 + faults.rng.below(2_500)
    faults.note("", f"loss {weather.loss_bp // 100} % everywhere")

    def undo() -> None:
        weather.loss_bp = before

    return undo


def crash(faults: Faults, lasts: int) -> Undo | None:
    """Gone without a word; unsynced writes are lost; back later with the disk as it was."""
    machine = faults.some()
    if machine is None:
        return None
    faults.counts["writes-lost"] = faults.counts.get("writes-lost", 0) + faults.world.crash(
        machine.name
    )
    return faults.restart_later(machine)


def stop(faults: Faults, lasts: int) -> Undo | None:
    """An orderly stop and a start later."""
    machine = faults.some()
    if machine is None:
        return None
    faults.world.kill(machine.name)
    return faults.restart_later(machine)


def leave(faults: Faults, lasts: int) -> Undo | None:
    """What ``pln down`` does, and a start later: it says that it leaves, and is awaited."""
    machine = faults.some()
    if machine is None:
        return None
    boots, back = machine.boots, faults.restart_later(machine)
    faults.world.ask_later(machine.name, DrainCommand())
    faults.note(machine.name, "says that it leaves")

    def end() -> None:
        if machine.boots == boots:
            faults.world.kill(machine.name)

    def undo() -> None:
        end()
        back()

    faults.world.schedule(_LEAVING_NS, end)
    return undo


def outage(faults: Faults, lasts: int) -> Undo | None:
    """Every machine at once."""
    undos = []
    for machine in list(faults.world.machines.values()):
        if machine.node is not None:
            faults.world.crash(machine.name)
            undos.append(faults.restart_later(machine))

    def undo() -> None:
        for each in undos:
            each()

    return undo


def wipe_disk(faults: Faults, lasts: int) -> Undo | None:
    """A crash, and the disk is empty afterwards; the key is kept."""
    machine = faults.some()
    if machine is None:
        return None
    faults.world.crash(machine.name)
    machine.disk.wipe()
    machine.content.clear()
    machine.losses += 1
    faults.spoiled[machine.name] = faults.world.now
    faults.note(machine.name, "loses its disk; the key is kept")
    return faults.restart_later(machine)


def take_image(faults: Faults, lasts: int) -> Undo | None:
    """Somebody copies a disk: nothing goes wrong yet."""
    machine = faults.some(is_up=False)
    if machine is None:
        return None
    faults.images[machine.name] = machine.disk.image()
    return lambda: None


def restore_image(faults: Faults, lasts: int) -> Undo | None:
    """A crash, and the disk is an old copy of itself afterwards."""
    names = [n for n in sorted(faults.images) if faults.world.machines[n].is_up]
    if not names:
        return None
    machine = faults.world.machines[names[faults.rng.below(len(names))]]
    faults.world.crash(machine.name)
    machine.disk.replace(faults.images.pop(machine.name))
    faults.spoiled[machine.name] = faults.world.now
    faults.note(machine.name, "gets an old image of its disk")
    return faults.restart_later(machine)


def stall_brain(faults: Faults, lasts: int) -> Undo | None:
    """The brain takes no turn; its muscles go on."""
    machine = faults.some()
    if machine is None:
        return None
    faults.world.stall(machine.name, lasts)
    faults.note(machine.name, f"brain stalls {lasts // MILLISECOND} ms")
    return lambda: None


def freeze(faults: Faults, lasts: int) -> Undo | None:
    """The process stands still (SIGSTOP)."""
    machine = faults.some()
    if machine is None:
        return None
    faults.world.freeze(machine.name)
    faults.note(machine.name, f"freezes {lasts // MILLISECOND} ms")
    boots = machine.boots

    def undo() -> None:
        if machine.is_frozen and machine.boots == boots:
            faults.world.thaw(machine.name)

    return undo


def sleep(faults: Faults, lasts: int) -> Undo | None:
    """The lid of a laptop closes."""
    machine = faults.some()
    if machine is None:
        return None
    faults.world.sleep(machine.name, lasts)
    faults.note(machine.name, f"sleeps {lasts // MILLISECOND} ms")
    return lambda: None


def jump_clock(faults: Faults, lasts: int) -> Undo | None:
    """The wall clock jumps, up to an hour or up to 50 days either way, and jumps back later."""
    machine = faults.some()
    if machine is None:
        return None
    most = HOUR if faults.rng.below(2) else 50 * DAY
    offset = faults.rng.below(2 * most) - most
    machine.clock.wall_offset += offset
    faults.note(machine.name, f"wall clock jumps by {offset // SECOND} s")

    def undo() -> None:
        machine.clock.wall_offset = 0

    return undo


def fire_again(faults: Faults, lasts: int) -> Undo | None:
    """A timer of a node fires before its time, and then once more."""
    machine = faults.some()
    if machine is None or not machine.timers:
        return None
    tokens = sorted(machine.timers)
    token = tokens[faults.rng.below(len(tokens))]
    faults.world.post(machine.name, ev.TimerFired(token=token))
    return lambda: None


def fill_queue(faults: Faults, lasts: int) -> Undo | None:
    """What a machine says to its peers is dropped: its control queues are full."""
    machine = faults.some()
    if machine is None:
        return None
    full = faults.world.network.full
    full.add(machine.name)
    faults.note(machine.name, "control queues are full")
    return lambda: full.discard(machine.name)


def fill_disk(faults: Faults, lasts: int) -> Undo | None:
    """Others fill the disk of a machine to what a small file leaves, and clear it later."""
    machine = faults.some()
    if machine is None or machine.foreign_bytes:
        return None
    machine.foreign_bytes = max(machine.free_bytes - faults.rng.below(4 << 20), 0)
    faults.note(machine.name, f"its disk fills: {machine.free_bytes >> 10} KiB are free")

    def undo() -> None:
        machine.foreign_bytes = 0

    return undo


def send_wrong(faults: Faults, lasts: int) -> Undo | None:
    """What a machine sends of its blobs is not what their hashes say."""
    machine = faults.some()
    if machine is None:
        return None
    machine.sends_wrong = True
    faults.note(machine.name, "sends wrong bytes of its blobs")

    def undo() -> None:
        machine.sends_wrong = False

    return undo


def die(faults: Faults, lasts: int) -> Undo | None:
    """A machine is gone for good, with its disk: one a run, of four or more."""
    machines = list(faults.world.machines.values())
    machine = faults.some()
    if machine is None or len(machines) < _LEAST or any(m.is_gone for m in machines):
        return None
    faults.world.crash(machine.name)
    machine.is_gone = True
    machine.content.clear()
    machine.losses += 1
    faults.spoiled[machine.name] = faults.world.now
    faults.note(machine.name, "dies for good")
    return lambda: None


def all_rules() -> list[Rule]:
    """Every rule with its chance; the trial draws which of them are in play."""
    s = SECOND
    return [
        Rule("partition", partition, 60, 2 * s, 20 * s),
        Rule("partition-one-way", partition_one_way, 50, 2 * s, 15 * s),
        Rule("isolate", isolate, 60, s, 15 * s),
        Rule("link-broken", break_link, 150, s, s),
        Rule("slow", slow_down, 80, s, 8 * s),
        Rule("loss", lose_packets, 60, 2 * s, 10 * s),
        Rule("crash", crash, 90, s // 2, 12 * s),
        Rule("stop", stop, 60, s // 2, 10 * s),
        Rule("leave", leave, 50, _LEAVING_NS + s, 15 * s),
        Rule("outage", outage, 8, s, 6 * s),
        Rule("disk-wiped", wipe_disk, 30, s, 8 * s),
        Rule("disk-copied", take_image, 40, s, s),
        Rule("old-image", restore_image, 30, s, 8 * s),
        Rule("stall", stall_brain, 120, 300 * MILLISECOND, 4 * s),
        Rule("freeze", freeze, 50, 300 * MILLISECOND, 12 * s),
        Rule("sleep", sleep, 25, 5 * s, 30 * s),
        Rule("clock-jump", jump_clock, 50, s, 20 * s),
        Rule("timer-twice", fire_again, 200, s, s),
        Rule("queue-full", fill_queue, 60, 300 * MILLISECOND, 3 * s),
        Rule("disk-filled", fill_disk, 60, 3 * s, 20 * s),
        Rule("wrong-bytes", send_wrong, 60, 2 * s, 15 * s),
        Rule("dies", die, 15, s, s),
    ]
