"""Two clocks: the floor of the one, and the jumps between both."""

from __future__ import annotations

import pytest

from pollen.core import limits
from pollen.core.clocks import Clocks, Jump, jump_between
from pollen.core.ids import DAY, HOUR, MILLISECOND, MINUTE, SECOND, Nanos, Now, PeerId

TICK = 500 * MILLISECOND


def at(mono: int, wall: int) -> Now:
    return Now(Nanos(mono), Nanos(wall))


def started(saved: int) -> Clocks:
    clocks = Clocks()
    clocks.restore(Nanos(saved))
    return clocks


@pytest.mark.parametrize(
    ("mono", "wall", "expected"),
    [
        (TICK, TICK, Jump.NONE),
        (limits.STALL_NS, limits.STALL_NS, Jump.NONE),
        (limits.STALL_NS + 1, limits.STALL_NS + 1, Jump.STALLED),
        (TICK, TICK + limits.CLOCK_STEP_NS, Jump.NONE),
        (TICK, TICK + limits.CLOCK_STEP_NS + 1, Jump.STEPPED),
        (TICK, -HOUR, Jump.STEPPED),
        (HOUR, TICK, Jump.STEPPED),
        (TICK, HOUR, Jump.STEPPED),
    ],
)
def test_time_that_passed_unobserved_is_a_jump(mono: int, wall: int, expected: Jump) -> None:
    """A long gap is a stall; clocks that disagree are a step, and so is sleep on Linux."""
    assert expected is jump_between(at(7, 10**18), at(7 + mono, 10**18 + wall))


def test_a_jump_is_told_once() -> None:
    """By the event that ends it."""
    clocks = started(0)
    seen = [clocks.read(at(mono, mono), 3)[1] for mono in (0, TICK, HOUR, HOUR + TICK)]
    assert seen == [Jump.NONE, Jump.NONE, Jump.STALLED, Jump.NONE]
    assert clocks.jumps == 1


def test_the_wall_never_falls_below_its_floor() -> None:
    """What was saved, or the newest verified ``not_before``, whichever is later."""
    clocks = started(5 * SECOND)
    assert clocks.read(at(0, SECOND), 3)[0] == at(0, 5 * SECOND)
    clocks.raise_floor(9 * SECOND)
    assert clocks.read(at(1, SECOND), 3)[0] == at(1, 9 * SECOND)
    assert clocks.read(at(2, 10 * SECOND), 3)[0] == at(2, 10 * SECOND)


def test_the_wall_is_saved_when_the_disk_is_an_hour_behind() -> None:
    """Not on each event."""
    clocks = started(0)
    assert clocks.take_save(Nanos(limits.WALL_SAVE_NS - 1)) is None
    assert clocks.take_save(Nanos(limits.WALL_SAVE_NS)) == limits.WALL_SAVE_NS
    assert clocks.take_save(Nanos(limits.WALL_SAVE_NS + 1)) is None


def voted(others: int, *ahead: int) -> Clocks:
    """A right clock at day 100 below a floor at day 135; members are so far ahead of the clock."""
    clocks = started(135 * DAY)
    clocks.read(at(0, 100 * DAY), others)
    for index, by in enumerate(ahead):
        clocks.note_member(PeerId(bytes([index]) * 32), 100 * DAY + by)
    return clocks


def wall_of(clocks: Clocks, others: int) -> int:
    return clocks.read(at(TICK, 100 * DAY + TICK), others)[0].wall


@pytest.mark.parametrize(
    ("others", "ahead", "is_given_up"),
    [
        (3, [], False),
        (3, [0], False),
        (3, [0, 0], True),
        (1, [0], True),
        (0, [], False),
        (9, [0, 0, 35 * DAY], True),
        (9, [0, 0, 35 * DAY, 35 * DAY], False),
        (9, [4 * MINUTE, -4 * MINUTE], True),
        (9, [6 * MINUTE, -6 * MINUTE], False),
        (9, [35 * DAY, 35 * DAY], False),
    ],
)
def test_a_quorum_that_agrees_with_the_own_clock_ends_a_floor(
    others: int, ahead: list[int], is_given_up: bool
) -> None:
    """Two members at least and more than half of those heard; in a cluster of two the other one."""
    clocks = voted(others, *ahead)
    assert clocks.is_in_doubt
    expected = 100 * DAY + TICK if is_given_up else 135 * DAY
    assert wall_of(clocks, others) == expected
    assert clocks.is_in_doubt is not is_given_up


def test_what_was_given_up_is_told_once_and_saved_at_once() -> None:
    """A restart must not find the wrong floor on the disk again."""
    clocks = voted(3, 0, 0)
    wall = Nanos(wall_of(clocks, 3))
    assert (clocks.take_given_up(), clocks.take_given_up()) == (35 * DAY - TICK, 0)
    assert (clocks.take_save(wall), clocks.take_save(wall)) == (wall, None)


def test_a_date_up_to_a_floor_that_was_given_up_proves_nothing() -> None:
    """Certificates that were signed under a wrong clock would raise it again; later ones count."""
    clocks = voted(3, 0, 0)
    wall_of(clocks, 3)
    clocks.raise_floor(135 * DAY)
    assert not clocks.is_in_doubt
    clocks.raise_floor(136 * DAY)
    assert clocks.is_in_doubt


def test_what_members_said_before_a_step_or_long_ago_is_no_vote() -> None:
    """It was compared with a clock that showed something else, or that may have drifted."""
    stepped = voted(3, 0, 0)
    assert stepped.read(at(TICK, 90 * DAY), 3)[0].wall == 135 * DAY
    old = voted(3, 0, 0)
    late = limits.CLOCK_FRESH_NS + TICK
    assert old.read(at(late, 100 * DAY + late), 3)[0].wall == 135 * DAY


def test_a_member_votes_once_and_few_are_remembered() -> None:
    """One that speaks often outvotes nobody; the oldest word goes first."""
    clocks = voted(9)
    for _ in range(5):
        clocks.note_member(PeerId(b"a" * 32), 100 * DAY)
    assert clocks.heard() == [0]
    for index in range(limits.CLOCK_VOTERS_MAX + 5):
        clocks.note_member(PeerId(index.to_bytes(32, "big")), 100 * DAY + 1)
    assert clocks.heard() == [1] * limits.CLOCK_VOTERS_MAX
