"""Tunnels against plain sockets and bare iroh: bytes of one stream, and HTTP through a listener.

All contenders take turns within a round. A tunnel is two daemons on loopback with a direct path:
the client comes to a listener of one, the server is behind the other.

- ``bulk_iroh``: one stream between two processes with iroh and the product's windows, no socket;
- ``bulk_two_hops`` and ``http_two_hops``: the same way through two TCP proxies in C that copy and
  nothing else (``anchors/plain/two_hops.c``): what its sockets cost without a mesh;
- ``bulk_tunnel`` and ``http_tunnel``: the product; ``bulk_direct`` and ``http_direct``: no hop.

Bulk is read by the anchors' ``pull``, in MB/s. HTTP is wrk (Debian's package) at 16 and 64
keep-alive connections, in requests a second; without wrk there are no rows of HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from wrk import LOOPBACK, free_port, rate_of

from pollen.sdk.control import Control
from pollen.testing import Cluster, until

PLAIN = Path(__file__).parent / "anchors" / "plain" / "two_hops.c"
CONNECTIONS = (16, 64)
BARS: dict[str, tuple[str, float]] = {
    "bulk_tunnel_to_iroh": (">=", 0.75),
    "bulk_tunnel_to_two_hops": (">=", 0.5),
    "http_16_tunnel_to_two_hops": (">=", 0.5),
    "http_64_tunnel_to_two_hops": (">=", 0.5),
}


async def measure(anchors: Path, rounds: int, seconds: float) -> dict[str, list[float]]:
    """The rate of every contender in every round."""
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        async with contenders(anchors, Path(folder)) as ways:
            for index in range(rounds):
                for name, command in ways.items():
                    rate = await asyncio.to_thread(_rate, command, seconds)
                    rates.setdefault(name, []).append(rate)
                done = "  ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
                print(f"tunnels, round {index + 1}: {done}", flush=True)
    return rates


def figures(rates: dict[str, list[float]]) -> dict[str, float]:
    """The medians, and what a tunnel keeps of each anchor within a round."""
    found = {
        f"{name}_{'mb' if name.startswith('bulk') else 'per'}_s": statistics.median(values)
        for name, values in rates.items()
    }
    kinds = ["bulk", *(f"http_{count}" for count in CONNECTIONS)]
    for kind in kinds:
        for anchor in ("iroh", "two_hops"):
            if f"{kind}_{anchor}" in rates:
                pairs = zip(rates[f"{kind}_tunnel"], rates[f"{kind}_{anchor}"], strict=True)
                ratio = statistics.median(one / other for one, other in pairs)
                found[f"{kind}_tunnel_to_{anchor}"] = ratio
    return found


@contextlib.asynccontextmanager
async def contenders(anchors: Path, folder: Path) -> AsyncIterator[dict[str, list[str]]]:
    """The command that measures each way, with a place for the seconds; all ways are open."""
    hops = folder / "two_hops"
    subprocess.run(["cc", "-O2", "-Wall", "-Wextra", "-o", hops, PLAIN], check=True)
    with contextlib.ExitStack() as stack:
        fount, hello = free_port(), free_port()
        stack.enter_context(_running(anchors, "fount", fount))
        stack.enter_context(_running(anchors, "hello", hello))
        spring = stack.enter_context(_running(anchors, "spring"))
        behind = {"fount": fount, "hello": hello}
        plain = {name: _two_hops(stack, hops, port) for name, port in behind.items()}
        async with Cluster(2) as cluster:
            through = {name: await _tunnel(cluster, name, port) for name, port in behind.items()}
            at = {"direct": behind, "two_hops": plain, "tunnel": through}
            pull = [str(anchors), "pull"]
            ways = {"bulk_iroh": [*pull, *spring.split(), "{}"]}
            for name, ports in at.items():
                ways[f"bulk_{name}"] = [*pull, f"{LOOPBACK}:{ports['fount']}", "{}"]
            if wrk := shutil.which("wrk"):
                for count in CONNECTIONS:
                    for name, ports in at.items():
                        url = f"http://{LOOPBACK}:{ports['hello']}/"
                        line = [wrk, "-t1", f"-c{count}", "-d{}s", url]
                        ways[f"http_{count}_{name}"] = line
            else:
                print("no wrk in PATH: there are no rows of HTTP")
            yield ways


def _rate(command: list[str], seconds: float) -> float:
    is_wrk = Path(command[0]).name == "wrk"
    given = f"{max(1, round(seconds))}" if is_wrk else f"{seconds}"
    line = [word.replace("{}", given) for word in command]
    if is_wrk:
        return rate_of(line)
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(line)}: {done.stderr}")
    return float(done.stdout)


async def _tunnel(cluster: Cluster, name: str, port: int) -> int:
    """The port of a listener at the first node; the server is behind the second."""
    a, b = cluster
    await b.post("/v1/services", {"target": str(port), "name": name})

    async def is_known() -> bool:
        return any(held["name"] == name for held in (await a.get("/v1/services"))["services"])

    await until(is_known, 20, f"{name} is known")
    wish = {"service": name, "local": f"{LOOPBACK}:0"}
    opened = await asyncio.to_thread(Control(a.paths).request, "POST", "/v1/listeners", wish)
    return int(str(opened["bound"]).rpartition(":")[2])


def _two_hops(stack: contextlib.ExitStack, binary: Path, port: int) -> int:
    """The port of the first of two plain proxies, one behind the other."""
    for _ in range(2):
        own = free_port()
        stack.enter_context(_running(binary, own, port))
        port = own
    return port


@contextlib.contextmanager
def _running(binary: Path, *words: str | int) -> Iterator[str]:
    """A program that says when it is ready; its first line."""
    line = [str(binary), *map(str, words)]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
