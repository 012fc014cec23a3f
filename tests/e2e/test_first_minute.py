"""The first minute with Python: three fresh nodes, one file, and how long a user waits.

By the clock from ``pln up`` on wiped caches: the first answer on the node that published, an answer
on every node, and a second seed. The nodes share this machine's cores; each compiles the runner.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import pollen
from pollen.testing import Node
from tests.e2e.bars import within
from tests.e2e.talk import over_http

# Seconds.
FIRST, ALL, SECOND = 15.0, 30.0, 1.0
HELLO = '''"""Greets."""


def greet(name: str) -> str:
    """A greeting for someone."""
    return f"hello, {name}"
'''


@asynccontextmanager
async def _three() -> AsyncIterator[list[Node]]:
    """Three folders with nothing in them; what runs there at the end is stopped."""
    folder = Path(tempfile.mkdtemp(prefix="pln-", dir="/tmp"))
    nodes = [Node(name, folder / name, "127.0.0.1:0", None) for name in "abc"]
    try:
        for node in nodes:
            node.home.mkdir(mode=0o700)
            await _said(node, "set", "listen", node.address)
        yield nodes
    finally:
        for node in nodes:
            await node.pln("down")
        shutil.rmtree(folder)


async def _said(node: Node, *words: str) -> str:
    done = await node.pln(*words)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_python_file_is_called_from_three_fresh_nodes(tmp_path: Path) -> None:
    async with _three() as nodes:
        await _first_minute(nodes, tmp_path)


async def _first_minute(nodes: list[Node], tmp_path: Path) -> None:
    a, b, c = nodes
    file = tmp_path / "hello.py"
    file.write_text(HELLO)
    await _said(a, "init", "--name", a.name)
    begun = time.monotonic()
    await _said(a, "up", "-d")
    for node in (b, c):
        token = (await _said(a, "invite", "--publisher")).split()[-1]
        await _said(node, "join", token, "--name", node.name)
    await _said(a, "seed", str(file))
    assert await _said(a, "call", "hello", "greet", "name=world") == "hello, world"
    first = time.monotonic() - begun
    for node in (b, c):
        assert await _said(node, "call", "hello", "greet", "name=x") == "hello, x"
    async with pollen.connect(b.home) as mesh:
        assert await mesh.use("hello").greet(name="python") == "hello, python"
    answer = await asyncio.to_thread(
        over_http, c.paths.call_socket, "/call/hello/greet", b'{"name": "http"}'
    )
    assert (answer.status, answer.body) == (200, b'"hello, http"')
    every = time.monotonic() - begun
    file.write_text(HELLO.replace("hello, ", "goodbye, "))
    again = time.monotonic()
    await _said(a, "seed", str(file), "bye")
    told = await _said(a, "call", "bye", "greet", "name=world")
    second = time.monotonic() - again
    assert told == "goodbye, world"
    print(f"first {first:.1f} s, all {every:.1f} s, second seed {second:.2f} s")
    assert (first <= within(FIRST), every <= within(ALL), second <= within(SECOND)) == (True,) * 3
