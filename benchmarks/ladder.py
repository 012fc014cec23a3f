"""Each way of a call at 1 to 1,024 in flight, in a closed loop: a cliff between two steps shows.

All ways take turns within a round, so that whatever else the machine does falls on all alike. A
call that fails ends the benchmark: a closed loop is served, never refused.

- ``local``: a seed on the node that is asked; ``remote``: one that only the other node hosts;
- ``nested``: a seed that calls another one of the same node for each call;
- ``nested-remote``: the same, asked at the other node;
- ``fresh``: a seed that gets a fresh instance for each call (``--isolate``);
- ``go`` and ``go-fresh``: a Go guest of 2 MB, kept and fresh, where there is a Go compiler.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from pollen.testing import Cluster

EXAMPLES = Path(__file__).parents[1] / "examples"
STEPS = (1, 16, 64, 256, 1024)
Steps = dict[str, dict[str, dict[str, float]]]


def load(
    anchors: Path, socket: str, path: str, in_flight: int, seconds: float, *body: str
) -> dict[str, Any]:
    """The report of a closed loop; raises when a call failed."""
    line = [anchors, "load", socket, path, str(in_flight), str(seconds), *body]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    report: dict[str, Any] = json.loads(done.stdout)
    if report["failed"]:
        raise RuntimeError(f"{report['failed']} calls failed at {path}, {in_flight} in flight")
    return report


async def measure(anchors: Path, rounds: int, seconds: float) -> Steps:
    """By way and step: calls a second, and microseconds at p50 and p99, medians of the rounds."""
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        go = _go_guest(Path(folder))
        async with Cluster(2, properties={"b": {"bench": "host"}}) as cluster:
            ways = await _ways(cluster, go)
            for socket, path, body in ways.values():
                await asyncio.to_thread(load, anchors, socket, path, 16, 0.3, *body)
            for index in range(rounds):
                for step in STEPS:
                    for way, (socket, path, body) in ways.items():
                        report = await asyncio.to_thread(
                            load, anchors, socket, path, step, seconds, *body
                        )
                        found.setdefault((way, step), []).append(report)
                print(f"ladder, round {index + 1} of {rounds}", flush=True)
    return _medians(found)


async def _ways(cluster: Cluster, go: Path | None) -> dict[str, tuple[str, str, list[str]]]:
    """Socket, path and body of each way, with its seeds in place. Only b hosts."""
    a, b = (str(node.paths.call_socket) for node in cluster)
    echo, relay = EXAMPLES / "c" / "echo.wasm", EXAMPLES / "c" / "relay.wasm"
    host = [("bench", "host")]
    await cluster.seed(echo, "echo", on=["b"], host=host)
    await cluster.seed(echo, "fresh", on=["b"], host=host, isolate=True)
    following = {"next": "pln://seed/echo/echo"}
    await cluster.seed(relay, "relay", on=["b"], host=host, config=following)
    ways: dict[str, tuple[str, str, list[str]]] = {
        "local": (b, "/call/echo/echo", []),
        "remote": (a, "/call/echo/echo", []),
        "nested": (b, "/call/relay/relay", ["\n" + "x" * 32]),
        "nested-remote": (a, "/call/relay/relay", ["\n" + "x" * 32]),
        "fresh": (b, "/call/fresh/echo", []),
    }
    if go is not None:
        await cluster.seed(go, "go", on=["b"], host=host)
        await cluster.seed(go, "go-fresh", on=["b"], host=host, isolate=True)
        ways |= {"go": (b, "/call/go/echo", []), "go-fresh": (b, "/call/go-fresh/echo", [])}
    return ways


def _go_guest(folder: Path) -> Path | None:
    """A Go guest of about 2 MB, or None without a compiler."""
    go = shutil.which("go", path=os.environ["PATH"] + ":/usr/local/go/bin")
    if go is None:
        print("no go in PATH: the ladder has no Go guest")
        return None
    made = folder / "echo.wasm"
    environment = os.environ | {"GOOS": "wasip1", "GOARCH": "wasm"}
    line = [go, "build", "-buildmode=c-shared", "-o", str(made), "./echo"]
    subprocess.run(line, cwd=EXAMPLES / "go", env=environment, check=True)
    return made


def _medians(found: dict[tuple[str, int], list[dict[str, Any]]]) -> Steps:
    steps: Steps = {}
    for (way, step), reports in found.items():
        steps.setdefault(way, {})[str(step)] = {
            "per_s": statistics.median(report["rate"] for report in reports),
            "p50_us": statistics.median(report["latency_us"]["p50"] for report in reports),
            "p99_us": statistics.median(report["latency_us"]["p99"] for report in reports),
        }
    return steps


def figures(steps: Steps) -> dict[str, float]:
    """The rates by way and step, and what a step of 256 keeps of one of 16 in nested calls."""
    rates = {
        f"{way}_{step}_per_s": held["per_s"] for way in steps for step, held in steps[way].items()
    }
    ratios = {
        f"{way.replace('-', '_')}_256_to_16": steps[way]["256"]["per_s"] / steps[way]["16"]["per_s"]
        for way in ("nested", "nested-remote")
    }
    return rates | ratios
