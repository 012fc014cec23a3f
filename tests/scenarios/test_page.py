"""The simulator's page lists what there is: rules, checkers, planted bugs, scenarios."""

from __future__ import annotations

import re
from pathlib import Path

from pollen.sim import scenarios
from pollen.sim.mischief import faults, mutants
from pollen.sim.verdict import checkers
from pollen.sim.verdict.checkers import Checker

PAGE = Path(__file__).parent.parent.parent / "docs" / "internals" / "simulator.md"
ROW = re.compile(r"^\| `([^|]+?)` \| (.*) \|$", re.MULTILINE)


def rows_of(heading: str) -> dict[str, str]:
    """The first column of a section's table, and what stands beside it."""
    text = PAGE.read_text(encoding="utf-8")
    part = re.split(r"^#+ ", text, flags=re.MULTILINE)
    (section,) = (each for each in part if each.startswith(heading))
    return dict(ROW.findall(section))


def said_by(checker: Checker) -> str:
    """The first sentence of a checker's docstring, on one line."""
    paragraph = (checker.__doc__ or "").split("\n\n")[0]
    return re.sub(r"\s+", " ", paragraph).strip()


def test_the_page_lists_the_checkers_in_their_words() -> None:
    """A checker that nobody can look up explains nothing."""
    always = {checkers.name_of(c): said_by(c) for c in checkers.ALWAYS}
    settled = {checkers.name_of(c): said_by(c) for c in checkers.SETTLED}
    assert rows_of("At every look") == always
    assert rows_of("Some time after") == settled
    assert rows_of("In the moment") == checkers.NOTED


def test_the_page_lists_the_planted_bugs() -> None:
    """With what catches each."""
    wanted = {
        m.name: f"{m.caught_by} | {m.scenario or 'drawn runs'}".replace("_", " ")
        for m in mutants.MUTANTS
    }
    assert rows_of("Planted bugs") == wanted


def test_the_page_lists_the_scenarios() -> None:
    """Each with its sentence."""
    names = scenarios.all_names()
    assert rows_of("Scenarios") == {name: scenarios.sentence_of(name) for name in names}


def test_the_page_lists_the_rules() -> None:
    """Of every kind of fault."""
    named = [name for row in rows_of("Faults") for name in row.split("`, `")]
    assert sorted(named) == sorted(rule.name for rule in faults.all_rules())
