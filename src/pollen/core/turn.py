"""One event's turn of the brain: the only way in for time, the only way out for everything else.

Decides: the order in which what a turn asks for leaves the node.
Does not know: what any of it is for.
Invariants: effects leave in the order in which they were asked for; those asked for by ``do_last``
    leave after all others. Rows likewise, and those of ``write_last`` once a key. An answer that
    promises durability waits for the batch that this turn writes. Every handler of every room has
    one signature, ``(what, turn) -> None``, and nothing in a room returns effects to be passed on.
Source: docs/decisions/rooms.md#one-turn-one-signature; foca ``runtime.rs``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, TypeVar

import msgspec

from pollen.core.codec import Refusal, Rejection
from pollen.core.durability import Durability
from pollen.core.effects import Effect, Reply, Row
from pollen.core.events import Event
from pollen.core.faults import Faults
from pollen.core.ids import Now, PeerId, RequestId
from pollen.core.messages import Message
from pollen.errors import InvariantError


class Writer(Protocol):
    """Who publishes records of this node's own."""

    def publish(self, kind: str, key: bytes, payload: bytes) -> bool:
        """Write a record; False when the same stands already."""

    def bury(self, kind: str, key: bytes) -> bool:
        """Take a record back; False when there is none."""


class Turn:
    """What one turn may do. ``now`` is the same for the whole turn."""

    def __init__(self, now: Now, records: Writer, durability: Durability, faults: Faults) -> None:
        self.now = now
        self.last: list[Effect] = []
        self._effects: list[Effect] = []
        self._records = records
        self._durability = durability
        self._faults = faults

    def do(self, *effects: Effect) -> None:
        """Ask the world for something."""
        self._effects += effects

    def do_last(self, *effects: Effect) -> None:
        """Ask for something that must leave after everything else of this turn."""
        self.last += effects

    def do_when_durable(self, effect: Effect) -> None:
        """Ask for something that leaves when the rows written until the end of this turn are on
        disk."""
        self._durability.hold(effect)

    def publish(self, kind: str, key: bytes, payload: bytes | None) -> None:
        """Tell all nodes; None takes back what was told."""
        if payload is None:
            self._records.bury(kind, key)
        else:
            self._records.publish(kind, key, payload)

    def write(self, *rows: Row) -> None:
        """Keep rows on disk."""
        self._durability.write(rows)

    def write_last(self, *rows: Row) -> None:
        """Keep rows that this turn may still change: behind all others goes the last row of each
        key, in the order in which the keys were first written."""
        self._durability.write_last(rows)

    def flush(self) -> None:
        """What was written until now goes to the disk as one batch."""
        batch = self._durability.flush()
        if batch is not None:
            self.do(batch)

    def answer(
        self, request: RequestId, result: msgspec.Struct, *, when_durable: bool = False
    ) -> None:
        """Answer a command, with a result or a refusal."""
        if isinstance(result, Refusal):
            slug, reason, remedy = result.slug, result.reason, result.remedy
            reply = Reply(request=request, slug=slug, reason=reason, remedy=remedy)
        else:
            reply = Reply(request=request, result=result)
        if when_durable:
            self.do_when_durable(reply)
        else:
            self.do(reply)

    def refuse_held(self, refusal: Refusal) -> None:
        """Refuse those whose answers wait for the disk. A refusal that waits there stays one."""
        for request, said in self._durability.take_waiting().items():
            self.answer(request, said or refusal)

    def note(self, fault: Rejection, peer: PeerId) -> None:
        """Count a peer's fault, and log it when that is due."""
        line = self._faults.note(fault, peer, self.now.mono)
        if line is not None:
            self.do(line)

    def effects(self) -> list[Effect]:
        """Everything that was asked for, in the order in which it leaves."""
        return self._effects + self.last


class Heard(msgspec.Struct, frozen=True):
    """A message of an admitted peer."""

    peer: PeerId
    message: Any


class Asked(msgspec.Struct, frozen=True):
    """A user's command, and the request under which it is answered."""

    request: RequestId
    command: Any


Handler = Callable[[Any, Turn], None]


class Room:
    """What the node knows of any noun: who takes what. A room names only what it takes.

    A handler of messages takes a ``Heard``, of commands an ``Asked``, of timers the subject of the
    token as bytes.
    """

    def events(self) -> Mapping[type[Event], Handler]:
        """What can happen to it."""
        return {}

    def messages(self) -> Mapping[type[Message], Handler]:
        """What peers say to it."""
        return {}

    def commands(self) -> Mapping[type[Any], Handler]:
        """What users ask of it."""
        return {}

    def timers(self) -> Mapping[str, Handler]:
        """The purposes of its timers."""
        return {}


K = TypeVar("K")


def merged(tables: Iterable[Mapping[K, Handler]]) -> dict[K, Handler]:
    """One table of all rooms. Raises ``InvariantError`` for what two rooms take."""
    found: dict[K, Handler] = {}
    for table in tables:
        for key, handler in table.items():
            if key in found:
                raise InvariantError(f"two rooms take {key}")
            found[key] = handler
    return found
