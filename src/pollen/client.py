"""The SDK: call seeds and publish them, from asyncio or from plain blocking code.

What ``connect()`` and ``connect_sync()`` give has the same names; the blocking twin uses a blocking
socket and no hidden thread. Neither needs the native module. A daemon that goes away is
``Unreachable``; the next call connects again. Cancelling an awaited call cancels it across the
mesh.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Literal, NoReturn, Self, Unpack, overload

import msgspec

from pollen import door
from pollen.asking import (
    UNSET,
    Call,
    Handle,
    Options,
    SeedKeywords,
    check_in_flight,
    placed,
    seed_options,
)
from pollen.asking import Payload as Payload
from pollen.control import Control, not_ours
from pollen.errors import (
    BadRequest,
    CallError,
    DeadlineExceeded,
    GuestError,
    Overloaded,
    PollenError,
    Unreachable,
)
from pollen.runtime.paths import Paths, resolve

_RECEIVE = 256 * 1024
# How long past a call's own time-out a client waits for the node to say so.
_GRACE = 2.0
# How long a blocking client waits until the node takes its connection: it does so at once.
_CONNECT = 10.0


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """What a call brought back.

    ``node`` is the hex id of where it ran; ``elapsed``, ``queue``, ``run`` and ``rtt`` are seconds
    as the node measured them (``rtt`` 0.0 when it ran on the nearest node itself). ``wake`` is how
    long it took until a seed that ran nowhere was loaded for the call, 0.0 when it was loaded.
    """

    data: bytes
    node: str
    attempts: int
    elapsed: float
    queue: float
    run: float
    rtt: float
    wake: float = 0.0

    @property
    def text(self) -> str:
        """The data as UTF-8; raises ``UnicodeDecodeError``."""
        return self.data.decode()

    def json(self) -> Any:
        """The data as JSON; raises ``msgspec.DecodeError``."""
        return msgspec.json.decode(self.data)


def _reply(answer: door.Answer) -> Reply:
    """The reply, or the typed error that the answer is."""
    if isinstance(answer, door.Failed):
        raise answer.error()
    node = answer.node.hex()
    if answer.guest_status is not None:
        error = GuestError(
            "guest-status",
            f"the function returned the code {answer.guest_status}",
            "see pln logs on the node that ran it",
            node=node,
            attempts=answer.attempts,
        )
        error.output, error.status = answer.output, answer.guest_status
        raise error
    return Reply(
        data=answer.output,
        node=node,
        attempts=answer.attempts,
        elapsed=answer.total_us / 1e6,
        queue=answer.queue_us / 1e6,
        run=answer.run_us / 1e6,
        rtt=answer.rtt_us / 1e6,
        wake=answer.wake_us / 1e6,
    )


def _gone(paths: Paths, why: object) -> CallError:
    if isinstance(why, PermissionError):
        return not_ours(paths)
    slug = "unreachable"
    if isinstance(why, FileNotFoundError | ConnectionRefusedError):
        slug = "daemon-not-running"
    text = why.strerror if isinstance(why, OSError) and why.strerror else why
    reason = f"no node answers at {paths.call_socket}: {text}"
    return Unreachable(slug, reason, "start it with: pln up -d", may_have_executed=False)


def _broken(why: object) -> CallError:
    reason = f"the node went away during the call: {why}"
    remedy = "the next call connects again"
    return Unreachable("unreachable", reason, remedy, may_have_executed=True)


def _silent(paths: Paths, timeout: float) -> CallError:
    reason = f"the node at {paths.call_socket} gave no answer within {timeout:g} s"
    return DeadlineExceeded("deadline", reason, "see: pln doctor", may_have_executed=True)


def _forked() -> PollenError:
    reason = "this connection belongs to the process that this one was forked from"
    remedy = "connect in each process, or start it with spawn"
    return PollenError("forked", reason, remedy)


class _Lost(Exception):
    """The connection broke; whoever waits is told with what may have happened."""


# --- asyncio ----------------------------------------------------------------------------------


class _Connection(asyncio.Protocol):
    """One socket to the node; many calls share it."""

    def __init__(self) -> None:
        self.conversation = door.Conversation()
        self.transport: asyncio.Transport | None = None
        self.lost: Exception | None = None
        # Each with the loop's time until when it waits, and one timer, at or before the earliest: a
        # timer for each call costs more than the rest of asking.
        self._waiting: dict[int, tuple[asyncio.Future[door.Answer], float]] = {}
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
                await self._writable.wait()
        if self.lost is not None or self.transport is None:
            raise _Lost
        number, frame = call.encode(self.conversation)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[door.Answer] = loop.create_future()
        self._waiting[number] = future, end
        if self._timer is None or end < self._timer.when():
            self._wake(loop, end)
        self.transport.write(frame)
        try:
            return await future
        except asyncio.CancelledError:
            self._forget(number)
            raise

    def _wake(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_at(at, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Whoever waited until its end is told; the rest waits on."""
        self._timer, now = None, loop.time()
        late = [number for number, (_, end) in self._waiting.items() if end <= now]
        for number in late:
            future, _ = self._waiting[number]
            self._forget(number)
            if not future.done():
                future.set_exception(TimeoutError())
        if self._waiting:
            self._wake(loop, min(end for _, end in self._waiting.values()))

    def _forget(self, number: int) -> None:
        self._waiting.pop(number, None)
        cancel = self.conversation.forget(number)
        if cancel and self.lost is None and self.transport is not None:
            self.transport.write(cancel)


