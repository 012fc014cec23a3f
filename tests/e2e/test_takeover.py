"""Done-when 3: the module outlives its publisher, as root, in namespaces, as an ordinary user."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import pytest

from pollen.lock import start_time
from pollen.testing import Cluster, until
from tests.e2e.conftest import example
from tests.e2e.takeover import takeover

pytestmark = pytest.mark.timeout(120)
ROOT = Path(__file__).parents[2]


async def test_a_module_outlives_its_publisher_on_loopback() -> None:
    await takeover(namespaces=False)


async def test_a_module_outlives_its_publisher_in_namespaces(spaces: None) -> None:
    await takeover(namespaces=True)


async def test_a_cluster_lives_on_ipv6_alone(spaces: None) -> None:
    """No address of the other family anywhere, not even on the loopback."""
    async with Cluster(3, namespaces=True, ipv6=True) as cluster:
        await cluster.seed(example("echo"), "echo")
        for node in cluster:
            async with node.connect() as mesh:
                assert (await mesh.call("echo", "echo", b"six")).data == b"six"
            known = [held["addresses"] for held in (await node.status())["nodes"]]
            assert all(address.startswith("[fd00:231::") for held in known for address in held)


_PROBE = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import tests.e2e.takeover, pollen._native"], check=True)
"""


def as_nobody() -> tuple[list[str], dict[str, str]] | None:
    """The command line and the environment of a Python that an ordinary user can run, and its
    children too: this one, else the system's with this one's packages.

    Where homes are closed to others, it keeps the one right to read every file: that right opens no
    socket, writes nothing and raises no limit.
    """
    drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
    reads = [f"--{kind}-caps=+dac_read_search" for kind in ("inh", "ambient")]
    held = os.environ.get("PYTHONPATH", "")
    packages = sysconfig.get_path("purelib")
    for start, interpreter, path in (
        (drop, sys.executable, held),
        (drop, "/usr/bin/python3", os.pathsep.join(filter(None, (held, packages)))),
        ([*drop, *reads], sys.executable, held),
    ):
        line = [*start, interpreter]
        environment = {**os.environ, "HOME": "/nonexistent", "PYTHONDONTWRITEBYTECODE": "1"}
        environment["PYTHONPATH"] = path
        try:
            probe = subprocess.run(
                [*line, "-c", _PROBE], cwd=ROOT, env=environment, capture_output=True, check=False
            )
        except OSError:
            continue
        if probe.returncode == 0:
            return line, environment
    return None


async def test_a_module_outlives_its_publisher_for_an_ordinary_user() -> None:
    """Without any right of root: no namespaces, no sockets of others, no raised limits."""
    if os.geteuid() != 0:
        return await takeover(namespaces=False)
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv is not installed")
    found = await asyncio.to_thread(as_nobody)
    if found is None:
        pytest.skip("an ordinary user can run no Python with these packages")
    line, environment = found
    done = await asyncio.to_thread(
        subprocess.run,
        [*line, "-W", "error", "-m", "tests.e2e.takeover"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "taken over\n"), done.stderr
    return None


async def test_a_cut_link_is_noticed_and_heals(spaces: None) -> None:
    """Silence in both directions: calls go on at home, and meet again after the heal."""
    async with Cluster(2, namespaces=True) as cluster:
        a, b = cluster
        await cluster.seed(example("echo"), "echo")
        assert cluster.network is not None
        cluster.network.cut("a", "b")

        async def is_alone() -> bool:
            return {n["state"] for n in (await a.status())["nodes"]} == {"self", "offline"}

        await until(is_alone, 40, "a sees b offline")
        for node in (a, b):
            async with node.connect() as mesh:
                assert (await mesh.call("echo", "echo", b"alone", timeout=5)).data == b"alone"
        cluster.network.heal()
        await cluster.linked(60)


async def test_a_paused_node_is_routed_around() -> None:
    """b hangs, it is not dead: what it would have answered a answers, and soon."""
    async with Cluster(2) as cluster:
        a, b = cluster
        await cluster.seed(example("echo"), "echo")
        b.pause()
        try:
            async with a.connect() as mesh:
                for number in range(50):
                    text = str(number)
                    reply = await mesh.call("echo", "echo", text, timeout=5, idempotent=True)
                    assert reply.text == text
        finally:
            b.resume()
        await cluster.linked(60)


@pytest.mark.parametrize("lines", [0, 1, 3, 8, 12])
async def test_the_demo_leaves_nothing_behind_after_ctrl_c(lines: int) -> None:
    """At named moments: before the first node is up, between calls, after the kill."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as place:
        process = await _begin_demo(place)
        assert process.stdout is not None
        for _ in range(lines):
            assert await process.stdout.readline()
        if not lines:

            async def has_begun() -> bool:
                return any(Path(place).iterdir())

            await until(has_begun, 20, "the demo begins")
        assert await _interrupt(process, place) == 130


@pytest.mark.parametrize("turn", range(10))
async def test_the_demo_leaves_nothing_behind_at_any_moment(turn: int) -> None:
    """At moments drawn afresh, over the whole of its two seconds and a little more."""
    moment = random.uniform(0.05, 2.5)
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as place:
        process = await _begin_demo(place)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(process.wait()), moment)
        # Before the command takes over the signal the kernel ends the process, and after it again.
        code = await _interrupt(process, place)
        assert code in (0, 130, -signal.SIGINT), f"after {moment:.3f} s"


async def _begin_demo(place: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "pollen.cli",
        "demo",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        env={**os.environ, "TMPDIR": place},
    )


async def _interrupt(process: asyncio.subprocess.Process, place: str) -> int | None:
    """Ctrl-C, to the whole group as a terminal sends it; the exit code, when nothing is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 30)
    # Python's own start, before our first line, ends with a trace that names no file of ours.
    started = b"Traceback" not in err
    assert started or b"pollen" not in err, (out, err)
    assert list(Path(place).iterdir()) == []
    assert not [pid for pid in _members(process.pid) if start_time(pid)]
    assert _users_of(place) == []
    return process.returncode if started else -signal.SIGINT


def _users_of(place: str) -> list[str]:
    """The command lines of processes that work in a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                found += [line] if place in line else []
    return found


def _members(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    found.append(int(entry.name))
            except ProcessLookupError:
                continue
    return found


async def test_the_demo_is_short_and_ends_with_your_turn() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "pollen.cli", "demo", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    lines = out.decode().splitlines()
    assert process.returncode == 0
    assert len(lines) <= 30 and lines[-1].startswith("your turn")
    assert any("still here, says C" in line or "STILL HERE, SAYS C" in line for line in lines)
