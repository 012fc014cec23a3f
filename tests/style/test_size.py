"""Nothing is too large to be read: lines by ruff, functions, modules and files here."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.style.tree import ROOT, python_files, rust_files, tracked_files

FUNCTION_MAX = 70
MODULE_SMELL = 500
MODULE_MAX = 800
FILE_MAX = 1 << 20

# Over 500 lines, each with the reason why it is one module all the same.
ALLOWED = {
    "crates/pollen-plane/src/route.rs": "one call, from its name to its last attempt",
    "src/pollen/core/limits.py": "every number of the brain, each with its reason",
}
SOURCES = [*python_files(ROOT / "src"), *python_files(ROOT / "tests"), *rust_files()]


def functions_of(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds)]


def test_no_function_is_longer_than_seventy_lines() -> None:
    long = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in SOURCES
        if path.suffix == ".py"
        for node in functions_of(path)
        if (node.end_lineno or node.lineno) - node.lineno + 1 > FUNCTION_MAX
    ]
    assert long == []


@pytest.mark.parametrize("limit", [MODULE_SMELL, MODULE_MAX])
def test_no_module_is_longer_than_its_limit(limit: int) -> None:
    """Over 500 lines a module is on the list above with its reason; over 800 none may be."""
    counts = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    allowed = ALLOWED if limit == MODULE_SMELL else {}
    assert {name: n for name, n in counts.items() if n > limit and name not in allowed} == {}


def test_the_list_of_long_modules_holds_only_modules() -> None:
    assert [name for name in ALLOWED if not (ROOT / name).is_file()] == []


def test_no_file_in_the_repository_is_over_a_mebibyte() -> None:
    assert [str(path) for path in tracked_files() if path.stat().st_size > FILE_MAX] == []
