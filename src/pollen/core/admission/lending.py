"""Which admin renews which lease, and when.

Decides: the wall time at which this admin signs a new lease for a member, by half life and rank.
Does not know: whether it is an admin, what makes a lease good (``trust``), how it spreads.
Invariants: nobody is leased whose certificate does not count or whom this node cannot see. A lease
    that somebody renewed meanwhile is not renewed again. At most ``LEASES_A_TURN`` are signed in
    one turn. A wall clock that jumps makes leases due at once, never lost.
Source: docs/internals/trust.md#leases. Refused: every admin renewing at half life, which signs
    as often as there are admins; one elected lender, which would have to be agreed on.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from pollen.core import limits
from pollen.core.ids import Nanos, PeerId, hash_of
from pollen.core.trust import Trust

IsSeen = Callable[[PeerId], bool]


class Lending:
    """The leases that this admin looks after: those of everybody."""

    def __init__(self, own: PeerId, trust: Trust) -> None:
        self._own = own
        self._trust = trust
        self._at: dict[PeerId, Nanos] = {}
        self._heap: list[tuple[Nanos, PeerId]] = []

    def note(self, peer: PeerId, is_seen: IsSeen) -> None:
        """The standing of a member changed, or it came into sight."""
        at = self._due(peer, is_seen)
        if at is None:
            self._at.pop(peer, None)
        else:
            self._schedule(peer, at)

    def note_all(self, is_seen: IsSeen) -> None:
        """This node became one that lends."""
        for peer in list(self._trust.certificates):
            self.note(peer, is_seen)

    def take_due(self, wall: Nanos, is_seen: IsSeen) -> list[PeerId]:
        """Whom to lend a new lease now."""
        due: list[PeerId] = []
        while self._heap and self._heap[0][0] <= wall and len(due) < limits.LEASES_A_TURN:
            at, peer = heapq.heappop(self._heap)
            if self._at.get(peer) != at:
                continue
            del self._at[peer]
            again = self._due(peer, is_seen)
            if again is None:
                continue
            if again > wall:
                self._schedule(peer, again)
            elif peer == self._own or is_seen(peer):
                due.append(peer)
            else:
                self._schedule(peer, Nanos(wall + limits.LEASE_RECHECK_NS))
        return due

    @property
    def next_due(self) -> Nanos | None:
        """The wall time at which ``take_due`` may have something, or None."""
        return self._heap[0][0] if self._heap else None

    def _schedule(self, peer: PeerId, at: Nanos) -> None:
        if self._at.get(peer) != at:
            self._at[peer] = at
            heapq.heappush(self._heap, (at, peer))

    def _due(self, peer: PeerId, is_seen: IsSeen) -> Nanos | None:
        """When this admin's turn comes; None when no lease of ours would do any good."""
        certificate = self._trust.certificates.get(peer)
        held = self._trust.lease_of(peer)
        if certificate is None:
            return None
        ends = self._trust.ends(peer)
        if held is None or ends == 0:
            begins, length = 0, certificate.lease_length
        elif ends == certificate.access_deadline:
            return None
        else:
            length = Nanos(max(ends - held.lease.not_before, 0))
            begins = min(held.lease.not_before + length // 2, held.lease.half_life)
        step = min(length // limits.LEASE_RANK_SHARE, limits.LEASE_RANK_MAX_NS)
        return Nanos(begins + self._rank(peer, is_seen) * step)

    def _rank(self, peer: PeerId, is_seen: IsSeen) -> int:
        """How many admins in sight come before this one: by rendezvous, the member itself last."""
        mine = self._place(peer, self._own)
        return sum(
            1
            for admin in self._trust.admins
            if admin != self._own
            and (admin == peer or is_seen(admin))
            and self._place(peer, admin) < mine
        )

    def _place(self, peer: PeerId, admin: PeerId) -> tuple[bool, bytes]:
        return admin == peer, hash_of("lease", peer, admin)
