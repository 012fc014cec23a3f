"""The crates as houses: which files hang together in a circle, and how long a function may be.

Both lists only shrink. A circle is read from paths that begin with ``crate``, ``self`` or
``super``: it is one of names, not of calls. It is looked for twice, among folders and among the
files in them. A name that the root of a crate hands on counts as its module's.
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
CIRCLES: dict[str, list[tuple[set[str], str]]] = {}
_FUNCTION = re.compile(r"^(\s*)(?:pub(?:\([\w: ]+\))? )?(?:const )?(?:async )?(?:unsafe )?fn (\w+)")
# A file's own tests, its last part. Where a path into this crate begins; a word of it, with the
# sign that it goes on; what lies between two paths of a group.
_TESTS = re.compile(r"^#\[cfg\(test\)\]\n(?:#\[.*\]\n)*mod \w+ \{", re.MULTILINE)
_PATH = re.compile(r"\b(?:crate|self|super)::")
_WORD = re.compile(r"\s*(\w+)(?: as \w+)?(::)?")
_GLOB = re.compile(r"\s*\*")
_TO_NEXT = re.compile(r"\s*(?=[,}])")
_DECLARED = re.compile(r"^(?:pub(?:\([\w: ]+\))? )?mod (\w+);", re.MULTILINE)
_HANDED_ON = re.compile(
    r"^pub(?:\(crate\))? use (?:self::)?(\w+)::(?:\{(.*?)\}|(\w+));", re.DOTALL | re.MULTILINE
)
CRATE_NAMES = sorted(path.parent.name for path in CRATES.glob("*/src"))


def module_of(crate: str, path: Path) -> str:
    """The module that a file of a crate belongs to: two parts of its path at most.

    A file of a folder is a module of its own, so that circles below a folder are seen; a folder in
    a folder is one. The ``mod.rs`` of a folder is the folder.
    """
    parts = path.relative_to(CRATES / crate / "src").with_suffix("").parts
    return "/".join(part for part in parts[:2] if part != "mod")


def uses_of(text: str) -> set[tuple[str, ...]]:
    """The paths that a file names: each begins with ``crate``, ``self`` or ``super``, but for the
    modules that the file declares, which it names as well."""
    product = _TESTS.split(text)[0]
    code = "\n".join(line.split("//")[0] for line in product.splitlines())
    found: set[tuple[str, ...]] = {("self", name) for name in _DECLARED.findall(code)}
    for start in _PATH.finditer(code):
        _read_tree(code, start.end(), start[0].removesuffix("::").split("::"), found)
    return found


def _read_tree(code: str, at: int, stem: list[str], found: set[tuple[str, ...]]) -> int:
    """Takes in what stands at ``at`` below ``stem``: a path or a group; where it ends."""
    if code.startswith("{", at):
        while code[at] != "}":
            at = _read_tree(code, at + 1, stem, found)
        return at + 1
    begun = len(stem)
    while (head := _WORD.match(code, at)) is not None:
        stem, at = [*stem, head[1]], head.end()
        if not head[2]:
            break
        if code.startswith("{", at):
            return _read_tree(code, at, stem, found)
    glob = _GLOB.match(code, at)
    # Neither a word nor a glob: the comma before was the last sign of its group.
    if glob or len(stem) > begun:
        found.add(tuple(stem))
    at = glob.end() if glob else at
    more = _TO_NEXT.match(code, at)
    return more.end() if more else at


def resolved(own: tuple[str, ...], path: tuple[str, ...], modules: set[str]) -> str:
    """The module that a path names, seen from the module ``own``; none is an empty word."""
    place = own if path[0] != "crate" else ()
    words = path[1:]
    if path[0] == "super":
        place = place[:-1]
        while words[:1] == ("super",):
            place, words = place[:-1], words[1:]
    full = (*place, *words)
    names = ("/".join(full[:length]) for length in (2, 1))
    return next((name for name in names if name in modules), "")


def handed_on(source: Path) -> dict[str, str]:
    """The names that the root of a crate hands on, each with its module."""
    root = source / "lib.rs"
    found = _HANDED_ON.findall(root.read_text()) if root.exists() else []
    return {
        name.strip(): module
        for module, group, single in found
        for name in (group.split(",") if group else [single])
    }


def graph_of(crate: str, root: Path = CRATES) -> dict[str, set[str]]:
    """Each module of a crate, and those that it names."""
    source = root / crate / "src"
    # The tests of a module are a part of it.
    aside = {"lib.rs", "tests.rs"}
    files = [path for path in sorted(source.rglob("*.rs")) if path.name not in aside]
    places = {path: path.relative_to(source).with_suffix("").parts for path in files}
    own = {
        path: "/".join(part for part in parts[:2] if part != "mod")
        for path, parts in places.items()
    }
    modules = set(own.values())
    handed = handed_on(source)
    graph: dict[str, set[str]] = {name: set() for name in modules}
    for path, parts in places.items():
        place = parts[:-1] if parts[-1] == "mod" else parts
        for use in uses_of(path.read_text()):
            is_handed = use[0] == "crate" and len(use) > 1 and use[1] in handed
            path_used = ("crate", handed[use[1]]) if is_handed else use
            if (name := resolved(place, path_used, modules)) not in ("", own[path]):
                graph[own[path]].add(name)
    return graph


def folders_of(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """The same by the first part alone: a folder is one module."""
    folders: dict[str, set[str]] = {}
    for name, used in graph.items():
        own = name.split("/")[0]
        folders.setdefault(own, set()).update(other.split("/")[0] for other in used)
    return {own: used - {own} for own, used in folders.items()}


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
    graph = graph_of(crate)
    for circle in circles_of(graph) + circles_of(folders_of(graph)):
        assert any(circle <= names for names in known), sorted(circle)


def test_each_listed_circle_is_still_one() -> None:
    """A circle that was cut leaves the list, or it could come back unseen."""
    for crate, circles in CIRCLES.items():
        graph = graph_of(crate)
        found = circles_of(graph) + circles_of(folders_of(graph))
        for names, _ in circles:
            assert names in found, (crate, sorted(names))


def test_circles_below_a_folder_are_seen(tmp_path: Path) -> None:
    """By any way to write a path: from the crate, from above, in a group, by a declaration."""
    source = tmp_path / "house" / "src"
    files = {
        "lib.rs": "mod hall;\nmod yard;\n",
        "yard.rs": "pub struct Yard; // crate::hall::door\n",
        "hall/mod.rs": "mod door;\nmod lock;\nmod stair;\nmod lamp;\nmod attic;\n",
        "hall/door.rs": "use super::lock::Lock;\n",
        "hall/lock.rs": "use crate::{\n    hall::{stair::Step, attic::{beam::Wood, Roof}},\n"
        "    yard::Yard,\n};\n#[cfg(test)]\nmod tests {\n    use super::*;\n}\n",
        "hall/stair.rs": "use super::{\n    door::Door,\n};\n",
        "hall/lamp.rs": "use super::*;\n",
        "hall/attic/mod.rs": "mod beam;\n",
        "hall/attic/beam.rs": "use super::Roof;\nuse crate::yard::Yard;\n",
    }
    for name, text in files.items():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)
    graph = graph_of("house", tmp_path)
    assert graph["hall/lock"] == {"hall/stair", "hall/attic", "yard"}
    assert graph["hall/attic"] == {"yard"} and graph["hall/stair"] == {"hall/door"}
    assert sorted(map(sorted, circles_of(graph))) == [
        ["hall", "hall/lamp"],
        ["hall/door", "hall/lock", "hall/stair"],
    ]
    assert circles_of(folders_of(graph)) == []


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


def test_no_crate_writes_its_folder_into_what_is_built() -> None:
    """Two checkouts may share a build: a test of one would read the files of the other."""
    text = 'env!("CARGO_MANIFEST_DIR")'
    written = [path.relative_to(CRATES) for path in rust_files() if text in path.read_text()]
    assert not written, "ask std::env::var_os when it runs"
