"""Which claims still say that they load, and when the first of them is overdue.

Decides: nothing; it keeps times in order.
Does not know: claims, or what being overdue means.
Invariants: ``first`` and ``take_due`` cost what they return, not what is kept. Entries that were
    replaced are dropped when they come up, or all at once when they are most of what is kept.
Source: docs/design/protocol.md#placement (overdue loading is skipped in everybody's ranking).
"""

from __future__ import annotations

import heapq

from pollen.core.ids import Hash, PeerId

Pair = tuple[Hash, PeerId]

# Replaced entries that are kept at least before they are swept out. Guess.
_SWEEP_MIN = 64


class Overdue:
    """Pairs of seed and node, and the wall time at which each is overdue."""

    def __init__(self) -> None:
        self._until: dict[Pair, int] = {}
        self._order: list[tuple[int, Pair]] = []

    def set(self, pair: Pair, until: int | None) -> None:
        """A pair is overdue at ``until``, or never."""
        if self._until.get(pair) == until:
            return
        if until is None:
            del self._until[pair]
            return
        self._until[pair] = until
        heapq.heappush(self._order, (until, pair))
        if len(self._order) > 2 * len(self._until) + _SWEEP_MIN:
            self._order = [(at, held) for held, at in self._until.items()]
            heapq.heapify(self._order)

    @property
    def first(self) -> int | None:
        """The earliest time at which some pair is overdue."""
        while self._order and self._until.get(self._order[0][1]) != self._order[0][0]:
            heapq.heappop(self._order)
        return self._order[0][0] if self._order else None

    def take_due(self, wall: int) -> list[Pair]:
        """The pairs that are overdue by now, the earliest first; they are kept no longer."""
        due = []
        while (at := self.first) is not None and at <= wall:
            pair = heapq.heappop(self._order)[1]
            del self._until[pair]
            due.append(pair)
        return due
