"""Grants and cuts, drawn: whoever may call and host is who the policies say, read by hand."""

from __future__ import annotations

import os

import pytest

from pollen.sim import scenarios

SCENARIO = "policies_follow_what_is_granted"
PUBLISHERS = "publishers_obey_the_policy_of_the_root"
# ``make check`` plays five, ``make test`` thirty.
SEEDS = int(os.environ.get("POLLEN_SIM_SEEDS", "10")) // 2


@pytest.mark.parametrize("number", range(2, 2 + SEEDS))
def test_policies_decide_as_they_are_written(number: int) -> None:
    """``policy-agrees``, at each second, each call and each answer of `pln why call`."""
    report = scenarios.play(SCENARIO, number).report
    assert report.failures == []
    assert report.checks["policy-agrees"] > 100


def test_policies_pass_some_and_refuse_some() -> None:
    """A number may draw policies that nobody meets (15 does); all of them together do not."""
    checks = [scenarios.play(SCENARIO, number).report.checks for number in range(2, 5)]
    for side in ("allowed-True", "allowed-False"):
        assert sum(check.get(side, 0) for check in checks) > 10, side


@pytest.mark.parametrize("number", range(2, 2 + SEEDS))
def test_names_count_as_the_policy_of_the_root_is_written(number: int) -> None:
    """``policy-agrees``, at each answer to who publishes and of each name after each heal."""
    report = scenarios.play(PUBLISHERS, number).report
    assert report.failures == []
    assert report.checks["policy-agrees"] > 10


def test_the_policy_of_the_root_lets_some_publish_and_refuses_some() -> None:
    """A number may draw policies that all meet; all of them together do not."""
    checks = [scenarios.play(PUBLISHERS, number).report.checks for number in range(2, 5)]
    for side in ("published", "refused", "policies"):
        assert sum(check.get(side, 0) for check in checks) > 5, side
