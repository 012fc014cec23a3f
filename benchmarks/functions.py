"""Python seeds and functions of a program: their rates, what they cost, and pools beside them.

Contenders of a task are ``pollen.Executor`` on one node, ``ProcessPoolExecutor`` with one task a
message, and Ray, each with as many workers as the machine has cores, in turn within each round. A
ratio is taken within a round. Ray comes from its wheel into an environment of its own, by the lock
``anchors/ray.txt``; where that cannot be had, it is not compared.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import tasks

import pollen
from pollen.sdk.control import Control
from pollen.testing import Cluster, Node

HERE = Path(__file__).parent
RAY_LOCK = HERE / "anchors" / "ray.txt"
CORES = os.cpu_count() or 1
# Tasks of so many milliseconds, and how many of them.
BATCHES = {0: 4_000, 1: 800, 10: 120}
CALLS = 10_000
SEEDS = 1_000
FRESH = 20
KILLED = 2_000

BARS: dict[str, tuple[str, float]] = {
    "python_local_64_per_s": (">=", 20_000.0),
    "python_remote_16_per_s": (">=", 5_000.0),
    "python_remote_1_p50_ms": ("<=", 1.0),
    "python_guest_us": ("<=", 15.0),
    "python_first_call_ms": ("<=", 5.0),
    "python_seed_kib": ("<=", 64.0),
    "python_seeds_callable": (">=", float(SEEDS)),
    "task_0ms_to_ray": (">=", 3.0),
    "task_0ms_to_pool": (">=", 1.0),
    "task_1ms_to_pool": (">=", 0.4),
    "task_10ms_to_pool": (">=", 0.3),
    "killed_right": (">=", float(KILLED)),
}
SEED = "def add(a: int, b: int) -> int:\n    return a + b\n"


async def measure(rounds: int, target: Path, *, is_quick: bool = False) -> dict[str, Any]:
    """All figures; those of several rounds as medians. ``is_quick`` has a hundredth of the work."""
    share = 100 if is_quick else 1
    figures: dict[str, Any] = {}
    async with Cluster(2, properties={"b": {"bench": "host"}}) as cluster:
        figures |= await _calls(cluster, rounds, CALLS // share)
    async with Cluster(1) as cluster:
        figures |= await _fresh(cluster[0])
        figures |= await asyncio.to_thread(_pools, cluster[0], rounds, target, share)
    async with Cluster(1) as cluster:
        figures |= await _many(cluster[0], SEEDS // share)
    figures |= await _killed(KILLED // share)
    return figures


async def _calls(cluster: Cluster, rounds: int, count: int) -> dict[str, float]:
    """A seed that b alone hosts, called there and from a."""
    a, b = cluster
    file = Path(str(b.home)) / "adder.py"
    file.write_text(SEED)
    async with a.connect() as mesh:
        await mesh.seed(file, "adder", host=[("bench", "host")])
    await cluster.ready("adder", 120, on=["b"])
    local, remote, guest, p50 = [], [], [], []
    async with b.connect() as here, a.connect() as there:
        for mesh in (here, there):
            await _rate(mesh, 64, count // 10)
        for _ in range(rounds):
            local.append(await _rate(here, 64, count))
            remote.append(await _rate(there, 16, count // 2))
            guest.append((await _one_by_one(here, count // 20))[1])
            p50.append((await _one_by_one(there, count // 20))[0])
    return {
        "python_local_64_per_s": statistics.median(local),
        "python_remote_16_per_s": statistics.median(remote),
        "python_remote_1_p50_ms": statistics.median(p50) * 1e3,
        "python_guest_us": statistics.median(guest) * 1e6,
    }


async def _rate(mesh: pollen.Mesh, in_flight: int, count: int) -> float:
    add = mesh.function("adder", "add")
    begun = time.perf_counter()
    async for _ in add.map((b"[1,2]" for _ in range(count)), in_flight=in_flight):
        pass
    return count / (time.perf_counter() - begun)


async def _one_by_one(mesh: pollen.Mesh, count: int) -> tuple[float, float]:
    """Seconds of a call, and of its guest."""
    add, times, runs = mesh.function("adder", "add"), [], []
    for _ in range(count):
        begun = time.perf_counter()
        reply = await add(b"[1,2]")
        times.append(time.perf_counter() - begun)
        runs.append(reply.run)
    return statistics.median(times), statistics.median(runs)


async def _fresh(node: Node) -> dict[str, float]:
    """The first call of a seed that was published just now and is loaded."""
    times = []
    async with node.connect() as mesh:
        for number in range(FRESH):
            await _seeded(mesh, node, f"fresh{number}", number)
            control, name = Control(node.paths), f"fresh{number}"
            await asyncio.to_thread(control.wait_ready, name)
            begun = time.perf_counter()
            await mesh.call(name, "add", b"[1,2]")
            times.append(time.perf_counter() - begun)
            await mesh.unseed(name)
    return {"python_first_call_ms": statistics.median(times) * 1e3}


async def _seeded(mesh: pollen.Mesh, node: Node, name: str, number: int) -> None:
    """One seed like the others, with a number of its own."""
    file = Path(str(node.home)) / f"{name}.py"
    file.write_text(f"{SEED}NUMBER = {number}\n")
    await mesh.seed(file, name, min_replicas=1)


async def _many(node: Node, count: int) -> dict[str, float]:
    """What a node grows by with so many seeds that nobody called, and that each can be called."""
    async with node.connect() as mesh:
        # The first have the runner compiled, and what a node makes once.
        for number in range(-FRESH, 0):
            await _seeded(mesh, node, f"early{-number}", number)
        await asyncio.to_thread(_without_guests, node)
        before = _resident(node.pid)
        for number in range(count):
            await _seeded(mesh, node, f"many{number}", number)
        last = f"many{count - 1}"
        await asyncio.to_thread(Control(node.paths).wait_ready, last)
        await asyncio.to_thread(_without_guests, node)
        grown = _resident(node.pid) - before
        good = 0
        for number in range(count):
            good += (await mesh.call(f"many{number}", "add", b"[1,2]")).data == b"3"
    return {"python_seed_kib": grown / 1024 / count, "python_seeds_callable": float(good)}


def _without_guests(node: Node) -> None:
    """Until the guests that loading left were dropped, a minute later, and their memory was given
    back, a look later."""
    idle, end = 1.0, time.monotonic() + 120
    while idle and time.monotonic() < end:
        time.sleep(2)
        lines = Control(node.paths).text("/v1/metrics").splitlines()
        rows = dict(line.split() for line in lines if line.startswith("pollen_guest_instances"))
        idle = float(rows["pollen_guest_instances_idle"])
    time.sleep(20)


def _resident(pid: int) -> int:
    """Bytes of memory that are this process's alone."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Private_Dirty:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not say what memory a process has")


