"""Two hundred files on five nodes: one node goes for a while, and another one for good."""

from __future__ import annotations

import asyncio
import hashlib
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import running
from tests.e2e.test_blobs import MIB, digest, stored, succeeds

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

NODES = 5
COPIES = 2
# Of 1 KiB to 64 MiB with evenly spread logarithms, and large ones beside them: 2 GiB in all.
SPREAD, LARGE = 180, 20
LEAST, MOST = 1 << 10, 64 * MIB
# Seconds from an unannounced death until each file has its copies again.
REPAIRED = 30.0
# How long nobody may fetch anything while a node is awaited. A death is made up for in less.
AWAITED = 20.0
PATIENCE = 120.0
# Published at once: what one publisher waits for is the others' disks.
AT_ONCE = 4
# Files that are read back after the repair, the largest and the smallest among them.
READ_BACK = 12


class Town(msgspec.Struct):
    """The cluster, and the SHA-256 and size of each file by its name."""

    cluster: Cluster
    files: dict[str, tuple[str, int]]

    @property
    def alive(self) -> list[Node]:
        """Who runs."""
        return [node for node in self.cluster if node.is_running]


def sizes() -> list[int]:
    """Those of all files, bytes."""
    rng = random.Random(1515)
    ends = math.log2(LEAST), math.log2(MOST)
    spread = [int(2 ** rng.uniform(*ends)) for _ in range(SPREAD - 2)]
    large = [rng.randint(MOST * 2 // 3, MOST) for _ in range(LARGE)]
    drawn = [LEAST, MOST, *spread, *large]
    rng.shuffle(drawn)
    return drawn


async def publish(cluster: Cluster, folder: Path) -> dict[str, tuple[str, int]]:
    """Each file from another node; the files themselves do not stay."""
    files: dict[str, tuple[str, int]] = {}
    gate = asyncio.Semaphore(AT_ONCE)

    def write(name: str, size: int) -> Path:
        data = random.Random(name).randbytes(size)
        files[name] = (hashlib.sha256(data).hexdigest(), size)
        (folder / name).write_bytes(data)
        return folder / name

    async def one(number: int, size: int) -> None:
        async with gate:
            path = await asyncio.to_thread(write, f"file-{number}", size)
            async with cluster[number % NODES].connect() as mesh:
                await mesh.seed(path, path.name)
            path.unlink()

    await asyncio.gather(*(one(number, size) for number, size in enumerate(sizes())))
    return files


async def seen(node: Node) -> dict[str, dict[str, str]]:
    """The state of each copy of each file, by file and node, as a node sees them."""
    views: list[dict[str, Any]] = (await node.status())["seeds"]
    return {
        view["name"]: {copy["name"]: copy["state"] for copy in view["replicas"]} for view in views
    }


def ready(copies: dict[str, str], among: set[str]) -> set[str]:
    """Who is ready of these nodes."""
    return {name for name, state in copies.items() if state == "ready" and name in among}


async def until_whole(town: Town, timeout: float) -> None:
    """Each node that runs sees the wanted copies of each file, on nodes that run."""
    names = {node.name for node in town.alive}

    async def are_there() -> bool:
        for node in town.alive:
            views = await seen(node)
            if any(len(ready(views.get(file, {}), names)) < COPIES for file in town.files):
                return False
        return True

    await until(are_there, timeout, "each file has its copies", poll=0.25)


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    """All files, with their copies."""
    with running(Cluster(NODES)) as cluster:

        async def make() -> Town:
            began = time.monotonic()
            made = Town(cluster, await publish(cluster, tmp_path_factory.mktemp("files")))
            await until_whole(made, PATIENCE)
            gib = sum(size for _, size in made.files.values()) / (1 << 30)
            seconds = time.monotonic() - began
            print(f"{len(made.files)} files, {gib:.2f} GiB, published in {seconds:.0f} s")
            return made

        yield asyncio.run(make())


def held_bytes(town: Town) -> dict[str, int]:
    """What the files take on each node's disk."""
    return {node.name: stored(node) for node in town.cluster}


async def test_an_absence_that_was_announced_moves_nothing(town: Town) -> None:
    """A node that went down keeps its copies. For as long as a repair takes, and longer, nobody
    fetches a file that another node holds as well."""
    watcher, away = town.cluster[0], town.cluster[NODES - 1]
    before, held = await seen(watcher), held_bytes(town)
    its = [file for file in town.files if away.name in before[file]]
    assert len(its) > len(town.files) // NODES, "the node holds its share"
    await succeeds(away, "down")
    await away.stop()
    ends = time.monotonic() + AWAITED

    async def is_over() -> bool:
        now = await seen(watcher)
        new = {file: set(now[file]) - set(before[file]) for file in town.files}
        assert not any(new.values()), {file: who for file, who in new.items() if who}
        return time.monotonic() >= ends

    await until(is_over, AWAITED + 10, "nobody fetches", poll=0.25)
    assert held_bytes(town) == held
    size = sum(town.files[file][1] for file in its)
    print(f"{len(its)} copies of {away.name}, {size / MIB:.0f} MiB, were awaited for {AWAITED} s")


async def test_a_node_that_comes_back_fetches_nothing(town: Town) -> None:
    """Its copies are on its disk, and those of the others are where they were."""
    back = town.cluster[NODES - 1]
    held = held_bytes(town)
    await back.start()
    await town.cluster.linked()
    await until_whole(town, PATIENCE)
    names = {node.name for node in town.cluster}

    async def is_settled() -> bool:
        views = await seen(town.cluster[0])
        return all(
            len(copies) == COPIES == len(ready(copies, names))
            for file, copies in views.items()
            if file in town.files
        )

    await until(is_settled, PATIENCE, "each file has its copies, and no other one", poll=0.25)
    more = {name: (now - held[name]) // MIB for name, now in held_bytes(town).items()}
    print(f"MiB more than before: {more}")
    assert not any(more.values())


async def test_a_death_is_made_up_for_within_thirty_seconds(town: Town, tmp_path: Path) -> None:
    """Each file has two copies again, also those that the dead node published, and their bytes are
    right."""
    dead = town.cluster[2]
    before = await seen(town.cluster[0])
    lost = [file for file in town.files if before[file].get(dead.name) == "ready"]
    size = sum(town.files[file][1] for file in lost)
    await dead.kill()
    began = time.monotonic()
    await until_whole(town, PATIENCE)
    seconds = time.monotonic() - began
    print(f"{len(lost)} copies, {size / MIB:.0f} MiB, made again {seconds:.1f} s after the death")
    assert seconds < REPAIRED
    by_size = sorted(lost, key=lambda file: town.files[file][1])
    for file in by_size[:: max(1, len(by_size) // READ_BACK)] + by_size[-1:]:
        place = tmp_path / file
        await succeeds(town.alive[0], "fetch", file, place)
        assert digest(place) == town.files[file][0], file
        place.unlink()
