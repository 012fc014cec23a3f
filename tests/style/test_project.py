"""Facts about the whole repository: words of decisions, folders of a machine, locks, commands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.style.tree import ROOT, python_files, rust_files, tracked_files

# Words of decisions: the muscles get rows and numbers and never learn why
# (docs/design/style.md#rust).
DECISIONS = re.compile(r"(?:\b|_)(tier|claim|grant|suspicion)(?:\b|_)")
# Folders of somebody's machine. The examples in docs use neutral ones (/var/lib, /tmp, ~).
MACHINE = re.compile(r"/(?:work|root|Users)/[a-z]|/home/(?!you\b|user\b)[a-z]")
TEXTS = {".py", ".pyi", ".rs", ".toml", ".md", ".sh", ".c", ".h", ".go", ".json", ".yml", ""}


def lines_with(pattern: re.Pattern[str], paths: list[Path]) -> list[str]:
    found = []
    for path in paths:
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
            if pattern.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    return found


def test_the_muscles_do_not_know_the_words_of_decisions() -> None:
    assert lines_with(DECISIONS, rust_files()) == []


def test_no_file_names_a_folder_of_one_machine() -> None:
    texts = [path for path in tracked_files() if path.suffix in TEXTS]
    own = Path(__file__)
    assert lines_with(MACHINE, [path for path in texts if path.resolve() != own.resolve()]) == []


@pytest.mark.parametrize("name", ["aws-lc-sys", "aws-lc-rs", "openssl-sys", "native-tls"])
def test_the_lock_holds_no_second_tls(name: str) -> None:
    """One implementation, ring; the others need a C toolchain and double the build."""
    assert f'name = "{name}"' not in (ROOT / "Cargo.lock").read_text()


@pytest.mark.parametrize("target", ["demo", "test"])
def test_the_two_commands_of_the_readme_exist(target: str) -> None:
    assert f"make {target}" in (ROOT / "README.md").read_text()
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)


def test_every_make_target_that_a_document_names_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    documents = [path for path in tracked_files() if path.suffix == ".md"]
    named = {
        word
        for path in documents
        for word in re.findall(r"`make ([a-z-]+)[^`]*`", path.read_text(errors="replace"))
    }
    assert named - targets == set()


def test_no_test_sleeps() -> None:
    """A test waits for a condition with a deadline (``pollen.testing.until``), never for time."""
    sleeps = re.compile(r"\b(?:time|asyncio)\.sleep\((?!0\))")
    folders = ("properties", "cli", "native", "e2e")
    paths = [path for folder in folders for path in python_files(ROOT / "tests" / folder)]
    assert lines_with(sleeps, paths) == []