def _pools(node: Node, rounds: int, target: Path, share: int) -> dict[str, Any]:
    """Tasks a second of each contender, and the ratios within a round."""
    sizes = {ms: max(20, count // share) for ms, count in BATCHES.items()}
    work = {ms: tasks.rounds_for(ms) for ms in BATCHES}
    ray = _ray_python(target)
    rates: dict[str, list[float]] = {}
    with (
        ProcessPoolExecutor(CORES) as processes,
        pollen.Executor(64, place=node.home, isolate=False, replicas=1) as mesh,
    ):
        for pool in (processes, mesh):
            list(pool.map(tasks.task, [0] * 200))
        for _ in range(rounds):
            for ms, count in sizes.items():
                for name, pool in (("pool", processes), ("mesh", mesh)):
                    rates.setdefault(f"{name}_{ms}ms", []).append(_mapped(pool, work[ms], count))
            if ray is not None:
                batches = [f"{sizes[ms]}:{work[ms]}" for ms in sizes]
                for ms, rate in zip(sizes, _ray_rates(ray, batches), strict=True):
                    rates.setdefault(f"ray_{ms}ms", []).append(rate)
    figures: dict[str, Any] = {
        f"task_{name}_per_s": statistics.median(values) for name, values in rates.items()
    }
    for ms in sizes:
        for other in ("pool", "ray"):
            if held := rates.get(f"{other}_{ms}ms"):
                pairs = zip(rates[f"mesh_{ms}ms"], held, strict=True)
                figures[f"task_{ms}ms_to_{other}"] = statistics.median(m / o for m, o in pairs)
    return figures


def _mapped(pool: Executor, rounds: int, count: int) -> float:
    begun = time.perf_counter()
    assert len(list(pool.map(tasks.task, [rounds] * count))) == count
    return count / (time.perf_counter() - begun)


def _ray_python(target: Path) -> Path | None:
    """An interpreter with Ray, made once; None where its wheels cannot be had."""
    digest = hashlib.sha256(RAY_LOCK.read_bytes()).hexdigest()[:12]
    folder = target / f"ray-{digest}"
    python = folder / "bin" / "python"
    if (folder / "whole").exists():
        return python
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    install += ["--require-hashes", "--only-binary=:all:", "-r", RAY_LOCK]
    for line in ([sys.executable, "-m", "venv", "--clear", folder], install):
        if subprocess.run(line, check=False, capture_output=True).returncode:
            print("Ray is not compared: its wheels cannot be had here", flush=True)
            return None
    (folder / "whole").touch()
    return python


def _ray_rates(python: Path, batches: list[str]) -> list[float]:
    environment = {**os.environ, "PYTHONPATH": str(HERE), "RAY_USAGE_STATS_ENABLED": "0"}
    line = [python, HERE / "ray_tasks.py", str(CORES), *batches]
    done = subprocess.run(
        line, check=True, capture_output=True, text=True, env=environment, timeout=600
    )
    rates: list[float] = json.loads(done.stdout.splitlines()[-1])
    return rates


async def _killed(count: int) -> dict[str, float]:
    """Right results of a map whose host is killed half-way; a pool is broken by that."""
    right = 0
    work = tasks.rounds_for(1)
    function = pollen.remote(idempotent=True, replicas=3)(tasks.task)
    async with Cluster(3) as cluster, cluster[0].connect() as mesh:
        wanted = await mesh.run(pollen.remote(timeout=120, replicas=3)(tasks.task), work)
        await mesh.run(function, work)
        async for value in mesh.map(function, [work] * count, in_flight=16):
            right += value == wanted
            if right == count // 2:
                await cluster[2].kill()
    return {"killed_right": float(right)}


def main() -> None:
    """These figures alone: ``functions.py [ROUNDS] [quick]``."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    target = Path(os.environ.get("CARGO_TARGET_DIR", HERE.parent / "target"))
    show: Callable[[str, Any], None] = lambda name, value: print(f"{name:<28}{value:>14,.2f}")  # noqa: E731
    for name, value in asyncio.run(measure(rounds, target, is_quick="quick" in sys.argv)).items():
        show(name, value)


if __name__ == "__main__":
    main()
