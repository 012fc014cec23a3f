"""Many connections over one pair of pipes: bytes in, bytes out, no I/O.

Decides: which frame goes out, how much a stream may send, when a stream is over.
Does not know: sockets, ssh, what the streams carry (``pump`` moves the bytes).
Invariants: a sender never has more than ``WINDOW`` bytes under way that its reader has not passed
on, so a reader that rests stops one stream and no other. Each direction of a stream ends by itself.
A number is used once. What comes for a stream that is over is dropped.
Source: docs/internals/desk.md#frames.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final, NamedTuple

# What the far end says first. A login shell may print before it, and that is skipped.
MAGIC: Final = b"\0pln-desk/1\n"
# Bytes of one stream and direction under way. Guess: 512 KiB fill a path of 100 ms at 5 MB/s.
WINDOW: Final = 512 * 1024
# Bytes of data in one frame. Guess: a stream's frame delays another stream by 32 KiB at most.
PIECE: Final = 32 * 1024
# Connections at once; each may hold one window at each end. Guess: 128 MiB in the worst case.
STREAMS: Final = 256
_HEAD: Final = struct.Struct("!BII")
_CREDIT: Final = struct.Struct("!I")


class Kind(IntEnum):
    """What a frame is. The head has kind, stream and length of what follows."""

    HELLO = 1
    OPEN = 2
    ACCEPT = 3
    REFUSE = 4
    DATA = 5
    CREDIT = 6
    END = 7
    STOP = 8
    PING = 9
    PONG = 10


class Hello(NamedTuple):
    """The far end introduces itself."""

    text: bytes


class Wanted(NamedTuple):
    """The caller wants a connection to what ``name`` names; answer by ``accept`` or ``refuse``."""

    stream: int
    name: bytes


class Accepted(NamedTuple):
    """The stream is open."""

    stream: int


class Refused(NamedTuple):
    """There is no such stream, and why."""

    stream: int
    why: bytes


class Data(NamedTuple):
    """Bytes of a stream; say ``passed`` when they went on."""

    stream: int
    data: bytes


class Ended(NamedTuple):
    """The other end sends no more."""

    stream: int


class Stopped(NamedTuple):
    """The other end takes no more."""

    stream: int


Event = Hello | Wanted | Accepted | Refused | Data | Ended | Stopped


class Broken(ValueError):
    """The other end does not keep to the protocol; the connection is of no more use."""


class _Flow:
    """One stream at one end: ``room`` may be sent; ``due`` may come; ``owed`` is not given back."""

    __slots__ = ("due", "is_open", "owed", "room", "sends", "takes")

    def __init__(self, *, is_open: bool) -> None:
        self.is_open = is_open
        self.room = self.due = WINDOW
        self.owed = 0
        self.sends = self.takes = True


class Mux:
    """One end. ``out`` is what has to go to the other one; whoever sends it removes it."""

    def __init__(self, *, is_caller: bool) -> None:
        self.out = bytearray()
        self._is_caller = is_caller
        self._held = bytearray()
        self._flows: dict[int, _Flow] = {}
        self._last = 0

    def hello(self, text: bytes) -> None:
        """The far end's first words, magic included."""
        self.out += MAGIC
        self._frame(Kind.HELLO, 0, text)

    def open(self, name: bytes) -> int:
        """Ask for a connection; the stream's number. Raises ``OverflowError`` over ``STREAMS``."""
        if len(self._flows) >= STREAMS:
            raise OverflowError(f"{STREAMS} connections are open")
        self._last += 1
        self._flows[self._last] = _Flow(is_open=False)
        self._frame(Kind.OPEN, self._last, name)
        return self._last

    def accept(self, stream: int) -> None:
        """The connection stands."""
        self._flows[stream].is_open = True
        self._frame(Kind.ACCEPT, stream)

    def refuse(self, stream: int, why: bytes) -> None:
        """It does not; the stream is over."""
        del self._flows[stream]
        self._frame(Kind.REFUSE, stream, why)

    def room(self, stream: int) -> int:
        """How many bytes ``send`` would take now."""
        flow = self._flows.get(stream)
        return flow.room if flow is not None and flow.is_open and flow.sends else 0

    def send(self, stream: int, data: bytes) -> int:
        """Send what there is credit for; how many bytes that are."""
        taken = min(len(data), self.room(stream))
        view = memoryview(data)
        for at in range(0, taken, PIECE):
            self._frame(Kind.DATA, stream, view[at : min(at + PIECE, taken)])
        if taken:
            self._flows[stream].room -= taken
        return taken

    def end(self, stream: int) -> None:
        """Nothing more is sent. Idempotent."""
        flow = self._flows.get(stream)
        if flow is not None and flow.sends:
            flow.sends = False
            self._frame(Kind.END, stream)
            self._settle(stream, flow)

    def stop(self, stream: int) -> None:
        """Nothing more is taken. Idempotent."""
        flow = self._flows.get(stream)
        if flow is not None and flow.takes:
            flow.takes = False
            self._frame(Kind.STOP, stream)
            self._settle(stream, flow)

    def passed(self, stream: int, count: int) -> None:
        """So many bytes of ``Data`` went on; the sender gets them back in steps."""
        flow = self._flows.get(stream)
        if flow is None or not flow.takes:
            return
        flow.owed += count
        if flow.owed >= WINDOW // 2:
            self._frame(Kind.CREDIT, stream, _CREDIT.pack(flow.owed))
            flow.due += flow.owed
            flow.owed = 0

    def ping(self) -> None:
        """Ask for a sign of life."""
        self._frame(Kind.PING, 0)

    def is_over(self, stream: int) -> bool:
        """Whether both directions ended, or it was refused."""
        return stream not in self._flows

    def receive(self, data: bytes) -> list[Event]:
        """What these bytes complete. Raises ``Broken``."""
        self._held += data
        events: list[Event] = []
        at = 0
        while len(self._held) - at >= _HEAD.size:
            kind, stream, length = _HEAD.unpack_from(self._held, at)
            if length > PIECE:
                raise Broken(f"a frame of {length} bytes")
            end = at + _HEAD.size + length
            if len(self._held) < end:
                break
            event = self._take(kind, stream, bytes(self._held[at + _HEAD.size : end]))
            if event is not None:
                events.append(event)
            at = end
        del self._held[:at]
        return events

    def _take(self, kind: int, stream: int, body: bytes) -> Event | None:
        match kind:
            case Kind.HELLO if self._is_caller:
                return Hello(body)
            case Kind.PING if not self._is_caller:
                self._frame(Kind.PONG, 0)
                return None
            case Kind.PONG if self._is_caller:
                return None
            case Kind.OPEN if not self._is_caller:
                return self._wanted(stream, body)
        flow = self._flows.get(stream)
        if flow is None:
            if not 0 < stream <= self._last:
                raise Broken(f"a frame of stream {stream}, which nobody opened")
            return None
        if not flow.is_open:
            return self._answered(kind, stream, flow, body)
        return self._of_flow(kind, stream, flow, body)

    def _wanted(self, stream: int, name: bytes) -> Event | None:
        if stream <= self._last:
            raise Broken(f"stream {stream} was opened twice")
        self._last = stream
        self._flows[stream] = _Flow(is_open=False)
        if len(self._flows) > STREAMS:
            self.refuse(stream, b"")
            return None
        return Wanted(stream, name)

    def _answered(self, kind: int, stream: int, flow: _Flow, body: bytes) -> Event:
        if not self._is_caller:
            raise Broken(f"a frame of stream {stream} before it was accepted")
        if kind == Kind.ACCEPT:
            flow.is_open = True
            return Accepted(stream)
        if kind == Kind.REFUSE:
            del self._flows[stream]
            return Refused(stream, body)
        raise Broken(f"frame {kind} of stream {stream} before it was accepted")

    def _of_flow(self, kind: int, stream: int, flow: _Flow, body: bytes) -> Event | None:
        match kind:
            case Kind.DATA:
                if len(body) > flow.due:
                    raise Broken(f"stream {stream} sends over its credit")
                flow.due -= len(body)
                return Data(stream, body) if flow.takes else None
            case Kind.CREDIT:
                if len(body) != _CREDIT.size:
                    raise Broken("a credit of no number")
                flow.room += _CREDIT.unpack(body)[0]
                if flow.room > WINDOW:
                    raise Broken(f"stream {stream} has credit over its window")
                return None
            case Kind.END:
                if not flow.takes:
                    return None
                flow.takes = False
                self._settle(stream, flow)
                return Ended(stream)
            case Kind.STOP:
                if not flow.sends:
                    return None
                flow.sends = False
                self._settle(stream, flow)
                return Stopped(stream)
        raise Broken(f"frame {kind} of stream {stream}")

    def _settle(self, stream: int, flow: _Flow) -> None:
        if not flow.sends and not flow.takes:
            del self._flows[stream]

    def _frame(self, kind: Kind, stream: int, body: bytes | memoryview = b"") -> None:
        self.out += _HEAD.pack(kind, stream, len(body))
        self.out += body
