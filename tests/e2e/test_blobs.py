"""Files under a name: published on one node, held by several, fetched on any."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pollen
from pollen.errors import PollenError
from pollen.testing import Cluster, Node, until
from tests import recorder
from tests.e2e.conftest import running
from tests.e2e.talk import Answer, over_http

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
# The longest of the waits for copies; a fetch of 64 MiB takes a second.
PATIENCE = 60.0


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """Three linked nodes; each test publishes names of its own."""
    with running(Cluster(3)) as cluster:
        yield cluster


def noise(path: Path, size: int) -> Path:
    """A file that no compression makes smaller; the same size is the same file."""
    path.write_bytes(random.Random(size).randbytes(size))
    return path


def digest(path: Path) -> str:
    """Of a file's bytes."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def succeeds(node: Node, *line: str | Path, stdin: bytes = b"") -> str:
    """What a command prints that ends with 0."""
    done = await node.pln(*map(str, line), stdin=stdin)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


async def fails(node: Node, slug: str, *line: str | Path, stdin: bytes = b"") -> str:
    """The words of a command's refusal."""
    done = await node.pln(*map(str, line), stdin=stdin)
    said = done.stderr.decode()
    assert done.returncode != 0 and f"[{slug}]" in said, said or done.stdout.decode()
    recorder.note_words(done.stderr)
    return said


def asked(node: Node, target: str, method: str = "GET", **headers: str) -> Answer:
    """An answer of the local door; an underscore of a header's name is a hyphen."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return over_http(node.paths.call_socket, target, method=method, headers=named)


async def blob(node: Node, name: str) -> dict[str, Any]:
    """How a node sees a blob."""
    status = await node.status()
    return next((seed for seed in status["seeds"] if seed["name"] == name), {})


async def knows(node: Node, name: str) -> None:
    """A node has heard of a blob."""

    async def has_heard() -> bool:
        return bool(await blob(node, name))

    await until(has_heard, PATIENCE, f"{node.name} knows {name}")


def stored(node: Node) -> int:
    """Bytes that a node's content takes on the disk."""
    held = (node.paths.home / "content" / "data").glob("*.data")
    return sum(path.stat().st_blocks * 512 for path in held)


async def comes(node: Node, least: int) -> None:
    """More than so many bytes are on a node's disk."""

    async def are_there() -> bool:
        return stored(node) > least

    await until(are_there, PATIENCE, f"{least} bytes at {node.name}", poll=0.005)


async def held_by(node: Node, name: str, copies: int) -> list[str]:
    """The names of its holders, when there are so many."""

    async def are_there() -> bool:
        return (await blob(node, name)).get("ready") == copies

    await until(are_there, PATIENCE, f"{copies} copies of {name}")
    view = await blob(node, name)
    return [held["name"] for held in view["replicas"] if held["state"] == "ready"]


async def test_a_file_of_one_node_is_fetched_on_every_other(trio: Cluster, tmp_path: Path) -> None:
    """Larger than two pieces, and its end is no border."""
    film = noise(tmp_path / "film.mp4", 20 * MIB + 12_345)
    said = await succeeds(trio[0], "seed", film)
    assert "seeded film.mp4" in said and "fetch film.mp4" in said
    assert len(await held_by(trio[0], "film.mp4", 2)) == 2
    for node in trio:
        place = tmp_path / f"from-{node.name}"
        said = await succeeds(node, "fetch", "film.mp4", place)
        assert f"fetched film.mp4 into {place} (20.0 MiB)" in said
        assert digest(place) == digest(film), node.name
    shown = await succeeds(trio[2], "status", "blobs")
    assert "film.mp4" in shown and "2/2" in shown and "20.0 MiB" in shown
    assert "film.mp4" not in await succeeds(trio[2], "status", "seeds")


