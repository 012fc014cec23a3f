"""The numbers that the core obeys say where they come from."""

from __future__ import annotations

import re

from tests.style.tree import ROOT

_PROVENANCE = re.compile(r"Source:|\bguess\b|\bmeasured\b", re.IGNORECASE)


def unexplained(text: str) -> list[str]:
    """The numbers of a module above which no comment says source, measured or guess.

    A comment speaks for all numbers that follow it without another comment or an empty line.
    """
    found: list[str] = []
    comment: list[str] = []
    is_open = False
    for line in text.splitlines():
        if line.startswith("#"):
            comment = [*comment, line] if is_open else [line]
            is_open = True
        elif name := re.match(r"([A-Z][A-Z0-9_]*) = ", line):
            is_open = False
            if not _PROVENANCE.search(" ".join(comment)):
                found.append(name[1])
        elif not line.strip():
            comment, is_open = [], False
    return found


def test_every_number_says_where_it_comes_from() -> None:
    """A reader who wants to change one must know whether it was measured, derived or guessed."""
    assert unexplained((ROOT / "src/pollen/core/limits.py").read_text()) == []


def test_a_number_without_provenance_is_found() -> None:
    """By itself, after a comment that says nothing of it, and below an empty line."""
    text = "# Guess.\nA = 1\nB = 2\n\nC = 3\n# How long.\nD = 4\n# Measured: 3.\nE = 5\n"
    assert unexplained(text) == ["C", "D"]
