"""Grants and cuts, drawn: whoever may call and host is who the policies say, read by hand."""

from __future__ import annotations

import os

import pytest

from pollen.sim import scenarios

SCENARIO = "policies_follow_what_is_granted"
# ``make check`` plays five, ``make test`` thirty.
SEEDS = int(os.environ.get("POLLEN_SIM_SEEDS", "10")) // 2


@pytest.mark.parametrize("number", range(2, 2 + SEEDS))
def test_policies_decide_as_they_are_written(number: int) -> None:
    """``policy-agrees``; some calls passed and some were refused."""
    report = scenarios.play(SCENARIO, number).report
    assert report.failures == []
    assert report.checks["policy-agrees"] > 100
    assert min(report.checks["allowed-True"], report.checks["allowed-False"]) > 0