async def test_what_is_there_is_not_replaced_unasked(trio: Cluster, tmp_path: Path) -> None:
    """And a folder gets the file under its name."""
    text = tmp_path / "notes.txt"
    text.write_text("one\n")
    await succeeds(trio[0], "seed", text)
    (tmp_path / "there").mkdir()
    await succeeds(trio[1], "fetch", "notes.txt", tmp_path / "there")
    assert (tmp_path / "there/notes.txt").read_text() == "one\n"
    text.write_text("two\n")
    assert "updated notes.txt" in await succeeds(trio[0], "seed", text)
    await fails(trio[1], "file-exists", "fetch", "notes.txt", tmp_path / "there")

    async def is_new() -> bool:
        return await succeeds(trio[1], "fetch", "notes.txt", "-") == "two\n"

    await until(is_new, PATIENCE, "the update to arrive")
    await succeeds(trio[1], "fetch", "notes.txt", tmp_path / "there", "--force")
    assert (tmp_path / "there/notes.txt").read_text() == "two\n"
    assert not list((tmp_path / "there").glob(".*")), "a part of a file was left"


async def test_standard_input_is_a_blob_too(trio: Cluster) -> None:
    """It needs a name, and an empty one is a blob like any."""
    await succeeds(trio[1], "seed", "-", "from-stdin", stdin=b"through a pipe")
    await succeeds(trio[1], "seed", "-", "nothing-in-it", stdin=b"")
    assert await succeeds(trio[1], "fetch", "from-stdin", "-") == "through a pipe"
    assert await succeeds(trio[1], "fetch", "nothing-in-it", "-") == ""
    assert "seed - NAME" in await fails(trio[1], "usage", "seed", "-", stdin=b"x")


async def test_a_blob_is_not_called_and_a_module_not_fetched(trio: Cluster, tmp_path: Path) -> None:
    """Each refusal names the verb that does it."""
    await succeeds(trio[0], "seed", "-", "no-module", stdin=b"text")
    said = await fails(trio[0], "function-not-found", "call", "no-module")
    assert "fetch no-module" in said
    said = await fails(trio[0], "config-invalid", "seed", "-", "x", "--memory", "1GiB", stdin=b"x")
    assert "--memory" in said
    await fails(trio[0], "seed-not-found", "fetch", "nobody-has-it", "-")
    await fails(trio[0], "bad-request", "seed", tmp_path, "--kind", "blob")
    await fails(trio[0], "bad-request", "seed", tmp_path / "missing.bin")
    await fails(trio[0], "bad-request", "fetch", "no-module", tmp_path / "no/such/folder")


async def test_a_blob_is_found_by_its_content(trio: Cluster) -> None:
    """By eight digits or more, among those that the reader may read; a name goes first."""
    said = await succeeds(trio[0], "seed", "-", "by-digest", stdin=b"found by its hash")
    digits = next(line.split()[1] for line in said.splitlines() if "content:" in line)
    hidden = await succeeds(
        trio[0], "seed", "-", "hidden", "--allow-prop", "team=none", stdin=b"not for you"
    )
    secret = next(line.split()[1] for line in hidden.splitlines() if "content:" in line)
    await knows(trio[1], "by-digest")
    await knows(trio[1], "hidden")
    for word in (digits, digits[:8], digits[:13].upper()):
        assert await succeeds(trio[1], "fetch", word, "-") == "found by its hash"
    await fails(trio[1], "seed-not-found", "fetch", digits[:7], "-")
    told = await fails(trio[1], "seed-not-found", "fetch", secret, "-")
    nobody = await fails(trio[1], "seed-not-found", "fetch", "0" * 64, "-")
    assert told.replace(secret, "?") == nobody.replace("0" * 64, "?")
    await succeeds(trio[0], "seed", "-", digits[:8], stdin=b"a name")
    await knows(trio[0], digits[:8])
    assert await succeeds(trio[0], "fetch", digits[:8], "-") == "a name"


