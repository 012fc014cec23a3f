"""Planted bugs: a checker that never told would be worth nothing."""

from __future__ import annotations

import pytest

from pollen.sim import scenarios
from pollen.sim.mischief import mutants
from pollen.sim.mischief.mutants import Mutant
from pollen.sim.verdict.trial import run_trial

TRIES = 12
NODES = 5


def is_caught(mutant: Mutant) -> str:
    """What told of the bug, or what was told instead."""
    told: list[str] = []
    with mutants.planted(mutant):
        if mutant.scenario:
            told = scenarios.play(mutant.scenario, mutant.number).report.failures
            return next((text for text in told if mutant.caught_by in text), "")
        for number in range(mutant.number, mutant.number + TRIES):
            told = run_trial(number, NODES).failures
            found = next((text for text in told if text.startswith(mutant.caught_by)), "")
            if found:
                return found
    return ""


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_caught_by_the_invariant_that_it_breaks(mutant: Mutant) -> None:
    """Within a dozen runs, and by name."""
    assert is_caught(mutant)


def test_what_a_mutant_replaced_comes_back() -> None:
    """Also after an error."""
    mutant = mutants.MUTANTS[0]
    before = getattr(mutant.owner, mutant.target)
    with pytest.raises(KeyError), mutants.planted(mutant):
        assert getattr(mutant.owner, mutant.target) is not before
        raise KeyError
    assert getattr(mutant.owner, mutant.target) is before


def test_there_are_ten_mutants_at_least() -> None:
    """Each with a name of its own."""
    names = [mutant.name for mutant in mutants.MUTANTS]
    assert len(set(names)) == len(names) >= 10
