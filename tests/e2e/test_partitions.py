"""The cluster is cut in halves, or goes out as a whole, and is one again: with figures."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from pollen.errors import PollenError
from pollen.testing import Cluster, Node, until
from tests.e2e.bars import within
from tests.e2e.conftest import example

pytestmark = [pytest.mark.figure, pytest.mark.timeout(240)]

# What the claim of a node says that has no copy and can ask no holder.
WAITS = ("loading", "unreachable: no holder of the content sent it")
# Done-when 8, seconds.
HEALED = 5.0
RESTARTED = 10.0
MOVED = 60.0


async def view(node: Node) -> tuple[object, ...]:
    """What a node believes of the cluster, in a form that can be compared."""
    status = await node.status()
    seeds = [
        (s["name"], s["seed"], s["publisher"], s["shadowed"], s["wanted"], _hosts(s))
        for s in status["seeds"]
    ]
    nodes = [(n["name"], n["state"] in ("self", "online")) for n in status["nodes"]]
    return (sorted(seeds), sorted(nodes))


def _hosts(seed: dict[str, Any]) -> list[tuple[str, str]]:
    return sorted((r["name"], r["state"]) for r in seed["replicas"])


async def agree(nodes: list[Node]) -> bool:
    """All of them online, and of one mind; every wanted replica is ready."""
    views = [await view(node) for node in nodes]
    _, online = views[0]
    assert isinstance(online, list)
    return all(held == views[0] for held in views) and all(up for _, up in online)


async def echoes(node: Node, name: str) -> None:
    """A call from this node is answered."""
    async with node.connect() as mesh:
        reply = await mesh.call(name, "echo", b"hi", timeout=10, idempotent=True)
    assert reply.data == b"hi"


async def sees_offline(node: Node, names: set[str]) -> bool:
    """Whether a node believes that exactly these are gone."""
    nodes = (await node.status())["nodes"]
    return {n["name"] for n in nodes if n["state"] == "offline"} == names


async def test_both_halves_go_on_and_are_one_again(
    spaces: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each half serves and publishes, one name in both; after the heal all views are equal."""
    async with Cluster(4, namespaces=True) as cluster:
        a, b, c, d = cluster
        assert cluster.network is not None
        # A copy in each half: a module is run for the publisher for whom it was got.
        await cluster.seed(example("echo"), "echo", min_replicas=4)
        cluster.network.cut("ab", "cd")
        for half, others in (((a, b), {"c", "d"}), ((c, d), {"a", "b"})):
            for node in half:
                await until(
                    lambda node=node, others=others: sees_offline(node, others),  # type: ignore[misc]
                    30,
                    f"{node.name} sees {sorted(others)} offline",
                )
        async with a.connect() as here, c.connect() as there:
            await here.seed(example("echo"), "left")
            await there.seed(example("echo"), "right")
            await here.seed(example("echo"), "both", min_replicas=1)
            await there.seed(example("echo"), "both", min_replicas=2)
        for half, name in (((a, b), "left"), ((c, d), "right")):
            for node in half:
                for seed in ("echo", name, "both"):
                    await echoes(node, seed)

        cluster.network.heal()
        began = time.monotonic()
        await until(lambda: agree([a, b, c, d]), 60, "all views are equal", poll=0.1)
        took = time.monotonic() - began
        with capsys.disabled():
            print(f"\n  equal {took:.2f} s after the heal")
        assert took <= within(HEALED)
        for node in cluster:
            for seed in ("echo", "left", "right", "both"):
                await echoes(node, seed)


async def test_a_half_without_a_copy_does_not_run_the_same_bytes_of_somebody_else(
    spaces: None,
) -> None:
    """Its nodes have the bytes for another publisher alone. They say what they wait for, and serve
    as soon as a holder can be asked."""
    async with Cluster(4, namespaces=True) as cluster:
        assert cluster.network is not None
        await cluster.seed(example("echo"), "echo", min_replicas=1)
        (seed,) = (await cluster[0].status())["seeds"]
        (host,) = (replica["name"] for replica in seed["replicas"])
        held = {"a", host} if host != "a" else {"a", "b"}
        nodes = {node.name: node for node in cluster}
        others = sorted(nodes.keys() - held)
        cluster.network.cut("".join(sorted(held)), "".join(others))
        x = nodes[others[0]]
        await until(lambda: sees_offline(x, held), 30, f"{x.name} sees them offline")
        async with x.connect() as mesh:
            await mesh.seed(example("echo"), "right", min_replicas=len(others))
        for name in others:
            await echoes(nodes[name], "right")

        async def says_why() -> bool:
            seeds = {s["name"]: s for s in (await x.status())["seeds"]}
            said = {(r["state"], r["reason"]) for r in seeds["echo"]["replicas"]}
            return {(state, reason.partition(";")[0]) for state, reason in said} == {WAITS}

        await until(says_why, 30, "the claim says why it is not served")
        why = " ".join((await x.pln("why", "place", "echo")).stdout.decode().split())
        assert f"it still loads: {WAITS[1]}" in why, why
        async with x.connect() as mesh:
            with pytest.raises(PollenError) as caught:
                await mesh.call("echo", "echo", b"hi", timeout=3)
        assert caught.value.slug in ("unreachable", "deadline"), caught.value
        cluster.network.heal()
        await until(lambda: agree(list(cluster)), 60, "all views are equal", poll=0.1)
        for node in cluster:
            await echoes(node, "echo")


@pytest.mark.parametrize("is_moved", [False, True], ids=["at-home", "moved"])
async def test_a_cluster_that_went_out_as_a_whole_comes_back(
    is_moved: bool, spaces: None, capsys: pytest.CaptureFixture[str]
) -> None:
    """kill -9 to all at once; then all start, at the addresses that they know or at others."""
    async with Cluster(4, namespaces=True) as cluster:
        await cluster.seed(example("echo"), "echo")
        await asyncio.gather(*(node.kill() for node in cluster))
        if is_moved:
            await cluster.renumber()
        began = time.monotonic()
        await asyncio.gather(*(node.start() for node in cluster))
        bound = MOVED if is_moved else RESTARTED
        await until(lambda: agree(list(cluster)), 3 * bound, "all views are equal", poll=0.1)
        took = time.monotonic() - began
        with capsys.disabled():
            print(f"\n  equal {took:.2f} s after the restart")
        assert took <= within(bound)
        for node in cluster:
            await echoes(node, "echo")
