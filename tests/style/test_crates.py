"""The crates as houses: which files hang together in a circle, and how long a function may be.

Both lists only shrink. A circle is read from ``crate::`` paths: it is one of names, not of calls.
A name that the root of a crate hands on counts as its module's.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.style.tree import CRATES, rust_files

FUNCTION_MAX = 70
# Longer, each with the reason why it is one function all the same.
LONG = {
    "pollen-wire/tests/vectors.rs call_and_reply_headers_are_golden": "one table of bytes",
    "pollen-wire/tests/vectors.rs the_local_door_is_golden": "one table of bytes",
}
# Files of one crate that need each other, each circle with what ties it.
CIRCLES = {
    "pollen-wasm": [
        (
            {
                *("call", "future", "guest", "http", "imports", "inspect", "known", "meter"),
                *("outcome", "program", "registry", "sandbox", "seed", "user", "wasi"),
            },
            "one living guest; the seam of guest ABIs unties it",
        ),
    ],
}
_PATH = re.compile(r"\bcrate::(\w+)")
_GROUP = re.compile(r"\buse crate::\{(.*?)\};", re.DOTALL)
_HANDED_ON = re.compile(
    r"\bpub(?:\(crate\))? use (?:self::)?(\w+)::(?:\{(.*?)\}|(\w+));", re.DOTALL
)
_FUNCTION = re.compile(r"^(\s*)(?:pub(?:\([\w: ]+\))? )?(?:const )?(?:async )?(?:unsafe )?fn (\w+)")
CRATE_NAMES = sorted(path.parent.name for path in CRATES.glob("*/src"))


def module_of(crate: str, path: Path) -> str:
    """The top module that a file of a crate belongs to."""
    part = path.relative_to(CRATES / crate / "src").parts[0]
    return part.removesuffix(".rs")


def uses_of(text: str) -> set[str]:
    """The top modules that a file names below ``crate``."""
    code = "\n".join(line.split("//")[0] for line in text.splitlines())
    found = set(_PATH.findall(code))
    for group in _GROUP.findall(code):
        depth, word = 0, ""
        for sign in group + ",":
            if sign == "," and depth == 0:
                found.add(word.strip().split("::")[0].split(" ")[0])
                word = ""
            else:
                depth += {"{": 1, "}": -1}.get(sign, 0)
                word += sign
    return found


def handed_on(crate: str) -> dict[str, str]:
    """The names that the root of a crate hands on, each with its module."""
    root = CRATES / crate / "src" / "lib.rs"
    found = _HANDED_ON.findall(root.read_text()) if root.exists() else []
    return {
        name.strip(): module
        for module, group, single in found
        for name in (group.split(",") if group else [single])
    }


def graph_of(crate: str) -> dict[str, set[str]]:
    """Each top module of a crate, and those that it names."""
    modules = handed_on(crate)
    graph: dict[str, set[str]] = {}
    for path in sorted((CRATES / crate / "src").rglob("*.rs")):
        if (own := module_of(crate, path)) != "lib":
            names = {modules.get(name, name) for name in uses_of(path.read_text())}
            graph.setdefault(own, set()).update(names)
    return {own: (names & graph.keys()) - {own} for own, names in graph.items()}


def circles_of(graph: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules in which each reaches each."""

    def reached(start: str) -> set[str]:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            for name in graph[waiting.pop()] - seen:
                seen.add(name)
                waiting.append(name)
        return seen

    far = {name: reached(name) for name in graph}
    found: list[set[str]] = []
    for name in sorted(graph):
        circle = {other for other in far[name] if name in far[other]} | {name}
        if len(circle) > 1 and circle not in found:
            found.append(circle)
    return found


@pytest.mark.parametrize("crate", CRATE_NAMES)
def test_no_file_joins_a_circle(crate: str) -> None:
    """What hangs together today is listed with its reason; the lists only shrink."""
    known = [names for names, _ in CIRCLES.get(crate, [])]
    for circle in circles_of(graph_of(crate)):
        assert any(circle <= names for names in known), sorted(circle)


def test_no_rust_function_is_longer_than_seventy_lines() -> None:
    """But those that are listed with a reason."""
    long = []
    for path in rust_files():
        name, began, indent = "", 0, ""
        for number, line in enumerate(path.read_text().splitlines()):
            if not name and (head := _FUNCTION.match(line)) and not line.rstrip().endswith(";"):
                indent, name, began = head[1], head[2], number
            if name and line == indent + "}":
                if number - began + 1 > FUNCTION_MAX:
                    long.append(f"{path.relative_to(CRATES)} {name}")
                name = ""
    assert set(long) == LONG.keys()
