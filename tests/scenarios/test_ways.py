"""Ways, drawn: behind whatever routers, all who live reach each other."""

from __future__ import annotations

import os

import pytest

from pollen.sim import scenarios

SCENARIO = "every_pair_finds_a_way"
# ``make check`` plays ten, ``make test`` sixty, ``make accept`` the thousand.
SEEDS = int(os.environ.get("POLLEN_SIM_SEEDS", "10"))


def check(number: int) -> None:
    report = scenarios.play(SCENARIO, number).report
    assert report.failures == []
    assert report.checks["every-live-pair-has-a-path"] >= 3
    assert report.checks["no-forwarding-loop"] >= 3


@pytest.mark.parametrize("number", range(2, 2 + SEEDS))
def test_every_pair_finds_a_way(number: int) -> None:
    """At the start, after a death, after it came back, and while a direct path is cut."""
    check(number)


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 1_100, 50))
def test_every_pair_finds_a_way_in_a_thousand_worlds(first: int) -> None:
    """What sixty numbers did not draw."""
    for number in range(first, first + 50):
        check(number)


def test_every_kind_of_router_is_drawn() -> None:
    """A number may draw few of one kind; all of them together do not."""
    checks = [scenarios.play(SCENARIO, number).report.checks for number in range(2, 8)]
    for word in ("cone", "home", "symmetric", "a-link-outlives-its-direct-path"):
        assert sum(check.get(word, 0) for check in checks) > 2, word