async def test_a_range_of_a_blob_is_sent_over_http(trio: Cluster) -> None:
    """With its hash as entity tag; a stranger sees public ones only."""
    await succeeds(trio[0], "seed", "-", "ranged", stdin=b"0123456789")
    await held_by(trio[0], "ranged", 2)
    whole = asked(trio[0], "/blob/ranged")
    assert (whole.status, whole.body) == (200, b"0123456789")
    assert whole.headers["accept-ranges"] == "bytes"
    assert asked(trio[0], "/blob/ranged", If_None_Match=whole.headers["etag"]).status == 304
    part = asked(trio[0], "/blob/ranged", Range="bytes=3-5")
    assert (part.status, part.body) == (206, b"345")
    assert part.headers["content-range"] == "bytes 3-5/10"
    behind = asked(trio[0], "/blob/ranged", Range="bytes=10-")
    assert (behind.status, behind.headers["content-range"]) == (416, "bytes */10")
    head = asked(trio[0], "/blob/ranged", "HEAD")
    assert (head.status, head.headers["content-length"], head.body) == (200, "10", b"")


async def test_a_holder_that_dies_is_made_up_for(tmp_path: Path) -> None:
    """Nobody says that it leaves: another node holds a copy within 30 s."""
    film = noise(tmp_path / "film", 40 * MIB)
    async with Cluster(4) as cluster:
        await succeeds(cluster[0], "seed", film)
        holders = await held_by(cluster[0], "film", 2)
        dead = next(node for node in cluster if node.name in holders and node is not cluster[0])
        await dead.kill()
        watcher = next(node for node in cluster if node.is_running)

        async def is_mended() -> bool:
            names = await held_by(watcher, "film", 2)
            return dead.name not in names

        await until(is_mended, 30, "another copy")
        other = next(node for node in cluster if node.is_running and node is not cluster[0])
        await succeeds(other, "fetch", "film", tmp_path / "back")
        assert digest(tmp_path / "back") == digest(film)


async def test_a_fetch_outlives_a_kill_of_the_fetcher_and_of_a_holder(tmp_path: Path) -> None:
    """What came before is not lost, and what a holder cannot send comes from the other."""
    film = noise(tmp_path / "film", 160 * MIB)
    async with Cluster(4) as cluster:
        await succeeds(cluster[0], "seed", film)
        holders = await held_by(cluster[0], "film", 2)
        reader = next(
            node for node in cluster if node.name not in holders and node is not cluster[0]
        )
        for part in (20, 80):
            fetching = asyncio.create_task(reader.pln("fetch", "film", str(tmp_path / "cut")))
            await comes(reader, part * MIB)
            await reader.kill()
            await fetching
            assert not (tmp_path / "cut").exists()
            await reader.restart()
        await cluster.linked()
        came = stored(reader)
        fetching = asyncio.create_task(reader.pln("fetch", "film", str(tmp_path / "back")))
        await comes(reader, came)
        dying = next(node for node in cluster if node.name in holders and node is not cluster[0])
        await dying.kill()
        done = await fetching
        assert done.returncode == 0, done.stderr.decode()
        assert digest(tmp_path / "back") == digest(film)


async def test_only_who_may_read_a_blob_holds_it_and_gets_it(tmp_path: Path) -> None:
    """The gate of readers is one of holders, and knowing the hash gives nothing."""
    async with Cluster(3) as cluster:
        line = ("seed", "-", "secret", "--allow-prop", "team=red")
        await succeeds(cluster[0], *line, stdin=b"for red eyes")
        await knows(cluster[1], "secret")
        view = await blob(cluster[0], "secret")
        assert view["replicas"] == [] and view["wanted"] == 0
        said = await fails(cluster[1], "denied", "fetch", "secret", "-")
        assert "team=red" in said
        assert asked(cluster[1], "/blob/secret").status == 403


