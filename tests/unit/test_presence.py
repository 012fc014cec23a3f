"""What a node says of itself: its phases, and its restarts."""

from __future__ import annotations

from functools import partial

import pytest

from pollen.core import limits
from pollen.core.config import NodeConfig
from pollen.core.effects import SetTimer
from pollen.core.ids import MINUTE, SECOND, ClusterId, Nanos, Now, PeerId
from pollen.core.peers import Phase
from pollen.core.presence import Presence
from tests.unit.turns import effects_of, turn_at, written

WALL = 10**18
CONFIG = NodeConfig(
    node=PeerId(b"n" * 32), cluster=ClusterId(b"c" * 32), root=PeerId(b"r" * 32), chain=b"",
    boot=b"b" * 16, name="n", version="1", memory_bytes=1, has_root=False,
)  # fmt: skip


def at(seconds: int) -> Now:
    return Now(Nanos(seconds * SECOND), Nanos(WALL + seconds * SECOND))


def test_a_node_leaves_in_two_steps_and_never_comes_back() -> None:
    """UP, LEAVING, LEFT: the next run is another epoch."""
    presence = Presence(CONFIG, [])
    seen = [presence.info().phase]
    finish = partial(presence.finish_leaving, turn_at(at(0)))
    steps = (presence.begin_leaving, finish, presence.begin_leaving)
    for step in steps:
        step()
        seen.append(presence.info().phase)
    assert seen == [Phase.UP, Phase.LEAVING, Phase.LEFT, Phase.LEFT]


def test_a_node_that_restarts_too_often_says_so_and_for_how_long() -> None:
    """Five starts within ten minutes; over when the first of them is ten minutes old."""
    starts = [WALL + i * 10 * SECOND for i in range(limits.RESTARTS_QUARANTINE - 1)]
    presence = Presence(CONFIG, starts)
    effects = effects_of(at(60), partial(presence.start, []))
    assert presence.info().restarts == limits.RESTARTS_QUARANTINE
    (timer,) = effects
    assert isinstance(timer, SetTimer)
    assert timer.at == limits.RESTARTS_WITHIN_NS
    presence.recount(turn_at(Now(timer.at, Nanos(WALL + timer.at))))
    assert presence.info().restarts == 0


def test_old_starts_and_starts_in_the_future_do_not_count() -> None:
    """The one is past, the other is of a clock that was wrong."""
    starts = [WALL - 20 * MINUTE, WALL - 15 * MINUTE, WALL + MINUTE, WALL + MINUTE]
    presence = Presence(CONFIG, starts)
    turn = turn_at(at(0))
    presence.start([], turn)
    assert (turn.effects(), presence.info().restarts) == ([], 0)
    assert len(written(turn)) == 1


def test_a_node_says_which_plan_it_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others wait for the oldest of all: a new plan that still says 1 would never be in force."""
    monkeypatch.setattr(limits, "PLAN_VERSION", 7)
    assert Presence(CONFIG, []).info().plan_version == 7


def test_only_so_many_addresses_are_published() -> None:
    """A machine with hundreds of interfaces does not flood everybody's records."""
    presence = Presence(CONFIG, [])
    presence.start([f"192.0.2.{i}:1" for i in range(99)], turn_at(at(0)))
    assert len(presence.info().addresses) == limits.OWN_ADDRESSES_MAX
