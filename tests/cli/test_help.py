"""Every verb explains itself, and global options stand before or after it."""

from __future__ import annotations

import pytest

from pollen.cli.app import GROUPS, overview
from tests.cli.conftest import Pln


@pytest.mark.parametrize("verb", overview())
def test_every_verb_has_a_summary_and_an_example(pln: Pln, verb: str) -> None:
    text = pln.ok(verb, "--help")
    usage, _, body = text.partition("\n\n")
    summary = body.strip().splitlines()[0].strip()
    assert usage.startswith(f"Usage: pln {verb}")
    assert summary[0].isupper() and len(summary) <= 100
    assert "Example" in body and f"  pln {verb}" in body
    assert pln.ok(verb, "-h") == text


def test_the_overview_lists_every_verb_with_one_line(pln: Pln) -> None:
    lines = [line.split(None, 1) for line in pln.ok("--help").splitlines()]
    listed = {words[0] for words in lines if len(words) == 2}
    assert set(overview()) <= listed
    assert pln.ok() == pln.ok("--help")


@pytest.mark.parametrize("place", ["before", "after"])
def test_the_folder_is_named_before_or_after_the_verb(pln: Pln, place: str) -> None:
    other = pln.home / "other"
    line = ["--dir", str(other), "id"] if place == "before" else ["id", "--dir", str(other)]
    assert len(pln.ok(*line).strip()) == 64
    assert (other / "node.key").exists() and not (pln.home / "node.key").exists()


def test_the_option_goes_before_the_environment(pln: Pln) -> None:
    other = pln.home / "other"
    pln.ok("id", "--dir", str(other), PLN_DIR=str(pln.home / "third"))
    assert other.exists() and not (pln.home / "third").exists()


def test_an_unknown_verb_names_the_nearest(pln: Pln) -> None:
    done = pln("statsu")
    assert done.returncode == 2
    assert b"did you mean: pln status" in done.stderr and b"[usage]" in done.stderr


def test_an_unknown_option_points_at_the_help(pln: Pln) -> None:
    done = pln("status", "--wibble")
    assert done.returncode == 2
    assert b"--wibble" in done.stderr and b"see: pln status --help" in done.stderr


def test_the_version_is_one_everywhere(pln: Pln) -> None:
    import pollen

    assert pln.ok("version", "--short").strip() == pollen.__version__
    assert pln.ok("--version").strip() == pollen.__version__


def test_the_overview_has_groups_and_each_verb_stands_in_one() -> None:
    """43 verbs in one list are looked for, not read."""
    named = [name for names in GROUPS.values() for name in names]
    assert sorted(named) == sorted(overview())
    assert max(map(len, GROUPS.values())) <= 10


def test_the_overview_fits_a_terminal_of_80_columns_with_a_line_a_verb(pln: Pln) -> None:
    """Each group has a title, and no line is broken."""
    lines = pln.ok("--help", COLUMNS="80").splitlines()
    assert max(map(len, lines)) <= 80
    below = lines[lines.index(f"{next(iter(GROUPS))}:") :]
    assert [line[:-1] for line in below if line and not line.startswith(" ")] == [*GROUPS]
    verbs = [line.split()[0] for line in below if line.startswith("  ")]
    assert verbs == [name for names in GROUPS.values() for name in names]
