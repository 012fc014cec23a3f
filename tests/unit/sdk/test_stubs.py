"""The classes that ``pln stubs`` writes: what they say, and that mypy reads them."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pollen.sdk.python.stubs import class_name, module_of

SOURCES = Path(__file__).parents[3] / "src"
TEXT = {"type": "string"}


def function(**change: Any) -> dict[str, Any]:
    """As a runner describes one without parameters."""
    held = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    plain = {"doc": "", "input": held, "order": [], "takes": "json", "gives": "json", "returns": {}}
    return {**plain, **change}


def taking(order: list[str] | None = None, needed: list[str] | None = None, **kinds: Any) -> Any:
    """The description of a function with parameters of these schemas."""
    taken = {
        "type": "object",
        "properties": kinds,
        "required": list(kinds) if needed is None else needed,
        "additionalProperties": False,
    }
    return function(input=taken, order=list(kinds) if order is None else order)


ORDER = {
    "type": "object",
    "properties": {"item": TEXT, "count": {"type": "integer", "default": 1}},
    "required": ["item"],
}
FUNCTIONS = {
    "greet": taking(needed=["name"], name=TEXT, times={"type": "integer", "default": 1})
    | {"doc": 'Greet "somebody".\n\nAs often as asked: \\n.', "returns": TEXT},
    "total": taking(orders={"type": "array", "items": ORDER}) | {"returns": {"type": "integer"}},
    "count": taking(n={"type": "integer"}) | {"gives": "stream", "returns": {"type": "integer"}},
    "zip": function(takes="bytes", gives="bytes"),
    "when": taking(
        order=["at"],
        needed=["at", "zone"],
        at={"type": "string", "format": "date-time"},
        zone={"anyOf": [{"enum": ["utc", "local"]}, {"type": "null"}]},
    )
    | {"returns": ORDER},
    "plot": taking(at={"type": "array", "prefixItems": [{"type": "number"}, TEXT]})
    | {"returns": {"type": "array", "prefixItems": [{"type": "number"}, TEXT]}},
    # As components have names.
    "get-all": taking(**{"max-size": {"type": "integer"}}) | {"returns": {"type": "null"}},
    "rest": function(
        input={
            "type": "object",
            "properties": {"from": TEXT, "sizes": {"type": "object", "additionalProperties": TEXT}},
            "required": ["sizes"],
            "additionalProperties": {"type": "integer"},
        }
    ),
}
PROGRAM = """
import datetime
from typing import assert_type

import pollen
from hello_seed import Hello, SyncHello, TotalOrdersItem

async def ask(mesh: pollen.Mesh) -> None:
    hello = mesh.use("hello", Hello)
    assert_type(await hello.greet("you"), str)
    assert_type(await hello.greet(name="you", times=2), str)
    assert_type(await hello.total([{"item": "nut"}, {"item": "nut", "count": 2}]), int)
    assert_type(await hello.count(3), list[int])
    async for number in hello.count.stream(n=3):
        assert_type(number, int)
    assert_type(await hello.zip(b"bytes"), bytes)
    assert_type(await hello.when(datetime.datetime.now(), zone="utc"), TotalOrdersItem)
    await hello.when("2026-01-02T03:04", zone=None)
    assert_type(await hello.plot((1.5, "a")), list[float | str])
    assert_type(await hello.get_all(max_size=3), None)
    await hello.rest(sizes={"a": "b"}, more=3)

def ask_blocking(mesh: pollen.SyncMesh) -> None:
    hello = mesh.use("hello", SyncHello)
    assert_type(hello.greet("you", times=3), str)
    assert_type(hello.count(3), list[int])
"""
WRONG = """
import pollen
from hello_seed import Hello

async def ask(mesh: pollen.Mesh) -> None:
    hello = mesh.use("hello", Hello)
    await hello.greet(7)
    await hello.greet()
    await hello.total([{"thing": "nut"}])
    await hello.shout("x")
    await hello.when("x", "utc")
    await hello.when("x", zone="mars")
    await hello.plot((1.5, 2))
"""


def checked(folder: Path, program: str) -> list[str]:
    """What mypy says of a program beside the written file."""
    (folder / "hello_seed.py").write_text(module_of("hello", "8b2b4fd8", FUNCTIONS))
    (folder / "program.py").write_text(program)
    line = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary"]
    line += ["--follow-imports=silent", "program.py"]
    done = subprocess.run(
        line,
        cwd=folder,
        env={**os.environ, "MYPYPATH": str(SOURCES)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout.splitlines()


def test_a_type_checker_knows_what_functions_take_and_give(tmp_path: Path) -> None:
    assert checked(tmp_path, PROGRAM) == []


def test_a_type_checker_finds_each_wrong_call(tmp_path: Path) -> None:
    """One line for each, and no other."""
    found = {int(line.split(":")[1]) for line in checked(tmp_path, WRONG) if ": error:" in line}
    assert found == set(range(7, 14))


def test_the_file_is_a_module_that_needs_nothing(tmp_path: Path) -> None:
    """It is imported where the program runs."""
    place = tmp_path / "hello_seed.py"
    place.write_text(module_of("hello", "8b2b4fd8", FUNCTIONS))
    spec = importlib.util.spec_from_file_location("hello_seed", place)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert (
        module.Hello.greet.__doc__
        == 'Greet "somebody".\n\n        As often as asked: \\n.\n        '
    )
    assert "pollen" not in {name for name in vars(module) if not name.startswith("_")}


@pytest.mark.parametrize(
    "functions",
    [
        {"a b": function(), "import": function(), "x()": function(), "_hidden": function()},
        {"list": function(returns={"type": "array"}), "str": function(returns=TEXT)},
        {"f": taking(**{'x": int): pass\nimport os': TEXT, "class": TEXT, "ok": TEXT})},
        {"f": function(doc='"""\nimport os\n"""')},
        {"f": function(doc="ends in a backslash \\")},
        {"f": function(doc='"')},
        {"f": function(returns={"enum": ['"""', "\n"]})},
        {"f": function(returns={"type": "object", "properties": {"a\nb": TEXT}})},
        {"f": function(input=7, returns=[], order="abc", doc=None)},
        {"f": "nothing", "g": None},
        {"f": function(returns={"type": ["no\nword"], "format": "x\ny"})},
        {"f": taking(needed=["b"], a=TEXT, b=TEXT)},
        {},
    ],
)
def test_text_of_somebody_else_is_never_code(functions: dict[str, Any]) -> None:
    """Names that are none are left out, and nothing but classes and functions is in the file."""
    text = module_of("hello", "8b2b4fd8", functions)
    held: dict[str, Any] = {}
    exec(compile(text, "hello_seed.py", "exec"), held)
    assert "os" not in held and {"Hello", "SyncHello"} <= held.keys()
    assert not hasattr(held["Hello"], "_hidden")


def test_a_schema_without_an_end_is_any() -> None:
    endless: dict[str, Any] = {"type": "array"}
    endless["items"] = endless
    text = module_of("hello", "8b2b4fd8", {"f": function(returns=endless)})
    assert "list[list[" in text and "Any" in text


@pytest.mark.parametrize(
    ("seed", "name"),
    [("hello", "Hello"), ("my-seed.v2", "MySeedV2"), ("2fast", "Seed2fast"), ("a_b", "AB")],
)
def test_a_class_has_the_name_of_its_seed(seed: str, name: str) -> None:
    assert class_name(seed) == name
