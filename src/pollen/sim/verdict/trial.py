"""One run: a seed draws a cluster, its users, its misfortune; then all heals and must fit.

Decides: what the seed draws, when faults end, how long convergence may take, and the verdict.
Does not know: what each invariant means (``sim.verdict.checkers``).
Invariants: equal numbers give equal runs, to the byte of the trace. A run in which nothing went
    wrong, nothing was checked or nobody called proves nothing and fails.
Source: docs/design/style.md#simulator: safety while faults run, then heal and demand convergence.
"""

from __future__ import annotations

import msgspec

from pollen.core.ids import MILLISECOND, SECOND
from pollen.core.rng import Rng
from pollen.sim.mischief import faults
from pollen.sim.mischief.faults import Faults
from pollen.sim.mischief.malice import Malice
from pollen.sim.mischief.workload import Workload
from pollen.sim.verdict import checkers, copies, observe
from pollen.sim.verdict.checkers import Case
from pollen.sim.verdict.outcome import Outcome
from pollen.sim.world.engine import Storm
from pollen.sim.world.world import World

# Room for four of the largest files that are drawn, and for one.
DISK_BYTES, SMALL_DISK_BYTES = 80 << 20, 24 << 20
FAULTS_NS = 40 * SECOND
SETTLE_NS = 60 * SECOND
# What must hold holds for so long in a row before a run counts as settled.
_CALM_NS = 2 * SECOND
_LOOK_NS = 500 * MILLISECOND


class Draw(msgspec.Struct, frozen=True, kw_only=True):
    """What one number draws, before anything happens."""

    number: int
    nodes: int
    zones: int
    names: int
    calls_per_second: int
    jitter_ms: int
    loss_bp: int
    persist_ms: int
    has_malice: bool
    rules: list[str]
    blobs: int = 0
    small_disks: int = 0

    def line(self) -> str:
        """One line of up to 95 characters."""
        malice = ", one malicious" if self.has_malice else ""
        return (
            f"{self.nodes} nodes in {self.zones} zones{malice}; {self.names} seeds, "
            f"{self.blobs} blobs, "
            f"{self.calls_per_second} calls/s; loss {self.loss_bp / 100:g} %, "
            f"{len(self.rules)} kinds of fault"
        )


