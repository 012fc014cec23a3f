"""Which links ought to be: all of them in a small cluster, a symmetric partial view in a large one.

Decides: the peers to be linked with, which links nobody needs any more, and what the other side is
    told about that.
Does not know: addresses, dials and back-off (``known``), records, what flows on a link.
Invariants: the same live members give every node the same rings, and a ring neighbour's ring
    neighbour is oneself: that part of the view is symmetric without a word, at least eight strong,
    and known to all (who watches whom). A link that the other side wants is kept. One member that
    comes or goes moves only the links around its places on the rings.
Source: docs/design/protocol.md#liveness (a view guarantees >= 8); HyParView (symmetric views) for
    the two kinds of neighbours. Refused: HyParView's shuffles, whose views no record tells and no
    test repeats.
"""

from __future__ import annotations

import bisect
import functools
from collections.abc import Callable, Iterable, Mapping

import msgspec

from pollen.core import limits
from pollen.core.events import PeerSample
from pollen.core.ids import Nanos, PeerId, hash_of
from pollen.core.rng import Rng

# Estimated round trip to a peer in microseconds, None while nothing is known.
Distance = Callable[[PeerId], int | None]


class Rings:
    """The places of the live members: on each ring by another hash of the id."""

    def __init__(self) -> None:
        self._rings: list[list[tuple[bytes, PeerId]]] = [[] for _ in limits.RING_REACH]
        self._members: dict[PeerId, None] = {}

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._members

    def add(self, peer: PeerId) -> None:
        """A member takes its places."""
        if peer not in self._members:
            self._members[peer] = None
            for number, ring in enumerate(self._rings):
                bisect.insort(ring, _place(number, peer))

    def remove(self, peer: PeerId) -> None:
        """A member leaves its places."""
        if peer in self._members:
            del self._members[peer]
            for number, ring in enumerate(self._rings):
                del ring[bisect.bisect_left(ring, _place(number, peer))]

    def neighbours_of(self, peer: PeerId) -> list[PeerId]:
        """Those within reach on each ring, nearest first, each once; without the peer itself."""
        found: dict[PeerId, None] = {}
        for number, ring in enumerate(self._rings):
            at = bisect.bisect_left(ring, _place(number, peer))
            is_member = peer in self._members
            for step in range(1, limits.RING_REACH[number] + 1):
                after = at + step if is_member else at + step - 1
                for place in (after, at - step) if ring else ():
                    found[ring[place % len(ring)][1]] = None
        found.pop(peer, None)
        return list(found)

    def draw(self, rng: Rng, count: int) -> list[PeerId]:
        """Members by chance, each once, no more than there are."""
        ring = self._rings[0]
        places = dict.fromkeys(rng.below(len(ring)) for _ in range(count if ring else 0))
        return [ring[place][1] for place in places]


def view_size(members: int) -> int:
    """How many links a member of a cluster of this size keeps: all, or about 2 log2(n) + 4."""
    if members <= limits.FULL_MESH:
        return max(0, members - 1)
    return 2 * (members - 1).bit_length() + limits.VIEW_EXTRA


class Want(msgspec.Struct, kw_only=True):
    """Why a link outside the rings is kept, and since when it has been idle."""

    is_near: bool = False
    is_demanded: bool = False
    is_theirs: bool = False
    bytes_seen: int = 0
    busy_at: Nanos = Nanos(0)


