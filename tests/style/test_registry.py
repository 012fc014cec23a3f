"""One table of errors: a slug stands in ``pollen.errors.SLUGS`` or it does not exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from pollen import errors
from pollen.cli.app import overview
from pollen.cli.remote import WAYS, Way
from pollen.errors import SLUGS
from tests.style.tree import ROOT, SOURCE, python_files, rust_files

# What makes an error of a slug: its first argument is one.
CALLEES = {"Refusal", "error_from", "raise_error"} | {
    name for name, held in vars(errors).items() if isinstance(held, type)
} - {"SlugRow", "InvariantError"}

# Rust literals of a slug's shape that are none: how the seam asks for a whole push, HTTP's and
# our own header names, thread names, names of the runner's WIT world.
NO_SLUGS = re.compile(
    r"stale-generation|content-.*|server-timing|transfer-encoding|pollen-(?!.*not).*"
    r"|caller-info|tail-call|no-function|keep-alive|proxy-.*|x-forwarded-prefix"
)
LITERAL = re.compile(r'"([a-z]+(?:-[a-z]+)+)"')
ANY_LITERAL = re.compile(r'"([a-z-]+)"')


def raised_in_python(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        name = getattr(node.func, "id", getattr(node.func, "attr", ""))
        first = node.args[0]
        if name in CALLEES and isinstance(first, ast.Constant) and isinstance(first.value, str):
            yield first.value


def literals_in_python(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def without_tests(path: Path) -> str:
    """A Rust source up to its unit tests; files of tests are empty."""
    if "tests" in path.relative_to(ROOT).parts:
        return ""
    return path.read_text().split("#[cfg(test)]\nmod tests")[0]


def test_every_slug_raised_in_python_is_in_the_table() -> None:
    modules = [path for path in python_files(SOURCE) if path.name != "errors.py"]
    raised = {slug for path in modules for slug in raised_in_python(path)}
    assert len(raised) > 15
    assert raised - set(SLUGS) == set()


def test_every_slug_raised_in_rust_is_in_the_table() -> None:
    raised = {slug for path in rust_files() for slug in LITERAL.findall(without_tests(path))}
    assert len(raised) > 15
    assert {slug for slug in raised - set(SLUGS) if not NO_SLUGS.fullmatch(slug)} == set()


def test_every_slug_in_the_table_is_raised_somewhere() -> None:
    modules = [path for path in python_files(SOURCE) if path.name != "errors.py"]
    said = {text for path in modules for text in literals_in_python(path)}
    said |= {text for path in rust_files() for text in ANY_LITERAL.findall(without_tests(path))}
    assert set(SLUGS) - said == set()


def test_every_error_class_is_the_class_of_some_slug() -> None:
    classes = {row.error for row in SLUGS.values()}
    declared = {held for held in vars(errors).values() if isinstance(held, type)}
    tree = {held for held in declared if issubclass(held, errors.PollenError)}
    assert tree - classes == {errors.CallError}


def test_every_command_that_a_text_proposes_exists() -> None:
    """A remedy works today. The core's two lines about ``pln purge`` wait for that command."""
    modules = [p for p in python_files(SOURCE) if SOURCE / "core" not in p.parents]
    said = [text for path in modules for text in literals_in_python(path)]
    said += [without_tests(path) for path in rust_files()]
    named = {verb for text in said for verb in re.findall(r"\bpln ([a-z]+)\b", text)}
    assert {"up", "invite", "logs"} <= named
    assert named - set(overview()) == set()


def test_every_verb_says_how_it_gets_to_another_machine() -> None:
    """``WAYS`` is the one table; a verb without a row would be refused there."""
    assert set(WAYS) == set(overview())


def test_the_page_on_commands_has_the_way_of_every_verb() -> None:
    page = (ROOT / "docs" / "design" / "cli.md").read_text()
    told = {
        way: set(re.findall(r"`([a-z-]+)`", cells))
        for way, cells in re.findall(r"^\| ([a-z ]+) \| ((?:`[a-z-]+`(?:, )?)+) \|", page, re.M)
    }
    known = {way.value: {verb for verb in WAYS if WAYS[verb] is way} for way in Way}
    assert {way: told.get(way) for way in known} == known
