"""What a node that some members cannot reach says of who is directly linked with it.

Decides: whether a record of it is one; which neighbours it names.
Does not know: who reads it (``routes``); when it is said (``paths``).
Invariants: at most ``NEIGHBOURS_MAX`` neighbours, each once; one that is named stays named while it
    is directly linked, so that the record changes seldom.
Source: docs/internals/paths.md#records.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import IntEnum
from typing import Annotated

import msgspec

from pollen.core.codec import U8, Rejection, WirePeerId, decode
from pollen.core.ids import PeerId

# Neighbours that a record names: relays are tried in turn, and 16 of them are never all down while
# their cluster lives. 512 bytes. Guess.
NEIGHBOURS_MAX = 16


class Nat(IntEnum):
    """What stands between a node and the others, as they see it (RFC 4787, 4.1).

    ``BEHIND``: something does, and only one member told. ``SAME``: the mapping is the same for all
    (endpoint-independent). ``OTHER``: each peer sees another one (address and port-dependent).
    """

    UNKNOWN = 0
    NONE = 1
    BEHIND = 2
    SAME = 3
    OTHER = 4


class NearRecord(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a ``near`` record. Positional; fields are only appended.

    ``nat`` is a ``Nat``; a number that is none says nothing.
    """

    neighbours: Annotated[list[WirePeerId], msgspec.Meta(max_length=NEIGHBOURS_MAX)]
    nat: U8 = 0

    @property
    def nat_kind(self) -> Nat:
        """What stands before the node that said this."""
        return Nat(self.nat) if self.nat <= Nat.OTHER else Nat.UNKNOWN


def decode_near(payload: bytes) -> NearRecord | Rejection:
    """What a record's payload says, when it obeys the rules."""
    record = decode(NearRecord, payload, "near-record")
    if isinstance(record, NearRecord) and len(set(record.neighbours)) < len(record.neighbours):
        return Rejection("near-malformed", "a neighbour is named twice")
    return record


def choose_neighbours(direct: Mapping[PeerId, int], named: Collection[PeerId]) -> list[PeerId]:
    """Whom to name, in the order of their ids: those named before, then the nearest.

    ``direct``: round trips in microseconds of those who are directly linked.
    """
    stay = [peer for peer in named if peer in direct]
    others = sorted((p for p in direct if p not in stay), key=lambda p: (direct[p], p))
    return sorted([*stay, *others][:NEIGHBOURS_MAX])
