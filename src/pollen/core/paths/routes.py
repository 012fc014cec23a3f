"""Which members stand between this node and another one.

Decides: the next members for packets to each member, best first.
Does not know: time, records, links that are not told to it.
Invariants: a way has at most ``BETWEEN_MAX`` members between its ends, all live and willing. A
    member that said nothing is reached directly by all others that said nothing. What the other end
    says of itself goes before what those say who might stand between. Two nodes that see the same
    prefer the same member between them, and pairs spread over all who would do.
Source: docs/internals/paths.md#routes. Refused: the cheapest whole path by round trips (Dijkstra),
    for which every member would have to tell all others the round trip of each of its links.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from pollen.core.ids import PeerId, hash_of

# Members between the two ends; a packet is passed on as often.
# Source: docs/design/protocol.md#transport (a ttl of 4).
BETWEEN_MAX = 3
# Next members that the muscles know for one member: the first that is there is taken. Guess.
HOPS_MAX = 4
# Round trips below this are alike, and so are those between each two powers of two of it.
_ALIKE_US = 2_048
# A round trip counts to its old class until it is so far beyond it, parts of 100: one that flaps
# about a border turns no order round. Guess.
_BEYOND = 25


class Atlas:
    """Who said that it is directly linked with whom. ``relays``: whether a member passes on."""

    def __init__(self, own: PeerId, relays: Callable[[PeerId], bool]) -> None:
        self._own = own
        self._relays = relays
        self._live: dict[PeerId, None] = {}
        self._said: dict[PeerId, dict[PeerId, None]] = {}
        self._named_by: dict[PeerId, dict[PeerId, None]] = {}
        self._open: dict[PeerId, None] | None = None
        self._classes: dict[PeerId, int] = {}

    def note_live(self, live: Iterable[PeerId]) -> None:
        """These members are live, and no others."""
        self._live = dict.fromkeys(live)
        self._classes = {p: held for p, held in self._classes.items() if p in self._live}
        self._open = None

    def note_said(self, peer: PeerId, neighbours: Iterable[PeerId] | None) -> None:
        """Who is directly linked with a member that some cannot reach; None: all reach it."""
        for named in self._said.pop(peer, ()):
            naming = self._named_by[named]
            del naming[peer]
            if not naming:
                del self._named_by[named]
        if neighbours is not None:
            self._said[peer] = dict.fromkeys(n for n in neighbours if n != peer)
            for named in self._said[peer]:
                self._named_by.setdefault(named, {})[peer] = None
        self._open = None

    def is_hard(self, peer: PeerId) -> bool:
        """Whether some members cannot reach this one, by its own word."""
        return peer in self._said

    def hard(self) -> list[PeerId]:
        """Everybody who said so."""
        return list(self._said)

    def hops(self, peer: PeerId, direct: Mapping[PeerId, int]) -> list[PeerId]:
        """To whom packets for a member go, best first; ``direct``: the round trips in microseconds
        of those who are directly linked with this node. Empty when there is no way."""
        found: list[PeerId] = []
        seen = {peer: None, self._own: None}
        edge = {peer: None}
        for _ in range(BETWEEN_MAX):
            edge = {
                each: None
                for place in edge
                for each in self._around(place)
                if each not in seen and each in self._live and self._relays(each)
            }
            if not edge:
                break
            seen.update(edge)
            here = [each for each in edge if each in direct]
            found += sorted(here, key=lambda each: self._rank(each, peer, direct[each]))
            if len(found) >= HOPS_MAX:
                break
        return found[:HOPS_MAX]

    def _around(self, peer: PeerId) -> Iterable[PeerId]:
        named_by = self._named_by.get(peer, {})
        if peer in self._said:
            return [*self._said[peer], *named_by]
        if self._open is None:
            self._open = {p: None for p in self._live if p not in self._said}
        return [*self._open, *named_by]

    def _rank(self, between: PeerId, peer: PeerId, rtt_us: int) -> tuple[bool, int, bytes]:
        said = self._said.get(peer)
        is_rumour = said is not None and between not in said
        low, high = sorted((self._own, peer))
        return is_rumour, self._class_of(between, rtt_us), _draw(low, high, between)

    def _class_of(self, peer: PeerId, rtt_us: int) -> int:
        """Round trips of one class are alike."""
        held = self._classes.get(peer)
        found = (rtt_us // _ALIKE_US).bit_length()
        if held is not None and found != held:
            floor = _ALIKE_US << held - 1 if held else 0
            ceiling = _ALIKE_US << held
            if floor * (100 - _BEYOND) <= rtt_us * 100 <= ceiling * (100 + _BEYOND):
                return held
        self._classes[peer] = found
        return found


@functools.lru_cache(4096)
def _draw(low: PeerId, high: PeerId, between: PeerId) -> bytes:
    """Rendezvous hashing: a pair's own order of those who may stand between it."""
    return hash_of("between", low, high, between)[:8]
