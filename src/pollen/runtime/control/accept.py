"""The accept loop of the control socket and of the metrics page.

Decides: when a connection is taken, refused, or waited for.
Does not know: what is answered; the protocol it is given does that.
Invariants: without files the loop waits and writes at most one line in ten seconds; over its number
    a connection is answered 503 and closed.
Source: asyncio's own loop tries ``backlog`` times in a row when the process has no files, and hands
    each failure with a traceback to the exception handler (measured: 878,320 in four minutes).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
from collections.abc import Callable
from typing import Any

from pollen.errors import Overloaded

# Connections taken in one turn of the loop, so that others get theirs. Guess.
TURN = 64
# Without files the next try comes after so many seconds, as asyncio's.
PAUSE = 1.0
_NO_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Takes connections of one listener and gives each a protocol.

    ``inside`` says how many there are, ``most`` how many there may be; ``warn`` gets what went
    wrong. ``stop`` leaves the listener open and the connections running.
    """

    def __init__(
        self,
        listener: socket.socket,
        make: Callable[[], asyncio.BaseProtocol],
        inside: Callable[[], int],
        most: int,
        warn: Callable[[str, str], None],
    ) -> None:
        self._listener = listener
        self._make = make
        self._inside = inside
        self._most = most
        self._warn = warn
        self._begun: set[asyncio.Task[Any]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Take connections from now on."""
        self._pause = None
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener.fileno(), self._accept)

    def stop(self) -> None:
        """Take none any more."""
        if self._pause is not None:
            self._pause.cancel()
            self._pause = None
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().remove_reader(self._listener.fileno())

    def _accept(self) -> None:
        for _ in range(TURN):
            try:
                peer, _ = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._warn("accept-failed", str(error))
                if error.errno in _NO_FILES:
                    loop = asyncio.get_running_loop()
                    loop.remove_reader(self._listener.fileno())
                    self._pause = loop.call_later(PAUSE, self.start)
                return
            peer.setblocking(False)
            if self._inside() + len(self._begun) >= self._most:
                self._warn("control-full", f"{self._most} connections are open")
                refuse(peer)
                continue
            task = asyncio.ensure_future(self._begin(peer))
            self._begun.add(task)
            task.add_done_callback(self._begun.discard)

    async def _begin(self, peer: socket.socket) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(self._make, peer)
        except OSError as error:
            peer.close()
            self._warn("accept-failed", str(error))


def refuse(peer: socket.socket) -> None:
    """Answer 503 as far as the empty buffer of the socket takes it, and close."""
    error = Overloaded(
        "overloaded", "as many connections are open here as may be", "close some, and ask again"
    )
    body = json.dumps(error.to_dict()).encode()
    head = (
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/problem+json\r\n"
        f"retry-after: 1\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    with contextlib.suppress(OSError):
        peer.send(head.encode() + body)
        peer.shutdown(socket.SHUT_WR)
        # With bytes unread, closing would reset the peer before it reads the answer.
        peer.recv(65_536)
    peer.close()
