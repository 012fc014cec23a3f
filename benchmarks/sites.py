"""A file of a site against the same file from nginx and from bare hyper, on loopback.

All contenders take turns within a round, with the same load: wrk (Debian's package), keep-alive
connections, no ``Accept-Encoding``. The file has 27 KB.

- ``static_nginx``: Debian's nginx as it is set up there (``sendfile``), without a log, and without
  its limit of requests a connection;
- ``static_hyper``: hyper that reads the file for each request (``pollen-anchors file``);
- ``static_site``: the product, a public site at the door of the node that holds it, by its Host.

Each is measured at 16 and 64 connections, in requests a second. Without wrk there are no figures;
without nginx it is not compared with.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from wrk import LOOPBACK, free_port, rate_of

from pollen.testing import Cluster, until

CONNECTIONS = (16, 64)
SIZE = 27 * 1024
NAME = "bench"
FILE = "app.js"
BARS: dict[str, tuple[str, float]] = {
    f"static_{count}_site_to_{anchor}": (">=", bar)
    for count in CONNECTIONS
    for anchor, bar in (("nginx", 0.5), ("hyper", 0.8))
}
_NGINX = """daemon off; pid {folder}/pid; error_log stderr; worker_processes auto;
events {{ worker_connections 768; }}
http {{
    include /etc/nginx/mime.types; access_log off; sendfile on; tcp_nopush on;
    keepalive_requests 1000000000;
    server {{ listen {at}; root {root}; }}
}}
"""


async def measure(anchors: Path, rounds: int, seconds: float) -> dict[str, list[float]]:
    """The rate of every contender in every round."""
    rates: dict[str, list[float]] = {}
    if (wrk := shutil.which("wrk")) is None:
        print("no wrk in PATH: there are no figures of sites")
        return rates
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        async with contenders(anchors, Path(folder)) as urls:
            for url in urls.values():
                await asyncio.to_thread(_rate, wrk, url, 16, 1)
            for index in range(rounds):
                for count in CONNECTIONS:
                    for name, url in urls.items():
                        rate = await asyncio.to_thread(_rate, wrk, url, count, seconds)
                        rates.setdefault(f"static_{count}_{name}", []).append(rate)
                done = "  ".join(f"{name} {values[-1]:,.0f}" for name, values in rates.items())
                print(f"sites, round {index + 1}: {done}", flush=True)
    return rates


def figures(rates: dict[str, list[float]]) -> dict[str, float]:
    """The medians, and what a site keeps of each anchor within a round."""
    found = {f"{name}_per_s": statistics.median(values) for name, values in rates.items()}
    for name in BARS:
        site, anchor = name.removesuffix("_to_nginx").removesuffix("_to_hyper"), name[-5:]
        other = site.replace("_site", f"_{anchor}")
        if site in rates and other in rates:
            pairs = zip(rates[site], rates[other], strict=True)
            found[name] = statistics.median(ours / theirs for ours, theirs in pairs)
    return found


@contextlib.asynccontextmanager
async def contenders(anchors: Path, folder: Path) -> AsyncIterator[dict[str, str]]:
    """The address of the file at each; all of them answer."""
    folder.chmod(0o755)
    root = folder / "public"
    root.mkdir()
    body = random.Random(SIZE).randbytes(SIZE // 2).hex()
    (root / FILE).write_text(body)
    (root / "index.html").write_text("<p>bench</p>")
    ports = {name: free_port() for name in ("nginx", "hyper", "site")}
    urls = {name: f"http://{LOOPBACK}:{port}/{FILE}" for name, port in ports.items()}
    with contextlib.ExitStack() as stack:
        if nginx := shutil.which("nginx", path="/usr/sbin:/usr/bin"):
            at = f"{LOOPBACK}:{ports['nginx']}"
            (folder / "nginx.conf").write_text(_NGINX.format(folder=folder, root=root, at=at))
            line = [nginx, "-p", str(folder), "-c", str(folder / "nginx.conf")]
            stack.enter_context(_running(*line))
        else:
            print("no nginx: a site is not compared with it")
            del urls["nginx"]
        stack.enter_context(_running(anchors, "file", ports["hyper"], root / FILE))
        async with Cluster(1) as cluster:
            await cluster[0].stop()
            await cluster[0].start("--http", f"{LOOPBACK}:{ports['site']}")
            done = await cluster[0].pln("seed", str(root), NAME, "--public", "--min-replicas", "1")
            assert done.returncode == 0, done.stderr.decode()
            for name, url in urls.items():

                async def answers(url: str = url) -> bool:
                    return await asyncio.to_thread(_read, url) == body.encode()

                await until(answers, 20, f"{name} answers")
            yield urls


def _read(url: str) -> bytes:
    done = subprocess.run(
        ["curl", "-s", "--noproxy", "*", "-H", f"Host: {NAME}", url],
        capture_output=True,
        check=False,
    )
    return done.stdout


def _rate(wrk: str, url: str, count: int, seconds: float) -> float:
    span = f"-d{max(1, round(seconds))}s"
    return rate_of([wrk, "-t1", f"-c{count}", span, "-H", f"Host: {NAME}", url])


@contextlib.contextmanager
def _running(*words: str | int | Path) -> Iterator[None]:
    """A program until the end; it is waited for by who asks it."""
    process = subprocess.Popen([str(word) for word in words], stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait()
