"""Random search: each number draws a cluster, its users and its misfortune, and all must fit.

The fixed numbers up to 60 must also give the two hashes that were committed for them: behaviour
stands still unless a commit says that it moves (docs/decisions/rooms.md).

``POLLEN_SIM_SEEDS`` says how many of the fixed numbers run (60). The slow ones (``-m slow``) are
200 fixed numbers and as many fresh ones as ``POLLEN_SIM_FRESH`` says (20).
"""

from __future__ import annotations

import os
import secrets

import pytest

from pollen.sim.mischief import faults
from pollen.sim.verdict.trial import Report, draw_trial, run_trial
from tests.scenarios import standstill

FIXED = int(os.environ.get("POLLEN_SIM_SEEDS", "60"))
FRESH = int(os.environ.get("POLLEN_SIM_FRESH", "20"))


def check(report: Report) -> None:
    """The first thing that a failure prints is how to see it again."""
    assert report.is_good, "\n".join([report.reproduce(), *report.failures])
    assert report.faults and report.checks and report.calls.get("ok")


@pytest.mark.parametrize("number", range(1, FIXED + 1))
def test_everything_fits_again_after_all_misfortune(number: int) -> None:
    """Safety holds while faults run; then everything heals and converges within the bound."""
    report = run_trial(number)
    check(report)
    assert standstill.differences(str(number), report) == []


@pytest.mark.slow
@pytest.mark.parametrize("number", range(61, 201))
def test_everything_fits_again_in_more_runs(number: int) -> None:
    """The rest of the 200 fixed numbers."""
    check(run_trial(number))


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(FRESH))
def test_everything_fits_again_in_a_run_nobody_has_seen(turn: int) -> None:
    """A fresh number each time; the failure prints it."""
    check(run_trial(secrets.randbelow(1 << 32)))


def test_the_fixed_numbers_draw_every_rule_and_some_malice() -> None:
    """A fault that no number draws would never be tested."""
    draws = [draw_trial(number) for number in range(1, 61)]
    drawn = {rule for draw in draws for rule in draw.rules}
    assert drawn == {rule.name for rule in faults.all_rules()}
    assert 5 < sum(draw.has_malice for draw in draws) < 30
