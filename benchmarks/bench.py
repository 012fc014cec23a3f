"""The product against its anchors, interleaved, on one machine (`make bench`).

Every round runs every contender once, in turn, so that whatever else the machine does falls on all
of them alike; a figure is the median of its rounds and a ratio is taken within a round. One load
generator (``pollen-anchors load``) drives all four doors, 64 calls in flight over unix sockets:

- ``hello``: hyper that answers at once; ``bare``: hyper and the sandbox with nothing between them;
- ``local``: the product, a seed on the node that is asked;
- ``bare-remote``: the bare loop behind one iroh stream a call, asked through a bare front;
- ``remote``: the product, a seed that only the other node hosts.

The SDK's figures come from one Python process: calls one after another, and 64 in flight.
``ladder`` then goes through the ways of a call at 1 to 1,024 in flight, ``tunnels`` through the
ways of a byte and of an HTTP request to a service, ``functions`` through Python seeds, functions of
a program, and pools that do the same, ``blobs`` through files that are published and fetched, and
``sites`` compares a file of a site with nginx and bare hyper. ``--only tunnels``, say, measures
that part alone and leaves the other figures of the results as they were.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import blobs
import functions
import ladder
import sites
import tunnels

from pollen import _native
from pollen.runtime.folder.version import VERSION
from pollen.sdk.blocking import connect_sync
from pollen.testing import Cluster, Node

ROOT = Path(__file__).parents[1]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
ANCHORS = TARGET / "release" / "pollen-anchors"
ECHO = ROOT / "examples" / "c" / "echo.wasm"
RESULTS = ROOT / "benchmarks" / "results.json"
PATH = "/call/echo/echo"
IN_FLIGHT = 64
SDK_SEQUENTIAL = 2_000
SDK_CONCURRENT = 10_000

# What the benchmarks promise; `--strict` fails below them.
BARS: dict[str, tuple[str, float]] = {
    "local_to_bare": (">=", 0.75),
    "remote_to_bare_remote": (">=", 0.70),
    "nested_256_to_16": (">=", 0.70),
    "nested_remote_256_to_16": (">=", 0.70),
    "sdk_sequential_us": ("<=", 250.0),
    "sdk_concurrent_per_s": (">=", 6_000.0),
    **functions.BARS,
    **blobs.BARS,
    **sites.BARS,
} | tunnels.BARS
PARTS = ("tunnels", "functions", "blobs", "sites")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=_Raw)
    parser.add_argument("--rounds", type=int, default=7, help="at least 7 for a figure to quote")
    parser.add_argument("--seconds", type=float, default=2.0, help="of load for each measurement")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a bar is missed")
    parser.add_argument("--only", choices=PARTS, help="measure this part alone")
    options = parser.parse_args()
    if not ANCHORS.exists():
        print(f"no {ANCHORS}: run this by `make bench`", file=sys.stderr)
        return 2
    results = json.loads(RESULTS.read_text()) if options.only else {}
    figures, rounds = results.get("figures", {}), results.get("rounds", {})
    if not options.only:
        figures, rounds = asyncio.run(measure(options.rounds, options.seconds))
        results["ladder"] = asyncio.run(
            ladder.measure(ANCHORS, options.rounds, options.seconds / 2)
        )
        figures |= ladder.figures(results["ladder"])
        results["machine"] = machine()
    parts = PARTS if options.only is None else (options.only,)
    for name, part in (("tunnels", tunnels), ("sites", sites)):
        if name in parts:
            carried = asyncio.run(part.measure(ANCHORS, options.rounds, options.seconds))
            results[f"machine_{name}"] = machine()
            figures |= part.figures(carried)
            rounds |= carried
    if "functions" in parts:
        figures |= asyncio.run(functions.measure(options.rounds, TARGET))
        results["machine_functions"] = machine()
    if "blobs" in parts:
        figures |= asyncio.run(blobs.measure(ANCHORS, options.rounds))
        results["machine_blobs"] = machine()
    held = {name: bar for name, bar in BARS.items() if name in figures}
    missed = [name for name, bar in held.items() if not _holds(figures[name], *bar)]
    report(figures, missed)
    results |= {"figures": figures, "missed": missed, "rounds": rounds}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(f"written: {RESULTS.relative_to(ROOT)}")
    return 1 if missed and options.strict else 0


async def measure(rounds: int, seconds: float) -> tuple[dict[str, float], dict[str, list[float]]]:
    """The figures, and the rate of every contender in every round."""
    rates: dict[str, list[float]] = {}
    sdk: dict[str, list[float]] = {}
    async with contenders() as (doors, node):
        for index in range(rounds):
            for name, socket in doors.items():
                rate = await asyncio.to_thread(load, socket, seconds)
                rates.setdefault(name, []).append(rate)
            for name, value in (await measure_sdk(node)).items():
                sdk.setdefault(name, []).append(value)
            done = "  ".join(f"{name} {values[-1]:,.0f}/s" for name, values in rates.items())
            print(f"round {index + 1}: {done}", flush=True)
    figures = {f"{name}_per_s": statistics.median(values) for name, values in rates.items()}
    figures["local_to_bare"] = _ratio(rates["local"], rates["bare"])
    figures["remote_to_bare_remote"] = _ratio(rates["remote"], rates["bare-remote"])
    figures |= {name: statistics.median(values) for name, values in sdk.items()}
    return figures, rates | sdk


@contextlib.asynccontextmanager
async def contenders() -> AsyncIterator[tuple[dict[str, str], Node]]:
    """The sockets of all contenders by name, and the node that hosts the seed itself."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder, anchors(folder) as doors:
        # Only b may host, so that a's door is the remote path and b's the local one.
        async with Cluster(2, properties={"b": {"bench": "host"}}) as cluster:
            a, b = cluster
            await cluster.seed(ECHO, "echo", on=["b"], host=[("bench", "host")])
            doors["local"] = str(b.paths.call_socket)
            doors["remote"] = str(a.paths.call_socket)
            for socket in doors.values():
                await asyncio.to_thread(load, socket, 0.3)
            yield doors, b


