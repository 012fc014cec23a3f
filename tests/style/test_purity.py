"""The core decides and does nothing else: no I/O, no clock, no entropy, no muscles ."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.style.tree import SOURCE, python_files

CORE = SOURCE / "core"
FORBIDDEN = {"asyncio", "socket", "time", "random", "os", "threading", "_native"}
NEVER_LOADED = ["asyncio", "socket", "random", "threading", "pollen._native", "pollen.runtime"]

_LOADED = """
import sys
before = set(sys.modules)
import pollen.core.node
print("\\n".join(sorted(set(sys.modules) - before)))
"""


def imported_names(path: Path) -> set[str]:
    """Every part of every module name that a file imports anywhere."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            names.update((node.module or "").split("."))
            names.update(alias.name for alias in node.names)
    return names


@pytest.mark.parametrize("path", python_files(CORE), ids=lambda path: path.stem)
def test_no_core_module_imports_the_outside(path: Path) -> None:
    assert imported_names(path) & FORBIDDEN == set()


@pytest.mark.parametrize("path", python_files(CORE), ids=lambda path: path.stem)
def test_no_core_module_reads_a_clock_or_draws_at_random(path: Path) -> None:
    """Not by a back door either: these names are no business of a pure module."""
    calls = {
        node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
    }
    assert calls & {"open", "__import__", "import_module", "urandom", "monotonic_ns"} == set()


def test_importing_the_core_loads_nothing_impure() -> None:
    # The checkout, not an installed wheel: the pure loop has none.
    environment = {**os.environ, "PYTHONPATH": str(SOURCE.parent)}
    done = subprocess.run(
        [sys.executable, "-c", _LOADED],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    loaded = set(done.stdout.split())
    assert "pollen.core.node" in loaded
    assert loaded & set(NEVER_LOADED) == set()
