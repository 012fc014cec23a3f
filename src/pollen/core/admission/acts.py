"""What admins did to the cluster, as records that outlive the moment.

Decides: what a record of an act says, and when it is old enough to be taken back.
Does not know: who may act (``grants``, ``invites``), how acts are shown.
Invariants: an act is written by the node that did it, under its own key, and never changed.
Source: docs/design/protocol.md#grants-and-denies.
"""

from __future__ import annotations

import msgspec

from pollen.core import kinds, limits
from pollen.core.codec import U64, Rejection, decode, encode
from pollen.core.ids import Nanos, PeerId
from pollen.core.turn import Turn


class Act(msgspec.Struct, frozen=True, array_like=True):
    """The payload of an ``act`` record. ``wall`` is nanoseconds; ``subject`` a member's id."""

    wall: U64
    verb: str
    subject: bytes
    detail: str = ""

    @staticmethod
    def read(payload: bytes) -> Act | Rejection:
        """The act in a record's payload."""
        return decode(Act, payload, "act")


def publish_act(turn: Turn, verb: str, subject: PeerId, detail: str, key: bytes) -> None:
    """The record of what this node does now, for ``pln audit``; one of this key it replaces."""
    act = Act(turn.now.wall, verb, subject, detail[: limits.ACT_DETAIL_MAX_CHARS])
    turn.publish(kinds.ACT, key, encode(act))


def act_key(wall: int, number: int) -> bytes:
    """Acts of one owner sort by time; the number keeps two of one moment apart."""
    return wall.to_bytes(8, "big") + (number & (2**64 - 1)).to_bytes(8, "big")


def is_over(payload: bytes, wall: Nanos) -> bool:
    """Whether an act was kept for as long as it must be."""
    act = Act.read(payload)
    return isinstance(act, Rejection) or wall >= act.wall + limits.ACT_KEEP_NS