@contextlib.contextmanager
def anchors(folder: str) -> Iterator[dict[str, str]]:
    """Start the anchors; their sockets by name."""
    sockets = {name: f"{folder}/{name}.sock" for name in ("hello", "bare", "bare-remote")}
    processes: list[subprocess.Popen[str]] = []
    try:
        _start(processes, "hello", sockets["hello"])
        _start(processes, "bare", sockets["bare"], str(ECHO), "echo")
        server = _start(processes, "serve", str(ECHO), "echo").split()
        _start(processes, "front", sockets["bare-remote"], *server)
        yield sockets
    finally:
        for process in processes:
            process.kill()
            process.wait()


def _start(processes: list[subprocess.Popen[str]], *arguments: str) -> str:
    """Start one anchor; the line with which it says that it is ready."""
    process = subprocess.Popen([ANCHORS, *arguments], stdout=subprocess.PIPE, text=True)
    processes.append(process)
    assert process.stdout is not None
    return process.stdout.readline().strip()


def load(socket: str, seconds: float) -> float:
    """Calls a second; raises when one of them failed."""
    return float(ladder.load(ANCHORS, socket, PATH, IN_FLIGHT, seconds)["rate"])


async def measure_sdk(node: Node) -> dict[str, float]:
    """Microseconds of a call one after another, and calls a second with 64 in flight."""
    async with node.connect() as mesh:
        echo = mesh.function("echo", "echo")
        for _ in range(100):
            await echo(b"x")
        begun = time.perf_counter()
        for _ in range(SDK_SEQUENTIAL):
            await echo(b"x")
        sequential = (time.perf_counter() - begun) / SDK_SEQUENTIAL
        begun = time.perf_counter()
        async for _ in echo.map((b"x" for _ in range(SDK_CONCURRENT)), in_flight=IN_FLIGHT):
            pass
        concurrent = SDK_CONCURRENT / (time.perf_counter() - begun)
    blocking = await asyncio.to_thread(_measure_blocking, node)
    return {
        "sdk_sequential_us": sequential * 1e6,
        "sdk_concurrent_per_s": concurrent,
        "sdk_blocking_sequential_us": blocking * 1e6,
    }


def _measure_blocking(node: Node) -> float:
    with connect_sync(node.home) as mesh:
        echo = mesh.function("echo", "echo")
        for _ in range(100):
            echo(b"x")
        begun = time.perf_counter()
        for _ in range(SDK_SEQUENTIAL):
            echo(b"x")
        return (time.perf_counter() - begun) / SDK_SEQUENTIAL


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "engine": _native.engine_version(),
        "pollen": VERSION,
        "load_average": round(os.getloadavg()[0], 2),
    }


def report(figures: dict[str, float], missed: list[str]) -> None:
    """One line a figure, with its bar."""
    for name, value in figures.items():
        text = f"{value:,.2f}" if value < 100 else f"{value:,.0f}"
        relation, bar = BARS.get(name, ("", 0.0))
        verdict = (
            "" if not relation else f"   {relation} {bar:,g} {'no' if name in missed else 'yes'}"
        )
        print(f"{name:<28}{text:>12}{verdict}")


def _ratio(one: list[float], other: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def _holds(value: float, relation: str, bar: float) -> bool:
    return value >= bar if relation == ">=" else value <= bar


class _Raw(argparse.RawDescriptionHelpFormatter):
    """The description keeps its lines."""


if __name__ == "__main__":
    sys.exit(main())
