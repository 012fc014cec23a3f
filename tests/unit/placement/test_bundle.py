"""Demand and the fast record: buckets, hysteresis, one record now and then."""

from __future__ import annotations

import pytest

from pollen.core import limits
from pollen.core.codec import Rejection, decode, encode
from pollen.core.events import SeedSample, Telemetry
from pollen.core.ids import MILLISECOND, SECOND, Hash, Nanos
from pollen.core.placement import demand
from pollen.core.placement.bundle import Bundle, Bundles, Fast
from pollen.core.placement.demand import DemandRow, Meter, bucket_of, settled, value_of
from tests.strategies import make_record
from tests.unit.names.test_named import A

GIB = 1 << 30
TICK = 500 * MILLISECOND


def key(i: int) -> Hash:
    return Hash(i.to_bytes(32, "big"))


def telemetry(*samples: SeedSample, used: int = 0, disk: int = 0) -> Telemetry:
    return Telemetry(
        peers=[],
        seeds=list(samples),
        memory_bytes=used,
        events_dropped=0,
        control_stalls=0,
        disk_bytes=disk,
    )


def sample(i: int, calls: int, run_us: int = 1_000, queued: int = 0) -> SeedSample:
    return SeedSample(key(i), calls, 0, 0, queued, run_us)


def metered(rate: int, ticks: int, meter: Meter | None = None, start: int = 0) -> Meter:
    """A seed called ``rate`` times a second for so many ticks of the telemetry."""
    meter = meter or Meter()
    for i in range(ticks + 1):
        meter.note([sample(1, rate * i // 2)], Nanos(start + i * TICK))
    return meter


@pytest.mark.parametrize("value", [0, 1, 2, 3, 4, 1_000, 1_023, 1_024])
def test_a_bucket_is_a_power_of_two_wide(value: int) -> None:
    """Its middle is within a half of every value in it."""
    middle = value_of(bucket_of(value))
    assert value // 2 <= middle <= 2 * value


def test_a_value_is_told_again_only_past_a_quarter() -> None:
    """Noise around the edge of a bucket stays silent."""
    assert [settled(1_000, v) for v in (1_250, 1_251, 750, 749, 0)] == [1_000, 1_251, 1_000, 749, 0]
    assert settled(0, 1) == 1


def test_a_rate_rises_within_a_second_and_decays_slowly() -> None:
    """100 calls a second, and half a minute after the last one still a trace of it."""
    meter = metered(100, 8)
    (row,) = meter.rows(Nanos(4 * SECOND))
    assert value_of(row.rate) in range(50_000, 150_000)
    for i in range(1, 61):
        meter.note([sample(1, 400)], Nanos(4 * SECOND + i * TICK))
    (later,) = meter.rows(Nanos(34 * SECOND))
    assert 0 < row.rate - later.rate <= 2


def test_a_seed_stays_listed_for_minutes_and_then_goes() -> None:
    """That is what keeps the last replica of a seed that may be zero."""
    meter = metered(2, 2)
    assert len(meter.rows(Nanos(SECOND + limits.DEMAND_KEEP_NS - 1))) == 1
    assert meter.rows(Nanos(SECOND + limits.DEMAND_KEEP_NS)) == []


def test_calls_from_before_the_first_sight_are_no_demand() -> None:
    """The brain restarted, the muscles' counters did not."""
    meter = Meter()
    meter.note([sample(1, 1_000_000)], Nanos(0))
    meter.note([sample(1, 1_000_000)], Nanos(TICK))
    assert meter.rows(Nanos(TICK)) == []


def test_only_the_most_called_seeds_are_told() -> None:
    """The top 32, in the order of their ids."""
    meter = Meter()
    for tick in range(2):
        meter.note([sample(i, tick * i) for i in range(1, 41)], Nanos(tick * TICK))
    assert [row.seed for row in meter.rows(Nanos(TICK))] == [key(i) for i in range(9, 41)]


def test_a_row_is_rate_times_run_time() -> None:
    """128 calls a second of 1 ms keep an eighth of a slot busy, within a bucket each."""
    milli = DemandRow(key(1), bucket_of(128_000), bucket_of(1_000)).milli
    assert 128 // 4 <= milli <= 128 * 4
    assert demand.smoothed(0, 1_000, TICK) == 500


def test_a_bundle_is_told_at_most_every_other_second_and_only_when_it_differs() -> None:
    """Unchanged is nothing sent."""
    bundle = Bundle(GIB, 4)
    bundle.note_telemetry(telemetry(), Nanos(0))
    first = bundle.due(Nanos(0))
    assert first is not None
    assert decode(Fast, first, "fast") == Fast(bucket_of(GIB), 4)
    assert bundle.due(Nanos(limits.FAST_TICK_NS)) is None
    bundle.note_telemetry(telemetry(used=GIB // 2), Nanos(0))
    assert bundle.due(Nanos(limits.FAST_TICK_NS - 1)) is None
    assert bundle.due(Nanos(limits.FAST_TICK_NS)) is not None


def test_small_changes_of_memory_are_not_told() -> None:
    """A fifth less is noise, though it crosses a bucket."""
    bundle = Bundle(GIB, 4)
    bundle.note_telemetry(telemetry(), Nanos(0))
    bundle.due(Nanos(0))
    bundle.note_telemetry(telemetry(used=GIB // 5), Nanos(0))
    assert bundle.due(Nanos(limits.FAST_TICK_NS)) is None


def test_a_node_tells_what_is_free_on_its_disk() -> None:
    """In a bucket of a power of two, and again only when it moved by more than a quarter."""
    bundle = Bundle(GIB, 4)
    bundle.note_telemetry(telemetry(disk=100 * GIB), Nanos(0))
    told = decode(Fast, bundle.due(Nanos(0)) or b"", "fast")
    assert isinstance(told, Fast)
    assert told.disk_bytes == 96 * GIB
    bundle.note_telemetry(telemetry(disk=80 * GIB), Nanos(0))
    assert bundle.due(Nanos(limits.FAST_TICK_NS)) is None
    bundle.note_telemetry(telemetry(disk=60 * GIB), Nanos(0))
    assert bundle.due(Nanos(limits.FAST_TICK_NS)) is not None


def test_a_node_is_busy_while_more_calls_wait_than_run() -> None:
    """New replicas go elsewhere."""
    assert [Fast(0, 4, bucket_of(n)).is_busy for n in (0, 3, 8)] == [False, False, True]


def test_a_bundle_counts_in_the_epoch_in_which_its_owner_is_live() -> None:
    """What a dead run told is void; what cannot be read is a fault and counts as nothing."""
    bundles = Bundles()
    bundles.apply(make_record(A, "fast", b"", 2, 1, False, encode(Fast(9))))
    bundles.set_live(A, 1)
    assert bundles.counted == {}
    bundles.set_live(A, 2)
    assert bundles.counted == {A: Fast(9)}
    assert isinstance(bundles.apply(make_record(A, "fast", b"", 2, 2, False, b"x")), Rejection)
    assert bundles.counted == {}
