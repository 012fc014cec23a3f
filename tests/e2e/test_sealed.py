"""Sealed blobs: held by nodes that cannot read them, read by those that they are for."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example, running
from tests.e2e.talk import over_http
from tests.e2e.test_blobs import asked, blob, fails, held_by, knows, noise, succeeds

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
BLUE = ("--allow-prop", "team=blue")
# Only nodes outside of the team may hold it.
OUTSIDE = ("--host-prop", "team=red")
SEALED = ("--sealed", *BLUE, *OUTSIDE)


@pytest.fixture(scope="module")
def teams() -> Iterator[Cluster]:
    """a and c are blue, b and d are red; each test publishes names of its own."""
    blue, red = {"team": "blue"}, {"team": "red"}
    properties = {"a": blue, "b": red, "c": blue, "d": red}
    with running(Cluster(4, properties=properties)) as cluster:
        yield cluster


def has_on_disk(node: Node, text: bytes) -> bool:
    """Whether a text stands in any file of a node's content."""
    files = [path for path in (node.paths.home / "content").rglob("*") if path.is_file()]
    assert files
    return any(text in path.read_bytes() for path in files)


async def ready_on(node: Node, name: str) -> None:
    """A node sees a replica that is ready."""

    async def is_ready() -> bool:
        return bool((await blob(node, name)).get("ready"))

    await until(is_ready, 20, f"{name} is ready")


