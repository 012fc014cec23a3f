"""Files published and fetched, against iroh-blobs without a mesh and against the tools of a shell.

All contenders take turns within a round, on the same disk, and each is durable when it ends. Who
begins changes from round to round, and each finds memory that nobody used a moment before: where
the machine is virtual, a page that its host took back costs several times as much
(docs/decisions/what-the-benchmarks-compare-with.md).

- ``fetch``: a file of one node, fetched by ``mesh.fetch`` of another one into a file; the anchor is
  iroh-blobs between two processes, a whole blob got into its store and exported to a file;
- ``publish``: ``mesh.seed`` of a file; the anchor copies it (``cp`` and ``sync``), and hashes it on
  one thread.

Memory is what the process of a node has more than before, at most, while the file goes through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path

from pollen.testing import Cluster, Node, until

MIB = 1 << 20
# MiB of a file, and its name among the figures.
SIZES = {"256m": 256, "4g": 4_096}
BARS: dict[str, tuple[str, float]] = {
    **{f"blob_fetch_{size}_to_iroh": (">=", 0.85) for size in SIZES},
    **{f"blob_publish_{size}_to_shell": (">=", 0.5) for size in SIZES},
    **{f"blob_{size}_more_mib": ("<=", 64.0) for size in SIZES},
}
LOOK_S = 0.02
# So long free memory takes to go back to the host of a virtual machine. Measured: after 4 s pages
# cost what they cost after 30 s.
SETTLE_S = 5.0


async def measure(anchors: Path, rounds: int) -> dict[str, float]:
    """The figures, of the disk that holds the folder for temporary files."""
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="blobs-") as folder:
        for size, mib in SIZES.items():
            # The large one takes minutes: each side begins once.
            count = rounds if mib < 1_000 else 2
            figures |= await _measured(anchors, count, Path(folder), size)
    return figures


async def _measured(anchors: Path, rounds: int, folder: Path, size: str) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    async with Cluster(2, properties={"a": {"bench": "holder"}}) as cluster:
        for index in range(rounds):
            file = _noise(folder / "film", SIZES[size], index)
            sides = (_ours(cluster, file, folder), _theirs(anchors, cluster, file, folder))
            for side in sides if index % 2 == 0 else reversed(sides):
                for name, value in (await side).items():
                    found.setdefault(name, []).append(value)
            said = "  ".join(f"{name} {values[-1]:.2f}" for name, values in found.items())
            print(f"blobs of {size}, round {index + 1}: {said}", flush=True)
    median = {name: statistics.median(values) for name, values in found.items()}

    def ratio(one: str, other: str) -> float:
        pairs = zip(found[one], found[other], strict=True)
        return statistics.median(anchor / ours for ours, anchor in pairs)

    mb = SIZES[size] * MIB / 1e6
    return {
        f"blob_fetch_{size}_mb_s": mb / median["fetch_s"],
        f"blob_fetch_{size}_to_iroh": ratio("fetch_s", "iroh_s"),
        f"blob_publish_{size}_mb_s": mb / median["publish_s"],
        f"blob_publish_{size}_to_shell": ratio("publish_s", "shell_s"),
        f"blob_{size}_more_mib": max(found["more_mib"]),
    }


async def _ours(cluster: Cluster, file: Path, folder: Path) -> dict[str, float]:
    """One file published and fetched. What that leaves is removed."""
    a, b = cluster
    found = {}
    await asyncio.to_thread(_level, cluster, folder)
    async with a.connect() as ours, b.connect() as reader, _watched(a, b) as more:
        published = ours.seed(file, "film", min_replicas=1, host=[("bench", "holder")])
        found["publish_s"] = await _timed(published)

        async def is_known() -> bool:
            held = (await b.get("/v1/status"))["seeds"]
            return any(one["name"] == "film" and one["ready"] for one in held)

        await until(is_known, 20, "the reader knows the file")
        await asyncio.to_thread(os.sync)
        to = folder / "fetched"
        found["fetch_s"] = await _timed(reader.fetch("film", to))
        found["more_mib"] = max(more) / MIB
        subprocess.run(["cmp", file, to], check=True)
        to.unlink()
        await ours.unseed("film")
    return found


async def _theirs(anchors: Path, cluster: Cluster, file: Path, folder: Path) -> dict[str, float]:
    """The same file through the anchors. What they leave is removed."""
    await asyncio.to_thread(_level, cluster, folder)
    shell = await asyncio.to_thread(_shell, anchors, file, folder / "copy")
    await asyncio.to_thread(_level, cluster, folder)
    return {"shell_s": shell} | await asyncio.to_thread(_iroh, anchors, file, folder / "iroh")


def _level(cluster: Cluster, folder: Path) -> None:
    """Write all to the disk, and give up the memory that holds large files."""
    os.sync()
    for place in (folder, *(node.home for node in cluster)):
        for path in place.rglob("*"):
            # What is written beside may have gone.
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_size >= MIB:
                    with path.open("rb") as file:
                        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    time.sleep(SETTLE_S)


async def _timed(work: Awaitable[object]) -> float:
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


@contextlib.asynccontextmanager
async def _watched(*nodes: Node) -> AsyncIterator[list[int]]:
    """Bytes that each node's process has more than when this began, at most so far."""
    idle = [_resident(node) for node in nodes]
    most = [0] * len(nodes)

    async def look() -> None:
        while True:
            for at, node in enumerate(nodes):
                most[at] = max(most[at], _resident(node) - idle[at])
            await asyncio.sleep(LOOK_S)

    looking = asyncio.create_task(look())
    try:
        yield most
    finally:
        looking.cancel()


def _resident(node: Node) -> int:
    text = Path(f"/proc/{node.pid}/status").read_text()
    line = next(line for line in text.splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) << 10


def _noise(path: Path, mib: int, number: int) -> Path:
    """A file of bytes that nothing makes smaller."""
    rng = random.Random(f"{mib} {number}")
    with path.open("wb") as file:
        for _ in range(mib):
            file.write(rng.randbytes(MIB))
    return path


def _shell(anchors: Path, file: Path, to: Path) -> float:
    """``cp``, ``sync`` and a hash."""
    began = time.perf_counter()
    subprocess.run(["cp", file, to], check=True)
    subprocess.run(["sync", to], check=True)
    subprocess.run([anchors, "hash", file], check=True, stdout=subprocess.DEVNULL)
    taken = time.perf_counter() - began
    to.unlink()
    return taken


def _iroh(anchors: Path, file: Path, folder: Path) -> dict[str, float]:
    """Seconds until the content is in the other store, and until it is in a file as well."""
    folder.mkdir()
    line = [str(anchors), "hold", str(folder / "a"), str(file)]
    holder = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None
        told = holder.stdout.readline().split()
        line = [str(anchors), "get", str(folder / "b"), *told, str(folder / "fetched")]
        done = subprocess.run(line, check=True, capture_output=True, text=True)
    finally:
        holder.kill()
        holder.wait()
    subprocess.run(["cmp", file, folder / "fetched"], check=True)
    shutil.rmtree(folder)
    got, exported = map(float, done.stdout.split())
    return {"iroh_get_s": got, "iroh_s": exported}
