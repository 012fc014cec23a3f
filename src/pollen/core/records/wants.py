"""What is to be pulled, and from whom: wishes, and questions under way.

Decides: how many owners one peer may make us want.
Does not know: records, links, messages; when a question is sent (``gossip``).
Invariants: of one owner one wish, in the order in which they came. A peer that names owners without
    end fills its own room and nobody else's: what is left out a later digest names again.
Source: docs/design/protocol.md#records (pull). Refused: one bound for all peers, which a single
liar would fill.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from pollen.core import limits
from pollen.core.ids import Nanos, PeerId
from pollen.core.records.record import Version


class Missing(msgspec.Struct, frozen=True):
    """A version that a peer announced and that did not come yet."""

    peer: PeerId
    version: Version
    due: Nanos


class Asked(msgspec.Struct, frozen=True):
    """A pull under way: from whom, and until when it is waited for."""

    peer: PeerId
    until: Nanos


class Wants:
    """Owners to be pulled: from whom, and whether whole."""

    def __init__(self) -> None:
        self._held: dict[PeerId, tuple[PeerId, bool]] = {}
        self._named: dict[PeerId, int] = {}

    def __bool__(self) -> bool:
        return bool(self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, owner: PeerId) -> bool:
        return owner in self._held

    def __iter__(self) -> Iterator[tuple[PeerId, PeerId, bool]]:
        """The owner, the peer and whether whole of each wish there is now, the oldest first."""
        return iter([(owner, peer, whole) for owner, (peer, whole) in self._held.items()])

    def add(self, owner: PeerId, peer: PeerId, *, is_whole: bool = False) -> bool:
        """Want an owner from a peer, instead of what was wanted of it; False without room."""
        if self._named.get(peer, 0) >= limits.WANTED_MAX:
            return False
        self.drop(owner)
        self._held[owner] = peer, is_whole
        self._named[peer] = self._named.get(peer, 0) + 1
        return True

    def drop(self, owner: PeerId) -> None:
        """Want it no more."""
        held = self._held.pop(owner, None)
        if held is None:
            return
        self._named[held[0]] -= 1
        if not self._named[held[0]]:
            del self._named[held[0]]
