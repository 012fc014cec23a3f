"""``pollen-call/1``, the client's side: bytes in, bytes out, no I/O.

Decides: ids of calls, and which answer belongs to which call.
Does not know: sockets; ``client`` moves the bytes over asyncio, ``blocking`` without.
Invariants: an id is in use from ``call`` until its answer or ``forget``, whatever chunks come; what
comes for an id that is no longer in use is dropped, because its call was cancelled. An answer to an
id that was never used ends the connection, because it belongs to another conversation.
Source: docs/internals/seam.md#doors; golden bytes in tests/vectors/wire.json.
"""

from __future__ import annotations

from typing import Final

import msgspec

from pollen.errors import Unreachable, error_from
from pollen.sizes import INPUT_MAX_BYTES

PREFACE: Final = b"\0pln-c1\n"
# Input or output, the request head, and the rest, as the muscles allow.
MAX_FRAME: Final = INPUT_MAX_BYTES + 128 * 1024
MAX_INPUT: Final = INPUT_MAX_BYTES
_PREFIX: Final = 4
_ID_SPACE: Final = 1 << 32


class Answered(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """The REPLY frame. Times are microseconds; ``node`` is where it ran. ``wake_us``: until the
    seed was loaded for this call, 0 when it was loaded before."""

    id: int
    guest_status: int | None
    node: bytes
    attempts: int
    queue_us: int
    run_us: int
    total_us: int
    rtt_us: int
    wake_us: int
    output: bytes


class Failed(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """The ERROR frame, with the columns of the error table."""

    id: int
    slug: str
    reason: str
    remedy: str
    node: bytes | None
    attempts: int
    may_have_executed: bool
    retry_after_ms: int

    def error(self) -> Exception:
        """The typed exception."""
        return error_from(
            self.slug,
            self.reason,
            self.remedy,
            node=self.node.hex() if self.node else None,
            attempts=self.attempts,
            may_have_executed=self.may_have_executed,
            retry_after=self.retry_after_ms / 1000 if self.retry_after_ms else None,
        )


class Chunk(msgspec.Struct, frozen=True, array_like=True, tag=6):
    """The CHUNK frame: a piece of the output, ahead of REPLY or ERROR."""

    id: int
    data: bytes


class Goodbye(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """No more calls on this connection."""

    reason: str


Answer = Answered | Failed
_decode = msgspec.msgpack.Decoder(Answered | Failed | Goodbye | Chunk).decode
_encode = msgspec.msgpack.Encoder().encode


def _framed(array: tuple[object, ...]) -> bytes:
    body = _encode(array)
    return len(body).to_bytes(_PREFIX, "big") + body


class Conversation:
    """One connection's worth of calls: what to send, and what came back."""

    def __init__(self) -> None:
        self._next = 0
        self._asked = 0
        self._open: set[int] = set()
        self._held = bytearray()

    def call(
        self,
        seed: str,
        function: str | None,
        data: bytes,
        *,
        budget_ms: int,
        retries: int,
        idempotent: bool,
        traceparent: str | None,
        head: bytes = b"",
        credit: int = 0,
    ) -> tuple[int, bytes]:
        """A new call's id and the bytes to send. ``credit``: bytes of chunks to take; 0: none."""
        number = self._next
        while number in self._open:
            number = (number + 1) % _ID_SPACE
        self._next = (number + 1) % _ID_SPACE
        self._asked = max(self._asked, number + 1)
        self._open.add(number)
        frame = (0, number, seed, function, budget_ms, retries, int(idempotent), traceparent, data)
        return number, _framed((*frame, head, credit) if head or credit else frame)

    def give(self, number: int, credit: int) -> bytes:
        """Take so many bytes more of a call; the bytes to send, empty when it was answered."""
        return _framed((5, number, credit)) if number in self._open else b""

    def forget(self, number: int) -> bytes:
        """Give a call up; the bytes to send, empty when it was answered already."""
        if number not in self._open:
            return b""
        self._open.discard(number)
        return _framed((1, number))

    def receive(self, data: bytes) -> list[Answer | Chunk]:
        """The answers, and the chunks ahead of them, that these bytes complete.

        Raises ``Unreachable`` when the node says goodbye or breaks the protocol; the connection is
        then of no more use.
        """
        self._held += data
        answers: list[Answer | Chunk] = []
        at = 0
        while len(self._held) - at >= _PREFIX:
            length = int.from_bytes(self._held[at : at + _PREFIX], "big")
            if length > MAX_FRAME:
                raise Unreachable("unreachable", "the node sent a frame over its own limit")
            end = at + _PREFIX + length
            if len(self._held) < end:
                break
            try:
                answer = _decode(memoryview(self._held)[at + _PREFIX : end])
            except msgspec.DecodeError as error:
                raise Unreachable("unreachable", f"the node sent nonsense: {error}") from None
            at = end
            if isinstance(answer, Goodbye):
                raise Unreachable("unreachable", f"the node closes the connection: {answer.reason}")
            if answer.id >= self._asked:
                raise Unreachable("unreachable", "the node answered what nobody asked here")
            if answer.id in self._open:
                if not isinstance(answer, Chunk):
                    self._open.discard(answer.id)
                answers.append(answer)
        del self._held[:at]
        return answers
