"""Components of other toolchains are seeds: made here from source, published, called."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.sdk.control import Control
from pollen.sdk.python.publish import publish_source
from pollen.testing import Cluster
from tests.e2e.conftest import running
from tests.e2e.talk import over_http
from tests.toolchains import BUILDS

# `.ci/toolchains` installs them; it belongs to `make accept`.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

# An interpreter takes 16 s on two idle cores.
COMPILED = 300.0

# Function (none of a program), input, output.
NUMBERS = [("add", "[2,40]", "42"), ("add", '{"a":-1,"b":1}', "0")]
WORDS = [
    ("shout", '["gruesse"]', '"GRUESSE"'),
    ("total", '{"numbers":[1,2,-4]}', "-1"),
    ("total", "[[]]", "0"),
]
CALLS: dict[str, list[tuple[str, str, str]]] = {
    "wat": NUMBERS,
    "zig": NUMBERS,
    "assemblyscript": NUMBERS,
    # Its engine traps on a negative s64.
    "javascript": [("total", '{"numbers":[1,2,4]}', "7"), *(c for c in WORDS if c[2] != "-1")],
    "python": WORDS,
}


@pytest.fixture(scope="module")
def alone() -> Iterator[Cluster]:
    """One node."""
    with running(Cluster(1)) as cluster:
        yield cluster


async def publish(cluster: Cluster, path: Path, name: str, **options: Any) -> None:
    """Publish, and wait until it is compiled: an interpreter takes a while."""
    await asyncio.to_thread(publish_source, Control(cluster[0].paths), path, name, options)
    await cluster.ready(name, COMPILED)


async def call(cluster: Cluster, name: str, function: str, given: str) -> str:
    named = (name, function) if function else (name,)
    done = await cluster[0].pln("call", *named, "-", stdin=given.encode())
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.mark.parametrize("name", CALLS)
def test_a_component_of_each_toolchain_runs(alone: Cluster, tmp_path: Path, name: str) -> None:
    """Its functions give what their source says, with values or as a program."""
    built = BUILDS[name](tmp_path)
    asyncio.run(publish(alone, built, name))
    for function, given, wanted in CALLS[name]:
        assert asyncio.run(call(alone, name, function, given)) == wanted, (function, given)


@pytest.mark.parametrize("name", ["http-python", "http-javascript"])
def test_a_component_of_each_toolchain_answers_http(
    alone: Cluster, tmp_path: Path, name: str
) -> None:
    """The path that it sees, and a body that it read to its end, several times in a row."""
    built = BUILDS[name](tmp_path)
    asyncio.run(publish(alone, built, name))
    said = b"some words, " * 20_000
    for _ in range(3):
        answer = over_http(alone[0].paths.call_socket, f"/http/{name}/a/b?c=d", said)
        assert (answer.status, answer.body) == (200, said.upper())
        assert answer.headers["x-path"] == "/a/b?c=d"


def test_a_program_in_c_reads_its_input(alone: Cluster, tmp_path: Path) -> None:
    """The example that is a core module elsewhere gives the same as a component."""
    built = BUILDS["c-program"](tmp_path)
    words = {"config": {"args": "a"}}
    asyncio.run(publish(alone, built, "lines", **words))
    core = Path(__file__).parents[2] / "examples" / "wasi" / "lines.wasm"
    asyncio.run(publish(alone, core, "lines-core", **words))
    outputs = [asyncio.run(call(alone, at, "", "b\na\n")) for at in ("lines", "lines-core")]
    assert outputs == ["a", "a"]
