"""The output of one call in pieces, as they come: for asyncio and for blocking code.

Decides: when a streamed call begins, ends and is cancelled. Does not know: frames and credit
(``door``, ``inflow``).
Invariants: a stream that was left, in whatever way, has cancelled its call; one that ended has not.
Source: docs/design/sdk.md#streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from types import TracebackType
from typing import TYPE_CHECKING, Self

from pollen.errors import Unreachable
from pollen.paths import Paths
from pollen.sdk import door, inflow, replies
from pollen.sdk.asking import Call
from pollen.sdk.replies import Reply, broken, closed, gone, late, silent

if TYPE_CHECKING:
    from pollen.sdk.blocking import SyncMesh
    from pollen.sdk.client import Connection, Mesh

RECEIVE = 256 * 1024
# How long a blocking client waits until the node takes its connection: it does so at once.
_CONNECT = 10.0


class Stream:
    """The output of one call in pieces of bytes, as they come.

    ``async with`` begins the call, and leaving it early cancels the guest. The pieces together are
    what ``call`` would bring. A reader that rests makes the guest wait. After a failure the pieces
    that had come are read first, then its ``CallError`` is raised.
    """

    def __init__(self, mesh: Mesh, call: Call) -> None:
        self._mesh = mesh
        self._call = call
        self._flow = inflow.Inflow()
        self._came = asyncio.Event()
        self._sent: tuple[Connection, int] | None = None

    async def __aenter__(self) -> Self:
        if self._sent is not None:
            raise inflow.used()
        connection, number, future = await self._mesh._begin(self._call, self)
        self._sent = connection, number
        future.add_done_callback(self._end)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._flow.end(inflow.left())
        if self._sent is not None:
            connection, number = self._sent
            connection.forget(number)

    def feed(self, piece: bytes) -> None:
        """A chunk came for it."""
        self._flow.feed(piece)
        self._came.set()

    def _end(self, future: asyncio.Future[door.Answer]) -> None:
        error = None if future.cancelled() else future.exception()
        if isinstance(error, TimeoutError):
            self._flow.end(silent(self._mesh._paths, self._call.timeout))
        elif error is not None and self._sent is not None:
            self._flow.end(broken(self._sent[0].lost))
        elif not future.cancelled():
            self._flow.answer(future.result())
        self._came.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        if self._sent is None:
            raise inflow.not_begun("async with mesh.stream(...) as pieces")
        connection, number = self._sent
        while (piece := self._flow.take()) is None:
            if self._flow.is_ended:
                raise StopAsyncIteration
            self._came.clear()
            await self._came.wait()
        if owed := self._flow.owed():
            connection.give(number, owed)
        return piece

    @property
    def reply(self) -> Reply:
        """Where the call ran and what it took, after its end; ``data`` is empty."""
        return self._flow.reply


class SyncStream:
    """The output of one call in pieces of bytes, as they come: the blocking twin of ``Stream``.

    The first piece that is asked for begins the call. The end of a ``with`` block, ``close`` and
    the end of the last reference cancel it. It has a connection of its own, so that other calls go
    on in its loop.
    """

    def __init__(self, mesh: SyncMesh, call: Call) -> None:
        self._mesh = mesh
        self._call = call
        self._flow = inflow.Inflow()
        self._conversation = door.Conversation()
        self._socket: socket.socket | None = None
        self._number, self._end = 0, 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel the call unless it has ended. Idempotent."""
        self._flow.end(inflow.left())
        if self._socket is not None:
            self._socket.close()

    def __del__(self) -> None:
        self.close()

    def interrupt(self) -> None:
        """Wake the thread that reads, from another one: nothing comes any more."""
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> bytes:
        if self._socket is None and not self._flow.is_ended:
            self._begin()
        try:
            while (piece := self._flow.take()) is None:
                if self._flow.is_ended:
                    raise StopIteration
                self._receive()
        except BaseException:
            self.close()
            raise
        if owed := self._flow.owed():
            self._tell(self._conversation.give(self._number, owed))
        return piece

    @property
    def reply(self) -> Reply:
        """Where the call ran and what it took, after its end; ``data`` is empty."""
        return self._flow.reply

    def _begin(self) -> None:
        if self._mesh._is_closed:
            raise closed()
        paths, timeout = self._mesh._paths, self._call.timeout
        until = time.monotonic() + timeout
        self._end = until + replies.grace(timeout)
        self._socket = opened(paths, timeout)
        self._mesh._streams.add(self)
        # Connecting over ssh is part of the call's time.
        call = self._call.within(until - time.monotonic()) if paths.host else self._call
        if call.timeout <= 0:
            self.close()
            raise late(paths, timeout)
        self._number, frame = call.encode(self._conversation)
        self._tell(frame)

    def _tell(self, frame: bytes) -> None:
        """What breaks on the way to the node is found when its answers are read."""
        assert self._socket is not None
        self._socket.settimeout(max(0.001, self._end - time.monotonic()))
        with contextlib.suppress(OSError):
            self._socket.sendall(frame)

    def _receive(self) -> None:
        assert self._socket is not None
        try:
            self._socket.settimeout(max(0.001, self._end - time.monotonic()))
            data = self._socket.recv(RECEIVE)
            if not data:
                raise ConnectionResetError("the node closed the connection")
            for answer in self._conversation.receive(data):
                if isinstance(answer, door.Chunk):
                    self._flow.feed(answer.data)
                else:
                    self._flow.answer(answer)
        except TimeoutError:
            self._flow.end(silent(self._mesh._paths, self._call.timeout))
        except (OSError, Unreachable) as error:
            self._flow.end(broken(error))


def opened(paths: Paths, seconds: float = math.inf, preface: bytes = door.PREFACE) -> socket.socket:
    """A socket to the node, on which ``preface`` was said. Raises ``CallError`` when none answers,
    over ssh within ``seconds``."""
    if paths.host:
        from pollen.sdk import far

        opened = far.opened(paths, str(paths.call_socket), min(far.PATIENCE, seconds))
    else:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    opened.settimeout(_CONNECT)
    try:
        if not paths.host:
            opened.connect(str(paths.call_socket))
        opened.sendall(preface)
    except OSError as error:
        opened.close()
        raise gone(paths, error) from None
    return opened
