"""Two clocks: the floor of the one, and the jumps between both."""

from __future__ import annotations

import pytest

from pollen.core import limits
from pollen.core.clocks import Clocks, Jump, jump_between
from pollen.core.ids import HOUR, MILLISECOND, SECOND, Nanos, Now

TICK = 500 * MILLISECOND


def at(mono: int, wall: int) -> Now:
    return Now(Nanos(mono), Nanos(wall))


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
    clocks = Clocks(Nanos(0))
    seen = [clocks.read(at(mono, mono))[1] for mono in (0, TICK, HOUR, HOUR + TICK)]
    assert seen == [Jump.NONE, Jump.NONE, Jump.STALLED, Jump.NONE]
    assert clocks.jumps == 1


def test_the_wall_never_falls_below_its_floor() -> None:
    """What was saved, or the newest verified ``not_before``, whichever is later."""
    clocks = Clocks(Nanos(5 * SECOND))
    assert clocks.read(at(0, SECOND))[0] == at(0, 5 * SECOND)
    clocks.raise_floor(9 * SECOND)
    assert clocks.read(at(1, SECOND))[0] == at(1, 9 * SECOND)
    assert clocks.read(at(2, 10 * SECOND))[0] == at(2, 10 * SECOND)


def test_the_wall_is_saved_when_the_disk_is_an_hour_behind() -> None:
    """Not on each event."""
    clocks = Clocks(Nanos(0))
    assert clocks.take_save(Nanos(limits.WALL_SAVE_NS - 1)) is None
    assert clocks.take_save(Nanos(limits.WALL_SAVE_NS)) == limits.WALL_SAVE_NS
    assert clocks.take_save(Nanos(limits.WALL_SAVE_NS + 1)) is None