async def test_a_full_disk_refuses_a_file_and_says_so(trio: Cluster, tmp_path: Path) -> None:
    """Before a byte is sent: the size says it."""
    huge = tmp_path / "huge"
    with huge.open("wb") as file:
        os.truncate(file.fileno(), 8 << 40)
    said = await fails(trio[0], "storage-full", "seed", huge)
    assert "no room" in said
    status = json.loads(await succeeds(trio[0], "status", "blobs", "--json"))
    assert "huge" not in [held["name"] for held in status]


async def test_a_program_publishes_and_fetches_a_file(trio: Cluster, tmp_path: Path) -> None:
    """Both twins, and how far it has come."""
    film = noise(tmp_path / "model.bin", 3 * MIB)
    told: list[tuple[int, int]] = []
    async with trio[0].connect() as mesh:
        answer = await mesh.seed(film, "model.bin")
        assert (answer["kind"], answer["size_bytes"]) == ("blob", 3 * MIB)
    await held_by(trio[1], "model.bin", 2)
    async with trio[1].connect() as mesh:
        tell = lambda *at: told.append(at)  # noqa: E731
        assert await mesh.fetch("model.bin", tmp_path / "one", progress=tell) == 3 * MIB
        with pytest.raises(PollenError) as taken:
            await mesh.fetch("model.bin", tmp_path / "one")
        assert taken.value.slug == "file-exists"
    with pollen.connect_sync(trio[2].paths.home) as twin:
        assert await asyncio.to_thread(twin.fetch, "model.bin", tmp_path / "two") == 3 * MIB
    assert digest(tmp_path / "one") == digest(tmp_path / "two") == digest(film)
    assert told == [(MIB, 3 * MIB), (2 * MIB, 3 * MIB), (3 * MIB, 3 * MIB)]


async def test_a_program_reads_a_file_piece_by_piece(trio: Cluster, tmp_path: Path) -> None:
    """Both twins; whoever reads no further leaves nothing open."""
    film = noise(tmp_path / "read.bin", 3 * MIB + 7)
    await succeeds(trio[0], "seed", film)
    await knows(trio[2], "read.bin")
    async with trio[2].connect() as mesh:
        sizes = []
        async for piece in mesh.read("read.bin"):
            sizes.append(len(piece))
        assert sizes == [MIB, MIB, MIB, 7]
        async for piece in mesh.read("read.bin"):
            assert piece == film.read_bytes()[:MIB]
            break
        with pytest.raises(PollenError) as missing:
            async for _ in mesh.read("nothing"):
                pass
        assert missing.value.slug == "seed-not-found"

    def read() -> bytes:
        with pollen.connect_sync(trio[2].paths.home) as twin:
            return b"".join(twin.read("read.bin"))

    assert await asyncio.to_thread(read) == film.read_bytes()


async def test_a_pinned_blob_is_here_whatever_the_plan_says(trio: Cluster, tmp_path: Path) -> None:
    """In each version of the name, and after a restart; without the pin the copy leaves."""
    await succeeds(trio[0], "seed", noise(tmp_path / "pinned.bin", MIB))
    holders = await held_by(trio[1], "pinned.bin", 2)
    other = next(node for node in trio if node.name not in holders)
    await knows(other, "pinned.bin")
    said = await succeeds(other, "pin", "pinned.bin")
    assert said.startswith("pinned.bin is pinned on this node")
    assert "already" in await succeeds(other, "pin", "pinned.bin")

    async def is_held() -> bool:
        held = (await blob(other, "pinned.bin"))["replicas"]
        return other.name in {one["name"] for one in held if one["state"] == "ready"}

    await until(is_held, PATIENCE, "a copy where it is pinned")
    assert "pinned" in await succeeds(other, "status", "blobs")
    newer = noise(tmp_path / "newer.bin", 2 * MIB)
    before = await blob(other, "pinned.bin")
    await succeeds(trio[0], "seed", newer, "pinned.bin")

    async def is_newer() -> bool:
        return (await blob(other, "pinned.bin"))["content"] != before["content"]

    await until(is_newer, PATIENCE, "the update")
    await until(is_held, PATIENCE, "a copy of the update")
    await other.kill()
    await other.start()
    await knows(other, "pinned.bin")
    await until(is_held, PATIENCE, "a copy after a restart")
    assert (await blob(other, "pinned.bin"))["is_pinned"]
    assert "no more" in await succeeds(other, "unpin", "pinned.bin")
    assert "was not pinned" in await succeeds(other, "unpin", "pinned.bin")
    await held_by(trio[0], "pinned.bin", 2)
    assert not (await blob(other, "pinned.bin"))["is_pinned"]
    await fails(other, "seed-not-found", "pin", "nothing")


