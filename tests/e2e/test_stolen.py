"""A member whose node is changed publishes the hash of a content that it may not have."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.errors import PollenError
from pollen.testing import Cluster, Node, until
from tests import recorder
from tests.e2e.conftest import example, running
from tests.e2e.talk import over_http
from tests.e2e.test_blobs import MIB, PATIENCE, blob, held_by, noise, succeeds

pytestmark = pytest.mark.timeout(240)

GATE = ("--allow-prop", "team=blue")
BLUE, RED = [["team", "blue"]], [["team", "red"]]


@pytest.fixture(scope="module")
def robbed() -> Iterator[Cluster]:
    """Two nodes of a team, and a thief."""
    blue, red = {"team": "blue"}, {"team": "red"}
    with running(Cluster(3, properties={"a": blue, "b": blue, "c": red})) as cluster:
        asyncio.run(turned(cluster))
        yield cluster


async def turned(cluster: Cluster) -> None:
    """The last node goes on as a thief."""
    c = cluster[2]
    await c.stop()
    line = c.command("-m", "tests.e2e.thief_node", "--dir", str(c.home), "--listen", c.address)
    with (c.home / "stderr.txt").open("ab") as words:
        c.process = subprocess.Popen(line, stdout=words, stderr=words)

    async def answers() -> bool:
        try:
            return bool((await c.get("/v1/health"))["state"] == "running")
        except PollenError:
            return False

    await until(answers, PATIENCE, "the thief answers")
    await cluster.linked()


async def content_of(node: Node, name: str) -> str:
    """The hash of a blob, as every member knows it."""
    return str((await blob(node, name))["content"])


async def publish(node: Node, name: str, content: str, **wish: Any) -> None:
    """A name for a hash, whoever has the bytes."""
    await node.post("/v1/seeds", {"name": name, "content": content, **wish})


def upload(node: Node, path: str | Path) -> str:
    """Hand a file to a node; its hash."""
    body = Path(path).read_bytes()
    answer = over_http(node.paths.call_socket, "/content", body, "PUT")
    assert answer.status == 200
    return str(json.loads(answer.body)["content"])


async def said(node: Node, of: str, name: str) -> str:
    """What the claim of node ``of`` gives as a reason, as another node knows it, once it does."""
    found = [""]

    async def is_told() -> bool:
        replicas = (await blob(node, name)).get("replicas", [])
        found[0] = next((r["reason"] for r in replicas if r["name"] == of), "")
        return bool(found[0])

    await until(is_told, PATIENCE, f"{of} says why it has no copy of {name}")
    return found[0]


@pytest.mark.parametrize("role", ["module", "bundle"])
async def test_no_byte_of_a_gated_blob_leaves_for_a_thief(
    robbed: Cluster, role: str, tmp_path: Path
) -> None:
    """Whatever role the hash has in the spec: a holder gives a content only for the owner for whom
    it got it."""
    a, _, thief = robbed
    secret = noise(tmp_path / "secret", 3 * MIB + (role == "bundle"))
    await succeeds(a, "seed", secret, f"secret-{role}", *GATE)
    await held_by(a, f"secret-{role}", 2)
    digest = await content_of(a, f"secret-{role}")
    wish: dict[str, Any] = {"options": {"host": RED, "min_replicas": 1}}
    content = digest
    if role == "bundle":
        content, wish["bundle"] = upload(thief, example("echo")), digest
    await publish(thief, f"loot-{role}", content, **wish)
    reason = await said(a, thief.name, f"loot-{role}")
    assert not list((thief.home / "content" / "data").glob(f"{digest}.data"))
    assert reason.startswith("unreachable: no holder of the content sent it")


async def test_nobody_runs_for_a_thief_what_they_hold_for_others(robbed: Cluster) -> None:
    """A module that two nodes hold as a gated blob is run for the spec of its owner alone. What the
    hosts say of it is what a node says that has nothing of it."""
    a, b, thief = robbed
    await succeeds(a, "seed", example("shout"), "plans", "--kind", "blob", *GATE)
    await held_by(a, "plans", 2)
    digest = await content_of(a, "plans")
    options = {"host": BLUE, "min_replicas": 2}
    await publish(thief, "loot", digest, options=options)
    told = {node.name: await said(thief, node.name, "loot") for node in (a, b)}
    await publish(thief, "air", "5" * 64, options=options)
    for node in (a, b):
        assert told[node.name] == await said(thief, node.name, "air")
    async with thief.connect() as mesh:
        with pytest.raises(PollenError) as caught:
            await mesh.call("loot", "shout", "hi", timeout=3)
    recorder.note_words(str(caught.value).encode())
    assert caught.value.slug in ("unreachable", "no-replica", "seed-not-found", "deadline")
    why = " ".join((await succeeds(thief, "why", "place", "loot")).split())
    assert "it still loads: unreachable: no holder of the content sent it" in why, why
    # Whoever has the bytes may publish them.
    upload(thief, example("shout"))
    await until(lambda: answers(thief, "loot"), PATIENCE, "the thief's own copy is run")


async def answers(node: Node, name: str) -> bool:
    """Whether a call is answered."""
    async with node.connect() as mesh:
        try:
            reply = await mesh.call(name, "shout", "hi", timeout=5, idempotent=True)
        except PollenError:
            return False
    return reply.text == "HI"
