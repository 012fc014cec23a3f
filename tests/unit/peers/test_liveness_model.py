"""Suspicion, grace and quorum against a hostile network: no live node is ever buried.

A model of what surrounds a watcher: heartbeats each second both ways, each lost or late by chance,
brains that stall, records that arrive late. It holds the numbers of ``limits`` to Done-when 4 of
docs/internals/liveness.md#measured; the simulator repeats it with whole nodes.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from pollen.core.events import PeerSample, Telemetry
from pollen.core.ids import MILLISECOND, SECOND, Nanos, PeerId
from pollen.core.peers import Facts, Membership
from pollen.core.records import Record
from pollen.core.records.record import Key
from pollen.core.rng import Rng
from tests.strategies import make_record
from tests.unit.turns import Sink, effects_of
from tests.unit.world import make_key

TICK = 500 * MILLISECOND
BEAT = SECOND
WAY = 20 * MILLISECOND


@dataclass
class Weather:
    """Loss in percent, and the worst lateness and stall."""

    loss: int = 5
    jitter: int = 300 * MILLISECOND
    stall: int = 1_500 * MILLISECOND
    stall_each: int = 60 * SECOND


@dataclass
class Brain:
    """One node: its machine, and when each peer was heard."""

    peer: PeerId
    machine: Membership
    heard: dict[int, int] = field(default_factory=dict)
    phase: dict[int, int] = field(default_factory=dict)
    stalled_until: int = 0
    last: int = 0
    seq: int = 0
    newest: dict[Key, int] = field(default_factory=dict)


class Model:
    """So many brains, fully linked; ``deaths`` lists who believed whom dead, and when."""

    def __init__(self, count: int, weather: Weather, seed: int) -> None:
        self.rng, self.weather, self.now = Rng(seed), weather, 0
        self.ids = [make_key(f"model-{i}") for i in range(count)]
        self.brains = [Brain(peer, Membership(peer)) for peer in self.ids]
        self.killed: set[int] = set()
        self.queue: list[tuple[int, int, str, int, object]] = []
        self.order = 0
        self.deaths: list[tuple[int, int, PeerId]] = []
        for number, brain in enumerate(self.brains):
            for peer in self.ids:
                brain.machine.note_member(peer, Facts(epoch=1), Nanos(0))
            for other, peer in enumerate(self.ids):
                if other != number:
                    brain.machine.on_link(peer, Nanos(0))
                    brain.phase[other] = self.rng.below(BEAT)
                    brain.heard[other] = 0
            self.settle(number)
            self.post(self.rng.below(TICK), "tick", number)

    def post(self, at: int, kind: str, number: int, what: object = None) -> None:
        self.order += 1
        heapq.heappush(self.queue, (at, self.order, kind, number, what))

    def run(self, until: int) -> None:
        while self.queue and self.queue[0][0] <= until:
            self.now, _, kind, number, what = heapq.heappop(self.queue)
            brain = self.brains[number]
            if number in self.killed:
                continue
            if brain.stalled_until > self.now:
                self.post(brain.stalled_until, kind, number, what)
                continue
            if self.now - brain.last > 1_200 * MILLISECOND and brain.last:
                brain.machine.on_jump(Nanos(self.now))
            brain.last = self.now
            if kind == "tick":
                self.tick(number)
            elif isinstance(what, Record) and what.body.seq > brain.newest.get(what.key, 0):
                brain.newest[what.key] = what.body.seq
                brain.machine.note_record(what, Nanos(self.now))
            self.settle(number)
        self.now = until

    def tick(self, number: int) -> None:
        brain, rng = self.brains[number], self.rng
        if rng.below(self.weather.stall_each // TICK) == 0:
            brain.stalled_until = self.now + rng.below(self.weather.stall + 1)
        samples = [self.sample(brain, other) for other in brain.heard]
        brain.machine.on_telemetry(
            Telemetry(peers=samples, seeds=[], memory_bytes=0, events_dropped=0, control_stalls=0),
            Nanos(self.now),
        )
        self.post(self.now + TICK, "tick", number)

    def sample(self, brain: Brain, other: int) -> PeerSample:
        """Two beats a second may arrive: the peer's probe, and its answer to ours."""
        since = self.now - TICK
        for ways, phase in ((1, brain.phase[other]), (2, (brain.phase[other] * 7) % BEAT)):
            beat = since - since % BEAT + phase
            for at in (beat - BEAT, beat, beat + BEAT):
                due = at + ways * (WAY + self.rng.below(self.weather.jitter + 1))
                if other not in self.killed and since < due <= self.now and self.survives(ways):
                    brain.heard[other] = max(brain.heard[other], due)
        silent = (self.now - brain.heard[other]) // MILLISECOND
        rtt = 2 * (WAY + self.weather.jitter // 2) // 1_000
        return PeerSample(self.ids[other], rtt, 0, 0, True, silent)

    def survives(self, ways: int) -> bool:
        return all(self.rng.below(100) >= self.weather.loss for _ in range(ways))

    def settle(self, number: int) -> None:
        brain = self.brains[number]
        while True:
            sink = Sink()
            for timer in effects_of(self.now, brain.machine.advance, sink):
                self.post(getattr(timer, "at", 0), "timer", number)
            for moved in brain.machine.take_moved():
                if moved not in brain.machine.live:
                    self.deaths.append((self.now, number, moved))
            for kind, key, payload in sink.said:
                brain.seq += 1
                gone = payload is None
                record = make_record(brain.peer, kind, key, 1, brain.seq, gone, payload or b"")
                brain.machine.note_record(record, Nanos(self.now))
                self.spread(number, record)
            if not sink.said:
                return

    def spread(self, source: int, record: Record) -> None:
        """To everybody, over a reliable stream: a loss makes it later."""
        for other in range(len(self.brains)):
            late = WAY + self.rng.below(self.weather.jitter + 1)
            while not self.survives(1):
                late += WAY + self.weather.jitter
            if other != source:
                self.post(self.now + late, "record", other, record)


def test_bad_weather_and_stalls_bury_nobody() -> None:
    """5 % loss, 300 ms of jitter, brains that stall for 1.5 s: no verdict against a live node."""
    model = Model(20, Weather(), seed=1)
    model.run(120 * SECOND)
    assert model.deaths == []


def test_the_model_can_bury_somebody() -> None:
    """In weather beyond all bounds live nodes are lost: the test above can fail."""
    model = Model(8, Weather(loss=90, jitter=3 * SECOND), seed=1)
    model.run(30 * SECOND)
    assert model.deaths != []


def test_a_kill_is_believed_by_all_within_three_seconds() -> None:
    """In a small cluster on a good network; silence is told to within a second."""
    calm = Weather(loss=0, jitter=5 * MILLISECOND, stall=0, stall_each=10_000 * SECOND)
    for seed in range(8):
        model = Model(4, calm, seed)
        model.run(10 * SECOND)
        model.killed.add(3)
        model.run(13 * SECOND)
        assert sorted(number for _, number, _ in model.deaths) == [0, 1, 2]
        assert {peer for _, _, peer in model.deaths} == {model.ids[3]}
