"""``static:addr,addr``: a list that somebody wrote down, emitted once.

Decides: nothing but how an entry is read.
Does not know: whether anybody is there.
Invariants: the list is emitted once a search; an entry is numeric, for no name is resolved here.
Source: docs/internals/discovery.md#strategies. An entry is ``ip:port``, or ``<node id>@ip:port``
where the peer is known.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollen.core.ids import ClusterId, Nanos, Now, PeerId, is_hash_text
from pollen.core.peers.discovery.contract import Action, Context, Found, Socket, refuse
from pollen.core.peers.known import is_dialable

_FORM = "write static:ADDRESS:PORT,… or static:NODE@ADDRESS:PORT,… with numeric addresses"


class Static:
    """The addresses of one ``static:`` word."""

    socket: Socket | None = None
    due: Nanos | None = None

    def __init__(self, argument: str, context: Context) -> None:
        del context
        self._entries = [_read(entry, argument) for entry in argument.split(",")]

    def advertise(self, cluster: ClusterId, addresses: Sequence[str], until: Nanos) -> None:
        """Nobody asks."""

    def find(self, cluster: ClusterId, limit: int, now: Now) -> list[Action]:
        """The whole list."""
        return list(self._entries) if limit else []

    def on_timer(self, now: Now) -> list[Action]:
        """There is none."""
        return []

    def on_datagram(self, data: bytes, sender: str, now: Now) -> list[Action]:
        """There are none."""
        return []


def _read(entry: str, argument: str) -> Found:
    node, is_named, address = entry.rpartition("@")
    if is_named and not is_hash_text(node):
        raise refuse("static", argument, f"{node[:70]!r} is not a node id", _FORM)
    if not is_dialable(address):
        raise refuse("static", argument, f"{address[:70]!r} is not an address with a port", _FORM)
    return Found(peer=PeerId(bytes.fromhex(node)) if is_named else None, addresses=[address])
