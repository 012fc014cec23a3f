"""One turn, and who takes what: each word of the closed vocabularies has exactly one taker."""

from __future__ import annotations

from typing import Any

import pytest

from pollen.core import commands, kinds, messages, timers
from pollen.core.codec import Refusal
from pollen.core.durability import Durability
from pollen.core.effects import Effect, Persist, Reply, SetTimer
from pollen.core.events import Event
from pollen.core.faults import Faults
from pollen.core.ids import Nanos, Now, RequestId, Token
from pollen.core.node import Node
from pollen.core.turn import Room, Turn, merged
from pollen.errors import InvariantError
from tests.unit.world import three

NOW = Now(Nanos(5), Nanos(7))
# Who takes an event, and how many words one room may have to take (rooms.md).
TAKEN_MAX = 10


class Sink:
    """Takes what is published."""

    def __init__(self) -> None:
        self.said: list[tuple[str, bytes, bytes | None]] = []

    def publish(self, kind: str, key: bytes, payload: bytes) -> bool:
        self.said.append((kind, key, payload))
        return True

    def bury(self, kind: str, key: bytes) -> bool:
        self.said.append((kind, key, None))
        return True


def turn(durability: Durability | None = None) -> tuple[Turn, Sink]:
    sink = Sink()
    return Turn(NOW, sink, durability or Durability(), Faults()), sink


def node() -> Node:
    held = three().machines["a"].node
    assert held is not None
    return held


def subclasses(base: type[Any]) -> set[type[Any]]:
    return {kind for kind in base.__subclasses__() if kind.__module__ == base.__module__}


def test_every_event_has_one_taker() -> None:
    """An event that nobody takes would be a crash in the field."""
    assert set(node()._events) == subclasses(Event)


def test_every_message_has_one_taker() -> None:
    """A kind that is decoded is also understood."""
    assert set(node()._messages) == set(messages.KINDS)


def test_every_command_has_one_taker() -> None:
    """Whatever the control API can ask is answered."""
    assert set(node()._commands) == subclasses(commands._Command)


def test_every_purpose_of_a_timer_has_one_taker() -> None:
    """But those that name a batch on its way to the disk, or a call of the brain."""
    purposes = {value for name, value in vars(timers).items() if name.isupper()}
    purposes = {value for value in purposes if isinstance(value, str)}
    assert set(node()._timers) == purposes - {*timers.BATCHES, *timers.CALLS}


def test_every_kind_of_record_has_one_taker() -> None:
    """What nodes tell each other for good means something to each of them."""
    names = {value for value in vars(kinds).values() if isinstance(value, str)}
    names = {name for name in names if name.islower() and name.isalpha()}
    assert set(node()._situation.kinds) == names


def test_two_rooms_that_take_the_same_are_a_broken_invariant() -> None:
    """It is found at the start of a node, not by whoever loses the event."""
    table = {"dial": lambda what, turn: None}
    with pytest.raises(InvariantError, match="two rooms take dial"):
        merged([table, table])


def test_no_vocabulary_grows_unseen() -> None:
    """The numbers that docs/decisions/rooms.md owns up to."""
    assert len(subclasses(Event)) == 20
    assert len(subclasses(Effect)) == 18
    assert len(messages.KINDS) == 12
    assert len(node()._commands) == 10


def test_no_room_takes_more_events_than_a_reader_can_keep_in_mind() -> None:
    """A room that outgrows this is two rooms."""
    held = node()
    rooms: list[Room] = [held, held._gossip, held._mesh, held._consequences, held._placing]
    assert max(len(room.events()) for room in rooms) <= TAKEN_MAX


def test_what_is_asked_for_last_leaves_last() -> None:
    """Whatever the order of asking: a row leaves before the load that needs it."""
    it, _ = turn()
    first, last = (SetTimer(token=Token(name), at=Nanos(1)) for name in "ab")
    it.do_last(last)
    it.do(first)
    assert it.effects() == [first, last]


def test_a_refusal_is_answered_with_its_remedy() -> None:
    """An answer is a result or a refusal, never both."""
    it, _ = turn()
    it.answer(RequestId(3), Refusal("denied", "why", "how"))
    assert it.effects() == [Reply(request=RequestId(3), slug="denied", reason="why", remedy="how")]


def test_an_answer_that_promises_durability_waits_for_the_batch_of_its_turn() -> None:
    """The row of the same turn is in that batch."""
    disk = Durability()
    it, _ = turn(disk)
    it.answer(RequestId(3), Refusal("denied", "why", "how"), when_durable=True)
    it.write(("table", b"key", b"value"))
    (persist,) = disk.flush()
    assert isinstance(persist, Persist)
    assert it.effects() == [] and persist.batch == [("table", b"key", b"value")]
    (reply,) = disk.release(persist.token)
    assert isinstance(reply, Reply)


def test_what_is_published_as_nothing_is_taken_back() -> None:
    """One verb for both, as statements of membership have it."""
    it, sink = turn()
    it.publish("spec", b"a", b"x")
    it.publish("spec", b"a", None)
    assert sink.said == [("spec", b"a", b"x"), ("spec", b"a", None)]
