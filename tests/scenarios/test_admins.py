"""Administrative acts in cut halves, drawn: whatever the order, all end with the same authority."""

from __future__ import annotations

import os

import pytest

from pollen.sim import scenarios

SCENARIO = "admins_decide_in_cut_halves"
SUCCESSION = "the_root_is_succeeded_in_cut_halves"
HEIRS = "two_heirs_of_the_root_are_made_apart"
# ``make check`` plays ten, ``make test`` sixty; the slow test goes on from there.
SEEDS = int(os.environ.get("POLLEN_SIM_SEEDS", "10")) // 2
ALL = 300
# Runs that once failed. 107: a node that was let in again stayed dead to those that had accused it.
ONCE_BAD = (107,)


@pytest.mark.parametrize("number", [*range(2, 2 + SEEDS), *ONCE_BAD])
def test_admins_that_act_apart_end_agreed(number: int) -> None:
    """Denied peers are out, nobody counts in spite of a deny, all count the same."""
    report = scenarios.play(SCENARIO, number).report
    assert report.failures == []
    assert report.checks["acts"] > 0


@pytest.mark.parametrize("number", range(2, 2 + max(SEEDS // 3, 1)))
def test_a_root_that_is_succeeded_apart_is_one_line_everywhere(number: int) -> None:
    """What the old key signs in the other half counts as well."""
    report = scenarios.play(SUCCESSION, number).report
    assert report.failures == []
    assert report.checks["successions"] > 0


@pytest.mark.parametrize("number", range(2, 2 + SEEDS))
def test_two_heirs_made_apart_leave_one_line_and_the_same_denies(number: int) -> None:
    """Nodes that counted the displaced one's deny, that restarted and that joined later agree."""
    report = scenarios.play(HEIRS, number).report
    assert report.failures == []
    assert report.checks["denies-agree"] == 1


@pytest.mark.slow
@pytest.mark.parametrize("first", range(2 + SEEDS, ALL, 10))
def test_three_hundred_runs_of_admins(first: int) -> None:
    """The same for all numbers up to ``ALL``."""
    for number in range(first, min(first + 10, ALL + 1)):
        assert scenarios.play(SCENARIO, number).report.failures == [], number
