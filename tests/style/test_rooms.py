"""The core is a house of rooms: each has one door, and no door leads in a circle (rooms.md)."""

from __future__ import annotations

import ast
import graphlib
from pathlib import Path

import pytest

from tests.style.tree import SOURCE, python_files

CORE = SOURCE / "core"
ROOMS = sorted(path.parent.name for path in CORE.glob("*/__init__.py"))
DOOR_MAX = 12


def imports_of(path: Path) -> list[tuple[list[str], str]]:
    """The modules below ``pollen.core`` that a file imports from, with each name."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("pollen.core"):
            parts = (node.module or "").split(".")[2:]
            found += [(parts, alias.name) for alias in node.names]
    return found


def room_of(path: Path) -> str:
    """The room in which a file of the core stands; empty for the words, which stand flat."""
    parts = path.relative_to(CORE).parts
    return parts[0] if len(parts) > 1 else ""


def room_imported(parts: list[str], name: str) -> str:
    """The room that an import enters, or empty."""
    entered = parts[0] if parts else name
    return entered if entered in ROOMS else ""


def door_of(room: str) -> list[str]:
    """What a door names in ``__all__``."""
    for node in ast.parse((CORE / room / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return []


@pytest.mark.parametrize("room", ROOMS)
def test_a_door_is_narrow_and_names_what_it_lets_through(room: str) -> None:
    """At most twelve names, and each import of the door is one of them."""
    names = door_of(room)
    imported = {name for _, name in imports_of(CORE / room / "__init__.py")}
    assert 0 < len(names) <= DOOR_MAX
    assert sorted(names) == sorted(imported)


@pytest.mark.parametrize("path", python_files(CORE), ids=lambda path: str(path.relative_to(CORE)))
def test_another_room_is_entered_by_its_door(path: Path) -> None:
    """Also by the words and by the node itself: only what stands in a room reaches within it."""
    reached = [
        f"{'.'.join(parts)}.{name}"
        for parts, name in imports_of(path)
        if (room := room_imported(parts, name)) and room != room_of(path)
        if len(parts) != 1 or name not in door_of(room)
    ]
    assert reached == []


def test_the_rooms_stand_on_each_other_and_never_in_a_circle() -> None:
    """A room imports words and rooms below it."""
    below: dict[str, set[str]] = {room: set() for room in ROOMS}
    for path in python_files(CORE):
        if own := room_of(path):
            entered = {room_imported(parts, name) for parts, name in imports_of(path)}
            below[own] |= entered - {own, ""}
    order = list(graphlib.TopologicalSorter(below).static_order())
    assert sorted(order) == ROOMS


def test_the_words_know_no_room() -> None:
    """Who puts the rooms together is listed; whatever else stands flat is ground for all."""
    composing = {"node.py", "presence.py", "restoring.py"}
    climbing = [
        path.name
        for path in sorted(CORE.glob("*.py"))
        if path.name not in composing
        if any(room_imported(parts, name) for parts, name in imports_of(path))
    ]
    assert climbing == []


def rooms_below(floor: str) -> dict[str, set[str]]:
    """The rooms of a floor and the rooms that each imports from; files that stand flat are top."""
    rooms = {path.parent.name for path in (SOURCE / floor).glob("*/__init__.py")}
    below: dict[str, set[str]] = {room: set() for room in rooms}
    for path in python_files(SOURCE / floor):
        own = path.relative_to(SOURCE / floor).parts[0]
        if own not in rooms:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(
                f"pollen.{floor}"
            ):
                parts = (node.module or "").split(".")[2:]
                entered = {parts[0]} if parts else {alias.name for alias in node.names}
                below[own] |= (entered & rooms) - {own}
    return below


def test_the_rooms_of_the_runtime_stand_in_no_circle() -> None:
    """What the loop needs is handed to it; the doctor and the daemon stand on top."""
    graphlib.TopologicalSorter(rooms_below("runtime")).prepare()


# What each floor may import from beside itself: nothing climbs.
GROUND = {
    *("errors", "options", "paths", "plain", "lock", "units", "sizes", "recorded"),
    *("_native", "__version__"),
}
FLOORS = {
    "core": {"errors", "options"},
    "sdk": GROUND,
    "runtime": GROUND | {"core", "sdk"},
    "testing": GROUND | {"sdk"},
    "sim": {"errors", "options", "core", "cli"},
    "cli": GROUND | {"core", "sdk", "runtime", "sim", "testing"},
}
# What the files of the ground import from each other.
BELOW = {"paths": {"errors", "plain"}, "lock": {"errors", "paths"}}


def entered(path: Path) -> set[str]:
    """What a file imports from directly below ``pollen``, in whichever form."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            inner = node.module == "pollen"
            names = (
                [f"pollen.{alias.name}" for alias in node.names] if inner else [node.module or ""]
            )
        found |= {name.split(".")[1] for name in names if name.startswith("pollen.")}
    return found


@pytest.mark.parametrize("floor", sorted(FLOORS))
def test_no_floor_imports_from_one_above_it(floor: str) -> None:
    """The simulator alone borrows the command line, to be one of its verbs."""
    climbing = set().union(*(entered(path) for path in python_files(SOURCE / floor)))
    assert climbing - {floor} - FLOORS[floor] == set()


@pytest.mark.parametrize("name", sorted(GROUND - {"_native", "__version__"}))
def test_the_ground_stands_on_nothing_but_ground(name: str) -> None:
    """Whoever needs one of its files gets no floor along with it."""
    assert entered(SOURCE / f"{name}.py") <= BELOW.get(name, set())
