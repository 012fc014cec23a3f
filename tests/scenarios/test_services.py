"""Services, drawn: whoever is tried for a name is who its records say, read by hand."""

from __future__ import annotations

import os

import pytest

from pollen.sim import scenarios

SCENARIO = "services_are_found_where_they_are"
# ``make check`` plays five, ``make test`` thirty.
SEEDS = int(os.environ.get("POLLEN_SIM_SEEDS", "10")) // 2


@pytest.mark.parametrize("number", range(2, 2 + SEEDS))
def test_services_are_found_where_they_are(number: int) -> None:
    """``services-agree``, after each heal, after a death and at the end."""
    report = scenarios.play(SCENARIO, number).report
    assert report.failures == []
    assert report.checks["services-agree"] == 5


@pytest.mark.parametrize("number", range(2, 2 + SEEDS))
def test_a_program_that_fails_is_passed_over(number: int) -> None:
    """``failing-agrees``, after each change, a heal, two minutes of flapping and a restart."""
    report = scenarios.play("a_program_that_fails_is_passed_over", number).report
    assert report.failures == []
    assert report.checks["failing-agrees"] == report.checks["failing-is-last"] == 29


def test_names_are_served_in_every_way() -> None:
    """A number may draw few of one kind; all of them together do not."""
    checks = [scenarios.play(SCENARIO, number).report.checks for number in range(2, 6)]
    for word in ("served", "served beside", "taken over", "unserved", "refused as name-taken"):
        assert sum(check.get(word, 0) for check in checks) > 2, word