class Report(msgspec.Struct, kw_only=True):
    """What a run came to. ``failures`` is empty when all is well."""

    draw: Draw
    failures: list[str] = []
    settled_ns: int = 0
    digest: str = ""
    outcome: str = ""
    faults: dict[str, int] = {}
    checks: dict[str, int] = {}
    calls: dict[str, int] = {}
    counts: dict[str, int] = {}
    events: int = 0
    scenario: str = ""
    sentence: str = ""

    @property
    def is_good(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def reproduce(self) -> str:
        """The line that shows this run again."""
        if self.scenario:
            return f"pln sim --seed {self.draw.number} --scenario {self.scenario}"
        return f"pln sim --seed {self.draw.number} --nodes {self.draw.nodes}"


def draw_trial(number: int, nodes: int | None = None) -> Draw:
    """What this number draws; ``nodes`` overrides how many there are."""
    rng = Rng(number)
    drawn = 3 + rng.below(6)
    names = [rule.name for rule in faults.all_rules()]
    rng.shuffle(names)
    kept = sorted(names[: 6 + rng.below(len(names) - 5)])
    files = Rng(number ^ 0xB10B)
    return Draw(
        number=number,
        nodes=nodes or drawn,
        zones=1 + rng.below(3),
        names=1 + rng.below(5),
        calls_per_second=5 + rng.below(30),
        jitter_ms=rng.below(20),
        loss_bp=rng.below(4) * 100,
        persist_ms=1 + rng.below(20),
        has_malice=rng.below(4) == 0,
        rules=kept,
        blobs=1 + files.below(4),
        small_disks=files.below(3),
    )


class Trial:
    """One run in the making; ``play`` runs it to its report."""

    def __init__(self, draw: Draw, *, trace_depth: int = 1) -> None:
        self.draw = draw
        rng = Rng(draw.number ^ 0x5EED)
        self.world = World(rng.draw(), trace_depth=trace_depth, keeps_traces=False)
        self._set_weather(rng)
        names = node_names(draw.nodes)
        self.world.found_all(names, zones=draw.zones)
        self.malice: Malice | None = None
        if draw.has_malice:
            last = self.world.machines[names[-1]]
            self.malice = Malice(self.world, last, Rng(rng.draw()))
        rules = [rule for rule in faults.all_rules() if rule.name in draw.rules]
        self.faults = Faults(self.world, Rng(rng.draw()), rules)
        self.workload = Workload(
            self.world,
            Rng(rng.draw()),
            names=draw.names,
            calls_per_second=draw.calls_per_second,
            blobs=draw.blobs,
        )
        for i, name in enumerate(names):
            is_small = i < draw.small_disks
            self.world.machines[name].disk_bytes = SMALL_DISK_BYTES if is_small else DISK_BYTES
        self.case = Case(self.world, self.faults, self.workload)
        self.outcome = Outcome(self.world)
        self.failures: list[str] = []

    def _set_weather(self, rng: Rng) -> None:
        weather = self.world.network.weather
        zones = self.draw.zones
        table = [[0] * zones for _ in range(zones)]
        for a in range(zones):
            for b in range(a, zones):
                near = 100_000 + rng.below(2 * MILLISECOND)
                far = 5 * MILLISECOND + rng.below(80 * MILLISECOND)
                table[a][b] = table[b][a] = near if a == b else far
        weather.zones_ns = table
        weather.jitter_ns = self.draw.jitter_ms * MILLISECOND
        weather.loss_bp = self.draw.loss_bp
        weather.duplicates_bp = 50
        self.world.persist_ns = self.draw.persist_ms * MILLISECOND

    # -- the run ----------------------------------------------------------------------------------

    def play(self) -> Report:
        """Form, suffer, heal, settle, call."""
        try:
            return self._report(self._play())
        except Storm as storm:
            self._fail("no-storm", str(storm))
            return self._report(0)

    def _play(self) -> int:
        world = self.world
        world.run(8 * SECOND)
        self.workload.begin()
        world.run(4 * SECOND)
        self.faults.begin()
        if self.malice is not None:
            self.malice.begin()
        self._pass(FAULTS_NS)
        self.workload.end()
        if self.malice is not None:
            self.malice.end()
            self.faults.counts.update(self.malice.counts)
        self.faults.heal()
        world.trace.note(world.now, "", "phase", "settling")
        settled = self._settle()
        if settled is not None:
            self._call_everything()
            self._read_everything()
        return settled or 0

    def _pass(self, nanos: int) -> None:
        end = self.world.now + nanos
        while self.world.now < end:
            self.world.run(_LOOK_NS)
            self._look_always()

    def _look_always(self) -> None:
        copies.note_disks(self.case)
        for checker in checkers.ALWAYS:
            for text in self.case.look(checker):
                self._fail(checkers.name_of(checker), text)
        for at, name, text in self.world.take_breaches():
            self._fail(name, f"{text} at {at / SECOND:.3f} s")

    def _fail(self, name: str, text: str) -> None:
        line = f"{name}: {text}"
        if line not in self.failures and len(self.failures) < 20:
            self.failures.append(line)
            self.world.trace.note(self.world.now, "", "breach", line)

    def _settle(self) -> int | None:
        """Wait until everything holds for a while; the time it took, or None with the reasons."""
        began = self.world.now
        calm_since: int | None = None
        while self.world.now < began + SETTLE_NS:
            self.world.run(_LOOK_NS)
            self.workload.read_answers()
            self._look_always()
            odd = self.unsettled()
            if odd:
                calm_since = None
            elif calm_since is None:
                calm_since = self.world.now
            elif self.world.now >= calm_since + _CALM_NS:
                return calm_since - began
        for name, texts in self.unsettled().items():
            for text in texts[:3]:
                self._fail(name, f"{text}, {SETTLE_NS // SECOND} s after everything healed")
        return None

    def unsettled(self) -> dict[str, list[str]]:
        """The invariants of a settled cluster that do not hold now, with what was seen."""
        found = {}
        for checker in checkers.SETTLED:
            texts = self.case.look(checker)
            if texts:
                found[checkers.name_of(checker)] = texts
        return found

    def _call_everything(self) -> None:
        """In a settled cluster each call that the gate allows succeeds, from every node.

        Unless a node that lies may be the one that runs it.
        """
        calls = []
        liars = {m.key for m in self.world.machines.values() if m.is_malicious}
        for name in self.workload.names:
            for machine in self.case.honest():
                held = observe.names_of(machine).get(name.name)
                if held is None or not held.is_live or not self.case.has_content(held.holder):
                    continue
                row = machine.seeds.get(held.holder.seed)
                if row is not None and not liars.isdisjoint(row.replicas):
                    continue
                calls.append(self.workload.call(machine, name.name, idempotent=False))
                self.world.run(10 * MILLISECOND)
        self.world.run(6 * SECOND)
        for call in calls:
            if not call.ended or call.slug:
                text = f"{call.origin} calls {call.name}: {call.slug or 'no answer'} {call.reason}"
                self._fail("every-allowed-call-routable", text)
        self._look_always()

    def _read_everything(self) -> None:
        """In a settled cluster each blob of which a copy lives is read, from every node."""
        reads = []
        for name in self.workload.blobs:
            for machine in self.case.honest():
                held = observe.names_of(machine).get(name.name)
                if held is None or not held.is_live or not self.case.has_content(held.holder):
                    continue
                reads.append(self.workload.read(machine, name.name))
                self.world.run(10 * MILLISECOND)
        self.world.run_until(lambda: all(r is None or r.ended for r in reads), 60 * SECOND)
        for read in reads:
            if read is not None and (not read.ended or read.slug):
                text = f"{read.origin} reads {read.name}: {read.slug or 'no end'} {read.reason}"
                self._fail("no-wanted-blob-lost", text)
        self._look_always()

    # -- the report -------------------------------------------------------------------------------

    def _report(self, settled: int) -> Report:
        counted = {
            "a fault": sum(self.faults.counts.values()),
            "a check": sum(self.case.counts.values()),
            "a call": len(self.workload.calls),
            "a call that succeeded": self.workload.outcome().get("ok", 0),
        }
        for what, count in counted.items():
            if not count:
                self._fail("counters", f"this run had not once {what}: it proves nothing")
        return Report(
            draw=self.draw,
            failures=self.failures,
            settled_ns=settled,
            digest=self.world.trace.digest(),
            outcome=self.outcome.digest(),
            faults=dict(sorted(self.faults.counts.items())),
            checks=dict(sorted(self.case.counts.items())),
            calls=dict(sorted(self.workload.outcome().items())),
            counts={
                **dict(sorted(self.world.counts.items())),
                **dict(sorted(self.world.network.counts.items())),
                **dict(sorted(self.workload.counts.items())),
            },
            events=self.world.trace.events,
        )


def node_names(count: int) -> list[str]:
    """``a`` to ``z``, then ``n26`` and on."""
    return [chr(97 + i) if i < 26 else f"n{i}" for i in range(count)]


def run_trial(number: int, nodes: int | None = None) -> Report:
    """The whole run of one number."""
    return Trial(draw_trial(number, nodes)).play()
