"""A seed that says so is withdrawn by its publisher when nobody used it for that long."""

from __future__ import annotations

from pollen.core.codec import encode
from pollen.core.commands import Seeded, Unseeded
from pollen.core.events import SeedSample, Telemetry
from pollen.core.ids import SECOND, Hash, Nanos, PeerId
from pollen.core.kinds import SPEC
from pollen.core.names import Holding
from pollen.core.seeds import SeedRequests, Writer, specs
from pollen.core.seeds.unused import LOOK_NS, Unused
from pollen.options import SeedOptions
from tests.unit.names.test_named import MEMBERS, A
from tests.unit.turns import Sink, turn_at

HOUR_MS = 3_600_000
HOUR = Nanos(3600 * SECOND)


def seed(name: str, unused_ms: int = HOUR_MS, owner: PeerId = A, epoch: int = 1) -> specs.Seed:
    options = SeedOptions(withdraw_unused_ms=unused_ms)
    content = Hash(b"m" * 32)
    spec = specs.make_spec(
        name=name, name_epoch=epoch, content=content, size=3, functions=["f"], options=options
    )
    raw = encode(spec)
    return specs.Seed(
        seed=specs.seed_hash(owner, raw), owner=owner, spec=spec, options=options, raw=raw
    )


def sample(one: specs.Seed, calls: int, running: int = 0) -> SeedSample:
    return SeedSample(one.seed, calls, 0, running, 0, 0)


class Watch:
    """An hour in steps of as long as the machine takes between two looks."""

    def __init__(self, *seeds: specs.Seed) -> None:
        self.wanted: set[Hash] = set()
        self.unused = Unused(lambda key: key in self.wanted)
        self.seeds = list(seeds)
        self.now = Nanos(5 * SECOND)

    def look(self, *samples: SeedSample, after: int = 0) -> list[str]:
        self.now = Nanos(self.now + after)
        return self.unused.plan_withdrawals(self.seeds, samples, self.now)


def test_a_seed_goes_an_hour_after_its_last_call() -> None:
    """The first sight of it begins the hour; each call begins it again."""
    one = seed("a")
    watch = Watch(one, seed("b", 0))
    assert watch.look(sample(one, 5)) == []
    assert watch.look(sample(one, 5), after=HOUR - SECOND) == []
    assert watch.look(sample(one, 6)) == []
    assert watch.look(sample(one, 6), after=HOUR - SECOND) == []
    assert watch.look(sample(one, 6), after=SECOND) == ["a"]


def test_a_call_that_runs_and_callers_elsewhere_are_use() -> None:
    """Counters alone do not see them."""
    one = seed("a")
    watch = Watch(one)
    watch.look(sample(one, 5))
    assert watch.look(sample(one, 5, running=1), after=2 * HOUR) == []
    watch.wanted.add(one.seed)
    assert watch.look(sample(one, 5), after=2 * HOUR) == []
    watch.wanted.clear()
    assert watch.look(sample(one, 5), after=HOUR - SECOND) == []
    assert watch.look(sample(one, 5), after=SECOND) == ["a"]


def test_counters_that_begin_again_are_use_and_no_counters_are_none() -> None:
    """A seed that no table has is called by nobody."""
    one = seed("a")
    watch = Watch(one)
    watch.look(sample(one, 5))
    assert watch.look(sample(one, 2), after=2 * HOUR) == []
    assert watch.look(after=HOUR - SECOND) == []
    assert watch.look(after=HOUR) == ["a"]


def test_a_name_that_was_withdrawn_and_comes_again_begins_again() -> None:
    """What is not watched any more is forgotten."""
    one = seed("a")
    watch = Watch(one)
    watch.look()
    watch.seeds = []
    assert watch.look(after=2 * HOUR) == []
    watch.seeds = [one]
    assert watch.look() == []
    assert watch.look(after=HOUR) == ["a"]


def test_it_looks_seldom() -> None:
    """Counters come twice a second."""
    watch = Watch(seed("a"))
    assert watch.unused.is_due(watch.now)
    watch.look()
    assert not watch.unused.is_due(Nanos(watch.now + LOOK_NS - 1))
    assert watch.unused.is_due(Nanos(watch.now + LOOK_NS))


def test_a_name_is_given_back_or_withdrawn_as_others_had_it() -> None:
    """What nobody had before is taken back; a name with a history stays withdrawn. Seeds of other
    nodes are left alone."""
    other = PeerId(next(bytes(peer) for peer in MEMBERS if peer != A))
    seeds = [seed("first"), seed("second", epoch=2), seed("shared"), seed("theirs", owner=other)]
    rival = seed("shared", owner=other)
    names = {
        one.name: Holding(name=one.name, holder=one, shadowed=[rival] if one is seeds[2] else [])
        for one in seeds
    }
    told: list[Seeded | Unseeded] = []
    requests = SeedRequests(
        lambda: Writer(node=A, certificate=MEMBERS[A], certificates=MEMBERS),
        lambda: names,
        lambda slot, size: True,
        lambda answer, turn: told.append(answer),
        lambda key: False,
    )
    event = Telemetry(
        peers=[], seeds=[], memory_bytes=0, events_dropped=0, control_stalls=0, disk_bytes=0
    )
    sink = Sink()
    for now in (SECOND, SECOND + LOOK_NS, SECOND + HOUR):
        requests.note_telemetry(event, turn_at(now, sink))
    assert [(kind, key) for kind, key, _ in sink.said] == [
        (SPEC, b"first"),
        (SPEC, b"second"),
        (SPEC, b"shared"),
    ]
    payloads = {key: payload for _, key, payload in sink.said}
    assert payloads[b"first"] is None
    for key in (b"second", b"shared"):
        again = specs.decode_seed(A, payloads[key] or b"")
        assert isinstance(again, specs.Seed) and again.is_withdrawn
    assert [answer.name for answer in told] == ["first", "second", "shared"]
