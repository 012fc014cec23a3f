"""How often seeds are called from here, as numbers that are worth telling.

Decides: the smoothed rate of each seed's calls that begin on this node, which seeds are among the
    first 32, and when a change is large enough to be told.
Does not know: who else calls; replicas; when the record leaves (``bundle``).
Invariants: integers; a rate rises within a second and decays over minutes; a seed that was called
    within ``keep_ns`` stays listed, with rate 0 at last. A bucket moves only when the value
    moved by more than 25 % since the bucket was chosen.
Source: docs/design/protocol.md#placement (top 32 by rate, log2 buckets, 25 % hysteresis).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pollen.core import limits
from pollen.core.codec import U8, WireHash
from pollen.core.events import SeedSample
from pollen.core.ids import MICROSECOND, SECOND, Hash, Nanos


class DemandRow(msgspec.Struct, frozen=True, array_like=True):
    """One seed's calls from one node: buckets of calls per 1,000 s and of run microseconds."""

    seed: WireHash
    rate: U8
    run: U8

    @property
    def milli(self) -> int:
        """Thousandths of a slot that these calls keep busy."""
        return value_of(self.rate) * value_of(self.run) // (1_000 * MICROSECOND)


def bucket_of(value: int) -> int:
    """The log2 bucket of a value: 0 for 0, n for 2**(n-1) .. 2**n - 1."""
    return value.bit_length()


def value_of(bucket: int) -> int:
    """The middle of a bucket."""
    return (3 << bucket) >> 2 if bucket else 0


def settled(held: int, value: int) -> int:
    """``value`` when it is more than 25 % away from the one last told, else that one."""
    is_far = abs(value - held) * 10_000 > held * limits.FAST_HYSTERESIS_BP
    return value if is_far else held


class _Rate(msgspec.Struct):
    """One seed: ``told`` and ``run_told`` are the values that the buckets were chosen by."""

    calls: int
    rate: int = 0
    told: int = 0
    run: int = 0
    run_told: int = 0
    called_at: Nanos | None = None


class Meter:
    """The rates of one node."""

    def __init__(self, keep_ns: int = limits.DEMAND_KEEP_NS) -> None:
        self._keep = keep_ns
        self._rates: dict[Hash, _Rate] = {}
        self._at: Nanos | None = None

    def note(self, samples: Sequence[SeedSample], now: Nanos) -> None:
        """New counters. The first sight of a seed is its start; one that fell started again."""
        passed = 0 if self._at is None else now - self._at
        self._at = now
        seen = set()
        for sample in samples:
            seen.add(sample.seed)
            held = self._rates.get(sample.seed)
            if held is None:
                held = self._rates[sample.seed] = _Rate(calls=0 if passed else sample.calls)
            begun = sample.calls - held.calls if sample.calls >= held.calls else sample.calls
            held.calls, held.run = sample.calls, sample.run_us
            if begun:
                held.called_at = now
            if passed:
                held.rate = smoothed(held.rate, begun * 1_000 * SECOND // passed, passed)
        for seed in [seed for seed in self._rates if seed not in seen]:
            del self._rates[seed]

    def rows(self, now: Nanos) -> list[DemandRow]:
        """The seeds called lately, the most called first, at most 32; in the order of their ids."""
        lately = [
            (-held.rate, seed)
            for seed, held in self._rates.items()
            if held.called_at is not None and now < held.called_at + self._keep
        ]
        first = sorted(seed for _, seed in sorted(lately)[: limits.DEMAND_SEEDS])
        return [self._row(seed, self._rates[seed]) for seed in first]

    def _row(self, seed: Hash, held: _Rate) -> DemandRow:
        held.told = settled(held.told, held.rate)
        held.run_told = settled(held.run_told, held.run)
        return DemandRow(seed, bucket_of(held.told), bucket_of(held.run_told))


def smoothed(rate: int, sample: int, passed: int) -> int:
    """Half of the way up at each sample; down with a half-life of about 20 s."""
    if sample >= rate:
        return (rate + sample + 1) // 2
    return rate - (rate - sample) * min(passed, limits.DEMAND_DECAY_NS) // limits.DEMAND_DECAY_NS
