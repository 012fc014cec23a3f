"""A turn by itself: the real ``Turn``, with what was published and written where a test sees it."""

from __future__ import annotations

from collections.abc import Callable

from pollen.core.durability import Durability
from pollen.core.effects import Effect, Persist, Row
from pollen.core.faults import Faults
from pollen.core.ids import Nanos, Now
from pollen.core.turn import Turn, Writer

# A kind of record, its key, and its payload; None takes it back.
Said = tuple[str, bytes, bytes | None]


class Sink:
    """Takes what is published."""

    def __init__(self) -> None:
        self.said: list[Said] = []

    def publish(self, kind: str, key: bytes, payload: bytes) -> bool:
        self.said.append((kind, key, payload))
        return True

    def bury(self, kind: str, key: bytes) -> bool:
        self.said.append((kind, key, None))
        return True


def turn_at(
    now: Now | int,
    records: Writer | None = None,
    durability: Durability | None = None,
    faults: Faults | None = None,
) -> Turn:
    """A turn at this time; a number is the time of both clocks."""
    at = now if isinstance(now, Now) else Now(Nanos(now), Nanos(now))
    return Turn(at, records or Sink(), durability or Durability(), faults or Faults())


def effects_of(
    now: Now | int, take: Callable[[Turn], object], records: Writer | None = None
) -> list[Effect]:
    """What leaves in a turn in which this was done, and nothing else."""
    turn = turn_at(now, records)
    take(turn)
    return turn.effects()


def written(turn: Turn) -> list[Row]:
    """What was written in this turn, as it goes to the disk."""
    turn.flush()
    return [row for e in turn.effects() if isinstance(e, Persist) for row in e.batch]
