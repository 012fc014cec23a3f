"""The SDK for asyncio: call seeds and publish them; ``blocking`` is its twin for plain code.

Neither needs the native module. A daemon that goes away is ``Unreachable``; the next call connects
again. Cancelling an awaited call cancels it across the mesh.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Literal, NoReturn, Self, overload

from pollen.errors import BadRequest, CallError, Overloaded, Unreachable
from pollen.paths import Paths
from pollen.sdk import door, inflow, replies
from pollen.sdk.asking import (
    UNSET,
    Call,
    Handle,
    Options,
    Payload,
    check_in_flight,
    placed,
)
from pollen.sdk.hosts import connecting
from pollen.sdk.replies import Reply, broken, closed, forked, gone, reply, silent
from pollen.sdk.steering import Steering
from pollen.sdk.streams import Stream


class _Lost(Exception):
    """The connection broke; whoever waits is told with what may have happened."""


class Connection(asyncio.Protocol):
    """One socket to the node; many calls share it."""

    def __init__(self) -> None:
        self.conversation = door.Conversation()
        self.transport: asyncio.Transport | None = None
        self.lost: Exception | None = None
        # Each with the loop's time until when it waits, and one timer, at or before the earliest: a
        # timer for each call costs more than the rest of asking.
        self._waiting: dict[int, tuple[asyncio.Future[door.Answer], float]] = {}
        self._streams: dict[int, Stream] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(door.PREFACE)

    def data_received(self, data: bytes) -> None:
        try:
            answers = self.conversation.receive(data)
        except Unreachable as error:
            self._break(error)
            return
        for answer in answers:
            if isinstance(answer, door.Chunk):
                if (stream := self._streams.get(answer.id)) is not None:
                    stream.feed(answer.data)
                continue
            waiting = self._waiting.pop(answer.id, None)
            if waiting is not None and not waiting[0].done():
                waiting[0].set_result(answer)

    def connection_lost(self, exc: Exception | None) -> None:
        self._break(exc or ConnectionResetError("the node closed the connection"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _break(self, why: Exception) -> None:
        if self.lost is None:
            self.lost = why
        for future, _ in self._waiting.values():
            if not future.done():
                future.set_exception(_Lost())
        self._waiting.clear()
        self._writable.set()
        if self._timer is not None:
            self._timer.cancel()
        if self.transport is not None:
            self.transport.abort()

    async def ask(self, call: Call, end: float) -> door.Answer:
        """Send a call and wait for its answer; cancelling sends CANCEL.

        Raises ``TimeoutError`` at ``end`` of the loop's time, CANCEL sent, and ``_Lost``.
        """
        if not self._writable.is_set():
            async with asyncio.timeout_at(end):
                await self.writable()
        number, future = self._send(call, end)
        try:
            return await future
        except asyncio.CancelledError:
            self.forget(number)
            raise

    async def writable(self) -> None:
        """Wait until the node takes what was written."""
        await self._writable.wait()

    def _send(self, call: Call, end: float) -> tuple[int, asyncio.Future[door.Answer]]:
        if self.lost is not None or self.transport is None:
            raise _Lost
        number, frame = call.encode(self.conversation)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[door.Answer] = loop.create_future()
        self._waiting[number] = future, end
        if self._timer is None or end < self._timer.when():
            self._arm(loop, end)
        self.transport.write(frame)
        return number, future

    def begin(
        self, call: Call, end: float, stream: Stream
    ) -> tuple[int, asyncio.Future[door.Answer]]:
        """Send a call whose chunks go to this stream, until ``forget``. Raises ``_Lost``."""
        number, future = self._send(call, end)
        self._streams[number] = stream
        return number, future

    def give(self, number: int, credit: int) -> None:
        """Take so many bytes more of a stream's chunks."""
        self._tell(self.conversation.give(number, credit))

    def _arm(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(at, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Whoever waited until its end is told, the shortest first; the rest waits on."""
        self._timer, now = None, loop.time()
        late = sorted((end, number) for number, (_, end) in self._waiting.items() if end <= now)
        for _, number in late:
            future, _ = self._waiting[number]
            self.forget(number)
            if not future.done():
                future.set_exception(TimeoutError())
        if self._waiting:
            self._arm(loop, min(end for _, end in self._waiting.values()))

    def forget(self, number: int) -> None:
        """Give a call up; the node is told unless it has answered. Idempotent."""
        self._waiting.pop(number, None)
        self._streams.pop(number, None)
        self._tell(self.conversation.forget(number))

    def _tell(self, frame: bytes) -> None:
        if frame and self.lost is None and self.transport is not None:
            self.transport.write(frame)


class Mesh(Steering):
    """A connection to the nearest node, for asyncio; safe to share among tasks of one loop."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._connection: Connection | None = None
        self._connecting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<{type(self).__name__} of {self._paths.place}, {state}>"

    async def __aenter__(self) -> Self:
        self._is_closed = False
        await self._connected()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self.close()

    def __enter__(self) -> NoReturn:
        raise TypeError("use: async with connect() as mesh; in blocking code: with connect_sync()")

    def __exit__(self, *_: object) -> None:
        """Only here so that ``with`` comes as far as the reason why not."""

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled, a later one is ``bad-request``.

        Idempotent.
        """
        self._is_closed = True
        connection, self._connection = self._connection, None
        # In a forked child the transport is the parent's, and so is the loop's selector; and what
        # was of a loop that is closed closes with its last reference.
        is_ours = self._pid == os.getpid() and self._loop and not self._loop.is_closed()
        if is_ours and connection is not None and connection.transport is not None:
            connection.transport.close()

    def function(
        self,
        seed: str,
        name: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        idempotent: bool = False,
    ) -> Function:
        """A handle on a function; ``name`` may be left out when there is one export."""
        return Function(self, seed, name, Options(timeout, retries, idempotent))

    async def call(
        self,
        seed: str,
        name: str | None = None,
        data: Payload = b"",
        *,
        json: object = UNSET,
        timeout: float = 60.0,
        retries: int = 3,
        idempotent: bool = False,
        traceparent: str | None = None,
        head: Payload = b"",
    ) -> Reply:
        """Call once; the keywords are those of ``function`` and of calling a handle."""
        function = Function(self, seed, name, Options(timeout, retries, idempotent))
        return await function(data, json=json, traceparent=traceparent, head=head)

    def stream(
        self,
        seed: str,
        name: str | None = None,
        data: Payload = b"",
        *,
        json: object = UNSET,
        timeout: float = 60.0,
        retries: int = 3,
        idempotent: bool = False,
        traceparent: str | None = None,
        head: Payload = b"",
    ) -> Stream:
        """Call once and take the output in pieces: ``async with mesh.stream(...) as pieces``."""
        function = Function(self, seed, name, Options(timeout, retries, idempotent))
        return function.stream(data, json=json, traceparent=traceparent, head=head)

    def _settle(self) -> None:
        """From here on this mesh belongs to the running loop of this process.

        A connection belongs to the loop that made it: awaiting its answers in another one would
        never end.
        """
        loop, pid = asyncio.get_running_loop(), os.getpid()
        if loop is self._loop and pid == self._pid:
            return
        connection = self._connection
        if connection is not None and connection.lost is None:
            if pid != self._pid:
                raise forked()
            if self._loop is not None and not self._loop.is_closed():
                reason = "this mesh is connected in another event loop, which is still open"
                remedy = "connect in each loop, or close the mesh in the loop that used it"
                raise BadRequest("bad-request", reason, remedy)
        if connection is not None:
            # Without this reference the transport goes, and its socket with it.
            connection.transport = None
        self._connection, self._connecting = None, asyncio.Lock()
        self._loop, self._pid = loop, pid

    def _at_hand(self) -> Connection | None:
        """The connection, if there is one and it is not lost."""
        self._settle()
        connection = self._connection
        return connection if connection is not None and connection.lost is None else None

    async def _connected(self, seconds: float = math.inf) -> Connection:
        if (connection := self._at_hand()) is not None:
            return connection
        async with self._connecting:
            if (connection := self._at_hand()) is not None:
                return connection
            loop, address = asyncio.get_running_loop(), str(self._paths.call_socket)
            try:
                if self._paths.host:
                    from pollen.sdk import far

                    far_end = await far.opened_aside(self._paths, address, seconds)
                    _, connection = await loop.create_unix_connection(Connection, sock=far_end)
                else:
                    _, connection = await loop.create_unix_connection(Connection, address)
            except OSError as error:
                raise gone(self._paths, error) from None
            self._connection = connection
            return connection

    async def _reached(self, call: Call, end: float) -> tuple[Connection, Call]:
        """The connection, and the call less what connecting over ssh took of its time."""
        if (connection := self._at_hand()) is not None:
            return connection, call
        until = end - replies.grace(call.timeout)
        try:
            async with asyncio.timeout_at(end):
                connection = await self._connected(call.timeout)
        except TimeoutError:
            raise replies.late(self._paths, call.timeout) from None
        if not self._paths.host:
            return connection, call
        left = until - asyncio.get_running_loop().time()
        if left <= 0:
            raise replies.late(self._paths, call.timeout)
        return connection, call.within(left)

    async def _begin(
        self, call: Call, stream: Stream
    ) -> tuple[Connection, int, asyncio.Future[door.Answer]]:
        """A call that streams is on its way."""
        if self._is_closed:
            raise closed()
        end = asyncio.get_running_loop().time() + call.timeout + replies.grace(call.timeout)
        connection, call = await self._reached(call, end)
        try:
            async with asyncio.timeout_at(end):
                await connection.writable()
        except TimeoutError:
            raise silent(self._paths, call.timeout) from None
        try:
            return connection, *connection.begin(call, end, stream)
        except _Lost:
            raise broken(connection.lost) from None

    async def _ask(self, call: Call) -> Reply:
        if self._is_closed:
            raise closed()
        end = asyncio.get_running_loop().time() + call.timeout + replies.grace(call.timeout)
        try:
            connection, asked = await self._reached(call, end)
            try:
                answer = await connection.ask(asked, end)
            except _Lost:
                raise broken(connection.lost) from None
        except TimeoutError:
            raise silent(self._paths, call.timeout) from None
        return reply(answer)


class Function(Handle):
    """``await handle(b"input")`` calls it."""

    def __init__(self, mesh: Mesh, seed: str, function: str | None, options: Options) -> None:
        super().__init__(seed, function, options)
        self._mesh = mesh

    async def __call__(
        self,
        data: Payload = b"",
        *,
        json: object = UNSET,
        timeout: float | None = None,
        idempotent: bool | None = None,
        traceparent: str | None = None,
        head: Payload = b"",
    ) -> Reply:
        """Call it; ``timeout`` in seconds. Raises ``CallError``; cancelling cancels the guest.

        ``head``: bytes for the guest beside the input.
        """
        call = self._asks(data, json, timeout, idempotent, traceparent, head)
        return await self._mesh._ask(call)

    def stream(
        self,
        data: Payload = b"",
        *,
        json: object = UNSET,
        timeout: float | None = None,
        idempotent: bool | None = None,
        traceparent: str | None = None,
        head: Payload = b"",
    ) -> Stream:
        """Call it and take the output in pieces: ``async with handle.stream() as pieces``.

        ``timeout`` is that of the whole call, in seconds.
        """
        call = self._asks(data, json, timeout, idempotent, traceparent, head, inflow.WINDOW)
        return Stream(self._mesh, call)

    @overload
    def map(
        self,
        inputs: Iterable[Payload] | AsyncIterable[Payload],
        *,
        in_flight: int = 64,
        return_exceptions: Literal[False] = False,
    ) -> AsyncIterator[Reply]: ...
    @overload
    def map(
        self,
        inputs: Iterable[Payload] | AsyncIterable[Payload],
        *,
        in_flight: int = 64,
        return_exceptions: bool,
    ) -> AsyncIterator[Reply | CallError]: ...
    async def map(
        self,
        inputs: Iterable[Payload] | AsyncIterable[Payload],
        *,
        in_flight: int = 64,
        return_exceptions: bool = False,
    ) -> AsyncIterator[Reply | CallError]:
        """Replies in the order of the inputs, at most ``in_flight`` under way.

        A call that was refused as ``overloaded`` comes back when it was told to, until its
        ``timeout``. The first error is raised in its place, with the ``index`` of its input, unless
        ``return_exceptions``: then each ``CallError`` stands in its place and the others go on.
        Leaving the loop cancels what is under way.
        """
        check_in_flight(in_flight)
        tasks: deque[asyncio.Task[Reply | CallError]] = deque()
        index = 0
        try:
            async for data in _each(inputs):
                tasks.append(asyncio.ensure_future(self._placed(index, data, return_exceptions)))
                index += 1
                if len(tasks) >= in_flight:
                    yield await tasks[0]
                    tasks.popleft()
            while tasks:
                yield await tasks[0]
                tasks.popleft()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _placed(self, index: int, data: Payload, is_kept: bool) -> Reply | CallError:
        try:
            return await self._patiently(data)
        except (CallError, TypeError) as error:
            return placed(error, index, is_kept=is_kept)

    async def _patiently(self, data: Payload) -> Reply:
        end = time.monotonic() + self._options.timeout
        timeout = self._options.timeout
        while True:
            try:
                return await self(data, timeout=timeout)
            except Overloaded as error:
                timeout = end - time.monotonic() - (error.retry_after or math.inf)
                if timeout <= 0:
                    raise
                await asyncio.sleep(error.retry_after or 0)


async def _each(inputs: Iterable[Payload] | AsyncIterable[Payload]) -> AsyncIterator[Payload]:
    if isinstance(inputs, AsyncIterable):
        async for data in inputs:
            yield data
    else:
        for data in inputs:
            yield data


def connect(place: str | os.PathLike[str] | None = None) -> Mesh:
    """A node: ``async with connect() as mesh``.

    ``place`` is a folder here, ``ssh://user@host/dir``, or the name of a context; None is PLN_HOST,
    else PLN_DIR, else this user's folder. Raises ``usage`` for a host that cannot be one.
    """
    return Mesh(connecting(place))
