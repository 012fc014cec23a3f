"""Former versions: they are listed, come back, and still answer for what a page of theirs asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import pollen
from pollen.errors import PollenError
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example, running
from tests.e2e.test_blobs import PATIENCE, digest, fails, held_by, knows, noise, stored, succeeds
from tests.e2e.test_sites import page, written

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """Three linked nodes; each test publishes names of its own."""
    with running(Cluster(3)) as cluster:
        yield cluster


async def versions(node: Node, name: str) -> list[dict[str, Any]]:
    """The versions of a name, as a node sees them."""
    found: dict[str, Any] = json.loads(await succeeds(node, "versions", name, "--json"))
    assert found["name"] == name
    return list(found["versions"])


async def numbers(node: Node, name: str) -> list[int]:
    """Their numbers, the one that counts first."""
    return [held["number"] for held in await versions(node, name)]


async def shows(node: Node, path: str, text: str) -> None:
    """A node serves this text there."""

    async def is_there() -> bool:
        return page(node, path).body == text.encode()

    await until(is_there, PATIENCE, f"{path} at {node.name} is {text[:20]!r}")


async def answers(node: Node, function: str, expected: bytes) -> None:
    """The seed ``tool`` has this function now, by a call from a node."""

    async def does() -> bool:
        async with node.connect() as mesh:
            try:
                return (await mesh.call("tool", function, b"hello")).data == expected
            except PollenError:
                return False

    await until(does, PATIENCE, f"tool answers {function} at {node.name}")


async def test_a_page_that_is_open_finds_its_script_after_an_update(
    trio: Cluster, tmp_path: Path
) -> None:
    """On each node that served it; a page that went is gone at once, and so is what is not kept."""
    old = {"index.html": "<p>one</p>", "app.1a2b3c4d.js": "one()", "old.html": "<p>old</p>"}
    folder = written(tmp_path / "public", old)
    await succeeds(trio[0], "seed", folder, "shop")
    for node in trio:
        await knows(node, "shop")
        await shows(node, "shop/", "<p>one</p>")
    (folder / "app.1a2b3c4d.js").rename(folder / "app.5e6f7a8b.js")
    (folder / "old.html").unlink()
    written(folder, {"index.html": "<p>two</p>"})
    await succeeds(trio[0], "seed", folder, "shop")
    for node in trio:
        await shows(node, "shop/", "<p>two</p>")
        script = page(node, "shop/app.1a2b3c4d.js")
        assert (script.status, script.body) == (200, b"one()")
        assert "immutable" in script.headers["cache-control"]
        assert page(node, "shop/old.html").status == 404
        assert page(node, "shop/nothing.1a2b3c4d.js").status == 404
    written(folder, {"index.html": "<p>three</p>"})
    await succeeds(trio[0], "seed", folder, "shop", "--keep", "1")
    for node in trio:
        await shows(node, "shop/", "<p>three</p>")
        assert page(node, "shop/app.1a2b3c4d.js").status == 404


async def test_a_site_comes_back_on_every_node(trio: Cluster, tmp_path: Path) -> None:
    """And forth again: the version that a rollback takes the place of is kept as any other."""
    folder = written(tmp_path / "public", {"index.html": "<p>first</p>"})
    await succeeds(trio[0], "seed", folder, "news")
    written(folder, {"index.html": "<p>second</p>"})
    await succeeds(trio[0], "seed", folder, "news")
    said = await succeeds(trio[0], "versions", "news")
    assert "2 now" in said and "rollback news VERSION" in said
    said = await succeeds(trio[0], "rollback", "news")
    assert said.startswith("rolled back news (")
    for node in trio:
        await shows(node, "news/", "<p>first</p>")
    assert await numbers(trio[2], "news") == [3, 2]
    await succeeds(trio[0], "rollback", "news", "2")
    for node in trio:
        await shows(node, "news/", "<p>second</p>")
    assert await numbers(trio[1], "news") == [4, 3]


async def test_a_former_file_is_held_as_before_and_fetched_by_its_content(
    trio: Cluster, tmp_path: Path
) -> None:
    """Two copies of each version, until --keep 0 gives them up."""
    one, two = noise(tmp_path / "one", 9 * MIB), noise(tmp_path / "two", 10 * MIB)
    before = sum(map(stored, trio))
    await succeeds(trio[0], "seed", one, "film")
    await held_by(trio[0], "film", 2)
    await succeeds(trio[0], "seed", two, "film")
    await held_by(trio[0], "film", 2)

    async def are_held() -> bool:
        return [held["copies"] for held in await versions(trio[1], "film")] == [2, 2]

    await until(are_held, PATIENCE, "two copies of each version")
    assert sum(map(stored, trio)) - before >= 2 * 19 * MIB
    former = (await versions(trio[1], "film"))[1]
    place = tmp_path / "back"
    await succeeds(trio[2], "fetch", former["content"][:8], place)
    assert digest(place) == digest(one)
    last = noise(tmp_path / "last", MIB)
    await succeeds(trio[0], "seed", last, "film", "--keep", "0")
    assert await numbers(trio[0], "film") == [3]

    async def is_given_up() -> bool:
        done = await trio[2].pln("fetch", former["content"][:8], str(tmp_path / "gone"))
        return done.returncode != 0 and b"[seed-not-found]" in done.stderr

    await until(is_given_up, PATIENCE, "nobody gives the former version away")
    assert "--keep 0" in await fails(trio[0], "version-not-found", "rollback", "film")


async def test_a_module_and_its_options_come_back(trio: Cluster) -> None:
    """By a program; also after the publisher began anew, whose disk has the content."""
    async with trio[0].connect() as mesh:
        await mesh.seed(example("echo"), "tool", idempotent=True)
        await mesh.call("tool", "echo", b"x")
        await mesh.seed(example("shout"), "tool", timeout_ms=5_000)
    await answers(trio[0], "shout", b"HELLO")
    await trio[0].restart()
    await trio.linked(30)
    async with trio[0].connect() as mesh:
        listed = (await mesh.versions("tool"))["versions"]
        assert [held["number"] for held in listed] == [2, 1]
        answer = await mesh.rollback("tool", 1)
        assert (answer["name_epoch"], answer["functions"]) == (3, ["echo"])
        assert answer["changed"] == ["timeout_ms: 5000, now 30000", "idempotent: False, now True"]
    await answers(trio[2], "echo", b"hello")


async def test_python_comes_back(trio: Cluster, tmp_path: Path) -> None:
    """A seed of two contents: the runner, and the files."""
    file = tmp_path / "tale.py"
    file.write_text("def tell() -> str: return 'once'\n")
    await succeeds(trio[1], "seed", file)
    file.write_text("def tell() -> str: return 'twice'\n")
    await succeeds(trio[1], "seed", file)
    said = await succeeds(trio[1], "rollback", "tale")
    assert "(" in said and "Python" in said and "tell" in said

    async def tells() -> bool:
        done = await trio[2].pln("call", "tale", "tell")
        return done.stdout == b'"once"'

    await until(tells, PATIENCE, "the function before answers")


async def test_what_cannot_come_back_is_told(trio: Cluster, tmp_path: Path) -> None:
    """And nothing is published then."""
    await fails(trio[0], "seed-not-found", "rollback", "nobody")
    await fails(trio[0], "seed-not-found", "versions", "nobody")
    file = noise(tmp_path / "file", 2_000)
    await succeeds(trio[0], "seed", file, "paper")
    assert "it is the first" in await fails(trio[0], "version-not-found", "rollback", "paper")
    assert "no former version is kept" in await succeeds(trio[0], "versions", "paper")
    await succeeds(trio[0], "seed", noise(tmp_path / "file", 3_000), "paper")
    await fails(trio[0], "version-not-found", "rollback", "paper", "7")
    await fails(trio[0], "bad-request", "rollback", "paper", "2")
    await knows(trio[1], "paper")
    assert "roll it back there" in await fails(trio[1], "denied", "rollback", "paper")
    with pollen.connect_sync(trio[0].paths.home) as mesh:
        with pytest.raises(PollenError) as raised:
            await asyncio.to_thread(mesh.rollback, "paper", "7")
        assert raised.value.slug == "version-not-found"
        listed = await asyncio.to_thread(mesh.versions, "paper")
    assert [held["number"] for held in listed["versions"]] == [2, 1]
    await succeeds(trio[0], "unseed", "paper")
    await fails(trio[0], "seed-not-found", "rollback", "paper")
