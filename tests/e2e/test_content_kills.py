"""A fetch under ``kill -9`` of its reader, of a holder and of both, and from a disk that lies.

Each node has a network of its own, whose counters show what came, however a node ended. The moments
of the kills are parts of the file that had come, drawn from one seed. So they fall on the whole
way, whatever the speed of this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

from pollen.errors import PollenError
from pollen.testing import Cluster, Node, until
from pollen.testing.namespaces import Network
from tests.e2e.bars import within
from tests.e2e.conftest import NO_SPACES
from tests.e2e.talk import logged
from tests.e2e.test_blobs import MIB, blob, digest, knows, noise, succeeds

pytestmark = [pytest.mark.slow, pytest.mark.figure, pytest.mark.timeout(900)]

PIECE = 8 * MIB
KILLS = 10
SIZE = 128 * MIB
# Parts of the file between which the kills fall: behind the last one nothing is on its way.
FIRST, LAST = 0.02, 0.9
# What comes again of one holder at the most (docs/internals/content.md#transfer).
AGAIN = 8 * MIB
# Gossip and probes beside a fetch of two seconds.
BESIDE = MIB
# The longest that a reader waits for a byte when a holder dies, seconds.
GAP = 1.0
# What takes longest is a reader that looks for its holders again.
PATIENCE = 60.0


class Round(msgspec.Struct, frozen=True):
    """What came of one kill: seconds and bytes."""

    # The part of the file that had come.
    part: float
    is_right: bool
    again: int
    gap: float
    # From the begin of the fetch to the kill.
    after: float


class Stage(msgspec.Struct):
    """Two holders that nobody can take the place of, a reader that holds nothing, and the file."""

    cluster: Cluster
    film: Path
    place: Path
    holders: list[Node]
    reader: Node
    # What comes to the reader in a fetch that nobody kills, bytes.
    whole: int = 0

    def came(self) -> int:
        """Bytes that came into the network of the reader, since it was made."""
        assert self.cluster.network is not None
        space = self.cluster.network.space(self.reader.name)
        line = ["ip", "-n", space, "-s", "-j", "link", "show", "eth0"]
        done = subprocess.run(line, capture_output=True, check=True)
        return int(json.loads(done.stdout)[0]["stats64"]["rx"]["bytes"])

    async def begin(self) -> None:
        """A reader with nothing on its disk, and both holders."""
        # In order it would say that it comes back with what it holds.
        await self.reader.kill()
        shutil.rmtree(self.reader.home / "content")
        self.place.unlink(missing_ok=True)
        for node in (self.reader, *self.holders):
            if not node.is_running:
                await node.kill()
                await node.start()
        await self.cluster.linked()
        await self.sees(self.holders)

    async def sees(self, holders: list[Node]) -> None:
        """The reader knows of these holders."""
        names = {node.name for node in holders}

        async def are_seen() -> bool:
            held = (await blob(self.reader, "film")).get("replicas", ())
            return names <= {one["name"] for one in held if one["state"] == "ready"}

        await until(are_seen, PATIENCE, f"{names} hold it")

    async def fetch(self) -> list[float]:
        """Fetch it; when each MiB came."""
        came: list[float] = []
        async with self.reader.connect() as mesh:
            tell = lambda *_: came.append(time.monotonic())  # noqa: E731
            await mesh.fetch("film", self.place, progress=tell)
        return came

    async def until_came(self, before: int, part: float) -> None:
        """So large a part has come since then."""
        counts = Path(f"/proc/{self.reader.pid}/net/dev")

        async def has_come() -> bool:
            line = next(line for line in counts.read_text().splitlines() if "eth0:" in line)
            return int(line.split(":")[1].split()[0]) - before >= part * SIZE

        await until(has_come, PATIENCE, f"{part:.0%} to come", poll=0.002)

    def is_right(self) -> bool:
        """Every byte is there, and nothing half-written beside it."""
        return digest(self.place) == digest(self.film) and not list(self.place.parent.glob(".*"))


@contextlib.asynccontextmanager
async def stage(folder: Path, **settings: str) -> AsyncIterator[Stage]:
    """A file on two nodes of four, and how much a fetch of it brings; no file is left."""
    film = noise(folder / "film", SIZE)
    (folder / "to").mkdir()
    roles = {name: {"role": "holder"} for name in "bc"}
    async with Cluster(4, namespaces=True, properties=roles, settings=settings) as cluster:
        await succeeds(cluster[0], "seed", film, "--host-prop", "role=holder")
        await knows(cluster[3], "film")
        made = Stage(cluster, film, folder / "to/film", cluster.nodes[1:3], cluster[3])
        await made.sees(made.holders)
        for _ in range(2):
            await made.begin()
            before = made.came()
            await made.fetch()
            made.whole = max(made.whole, made.came() - before)
            assert made.is_right()
        yield made
    film.unlink()
    made.place.unlink()


async def round_of(it: Stage, dying: list[Node], part: float) -> Round:
    """Kill them when this part of the file has come, and fetch it to its end."""
    await it.begin()
    before = it.came()
    began = time.monotonic()
    fetching = asyncio.ensure_future(it.fetch())
    await it.until_came(before, part)
    after = time.monotonic() - began
    for node in dying:
        assert node.process is not None
        node.process.kill()
    if it.reader not in dying:
        came = await fetching
        gap = max(later - sooner for sooner, later in itertools.pairwise(came))
        return Round(part, it.is_right(), it.came() - before - it.whole, gap, after)
    with pytest.raises(PollenError):
        await fetching
    assert not it.place.exists(), "half a file is there"
    lost = it.came() - before
    await it.reader.kill()
    await it.reader.start()
    await knows(it.reader, "film")
    left = [node for node in it.holders if node not in dying]
    await it.sees(left)
    before = it.came()
    await it.fetch()
    return Round(part, it.is_right(), lost + it.came() - before - it.whole, 0, after)


async def rounds(folder: Path) -> dict[str, list[Round]]:
    """Ten kills of the reader, ten of a holder, five of each; ten of both."""
    found: dict[str, list[Round]] = {}
    async with stage(folder) as it:
        for who in ("reader", "holder", "both"):
            rng = random.Random(f"content {who}")
            for number in range(KILLS):
                holder = it.holders[number % 2]
                dying = {"reader": [it.reader], "holder": [holder], "both": [it.reader, holder]}
                held = await round_of(it, dying[who], rng.uniform(FIRST, LAST))
                found.setdefault(who, []).append(held)
                again = f"{held.again / MIB:.1f} MiB again"
                at = f"{held.part:.0%}, {held.after:.2f} s"
                print(f"{who} at {at}: {again}, longest gap {held.gap:.2f} s")
    return found


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, list[Round]]]:
    """All rounds, once for what is said of them below."""
    if not Network.is_possible():
        pytest.skip(NO_SPACES)
    folder = tmp_path_factory.mktemp("kills")
    yield asyncio.run(rounds(folder))


@pytest.mark.parametrize("who", ["reader", "holder", "both"])
def test_a_fetch_is_whole_whoever_was_killed(killed: dict[str, list[Round]], who: str) -> None:
    """Each of ten fetches ends with every byte right, and leaves nothing half-written."""
    assert [held.is_right for held in killed[who]] == [True] * KILLS


@pytest.mark.parametrize("who", ["reader", "holder", "both"])
def test_what_was_on_its_way_comes_again_and_nothing_else(
    killed: dict[str, list[Round]], who: str
) -> None:
    """8 MiB of each holder that sent to a reader that died, and of the holder that died."""
    most = AGAIN if who == "holder" else 2 * AGAIN
    again = [held.again for held in killed[who]]
    print(f"{who}: MiB again {[round(count / MIB, 1) for count in again]}")
    assert max(again) <= most + BESIDE


def test_a_holder_that_dies_is_replaced_within_a_second(killed: dict[str, list[Round]]) -> None:
    """The reader is never without a byte for longer, wherever in the file the holder died."""
    gaps = [held.gap for held in killed["holder"]]
    print(f"longest gaps {[round(gap, 2) for gap in gaps]} s")
    assert max(gaps) < within(GAP)


async def test_a_flipped_byte_is_refused_and_another_holder_is_used(tmp_path: Path) -> None:
    """In each piece on a holder's disk. The reader gets every byte right from the other one. The
    holder says what is wrong with its copy, holds it no more, and another node makes one."""
    if not Network.is_possible():
        pytest.skip(NO_SPACES)
    async with stage(tmp_path) as it:
        liar, other = it.holders
        await liar.kill()
        files = (liar.home / "content/data").glob("*.data")
        path = next(path for path in files if path.stat().st_size == SIZE)
        rng = random.Random(15)
        with path.open("r+b") as file:
            for piece in range(0, SIZE, PIECE):
                at = piece + rng.randrange(PIECE)
                file.seek(at)
                byte = file.read(1)[0]
                file.seek(at)
                file.write(bytes([byte ^ 1]))
        await it.begin()
        came = await it.fetch()
        assert it.is_right()
        gap = max(later - sooner for sooner, later in itertools.pairwise(came))
        print(f"longest gap {gap:.2f} s")
        assert gap < within(GAP)

        async def is_refused() -> bool:
            held = (await blob(it.reader, "film"))["replicas"]
            said = {one["name"]: one for one in held}
            return said[liar.name]["state"] == "refused" and said[other.name]["state"] == "ready"

        await until(is_refused, PATIENCE, "the damaged copy counts no more")
        held = (await blob(it.reader, "film"))["replicas"]
        reason = next(one["reason"] for one in held if one["name"] == liar.name)
        assert reason == "state-unusable: the copy on this disk is damaged"
        # It read all of it again first, and told it in its log.
        assert logged(liar, "the copy of a blob on this disk is damaged")