class Mesh:
    """A connection to the nearest node, for asyncio; safe to share among tasks of one loop."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._connection: _Connection | None = None
        self._connecting = asyncio.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()

    async def __aenter__(self) -> Self:
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
        """Close the connection; calls under way are cancelled. Idempotent."""
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
    ) -> Reply:
        """Call once; the keywords are those of ``function`` and of calling a handle."""
        function = Function(self, seed, name, Options(timeout, retries, idempotent))
        return await function(data, json=json, traceparent=traceparent)

    async def seed(
        self, source: str | os.PathLike[str], name: str, **options: Unpack[SeedKeywords]
    ) -> dict[str, Any]:
        """Publish a module file under a name; the answer is what ``pln seed --json`` prints."""
        control, given = Control(self._paths), seed_options(options)
        return await asyncio.to_thread(control.publish, source, name, given)

    async def unseed(self, target: str) -> dict[str, Any]:
        """Withdraw a seed by name or hash."""
        return await asyncio.to_thread(Control(self._paths).withdraw, target)

    async def status(self) -> dict[str, Any]:
        """What ``pln status --json`` prints."""
        return await asyncio.to_thread(Control(self._paths).get, "/v1/status")

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
                raise _forked()
            if self._loop is not None and not self._loop.is_closed():
                reason = "this mesh is connected in another event loop, which is still open"
                remedy = "connect in each loop, or close the mesh in the loop that used it"
                raise BadRequest("bad-request", reason, remedy)
        if connection is not None:
            # Without this reference the transport goes, and its socket with it.
            connection.transport = None
        self._connection, self._connecting = None, asyncio.Lock()
        self._loop, self._pid = loop, pid

    def _at_hand(self) -> _Connection | None:
        """The connection, if there is one and it is not lost."""
        self._settle()
        connection = self._connection
        return connection if connection is not None and connection.lost is None else None

    async def _connected(self) -> _Connection:
        if (connection := self._at_hand()) is not None:
            return connection
        async with self._connecting:
            if (connection := self._at_hand()) is not None:
                return connection
            loop = asyncio.get_running_loop()
            try:
                _, connection = await loop.create_unix_connection(
                    _Connection, str(self._paths.call_socket)
                )
            except OSError as error:
                raise _gone(self._paths, error) from None
            self._connection = connection
            return connection

    async def _ask(self, call: Call) -> Reply:
        end = asyncio.get_running_loop().time() + call.timeout + _GRACE
        try:
            connection = self._at_hand()
            if connection is None:
                async with asyncio.timeout_at(end):
                    connection = await self._connected()
            try:
                answer = await connection.ask(call, end)
            except _Lost:
                raise _broken(connection.lost) from None
        except TimeoutError:
            raise _silent(self._paths, call.timeout) from None
        return _reply(answer)


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
    ) -> Reply:
        """Call it; ``timeout`` in seconds. Raises ``CallError``; cancelling cancels the guest."""
        return await self._mesh._ask(self._asks(data, json, timeout, idempotent, traceparent))

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


def connect(directory: str | os.PathLike[str] | None = None) -> Mesh:
    """The node of ``directory``, else of PLN_DIR, else of this user: ``async with connect()``."""
    return Mesh(resolve(None if directory is None else os.fspath(directory)))


# --- blocking ---------------------------------------------------------------------------------


class SyncMesh:
    """The blocking twin of ``Mesh``: one socket; other threads wait their turn.

    In a forked process it connects anew.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lines: dict[int, _Line] = {}

    def __enter__(self) -> Self:
        line = self._line()
        with line.turn:
            line.connected()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket. Idempotent."""
        self._line().close()

    def function(
        self,
        seed: str,
        name: str | None = None,
        *,
        timeout: float = 60.0,
        retries: int = 3,
        idempotent: bool = False,
    ) -> SyncFunction:
        """A handle on a function; ``name`` may be left out when there is one export."""
        return SyncFunction(self, seed, name, Options(timeout, retries, idempotent))

    def call(
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
    ) -> Reply:
        """Call once; the keywords are those of ``function`` and of calling a handle."""
        function = SyncFunction(self, seed, name, Options(timeout, retries, idempotent))
        return function(data, json=json, traceparent=traceparent)

    def seed(
        self, source: str | os.PathLike[str], name: str, **options: Unpack[SeedKeywords]
    ) -> dict[str, Any]:
        """Publish a module file under a name; the answer is what ``pln seed --json`` prints."""
        return Control(self._paths).publish(source, name, seed_options(options))

    def unseed(self, target: str) -> dict[str, Any]:
        """Withdraw a seed by name or hash."""
        return Control(self._paths).withdraw(target)

    def status(self) -> dict[str, Any]:
        """What ``pln status --json`` prints."""
        return Control(self._paths).get("/v1/status")

    def _line(self) -> _Line:
        """This process's own; those of the processes that it was forked from are dropped.

        Why by process: socket, ids and the lock, which a thread of the parent may have held when
        it forked, are copies here. Making the entry is one step, so threads need no lock for it.
        """
        pid = os.getpid()
        line = self._lines.get(pid)
        if line is None:
            line = self._lines.setdefault(pid, _Line(self._paths))
            for other in [held for held in list(self._lines) if held != pid]:
                inherited = self._lines.pop(other, None)
                if inherited is not None:
                    inherited.close()
        return line

    def _ask(
        self, calls: Iterable[Call | Exception], in_flight: int, *, patient: bool
    ) -> Generator[Reply | Exception, None, None]:
        """Outcomes in order, at most ``in_flight`` under way; the rest is cancelled on exit."""
        line = self._line()
        with line.turn:
            yield from line.ask(iter(calls), in_flight, patient=patient)


class _Line:
    """One process's socket to the node, and whose turn it is; ``close`` leaves a parent's be."""

    def __init__(self, paths: Paths) -> None:
        self.turn = threading.Lock()
        self._paths = paths
        self._pid = os.getpid()
        self._socket: socket.socket | None = None
        self._conversation = door.Conversation()

    def close(self) -> None:
        """Close this process's handle on the socket. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def connected(self) -> socket.socket:
        """The socket, connected if it was not."""
        if self._pid != os.getpid():
            raise _forked()
        if self._socket is not None:
            return self._socket
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.settimeout(_CONNECT)
        try:
            opened.connect(str(self._paths.call_socket))
            opened.sendall(door.PREFACE)
        except OSError as error:
            opened.close()
            raise _gone(self._paths, error) from None
        self._socket, self._conversation = opened, door.Conversation()
        return opened

    def ask(
        self, source: Iterator[Call | Exception], in_flight: int, *, patient: bool
    ) -> Iterator[Reply | Exception]:
        """As ``SyncMesh._ask``; the caller has the turn. An error in the source stands for itself.

        What breaks the connection is the outcome of every call that waits; the next one connects
        again.
        """
        asked: deque[_Asked] = deque()
        waiting: dict[int, _Asked] = {}
        try:
            while True:
                for call in source:
                    asked.append(_Asked(call))
                    self._send(asked[-1], waiting)
                    if len(asked) >= in_flight:
                        break
                if not asked:
                    return
                while (outcome := asked[0].outcome) is None:
                    self._receive(asked, waiting, patient=patient)
                asked.popleft()
                yield outcome
        finally:
            self._cancel(waiting)

    def _send(self, one: _Asked, waiting: dict[int, _Asked]) -> None:
        if one.call is None:
            return
        timeout = max(0.001, one.end - time.monotonic())
        call = msgspec.structs.replace(one.call, timeout=timeout)
        try:
            connected = self.connected()
            number, frame = call.encode(self._conversation)
            waiting[number] = one
            connected.settimeout(timeout + _GRACE)
            connected.sendall(frame)
        except CallError as error:
            one.outcome = error
        except OSError as error:
            self._fail(waiting, error)

    def _fail(self, waiting: dict[int, _Asked], error: OSError) -> None:
        """The connection is of no more use; whoever waits is told with what may have happened."""
        self.close()
        now = time.monotonic()
        for one in waiting.values():
            is_late = isinstance(error, TimeoutError) and one.end <= now
            one.outcome = _silent(self._paths, one.timeout) if is_late else _broken(error)
        waiting.clear()

    def _receive(self, asked: deque[_Asked], waiting: dict[int, _Asked], *, patient: bool) -> None:
        """Waits for answers, or until a call that was refused may come back."""
        again = min((one.again for one in asked), default=math.inf) if patient else math.inf
        try:
            connected = self.connected()
            now = time.monotonic()
            connected.settimeout(max(0.001, min(asked[0].end + _GRACE, again) - now))
            data = connected.recv(_RECEIVE)
            if not data:
                raise ConnectionResetError("the node closed the connection")
            self._take(data, waiting, patient=patient)
        except CallError as error:
            asked[0].outcome = error
        except OSError as error:
            if not isinstance(error, TimeoutError) or time.monotonic() < again:
                self._fail(waiting, error)
        now = time.monotonic()
        for one in asked if again <= now else ():
            if one.again <= now:
                one.again = math.inf
                self._send(one, waiting)

    def _take(self, data: bytes, waiting: dict[int, _Asked], *, patient: bool) -> None:
        try:
            answers = self._conversation.receive(data)
        except Unreachable as error:
            raise ConnectionResetError(error.reason) from None
        for answer in answers:
            one = waiting.pop(answer.id)
            if patient and isinstance(answer, door.Failed) and answer.slug == "overloaded":
                again = time.monotonic() + answer.retry_after_ms / 1000
                if answer.retry_after_ms and again < one.end:
                    one.again = again
                    continue
            try:
                one.outcome = _reply(answer)
            except CallError as error:
                one.outcome = error

    def _cancel(self, waiting: Iterable[int]) -> None:
        if self._pid != os.getpid():
            return  # A loop over map that was forked along: the calls are the parent's.
        for number in waiting:
            frame = self._conversation.forget(number)
            if not frame or self._socket is None:
                continue
            try:
                self._socket.sendall(frame)
            except OSError:
                self.close()


