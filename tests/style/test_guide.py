"""The guide is complete: every verb with its output, every exit code and every error by example.

That what it shows is what happens is for ``tests/e2e/test_docs.py``, which runs all of it.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

import click

from pollen.cli.app import overview, pln
from pollen.errors import SLUGS
from tests.style.documents import Block, blocks_of
from tests.style.tree import ROOT

GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *GUIDE]
EXIT = re.compile(r"# on [a-z]+, exit (\d+)")
# What these blocks hold is run, printed or written; the others hold no command.
RUN = {"sh", "python"}
# Errors that no command of one machine can show, and the test that raises them.
WITHOUT_EXAMPLE = {
    "forked": "a handle of the native module, which the SDK does not hold: tests/native",
    "host-unfit": "it takes a machine without a Python: tests/e2e/test_bootstrap.py",
    "release-denied": "it takes a signature that the root did not make: "
    "tests/e2e/test_upgrade_mesh.py",
    "release-stale": "it takes an older signature: tests/e2e/test_upgrade_mesh.py",
    "storage-full": "it takes a disk that is full: tests/e2e/test_blobs.py",
    "provider-refused": "it takes two machines that are linked: tests/e2e/test_services.py",
    "version-mismatch": "it takes two builds that differ: tests/e2e/test_tokens.py",
}


def shown_in_guide() -> list[tuple[Block, Block]]:
    """The blocks that are run and whose output follows, with that."""
    found = []
    for path in GUIDE:
        pairs = itertools.pairwise(blocks_of(path))
        found += [(a, b) for a, b in pairs if a.language in RUN and b.language == "text"]
    return found


def commands(group: click.Group, path: str) -> Iterator[str]:
    """Every command line of a group without its arguments: ``pln up``, ``pln why place``."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from commands(command, f"{path} {name}")
        else:
            yield f"{path} {name}"


def test_the_guide_shows_every_verb_with_its_output() -> None:
    told = "\n".join(block.text for block, _ in shown_in_guide())
    known = set(commands(pln, "pln"))
    assert len(known) > len(overview())
    assert {line for line in known if not re.search(rf"\b{line}\b", told)} == set()


def test_every_exit_code_has_a_failing_example() -> None:
    codes = {match[1] for a, _ in shown_in_guide() for match in EXIT.finditer(a.text)}
    table = {str(row.exit_code) for row in SLUGS.values()}
    assert codes == {*table, "130"}


def test_every_error_has_an_example_or_a_reason_why_not() -> None:
    told = "\n".join(block.text for _, block in shown_in_guide())
    shown = {slug for slug in SLUGS if re.search(rf"(?<![\w-]){slug}(?![\w-])", told)}
    assert set(SLUGS) - shown == set(WITHOUT_EXAMPLE)


def test_the_page_of_errors_is_the_table_of_slugs() -> None:
    """Class, exit code, HTTP status and whether the function may have run, for each slug."""
    told = {True: "yes", False: "no", None: "stated"}
    page = (ROOT / "docs" / "design" / "errors.md").read_text()
    shown = {}
    for line in re.findall(r"^\| `.*$", page, re.MULTILINE):
        slugs, *facts = [cell.strip() for cell in line.strip("| ").split(" | ")]
        shown |= dict.fromkeys(re.findall(r"`([a-z-]+)`", slugs), tuple(facts))
    assert shown == {
        slug: (str(row[1]), str(row[2]), row[0].__name__, told[row[3]])
        for slug, row in SLUGS.items()
    }


def test_every_block_with_a_command_is_one_that_runs() -> None:
    """In README and guide; what is printed may speak of commands, too."""
    blocks = [block for path in DOCUMENTS for block in blocks_of(path)]
    held = [b for b in blocks if re.search(r"^\s*(?:\$ )?(?:pln|make) [a-z]", b.text, re.MULTILINE)]
    assert len(held) > 100
    assert [str(b) for b in held if b.language not in {*RUN, "text"}] == []
