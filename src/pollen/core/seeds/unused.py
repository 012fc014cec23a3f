"""Seeds of this node that are withdrawn when nobody calls them any more.

Decides: when a seed with ``withdraw_unused_ms`` has gone unused for so long.
Does not know: records, how a withdrawal is written (``publishing``).
Invariants: a seed is judged by the node that published it, and by no other. A call that began here,
    a call that runs here and the demand of any member are use. A start of this node is the begin of
    a new time, so a node that was away withdraws nothing at once.
Source: docs/design/cli.md#seeding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from pollen.core.events import SeedSample
from pollen.core.ids import MILLISECOND, SECOND, Hash, Nanos
from pollen.core.seeds.specs import Seed

# How often the counters are read. Raising it makes the time of each seed coarser. Guess: a tenth of
# the shortest time that somebody sets in earnest.
LOOK_NS = 10 * SECOND


class _Use(msgspec.Struct):
    """One seed: its counter of calls, and when it was last seen in use."""

    calls: int
    at: Nanos


class Unused:
    """What this node watches. ``is_wanted``: some member lists the seed among those it calls."""

    def __init__(self, is_wanted: Callable[[Hash], bool]) -> None:
        self._is_wanted = is_wanted
        self._uses: dict[Hash, _Use] = {}
        self._looked: Nanos | None = None

    def is_due(self, now: Nanos) -> bool:
        """Whether it is time to look again."""
        return self._looked is None or now >= self._looked + LOOK_NS

    def plan_withdrawals(
        self, own: Iterable[Seed], samples: Sequence[SeedSample], now: Nanos
    ) -> list[str]:
        """The names that nobody used for as long as they say; ``own``: this node's live seeds."""
        self._looked = now
        watched = {seed.seed: seed for seed in own if seed.options.withdraw_unused_ms}
        if not watched:
            self._uses.clear()
            return []
        counted = {sample.seed: sample for sample in samples if sample.seed in watched}
        for key in [key for key in self._uses if key not in watched]:
            del self._uses[key]
        names = []
        for key, seed in watched.items():
            sample = counted.get(key)
            calls = 0 if sample is None else sample.calls
            use = self._uses.setdefault(key, _Use(calls, now))
            is_running = sample is not None and sample.in_flight > 0
            if calls != use.calls or is_running or self._is_wanted(key):
                use.calls, use.at = calls, now
            elif now - use.at >= seed.options.withdraw_unused_ms * MILLISECOND:
                names.append(seed.name)
        return names
