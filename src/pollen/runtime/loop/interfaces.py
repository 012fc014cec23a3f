"""Tells when this machine gains or loses an address.

Decides: nothing; the kernel says that something changed, and whoever is told looks.
Does not know: which addresses there are, and what follows.
Invariants: several changes at once are told once. A kernel without netlink tells nothing: whoever
    is told looks from time to time as well.
Source: docs/decisions/a-silent-path.md#a-link-that-fell-silent; rtnetlink(7) has the messages.
    Refused: a look each second at all interfaces, since a machine at rest would never be at rest.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

# Numbers of Linux that Python does not name: multicast groups of addresses (RTMGRP_IPV4_IFADDR and
# RTMGRP_IPV6_IFADDR).
_GROUPS = 0x10 | 0x100
# A new address follows the old one's end: one look sees both. Guess.
SETTLE_SECONDS = 0.2
_READ = 1 << 16


class Interfaces:
    """Calls ``changed`` on the running loop, soon after addresses of this machine changed."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> bool:
        """Begin to listen. False where the kernel tells nothing."""
        self._socket = held = _listen()
        if held is not None:
            self._loop.add_reader(held, self._read, held)
        return held is not None

    def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._due is not None:
            self._due.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    def _read(self, held: socket.socket) -> None:
        # Why: an error says that messages were lost, and so that something changed.
        with contextlib.suppress(OSError):
            while held.recv(_READ):
                pass
        if self._due is None:
            self._due = self._loop.call_later(SETTLE_SECONDS, self._tell)

    def _tell(self) -> None:
        self._due = None
        self._changed()


def _listen() -> socket.socket | None:
    """A socket on which the kernel tells of addresses; None where it has none."""
    if not hasattr(socket, "AF_NETLINK"):
        return None
    held = None
    try:
        held = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        held.bind((0, _GROUPS))
    except OSError:
        if held is not None:
            held.close()
        return None
    return held
