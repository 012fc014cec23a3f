"""The SDK for plain blocking code: the same names as ``client``'s, without ``await``.

A blocking socket and no hidden thread; no native module is needed. A daemon that goes away is
``Unreachable``; the next call connects again. Ctrl-C cancels a call across the mesh.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from types import TracebackType
from typing import Literal, Self, overload

from pollen.errors import CallError, Unreachable
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
from pollen.sdk.replies import Reply, broken, closed, forked, late, reply, silent
from pollen.sdk.steering import SyncSteering
from pollen.sdk.streams import RECEIVE, SyncStream, opened


class SyncMesh(SyncSteering):
    """The blocking twin of ``Mesh``: one socket; other threads wait their turn.

    In a forked process it connects again.
    """

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._lines: dict[int, _Line] = {}
        self._streams: weakref.WeakSet[SyncStream] = weakref.WeakSet()
        self._is_closed = False

    def __repr__(self) -> str:
        state = "closed" if self._is_closed else "open"
        return f"<{type(self).__name__} of {self._paths.place}, {state}>"

    def __enter__(self) -> Self:
        self._is_closed = False
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
        """Close the socket and those of streams; a later call is ``bad-request``. Idempotent."""
        self._is_closed = True
        for stream in list(self._streams):
            stream.close()
        self._line().close()

    def interrupt(self) -> None:
        """End what waits here with ``unreachable``, from another thread; it may have executed."""
        self._line().interrupt()
        for stream in list(self._streams):
            stream.interrupt()

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
        head: Payload = b"",
    ) -> Reply:
        """Call once; the keywords are those of ``function`` and of calling a handle."""
        function = SyncFunction(self, seed, name, Options(timeout, retries, idempotent))
        return function(data, json=json, traceparent=traceparent, head=head)

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
    ) -> SyncStream:
        """Call once and take the output in pieces: ``for piece in mesh.stream(...)``."""
        function = SyncFunction(self, seed, name, Options(timeout, retries, idempotent))
        return function.stream(data, json=json, traceparent=traceparent, head=head)

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
        if self._is_closed:
            raise closed()
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

    def interrupt(self) -> None:
        """Wake the thread that waits on the socket: nothing comes any more."""
        with contextlib.suppress(OSError, AttributeError):
            self._socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def connected(self, seconds: float = math.inf) -> socket.socket:
        """The socket, connected if it was not; over ssh within ``seconds``."""
        if self._pid != os.getpid():
            raise forked()
        if self._socket is not None:
            return self._socket
        self._socket, self._conversation = opened(self._paths, seconds), door.Conversation()
        return self._socket

    def _look(self) -> None:
        """A connection that ended while nobody waited on it is not used again."""
        if self._socket is not None and self._pid == os.getpid():
            self._socket.setblocking(False)
            try:
                is_over = not self._socket.recv(1, socket.MSG_PEEK)
            except BlockingIOError:
                return
            except OSError:
                is_over = True
            if is_over:
                self.close()

    def ask(
        self, source: Iterator[Call | Exception], in_flight: int, *, patient: bool
    ) -> Iterator[Reply | Exception]:
        """As ``SyncMesh._ask``; the caller has the turn. An error in the source stands for itself.

        What breaks the connection is the outcome of every call that waits; the next one connects
        again.
        """
        asked: deque[_Asked] = deque()
        waiting: dict[int, _Asked] = {}
        self._look()
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
        try:
            is_new = self._socket is None
            connected = self.connected(max(0.001, one.end - time.monotonic()))
            # Connecting over ssh is part of the call's time.
            timeout = one.end - time.monotonic()
            if is_new and self._paths.host and timeout <= 0:
                raise late(self._paths, one.timeout)
            timeout = max(0.001, timeout)
            number, frame = one.call.within(timeout).encode(self._conversation)
            waiting[number] = one
            connected.settimeout(timeout + replies.grace(one.timeout))
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
            one.outcome = silent(self._paths, one.timeout) if is_late else broken(error)
        waiting.clear()

    def _receive(self, asked: deque[_Asked], waiting: dict[int, _Asked], *, patient: bool) -> None:
        """Waits for answers, or until a call that was refused may come back."""
        again = min((one.again for one in asked), default=math.inf) if patient else math.inf
        try:
            connected = self.connected()
            now = time.monotonic()
            connected.settimeout(
                max(0.001, min(asked[0].end + replies.grace(asked[0].timeout), again) - now)
            )
            data = connected.recv(RECEIVE)
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
            assert not isinstance(answer, door.Chunk), "no call here gives credit"
            one = waiting.pop(answer.id)
            if patient and isinstance(answer, door.Failed) and answer.slug == "overloaded":
                again = time.monotonic() + answer.retry_after_ms / 1000
                if answer.retry_after_ms and again < one.end:
                    one.again = again
                    continue
            try:
                one.outcome = reply(answer)
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
        head: Payload = b"",
    ) -> Reply:
        """Call it. ``timeout`` is in seconds. Raises ``CallError``; Ctrl-C cancels the guest.

        ``head``: bytes for the guest beside the input.
        """
        call = self._asks(data, json, timeout, idempotent, traceparent, head)
        with contextlib.closing(self._mesh._ask((call,), 1, patient=False)) as outcomes:
            outcome = next(outcomes)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def stream(
        self,
        data: Payload = b"",
        *,
        json: object = UNSET,
        timeout: float | None = None,
        idempotent: bool | None = None,
        traceparent: str | None = None,
        head: Payload = b"",
    ) -> SyncStream:
        """Call it and take the output in pieces: ``for piece in handle.stream()``.

        ``timeout`` is that of the whole call, in seconds.
        """
        call = self._asks(data, json, timeout, idempotent, traceparent, head, inflow.WINDOW)
        return SyncStream(self._mesh, call)

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


def connect_sync(place: str | os.PathLike[str] | None = None) -> SyncMesh:
    """As ``connect``, blocking: ``with connect_sync() as mesh``."""
    return SyncMesh(connecting(place))
