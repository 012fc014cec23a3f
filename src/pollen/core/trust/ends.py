"""Until when each key is a member, and who still is one.

Decides: whose membership has ended at a wall time, and when to look again.
Does not know: certificates, leases, denies: it is told the end of each key.
Invariants: ``current`` is whoever's end lies after the wall time of the last ``expire``, also when
    that time went back.
Source: docs/internals/trust.md#what-counts.
"""

from __future__ import annotations

import heapq

from pollen.core.ids import Nanos, PeerId


class Ends:
    """The end of each key's membership in wall nanoseconds; 0 for a key that has none."""

    def __init__(self) -> None:
        self._ends: dict[PeerId, Nanos] = {}
        self._due: list[tuple[Nanos, PeerId]] = []
        self._wall = Nanos(0)
        self.current: dict[PeerId, None] = {}

    def of(self, peer: PeerId) -> Nanos:
        """The end of one key."""
        return self._ends.get(peer, Nanos(0))

    def note(self, peer: PeerId, ends: Nanos) -> None:
        """This is the end of a key from now on."""
        self._ends[peer] = ends
        self._enter(peer, ends)

    def _enter(self, peer: PeerId, ends: Nanos) -> None:
        if ends > self._wall:
            self.current[peer] = None
            heapq.heappush(self._due, (ends, peer))
        else:
            self.current.pop(peer, None)

    def expire(self, wall: Nanos) -> list[PeerId]:
        """It is so late now: whoever became current or ceased to be, in order.

        When it is earlier than it seemed, whoever had not ended yet is current again.
        """
        moved = []
        is_earlier, self._wall = wall < self._wall, wall
        if is_earlier:
            for peer, ends in self._ends.items():
                if ends > wall and peer not in self.current:
                    moved.append(peer)
                    self._enter(peer, ends)
        while self._due and self._due[0][0] <= wall:
            ends, peer = heapq.heappop(self._due)
            if self._ends.get(peer) == ends and self.current.pop(peer, 0) is None:
                moved.append(peer)
        return moved

    @property
    def next(self) -> Nanos | None:
        """The wall time at which somebody may end, or None."""
        return self._due[0][0] if self._due else None