class _Asked:
    """A call of a blocking client: until when, when it comes back if refused, what came of it."""

    __slots__ = ("again", "call", "end", "outcome", "timeout")

    def __init__(self, asked: Call | Exception) -> None:
        self.call = asked if isinstance(asked, Call) else None
        self.outcome: Reply | Exception | None = asked if isinstance(asked, Exception) else None
        self.timeout = asked.timeout if isinstance(asked, Call) else 0.0
        self.end = time.monotonic() + self.timeout
        self.again = math.inf


class SyncFunction(Handle):
    """``handle(b"input")`` calls it."""

    def __init__(self, mesh: SyncMesh, seed: str, function: str | None, options: Options) -> None:
        super().__init__(seed, function, options)
        self._mesh = mesh

    def __call__(
        self,
        data: Payload = b"",
        *,
        json: object = UNSET,
        timeout: float | None = None,
        idempotent: bool | None = None,
        traceparent: str | None = None,
    ) -> Reply:
        """Call it. ``timeout`` is in seconds. Raises ``CallError``; Ctrl-C cancels the guest."""
        call = self._asks(data, json, timeout, idempotent, traceparent)
        with contextlib.closing(self._mesh._ask((call,), 1, patient=False)) as outcomes:
            outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    @overload
    def map(
        self,
        inputs: Iterable[Payload],
        *,
        in_flight: int = 64,
        return_exceptions: Literal[False] = False,
    ) -> Iterator[Reply]: ...
    @overload
    def map(
        self,
        inputs: Iterable[Payload],
        *,
        in_flight: int = 64,
        return_exceptions: bool,
    ) -> Iterator[Reply | CallError]: ...
    def map(
        self,
        inputs: Iterable[Payload],
        *,
        in_flight: int = 64,
        return_exceptions: bool = False,
    ) -> Iterator[Reply | CallError]:
        """Replies in the order of the inputs, at most ``in_flight`` under way.

        A call that was refused as ``overloaded`` comes back when it was told to, until its
        ``timeout``. The first error is raised in its place, with the ``index`` of its input, unless
        ``return_exceptions``: then each ``CallError`` stands in its place and the others go on.
        Leaving the loop cancels what is under way.
        """
        check_in_flight(in_flight)
        return self._map(inputs, in_flight, return_exceptions)

    def _map(
        self, inputs: Iterable[Payload], in_flight: int, is_kept: bool
    ) -> Iterator[Reply | CallError]:
        outcomes = self._mesh._ask(self._each(inputs), in_flight, patient=True)
        with contextlib.closing(outcomes):
            for index, outcome in enumerate(outcomes):
                if isinstance(outcome, Exception):
                    yield placed(outcome, index, is_kept=is_kept)
                else:
                    yield outcome

    def _each(self, inputs: Iterable[Payload]) -> Iterator[Call | Exception]:
        for data in inputs:
            try:
                yield self._asks(data)
            except (CallError, TypeError) as error:
                yield error


def connect_sync(directory: str | os.PathLike[str] | None = None) -> SyncMesh:
    """As ``connect``, blocking: ``with connect_sync() as mesh``."""
    return SyncMesh(resolve(None if directory is None else os.fspath(directory)))
