"""A module that may be a program or a library: its publisher says which, or is asked."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
from pathlib import Path

import pytest

from pollen.testing import Cluster, Node
from tests.e2e.talk import check_error
from tests.modules import either

pytestmark = pytest.mark.timeout(120)


async def functions(node: Node) -> list[str]:
    """Those of the only seed."""
    (seed,) = (await node.status())["seeds"]
    assert isinstance(seed["functions"], list)
    return seed["functions"]


def answer(node: Node, module: str, typed: bytes) -> tuple[int, str]:
    """``pln seed`` on a terminal on which somebody types: its exit code and what was shown."""
    ours, theirs = pty.openpty()
    line = node.command("-m", "pollen.cli", "--dir", str(node.home), "seed", module)
    with subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        os.write(ours, typed)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:
            pass  # the other end is closed
    os.close(ours)
    return process.returncode, shown.decode()


async def test_a_module_that_may_be_either_is_asked_about(tmp_path: Path) -> None:
    """Without a terminal it is an error with both flags; each flag gives its reading."""
    module = tmp_path / "either.wasm"
    module.write_bytes(either())
    async with Cluster(1) as cluster:
        (node,) = cluster
        problem = check_error(await node.pln("seed", str(module), "--json"), "ambiguous")
        assert "_start and own" in problem["title"]
        assert "--program" in problem["remedy"] and "--library" in problem["remedy"]
        assert (await node.status())["seeds"] == []

        done = await node.pln("seed", str(module), "--program")
        assert done.returncode == 0, done.stderr
        assert "call either - < FILE" in done.stdout.decode()
        assert await functions(node) == ["_start"]
        assert (await node.pln("call", "either", "-", stdin=b"through it")).stdout == b"through it"

        done = await node.pln("seed", str(module), "--library")
        assert done.returncode == 0, done.stderr
        assert await functions(node) == ["_start", "own"]
        assert (await node.pln("call", "either", "own")).stdout == b""

        both = await node.pln("seed", str(module), "--library", "--program", "--json")
        check_error(both, "config-invalid")


async def test_on_a_terminal_the_question_is_asked_and_its_answer_obeyed(tmp_path: Path) -> None:
    """A wrong answer is asked again."""
    module = tmp_path / "either.wasm"
    module.write_bytes(either())
    async with Cluster(1) as cluster:
        (node,) = cluster
        code, shown = await asyncio.to_thread(answer, node, str(module), b"perhaps\nprogram\n")
        assert code == 0, shown
        assert "may be a program or a library" in shown and "which is it?" in shown
        assert "seeded either" in shown
        assert await functions(node) == ["_start"]
