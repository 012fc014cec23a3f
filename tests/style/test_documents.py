"""Documents hold together: links lead somewhere, commands exist, lines fit."""

from __future__ import annotations

import re
from pathlib import Path

from pollen.cli.app import overview
from tests.style.documents import anchors_of, blocks_of, links_of, prose_of
from tests.style.test_rooms import ROOMS, door_of
from tests.style.tree import ROOT, tracked_files

# Prose is 120 columns wide; a table's row and a link cannot be broken.
WIDTH = 120
# What everybody reads: the front page and its neighbours, and the guide.
FRONT = (ROOT, ROOT / "docs", ROOT / "docs" / "guide")
# What those read who change it.
INNER = tuple(ROOT / "docs" / name for name in ("design", "internals", "decisions"))


def documents() -> list[Path]:
    return [path for path in tracked_files() if path.suffix == ".md"]


def broken(path: Path) -> list[str]:
    """The links of a document that lead nowhere in this repository."""
    found = []
    for target in links_of(path):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        other = path if not name else (path.parent / name).resolve()
        lost = anchor and other.suffix == ".md" and anchor not in anchors_of(other)
        if not other.exists() or lost:
            found.append(target)
    return found


def test_every_link_between_documents_resolves() -> None:
    found = {str(path.relative_to(ROOT)): broken(path) for path in documents()}
    assert {path: links for path, links in found.items() if links} == {}


def test_a_broken_link_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# One two\n[a](#one-two) [b](#three) [c](gone.md) `[d](code.md)` [e](page.md)")
    assert broken(page) == ["#three", "gone.md"]


def test_every_make_command_in_a_block_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    blocks = [block for path in documents() for block in blocks_of(path) if block.language == "sh"]
    named = {word for block in blocks for word in re.findall(r"^make ([a-z-]+)", block.text, re.M)}
    assert {"demo", "test"} <= named
    assert named - targets == set()


def test_every_verb_that_a_document_names_exists() -> None:
    """In code only: prose and decisions may speak of what comes later."""
    named = {
        (path.name, verb)
        for path in documents()
        if path.parent in FRONT
        for block in blocks_of(path)
        for verb in re.findall(r"^pln ([a-z]+(?:-[a-z]+)*)", block.text, re.MULTILINE)
    }
    assert len(named) > 5
    assert {(path, verb) for path, verb in named if verb not in overview()} == set()


def test_prose_is_at_most_120_columns_wide() -> None:
    wide = [
        f"{path.relative_to(ROOT)}: {line[:60]}"
        for path in documents()
        if path.parent in (*FRONT, *INNER)
        for line in prose_of(path)
        if len(line) > WIDTH and not line.startswith("|") and "](" not in line
    ]
    assert wide == []


def test_the_page_on_architecture_lists_every_room_and_opens_its_door() -> None:
    """Each room of the core has a row, and what the row names is a name of that room's door."""
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    rows = re.findall(r"^\| \[`(\w+)`\]\([^)]+\) \| .* \| (.*) \|$", page, re.MULTILINE)
    assert sorted(room for room, _ in rows) == ROOMS
    missing = {room: set(re.findall(r"`(\w+)`", door)) - set(door_of(room)) for room, door in rows}
    assert {room: names for room, names in missing.items() if names} == {}


def _source_files(name: str) -> list[str]:
    """The source files that a name on the page may mean."""
    held = [path.relative_to(ROOT).as_posix() for path in tracked_files()]
    return [path for path in held if f"/{path}".endswith(f"/{name}")]


def test_each_file_that_the_page_on_architecture_names_is_one_file() -> None:
    page = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
    named = set(re.findall(r"`([\w./-]+\.(?:rs|py))`", page))
    assert len(named) > 50
    found = {name: _source_files(name) for name in sorted(named)}
    assert {name: paths for name, paths in found.items() if len(paths) != 1} == {}