async def test_holders_cannot_read_it_and_readers_need_not_hold_it(
    teams: Cluster, tmp_path: Path
) -> None:
    """Larger than two pieces; whole, by ranges, and while it comes."""
    a, b, c, d = teams
    secret = b"the wall is three metres high; "
    plan = tmp_path / "plan"
    plan.write_bytes(secret * (20 * MIB // len(secret)) + b"the end")
    said = await succeeds(a, "seed", plan, "plan", *SEALED)
    assert "  sealed for: a, c\n" in said
    assert sorted(await held_by(a, "plan", 2)) == ["b", "d"]
    for node in teams:
        await knows(node, "plan")
        assert not has_on_disk(node, secret)
    for node in (a, c):
        place = tmp_path / f"from-{node.name}"
        await succeeds(node, "fetch", "plan", place)
        assert place.read_bytes() == plan.read_bytes()
        assert not has_on_disk(node, secret)
    for node in (b, d):
        await fails(node, "denied", "fetch", "plan", tmp_path / "no")
    whole, rng = plan.read_bytes(), random.Random(7)
    head = asked(c, "/blob/plan", "HEAD")
    assert head.headers["content-length"] == str(len(whole))
    borders = [0, 65_535, 65_536, 8 * MIB - 1, 8 * MIB, len(whole) - 1]
    for first in borders + [rng.randrange(len(whole)) for _ in range(20)]:
        last = min(first + rng.choice([0, 1, 65_536, 300_000]), len(whole) - 1)
        part = asked(c, "/blob/plan", Range=f"bytes={first}-{last}")
        assert (part.status, part.body) == (206, whole[first : last + 1]), (first, last)
    seen = json.loads(await succeeds(c, "inspect", "plan", "--json"))
    assert sorted(seen["recipients"].values()) == ["a", "c"]
    assert "sealed for   a, c" in await succeeds(c, "inspect", "plan")


async def test_it_is_read_when_its_publisher_is_gone(teams: Cluster, tmp_path: Path) -> None:
    """From the disks of those that cannot read it."""
    a, _, c, _ = teams
    plan = noise(tmp_path / "late", 9 * MIB)
    await succeeds(a, "seed", plan, "late", *SEALED)
    await held_by(c, "late", 2)
    await a.kill()
    await succeeds(c, "fetch", "late", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == plan.read_bytes()
    await a.start()
    await succeeds(a, "fetch", "late", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == plan.read_bytes()


async def test_whoever_is_let_in_later_reads_it_when_it_is_sealed_anew(
    teams: Cluster, tmp_path: Path
) -> None:
    """The gate lets it pass, and the bytes do not; then both do. Nothing is done without need."""
    a, b, c, _ = teams
    plan = noise(tmp_path / "grown", 3 * MIB)
    await succeeds(a, "seed", plan, "grown", "--sealed", *BLUE)
    await knows(b, "grown")
    await fails(b, "denied", "fetch", "grown", tmp_path / "no")
    assert "nothing to do" in await succeeds(a, "reseal", "grown")
    await succeeds(a, "grant", "b", "--prop", "team=blue", "--yes")

    async def passes() -> bool:
        done = await b.pln("fetch", "grown", str(tmp_path / "no"))
        return b"[not-a-recipient]" in done.stderr

    await until(passes, 20, "b passes the gate")
    said = await fails(b, "not-a-recipient", "fetch", "grown", tmp_path / "no")
    assert "there: pln reseal grown" in said and (await blob(b, "grown"))["publisher"][:8] in said
    await fails(b, "denied", "reseal", "grown")
    said = await succeeds(a, "reseal", "grown")
    assert "  sealed for: a, b, c\n" in said
    version = json.loads(await succeeds(a, "inspect", "grown", "--json"))["seed"]

    async def has_heard() -> bool:
        return bool((await blob(b, "grown"))["seed"] == version)

    await until(has_heard, 20, "b knows the new version")
    for node in (b, c):
        place = tmp_path / f"from-{node.name}"
        await succeeds(node, "fetch", "grown", place)
        assert place.read_bytes() == plan.read_bytes()
    # Back to what it was: the member keeps what it could open, and not what comes.
    await succeeds(a, "grant", "b", "--prop", "team=red", "--yes")
    assert "  sealed for: a, c\n" in await succeeds(a, "reseal", "grown")


async def test_a_program_seals_and_reads(teams: Cluster, tmp_path: Path) -> None:
    """The SDK's way, and that of a guest whose node may read it."""
    a, _, c, _ = teams
    plan = noise(tmp_path / "noted", 100_001)
    async with a.connect() as mesh, c.connect() as other:
        await mesh.seed(plan, "noted", sealed=True, allow=[("team", "blue")])
        assert await mesh.reseal("noted") is None
        await knows(c, "noted")
        held = b"".join([piece async for piece in other.read("noted")])
        assert held == plan.read_bytes()
        # A guest on a node that may, published by one that may.
        await mesh.seed(example("relay"), "relay", min_replicas=1, host=[("team", "blue")])
        await ready_on(c, "relay")
        address = b"pln://blob/noted?bytes=65530-65545"
        reply = await other.call("relay", "relay", address + b"\n", timeout=30)
        assert reply.data == plan.read_bytes()[65_530:65_546]


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072])
async def test_a_file_of_any_size_comes_back(teams: Cluster, tmp_path: Path, size: int) -> None:
    """Nothing, and around the border of a chunk."""
    a, _, c, _ = teams
    file = noise(tmp_path / "file", size)
    await succeeds(a, "seed", file, f"of-{size}", "--sealed")
    await knows(c, f"of-{size}")
    await succeeds(c, "fetch", f"of-{size}", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == file.read_bytes()


async def test_what_cannot_be_sealed_is_refused(teams: Cluster, tmp_path: Path) -> None:
    """Before anything is sent, with words that help; and nothing is published."""
    a, b, _, _ = teams
    file = noise(tmp_path / "file", 1_000)
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("hello")
    await fails(a, "config-invalid", "seed", file, "nope", "--sealed", "--public")
    await fails(a, "usage", "seed", site, "nope", "--sealed")
    await fails(a, "usage", "seed", example("echo"), "nope", "--sealed")
    await succeeds(a, "seed", file, "plain")
    await fails(a, "bad-request", "reseal", "plain")
    await fails(a, "seed-not-found", "reseal", "nope")
    local = a.paths.call_socket
    for text in ("banana", "ab" * 31, "00" * 32, "02" * 32, "xyz," + "ab" * 32):
        answer = over_http(local, "/content", b"text", "PUT", {"Pollen-Recipients": text})
        assert answer.status == 400, text
        assert answer.problem["slug"] == "bad-request"
    # What was not sealed is not published as sealed, nor for nobody.
    content = (await blob(a, "plain"))["content"]
    wish = {"name": "nope", "content": content, "kind": "blob", "options": {"sealed": True}}
    own = (await a.status())["node"]
    for recipients in ([], ["banana"], [own] * 501, [own]):
        body = json.dumps({**wish, "recipients": recipients}).encode()
        answer = await asyncio.to_thread(
            over_http, a.paths.control_socket, "/v1/seeds", body, "POST"
        )
        assert answer.status == 400, recipients[:2]
    assert not await blob(a, "nope") and not await blob(b, "nope")


async def test_an_update_that_leaves_it_out_asks(teams: Cluster, tmp_path: Path) -> None:
    """Else the next version would lie open on the disks of its holders."""
    file = noise(tmp_path / "file", 1_000)
    await succeeds(teams[0], "seed", file, "kept", "--sealed")
    said = await fails(teams[0], "usage", "seed", file, "kept")
    assert "--sealed" in said
