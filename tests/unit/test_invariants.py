"""The invariants that the documents list, and those that the simulator checks."""

from __future__ import annotations

import re
from collections import Counter

from pollen.sim.verdict.checkers import ALWAYS, SETTLED, name_of
from tests.style.tree import ROOT

PAGES = sorted((ROOT / "docs" / "internals").glob("*.md"))


def listed() -> Counter[str]:
    """The names in the tables of invariants, with how often each stands there."""
    names: Counter[str] = Counter()
    for page in PAGES:
        _, _, table = page.read_text().partition("\n## Invariants\n")
        names.update(re.findall(r"^\| `([a-z-]+)` \| [A-Z].*\. \|$", table, re.MULTILINE))
    return names


def test_every_checker_of_the_simulator_is_explained_in_a_page() -> None:
    """Who reads that ``views-converge`` failed finds what it means."""
    assert {name_of(checker) for checker in (*ALWAYS, *SETTLED)} - listed().keys() == set()


def test_every_invariant_is_explained_once() -> None:
    assert {name: count for name, count in listed().items() if count != 1} == {}
    assert len(listed()) > 30
