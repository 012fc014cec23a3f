"""Moves bytes between the streams of a ``Mux``, each a socket here, and one pair of pipes.

Decides: whom to read now. Does not know: who is at the other end of a socket or a pipe.
Invariants: what is held here is bounded: a window of each stream that its socket does not take, and
``BACKLOG`` and one piece of each stream for the pipe. A socket that closes entirely takes no more,
and the other end is told; one that only ends its sending may still read.
Source: docs/internals/desk.md#frames.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from pollen.sdk import mux as frames
from pollen.sdk.mux import Data, Ended, Event, Mux, Stopped

# Bytes that wait for the pipe; over this nobody is read. Guess: four pipes full.
BACKLOG: Final = 256 * 1024
_READ: Final = 256 * 1024
_GONE: Final = select.POLLHUP | select.POLLERR


class Poll:
    """File descriptors, each with who is told when it is ready."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._told: dict[int, Callable[[int], None]] = {}
        self._masks: dict[int, int] = {}

    def watch(self, descriptor: int, mask: int, tell: Callable[[int], None]) -> None:
        """Tell of these events, and of a hang-up whatever the mask is."""
        self._told[descriptor] = tell
        if self._masks.get(descriptor) != mask:
            self._masks[descriptor] = mask
            self._poll.register(descriptor, mask)

    def drop(self, descriptor: int) -> None:
        """Tell no more. Idempotent."""
        if self._masks.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)
            del self._told[descriptor]

    def turn(self, seconds: float) -> None:
        """Wait so long at most, and tell."""
        for descriptor, mask in self._poll.poll(max(0.0, seconds) * 1000):
            tell = self._told.get(descriptor)
            if tell is not None:
                tell(mask)


class _End:
    """A stream's socket here. ``inbox`` came for it; ``is_hung``: nobody reads it any more."""

    __slots__ = ("inbox", "is_ending", "is_hung", "reads", "socket")

    def __init__(self, opened: socket.socket) -> None:
        self.socket = opened
        self.inbox = bytearray()
        self.is_ending = self.is_hung = False
        self.reads = True


class Pump:
    """The streams of one pair of pipes. ``is_over`` once the pipe to read from has ended."""

    def __init__(
        self, poll: Poll, mux: Mux, pipes: tuple[int, int], tell: Callable[[Event], None]
    ) -> None:
        self._poll, self._mux, self._tell = poll, mux, tell
        self._reader, self._writer = pipes
        self._ends: dict[int, _End] = {}
        self.is_over = False
        self.heard = time.monotonic()
        for descriptor in pipes:
            os.set_blocking(descriptor, False)
        self.listen()

    def listen(self) -> None:
        """From now on what the pipe brings is frames."""
        self._poll.watch(self._reader, select.POLLIN, self._read)

    @property
    def is_idle(self) -> bool:
        """Whether no stream has a socket here."""
        return not self._ends

    def attach(self, stream: int, opened: socket.socket) -> None:
        """From now on the stream is this socket, which belongs to the pump."""
        opened.setblocking(False)
        self._ends[stream] = _End(opened)

    def close(self) -> None:
        """Close all sockets and watch no pipe. Idempotent."""
        for end in self._ends.values():
            self._poll.drop(end.socket.fileno())
            end.socket.close()
        self._ends.clear()
        self._poll.drop(self._reader)
        self._poll.drop(self._writer)

    def feed(self, data: bytes) -> None:
        """Bytes of the other end. Raises ``mux.Broken``."""
        self.heard = time.monotonic()
        for event in self._mux.receive(data):
            if isinstance(event, Data | Ended | Stopped):
                self._take(event)
            else:
                self._tell(event)

    def settle(self) -> None:
        """Send what waits, and watch each socket for what it may do now. Once a turn."""
        self._flush()
        is_full = len(self._mux.out) > BACKLOG
        for stream, end in list(self._ends.items()):
            descriptor = end.socket.fileno()
            # Only here: the frames that ended it may have come together with its last bytes.
            if self._mux.is_over(stream) and not end.inbox:
                self._poll.drop(descriptor)
                end.socket.close()
                del self._ends[stream]
                continue
            may_read = end.reads and not is_full and self._mux.room(stream) > 0
            mask = (select.POLLIN if may_read else 0) | (select.POLLOUT if end.inbox else 0)
            if end.is_hung and not may_read:
                self._poll.drop(descriptor)
            else:
                self._poll.watch(descriptor, mask, partial(self._ready, stream))

    def _read(self, mask: int) -> None:
        try:
            data = os.read(self._reader, _READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self.feed(data)
        else:
            self.is_over = True
            self._poll.drop(self._reader)

    def _flush(self) -> None:
        out = self._mux.out
        try:
            while out:
                with memoryview(out) as held:
                    written = os.write(self._writer, held[:_READ])
                del out[:written]
        except BlockingIOError:
            self._poll.watch(self._writer, select.POLLOUT, lambda _: self._flush())
            return
        except OSError:
            self.is_over = True
        self._poll.drop(self._writer)

    def _take(self, event: Data | Ended | Stopped) -> None:
        end = self._ends.get(event.stream)
        if end is None:
            return
        if isinstance(event, Data):
            end.inbox += event.data
        elif isinstance(event, Ended):
            end.is_ending = True
        else:
            end.reads = False
            with contextlib.suppress(OSError):
                end.socket.shutdown(socket.SHUT_RD)
        self._pass_on(event.stream, end)

    def _pass_on(self, stream: int, end: _End) -> None:
        """What came goes to the socket, as far as it takes it."""
        if end.inbox:
            try:
                sent = end.socket.send(end.inbox)
            except BlockingIOError:
                return
            except OSError:
                # It takes no more. What it sent before may still be read.
                end.inbox.clear()
                self._mux.stop(stream)
            else:
                del end.inbox[:sent]
                self._mux.passed(stream, sent)
        if end.is_ending and not end.inbox:
            with contextlib.suppress(OSError):
                end.socket.shutdown(socket.SHUT_WR)

    def _ready(self, stream: int, mask: int) -> None:
        end = self._ends.get(stream)
        if end is None:
            return
        if mask & select.POLLOUT:
            self._pass_on(stream, end)
        if mask & (select.POLLIN | _GONE):
            end.is_hung = end.is_hung or bool(mask & _GONE)
            self._hear(stream, end)

    def _hear(self, stream: int, end: _End) -> None:
        if end.reads:
            most = min(frames.PIECE, self._mux.room(stream))
            if most == 0 or len(self._mux.out) > BACKLOG:
                return
            try:
                data = end.socket.recv(most)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if data:
                self._mux.send(stream, data)
                return
            end.reads = False
            self._mux.end(stream)
        if end.is_hung:
            end.inbox.clear()
            self._mux.stop(stream)
