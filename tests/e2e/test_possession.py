"""A content is given away for the specs that it was got for, and to strangers as to members."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen.testing import Cluster, until
from tests.e2e.conftest import running
from tests.e2e.talk import Answer, over_http
from tests.e2e.test_blobs import held_by, knows, noise, succeeds

pytestmark = pytest.mark.timeout(240)

MIB = 1 << 20
GATE = ("--allow-prop", "team=blue")


@pytest.fixture(scope="module")
def gated() -> Iterator[tuple[Cluster, str]]:
    """Two nodes of a team, one that is not of it, and the door of the second of the team."""
    blue, red = {"team": "blue"}, {"team": "red"}
    maker = blue | {"role": "maker"}
    with running(Cluster(3, properties={"a": maker, "b": red, "c": blue})) as cluster:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            door = f"127.0.0.1:{probe.getsockname()[1]}"
        asyncio.run(cluster[2].stop())
        asyncio.run(cluster[2].start("--http", door))
        yield cluster, door


async def stranger(door: str, path: str, host: str = "nobody") -> Answer:
    """What a stranger is answered."""
    return await asyncio.to_thread(over_http, door, path, b"", "GET", {"host": host})


async def test_a_copy_of_one_owner_is_not_given_away_for_another(
    gated: tuple[Cluster, str], tmp_path: Path
) -> None:
    """Whoever publishes the same bytes without a gate gives away their own copy, and no other one:
    the door asks a holder of that name, and answers as for an unknown one when there is none."""
    cluster, door = gated
    a, b, _ = cluster
    plan = noise(tmp_path / "plan", 3 * MIB)
    public = tmp_path / "public"
    public.mkdir()
    (public / "index.html").write_bytes(plan.read_bytes())
    await succeeds(a, "seed", plan, "plan", *GATE)
    await succeeds(a, "seed", public, "inner", *GATE)
    for name in ("plan", "inner"):
        await held_by(a, name, 2)
        await knows(cluster[2], name)
    assert (await stranger(door, "/blob/plan")).status == 404
    # One copy, on a node outside of the team: the door's node holds none for this publisher.
    alone = ("--public", "--min-replicas", "1", "--host-prop", "team=red")
    await succeeds(b, "seed", plan, "leak", *alone)
    await succeeds(b, "seed", public, "outer", *alone)
    for name in ("leak", "outer"):
        await knows(cluster[2], name)
    # The publisher has the bytes, and may give them to whom it likes.
    answer = await stranger(door, "/blob/leak")
    assert (answer.status, answer.body) == (200, plan.read_bytes())
    await b.kill()
    for path, host in (("/blob/leak", "nobody"), ("/", "outer")):
        answer = await stranger(door, path, host)
        assert answer.status != 200 and len(answer.body) < 1_000, path
    # The copy for the first publisher is there, for the team.
    await succeeds(cluster[2], "fetch", "plan", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == plan.read_bytes()


async def test_what_comes_for_one_name_is_kept_back_from_another(
    gated: tuple[Cluster, str], tmp_path: Path
) -> None:
    """While the bytes of a gated blob come to a node, a stranger at its door reads none of them by
    the public name that another owner gave them, until a holder of that name lets the node pass."""
    cluster, door = gated
    a, b, c = cluster
    if not b.is_running:
        await b.start()
    await cluster.linked()
    draft = noise(tmp_path / "draft", 40 * MIB)
    await succeeds(a, "seed", draft, "draft", *GATE, "--host-prop", "role=maker")
    alone = ("--public", "--min-replicas", "1", "--host-prop", "team=red")
    await succeeds(b, "seed", draft, "copied", *alone)
    for name in ("draft", "copied"):
        await knows(c, name)
    await b.kill()
    came: list[int] = []
    async with c.connect() as mesh:
        coming = asyncio.ensure_future(
            mesh.fetch(
                "draft",
                tmp_path / "slow",
                bytes_per_s=2 * MIB,
                progress=lambda done, _: came.append(done),
            )
        )

        async def has_begun() -> bool:
            return bool(came) and came[-1] >= 4 * MIB

        await until(has_begun, 30, "4 MiB of the draft to come")
        assert await asyncio.to_thread(read_by, door, "copied") == b"", "bytes went to a stranger"
        assert not coming.done(), "all of it was there"
        await b.start()
        await cluster.linked()

        async def is_given() -> bool:
            return await asyncio.to_thread(read_by, door, "copied") == draft.read_bytes()

        await until(is_given, 60, "a holder lets the node pass")
        await coming


def read_by(door: str, name: str) -> bytes:
    """What a stranger gets of a blob, also of one that breaks off; nothing of a refusal."""
    connection = http.client.HTTPConnection(door, timeout=60)
    try:
        connection.request("GET", f"/blob/{name}")
        response = connection.getresponse()
        body = response.read()
    except http.client.IncompleteRead as broken:
        return broken.partial
    else:
        return body if response.status == 200 else b""
    finally:
        connection.close()
