"""The pieces of one streamed reply at its client: those that came, and the credit for more; no I/O.

Decides: how much may be on its way, when credit is given, and what comes after the last piece.
Does not know: connections; ``client`` and ``blocking`` have one each.
Invariants: what came and was not read is at most ``WINDOW`` bytes and the output itself. The pieces
come before the error that ended them.
Source: docs/design/protocol.md#streamed-replies.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from pollen.errors import BadRequest, CallError, PollenError
from pollen.sdk import door, replies
from pollen.sdk.replies import Reply

# Bytes that may be on their way to a reader. Larger is quicker over a slow path, and a reader that
# stalls holds more memory. Guess: four of the windows that a stream has on a link.
WINDOW: Final = 1024 * 1024


class Inflow:
    """What of a reply came, and how it ended."""

    def __init__(self) -> None:
        self._held: deque[bytes] = deque()
        self._read = 0
        self._ended: Reply | Exception | None = None

    def feed(self, piece: bytes) -> None:
        """A chunk came."""
        self._held.append(piece)

    def answer(self, answer: door.Answer) -> None:
        """The call ended; its output is the last piece."""
        if isinstance(answer, door.Answered) and answer.output:
            self._held.append(answer.output)
        try:
            self.end(msgspec.structs.replace(replies.reply(answer), data=b""))
        except CallError as error:
            self.end(error)

    def end(self, ended: Reply | Exception) -> None:
        """Nothing more comes; a second end changes nothing."""
        if self._ended is None:
            self._ended = ended

    def take(self) -> bytes | None:
        """The next piece, or None: none is here. Raises the error that ended the call."""
        if self._held:
            piece = self._held.popleft()
            self._read += len(piece)
            return piece
        if isinstance(self._ended, Exception):
            raise self._ended
        return None

    def owed(self) -> int:
        """Credit to give now, bytes; 0: not yet."""
        if self._read < WINDOW // 2 or self.is_ended:
            return 0
        owed, self._read = self._read, 0
        return owed

    @property
    def is_ended(self) -> bool:
        """Whether nothing more comes."""
        return self._ended is not None

    @property
    def reply(self) -> Reply:
        """What the call took, without data. Raises the call's error, and ``bad-request`` before its
        end.
        """
        if isinstance(self._ended, Exception):
            raise self._ended
        if self._ended is None:
            reason = "this call has not ended yet"
            raise BadRequest("bad-request", reason, "read the pieces to their end first")
        return self._ended


def left() -> PollenError:
    """The end of a stream that its reader left."""
    reason = "this stream was left before its end"
    return BadRequest("bad-request", reason, "call again, and read it within the with block")


def not_begun(how: str) -> PollenError:
    """Somebody read a stream that was not begun."""
    return BadRequest("bad-request", "this stream has not begun", f"use: {how}")


def used() -> PollenError:
    """Somebody began a stream a second time."""
    return BadRequest("bad-request", "a stream is one call", "make a new one: mesh.stream(...)")
