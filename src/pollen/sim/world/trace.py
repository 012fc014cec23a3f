"""What a run leaves behind: a hash that two equal runs share, and a text to read.

Decides: what of a run goes into the hash, and which happenings are worth a line.
Does not know: why something happened.
Invariants: the hash covers every event that a node took in and every effect that came out, with the
    moment and the machine. Nothing is read from it by the world.
Source: docs/design/style.md#sans-io-core (two values of PYTHONHASHSEED, one trace).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from pollen.core.effects import Effect
from pollen.core.events import Event
from pollen.core.ids import MILLISECOND, SECOND

_encoder = msgspec.msgpack.Encoder()


class Happening(msgspec.Struct, frozen=True):
    """One line of the timeline: when, on which machine (empty: the world), what."""

    at: int
    where: str
    what: str
    kind: str


class Trace:
    """The hash and the timeline of one run. ``depth`` 0 hashes names only, 1 whole effects."""

    def __init__(self, depth: int = 1) -> None:
        self._depth = depth
        self._state = hashlib.blake2b(digest_size=16)
        self.happenings: list[Happening] = []
        self.events = 0
        self.effects = 0

    def note_turn(self, at: int, index: int, event: Event, effects: Sequence[Effect]) -> None:
        """A node took one event in."""
        self.events += 1
        self.effects += len(effects)
        if not self._depth:
            return
        update = self._state.update
        update(b"%d/%d/%b" % (at, index, type(event).__name__.encode()))
        for effect in effects:
            update(type(effect).__name__.encode())
            update(_encoder.encode(effect))

    def note(self, at: int, where: str, kind: str, what: str) -> None:
        """Something that a reader of the run wants to know."""
        self.happenings.append(Happening(at, where, what, kind))
        self._state.update(f"{at}/{where}/{what}".encode())

    def digest(self) -> str:
        """32 hex digits."""
        return self._state.hexdigest()

    def timeline(self, width: int = 80, kinds: Sequence[str] = ()) -> list[str]:
        """The happenings as lines of at most ``width`` characters, oldest first."""
        lines = []
        for entry in self.happenings:
            if kinds and entry.kind not in kinds:
                continue
            where = f"{entry.where:<8}" if entry.where else "-" * 3 + " " * 5
            lines.append(f"{_seconds(entry.at):>9}  {where} {entry.what}"[:width].rstrip())
        return lines


def _seconds(at: int) -> str:
    return f"{at // SECOND}.{at % SECOND // MILLISECOND:03d}"