async def test_copies_keep_to_their_quota_and_come_when_there_is_room(tmp_path: Path) -> None:
    """The second file finds no room beside the first one, and comes when that is withdrawn."""
    settings, roles = {"blob_bytes": "3MiB"}, {"b": {"role": "holder"}}
    async with Cluster(2, properties=roles, settings=settings) as cluster:
        a, b = cluster
        for name, size in (("first", 2 * MIB), ("second", 2 * MIB + 1)):
            file = noise(tmp_path / name, size)
            said = await succeeds(a, "seed", file, "--no-wait", "--host-prop", "role=holder")
            assert f"seeded {name}" in said and "held by" not in said
            if name == "first":
                assert await held_by(b, name, 1) == ["b"]

        async def states() -> list[tuple[str, str]]:
            held = (await blob(b, "second")).get("replicas", ())
            return [(copy["state"], copy["reason"]) for copy in held]

        reason = "no room: needs 3 MiB, 1 MiB are free of blob_bytes"

        async def is_refused() -> bool:
            return await states() == [("refused", reason)]

        await until(is_refused, PATIENCE, "the second file is refused")
        await succeeds(a, "unseed", "first")
        assert await held_by(b, "second", 1) == ["b"]


async def test_a_fetch_takes_no_more_of_the_line_than_it_may(tmp_path: Path) -> None:
    """From a holder, where the reader has nothing; and what is here already is not held up."""
    roles = {"a": {"role": "holder"}}
    async with Cluster(2, properties=roles) as cluster:
        a, b = cluster
        film = noise(tmp_path / "slow.bin", 9 * MIB)
        await succeeds(a, "seed", film, "--host-prop", "role=holder")
        await knows(b, "slow.bin")
        for node, least in ((b, 2.5), (a, 0.0)):
            began = time.monotonic()
            place = tmp_path / f"at-{node.name}"
            await succeeds(node, "fetch", "slow.bin", place, "--bwlimit", "3MiB")
            seconds = time.monotonic() - began
            assert digest(place) == digest(film) and seconds >= least
        assert seconds < 2.5, f"{seconds:.1f} s for what is on this disk"
        assert "below 4 KiB" in await fails(b, "usage", "fetch", "slow.bin", "--bwlimit", "3B")
        assert asked(b, "/blob/slow.bin?bwlimit=much").status == 400


async def test_whoever_publishes_the_hash_of_another_gets_no_byte(tmp_path: Path) -> None:
    """A spec without a gate that names what somebody else gave to few."""
    async with Cluster(3) as cluster:
        await succeeds(cluster[0], "grant", "b", "--prop", "team=red")
        secret = noise(tmp_path / "secret", 300_000)
        line = ("seed", secret, "secret", "--allow-prop", "team=red", "--min-replicas", "1")
        await succeeds(cluster[0], *line)
        assert await held_by(cluster[0], "secret", 1) == ["b"]
        content = (await blob(cluster[2], "secret"))["content"]
        stolen = {"name": "stolen", "content": content, "kind": "blob"}
        with pytest.raises(PollenError) as refused:
            await cluster[2].post("/v1/seeds", stolen)
        assert refused.value.slug == "blob-not-found"
