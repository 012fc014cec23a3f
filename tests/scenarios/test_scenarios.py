"""Each scenario is a claim that once was in doubt: a short script with a sentence for a name."""

from __future__ import annotations

import pytest

from pollen.sim import scenarios
from tests.scenarios import standstill


@pytest.mark.parametrize("name", scenarios.all_names())
def test_the_scenario_holds(name: str) -> None:
    """It plays to its end, having looked at something."""
    report = scenarios.play(name).report
    assert report.failures == []
    assert sum(report.checks.values()) > 0
    assert standstill.differences(name, report) == []


def test_every_scenario_and_sixty_numbers_have_their_hashes() -> None:
    """A run without its hash could change and nobody would see it."""
    runs = {*map(str, standstill.NUMBERS), *scenarios.all_names()}
    assert set(standstill.known("shape")) == set(standstill.known("outcome")) == runs


@pytest.mark.parametrize("name", scenarios.all_names())
def test_a_scenario_says_in_a_sentence_what_it_shows(name: str) -> None:
    """The docstring's first line is the sentence."""
    sentence = scenarios.sentence_of(name)
    assert sentence.endswith(".") and len(sentence) > 30