class Links:
    """The view of one node."""

    def __init__(self, own: PeerId, rng: Rng) -> None:
        self._own = own
        self._rng = rng
        self._rings = Rings()
        self._rings.add(own)
        self._ring: dict[PeerId, None] = {}
        self._wants: dict[PeerId, Want] = {}
        self._told: dict[PeerId, bool] = {}
        self._looked_at = Nanos(0)

    @property
    def is_full_mesh(self) -> bool:
        """True while everybody is linked with everybody."""
        return len(self._rings) <= limits.FULL_MESH

    def note_live(self, came: Iterable[PeerId], gone: Iterable[PeerId]) -> bool:
        """Members that are live now, and that are not any more. True when our ring moved."""
        for peer in came:
            self._rings.add(peer)
        for peer in gone:
            if peer != self._own:
                self._rings.remove(peer)
                self._wants.pop(peer, None)
        if self.is_full_mesh:
            ring: dict[PeerId, None] = {}
        else:
            ring = dict.fromkeys(self._rings.neighbours_of(self._own))
        is_moved = ring.keys() != self._ring.keys()
        self._ring = ring
        return is_moved

    # -- reasons --------------------------------------------------------------------------------

    def on_wanted(self, peer: PeerId, now: Nanos) -> bool:
        """A call needs this link now. True when there was no reason for it before."""
        if peer == self._own:
            return False
        was_wanted = self.is_wanted(peer)
        want = self._wants.setdefault(peer, Want())
        want.is_demanded, want.busy_at = True, now
        return not was_wanted

    def on_keep(self, peer: PeerId, is_kept: bool, now: Nanos) -> None:
        """The other side wants the link, or does not need it any longer."""
        want = self._wants.setdefault(peer, Want(busy_at=now))
        want.is_theirs = is_kept

    def on_closed(self, peer: PeerId) -> None:
        """What was said on that link is void; a near neighbour is dialled again."""
        self._told.pop(peer, None)
        want = self._wants.get(peer)
        if want is not None:
            want.is_theirs, want.bytes_seen = False, 0

    def is_wanted(self, peer: PeerId) -> bool:
        """Whether this node keeps the link by itself: dials it, dials it again."""
        if self.is_full_mesh or peer in self._ring:
            return True
        want = self._wants.get(peer)
        return want is not None and (want.is_near or want.is_demanded)

    def wanted(self) -> list[PeerId] | None:
        """The peers to be linked with; None for everybody that is known."""
        if self.is_full_mesh:
            return None
        return [*self._ring, *(p for p in self._wants if p not in self._ring and self.is_wanted(p))]

    # -- upkeep ---------------------------------------------------------------------------------

    def tell(self, linked: Iterable[PeerId]) -> list[tuple[PeerId, bool]]:
        """Whom to tell, of the linked ones, that their link is wanted here, or not any more.

        Ring neighbours know; in a full mesh there is nothing to say.
        """
        said = []
        for peer in () if self.is_full_mesh else linked:
            is_kept = self.is_wanted(peer) and peer not in self._ring
            if self._told.get(peer, False) != is_kept:
                self._told[peer] = is_kept
                said.append((peer, is_kept))
        return said

    def on_telemetry(self, samples: Iterable[PeerSample], now: Nanos) -> list[PeerId]:
        """Take note of traffic; the links that can be closed: nobody wants them, and idle."""
        idle: list[PeerId] = []
        if self.is_full_mesh:
            return idle
        for sample in samples:
            if sample.peer in self._ring:
                continue
            want = self._wants.setdefault(sample.peer, Want(busy_at=now))
            moved = sample.bytes_in + sample.bytes_out
            if moved > want.bytes_seen + limits.LINK_IDLE_BYTES:
                want.busy_at = now
            want.bytes_seen = moved
            if now < want.busy_at + limits.LINK_IDLE_NS:
                continue
            want.is_demanded = False
            if not (want.is_near or want.is_theirs):
                idle.append(sample.peer)
        return idle

    def choose_near(
        self, linked: Mapping[PeerId, None], distance: Distance, now: Nanos
    ) -> list[PeerId]:
        """Fill the view with near members, then move to nearer ones, one at a time. Who is new.

        A few members are drawn and the nearest taken: that finds near ones within some rounds at
        a cost that does not grow with the cluster. Ring neighbours out of reach leave their room.
        """
        if self.is_full_mesh or now < self._looked_at + limits.NEAR_LOOK_NS:
            return []
        self._looked_at = now
        room = view_size(len(self._rings)) - sum(peer in linked for peer in self._ring)
        drawn = self._rings.draw(self._rng, limits.NEAR_DRAWN)
        near = [peer for peer, want in self._wants.items() if want.is_near]
        others = [p for p in drawn if p != self._own and p not in self._ring and p not in near]
        planned = plan_near(near, others, room, distance)
        for peer in near:
            self._wants[peer].is_near = peer in planned
        for peer in planned:
            self._wants.setdefault(peer, Want(busy_at=now)).is_near = True
        return [peer for peer in planned if peer not in near]


def plan_near(
    near: list[PeerId], others: list[PeerId], room: int, distance: Distance
) -> list[PeerId]:
    """The near neighbours from now on. Who is one stays unless a newcomer is nearer by a quarter.

    An unknown distance is the greatest; ties by id.
    """

    def rank(peer: PeerId) -> tuple[int, PeerId]:
        estimate = distance(peer)
        return (1 << 62 if estimate is None else estimate), peer

    ranked = sorted(near, key=rank)[: max(0, room)]
    coming = sorted(others, key=rank)
    missing = max(0, room) - len(ranked)
    if missing or not ranked or not coming:
        return ranked + coming[:missing]
    if rank(coming[0])[0] * 10_000 < rank(ranked[-1])[0] * limits.NEAR_HYSTERESIS_BP:
        ranked[-1] = coming[0]
    return ranked


@functools.lru_cache(3 * limits.DECODED_REMEMBERED)
def _place(ring: int, peer: PeerId) -> tuple[bytes, PeerId]:
    return hash_of("ring", bytes([ring]), peer)[:8], peer
