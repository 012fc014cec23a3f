"""One turn, and who takes what: each word of the closed vocabularies has exactly one taker."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.core import (
    commands,
    kinds,
    messages,
    rootwords,
    servicewords,
    timers,
    versionwords,
    whywords,
)
from pollen.core.codec import Refusal
from pollen.core.durability import Durability
from pollen.core.effects import Effect, Persist, Reply, SetTimer
from pollen.core.events import Event
from pollen.core.ids import Nanos, Now, RequestId, Token
from pollen.core.node import Node
from pollen.core.turn import Room, merged
from pollen.errors import InvariantError
from tests.style.tree import SOURCE, python_files
from tests.unit.turns import Sink, turn_at, written
from tests.unit.world import three

NOW = Now(Nanos(5), Nanos(7))
# Who takes an event, and how many words one room may have to take (rooms.md).
TAKEN_MAX = 10


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
    assert set(node()._commands) == {
        *subclasses(commands._Command),
        *subclasses(rootwords._Command),
        *subclasses(servicewords._Command),
        *subclasses(versionwords._Command),
        *subclasses(whywords._Command),
    }


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
    assert len(subclasses(Event)) == 24
    assert len(subclasses(Effect)) == 23
    assert len(messages.KINDS) == 13
    assert len(node()._commands) == 34


def test_no_room_takes_more_events_than_a_reader_can_keep_in_mind() -> None:
    """A room that outgrows this is two rooms."""
    held = node()
    rooms: list[Room] = [held, held._gossip, held._mesh, held._consequences, held._placing]
    assert max(len(room.events()) for room in rooms) <= TAKEN_MAX


def test_what_is_asked_for_last_leaves_last() -> None:
    """Whatever the order of asking: a row leaves before the load that needs it."""
    it = turn_at(NOW)
    first, last = (SetTimer(token=Token(name), at=Nanos(1)) for name in "ab")
    it.do_last(last)
    it.do(first)
    assert it.effects() == [first, last]


def test_a_refusal_is_answered_with_its_remedy() -> None:
    """An answer is a result or a refusal, never both."""
    it = turn_at(NOW)
    it.answer(RequestId(3), Refusal("denied", "why", "how"))
    assert it.effects() == [Reply(request=RequestId(3), slug="denied", reason="why", remedy="how")]


def test_an_answer_that_promises_durability_waits_for_the_batch_of_its_turn() -> None:
    """The row of the same turn is in that batch."""
    disk = Durability()
    it = turn_at(NOW, durability=disk)
    it.answer(RequestId(3), Refusal("denied", "why", "how"), when_durable=True)
    it.write(("table", b"key", b"value"))
    assert it.effects() == []
    it.flush()
    (persist,) = it.effects()
    assert isinstance(persist, Persist)
    assert persist.batch == [("table", b"key", b"value")]
    (reply,) = disk.release(persist.token)
    assert isinstance(reply, Reply)


def test_what_is_published_as_nothing_is_taken_back() -> None:
    """One verb for both, as statements of membership have it."""
    sink = Sink()
    it = turn_at(NOW, sink)
    it.publish("spec", b"a", b"x")
    it.publish("spec", b"a", None)
    assert sink.said == [("spec", b"a", b"x"), ("spec", b"a", None)]


def test_rows_that_a_turn_may_still_change_are_written_once_and_behind_all_others() -> None:
    """A batch says how things ended, and a record stands before what follows from it."""
    it = turn_at(NOW)
    it.write_last(("peer", b"a", b"1"), ("peer", b"b", b"1"))
    it.write(("record", b"r", b"1"))
    it.write_last(("peer", b"a", None), ("meta", b"a", b"1"))
    assert written(it) == [
        ("record", b"r", b"1"),
        ("peer", b"a", None),
        ("peer", b"b", b"1"),
        ("meta", b"a", b"1"),
    ]


def test_rows_that_come_after_the_batch_of_their_turn_go_with_the_next() -> None:
    """Nothing that was written is lost with the turn that wrote it."""
    disk = Durability()
    first, second = turn_at(NOW, durability=disk), turn_at(NOW, durability=disk)
    first.flush()
    first.write_last(("peer", b"a", b"1"))
    assert (first.effects(), written(second)) == ([], [("peer", b"a", b"1")])


# -- the law of one way out -----------------------------------------------------------------------

CORE = SOURCE / "core"
# The way out itself: what a turn holds, what waits for the disk.
WAY_OUT = {"turn.py:effects", "durability.py:release", "node.py:handle"}
MANY = {"list", "tuple", "dict", "Sequence", "Iterable", "Iterator", "Mapping", "deque"}
EFFECTS = {"Effect", *(kind.__name__ for kind in subclasses(Effect))}


def carries_effects(annotation: ast.expr | None) -> bool:
    """True for an annotation of many effects, in whatever holds them."""
    for node in ast.walk(annotation) if annotation is not None else ():
        if isinstance(node, ast.Subscript) and getattr(node.value, "id", "") in MANY:
            names = {inner.id for inner in ast.walk(node.slice) if isinstance(inner, ast.Name)}
            if names & EFFECTS:
                return True
    return False


def bearers(source: str) -> Iterator[str]:
    """The functions of a module that give effects back, or collect them in an argument."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            args = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            if any(map(carries_effects, [node.returns, *(arg.annotation for arg in args)])):
                yield node.name


@pytest.mark.parametrize("path", python_files(CORE), ids=lambda path: str(path.relative_to(CORE)))
def test_nothing_in_the_brain_passes_effects_on(path: Path) -> None:
    """Whoever decides says it to the turn: a list that is passed on is a second way out."""
    found = {f"{path.name}:{name}" for name in bearers(path.read_text())}
    assert found <= WAY_OUT


def test_the_way_out_is_no_wider_than_it_is_said_to_be() -> None:
    """An exception that nobody needs any more would let the next one through."""
    found = {
        f"{path.name}:{name}" for path in python_files(CORE) for name in bearers(path.read_text())
    }
    assert found >= WAY_OUT


@pytest.mark.parametrize(
    "source",
    [
        "def on(self, now) -> list[Effect]: ...",
        "def on(self, now) -> tuple[list[Row], list[Effect]]: ...",
        "def on(self, now) -> list[tuple[Hash, list[Effect]]]: ...",
        "def on(self, now) -> Sequence[SetTimer]: ...",
        "def on(self, now, out: list[Effect]) -> None: ...",
    ],
)
def test_the_law_sees_each_way_in_which_effects_were_passed_on(source: str) -> None:
    """Those that the brain had before it had one way out."""
    assert list(bearers(source)) == ["on"]
