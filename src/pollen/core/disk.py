"""A disk that takes nothing: who is refused, and what is said of it.

Decides: which commands are refused while the disk is full or out of order, and what becomes of the
    answers that wait for it.
Does not know: the disk; the driver looks at it.
Invariants: nothing is answered as done that is not on disk. A command that is refused here changed
    nothing. What was under way when the disk filled is refused too, in other words: it may still
    come to the disk.
Source: docs/design/protocol.md#durability. Refused: undoing what was under way, which would take a
    copy of the brain's state an event.
"""

from __future__ import annotations

from collections.abc import Mapping

from pollen.core.codec import Refusal
from pollen.core.commands import CheckSeedCommand, Command, DrainCommand, PinCommand
from pollen.core.early import PUBLISHING
from pollen.core.events import Commanded, Event, StoreTroubled
from pollen.core.servicewords import ConnectCommand, DisconnectCommand
from pollen.core.turn import Handler, Room, Turn

# Beside what publishes: listeners and pins, and what is asked before something is carried.
_LASTING_TOO = (CheckSeedCommand, ConnectCommand, DisconnectCommand, PinCommand)
_UNDER_WAY = "this is not on disk yet: it gets there when there is room, unless the node ends first"


class Disk(Room):
    """What this node's disk does, as the driver found it last."""

    def __init__(self) -> None:
        self._trouble: Refusal | None = None

    def events(self) -> Mapping[type[Event], Handler]:
        """The disk stopped taking things, or takes them again."""
        return {StoreTroubled: self.on_troubled}

    @property
    def is_troubled(self) -> bool:
        """Whether it takes nothing now."""
        return self._trouble is not None

    @property
    def warning(self) -> str:
        """What the status says of it; empty when all is well."""
        if self._trouble is None:
            return ""
        return f"nothing that must last is taken: {self._trouble.reason}; see: pln doctor"

    def on_troubled(self, event: StoreTroubled, turn: Turn) -> None:
        """Take over what the driver found; whoever waits for the disk is told."""
        self._trouble = Refusal(event.slug, event.reason, event.remedy) if event.slug else None
        if event.is_failed:
            reason = f"{event.reason}; {_UNDER_WAY}"
            turn.refuse_held(Refusal(event.slug, reason, event.remedy))

    def refuses(self, event: Event, turn: Turn) -> bool:
        """Whether a command was refused, since its result could not be kept."""
        if self._trouble is None or not isinstance(event, Commanded):
            return False
        if not must_last(event.command):
            return False
        turn.answer(event.request, self._trouble)
        return True


def must_last(command: Command) -> bool:
    """Whether its result must be on disk before it is answered. To leave is possible without."""
    if isinstance(command, DrainCommand):
        return False
    if getattr(command, "dry_run", False) or getattr(command, "by_root", False):
        return False
    return isinstance(command, (*PUBLISHING, *_LASTING_TOO))
