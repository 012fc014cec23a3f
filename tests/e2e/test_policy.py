"""Policies on real daemons: who may call, who may host, what is told, what a change changes."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import time

import pytest

from pollen.errors import PollenError
from pollen.sdk.control import Control
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example
from tests.e2e.talk import check_error
from tests.e2e.test_trust import CUT, join

pytestmark = pytest.mark.timeout(180)

TEAM = 'caller.props.team == "red" && caller.tier in ["publisher", "admin"]'


async def refusal(node: Node, name: str) -> str:
    """What a call of this node is refused with, empty when it passes."""
    async with node.connect() as mesh:
        try:
            assert (await mesh.call(name, "echo", b"x")).data == b"x"
        except PollenError as error:
            assert error.slug == "denied"
            assert not error.may_have_executed
            return str(error)
    return ""


async def grant(cluster: Cluster, target: str, **wanted: object) -> None:
    """As an admin; properties are an object."""
    if "properties" in wanted:
        wanted["properties"] = json.dumps(wanted["properties"])
    await cluster[0].post("/v1/grants", {"target": target, **wanted})


async def settles(cluster: Cluster, node: Node, name: str, *, passes: bool) -> None:
    """A grant is seen within a second of its arrival."""

    async def is_so() -> bool:
        return (await refusal(node, name) == "") is passes

    began = time.monotonic()
    await until(is_so, 10, f"{node.name} calls {name}: {passes}")
    assert time.monotonic() - began < CUT


async def test_a_policy_lets_pass_by_property_and_tier_as_granted_now() -> None:
    """The next call obeys a grant, on live links; each refusal names the policy, and so does the
    answer of the caller's own node; pairs and policy must both be true."""
    async with Cluster(1) as cluster:
        b = await join(cluster, "b", "publisher")
        c = await join(cluster, "c", "leaf")
        at_a = {"host_if": 'node.tier == "admin"', "min_replicas": 1}
        await cluster.seed(example("echo"), "vault", on="a", allow_if=TEAM, **at_a)
        for node in (b, c):
            assert TEAM in await refusal(node, "vault")
        await grant(cluster, "b", properties={"team": "red"})
        await grant(cluster, "c", properties={"team": "red"})
        await settles(cluster, b, "vault", passes=True)
        assert TEAM in await refusal(c, "vault")
        told = await c.get("/v1/why/call/vault")
        assert told["allowed"] is False
        assert {part["text"]: part["value"] for part in told["policy"]} == {
            TEAM: "false",
            'caller.props.team == "red"': "true",
            "caller.props.team": '"red"',
            'caller.tier in ["publisher", "admin"]': "false",
            "caller.tier": '"leaf"',
        }
        assert (await b.get("/v1/why/call/vault"))["allowed"] is True
        await grant(cluster, "c", tier="publisher")
        await settles(cluster, c, "vault", passes=True)
        await grant(cluster, "b", drops=["team"])
        await settles(cluster, b, "vault", passes=False)
        told = await b.get("/v1/why/call/vault")
        assert (told["allowed"], told["policy"][0]["value"]) == (False, "missing")
        both = {"allow_if": TEAM, "allow": [["zone", "home"]]}
        await cluster.seed(example("echo"), "vault", on="a", **both, **at_a)
        await settles(cluster, c, "vault", passes=False)
        assert "zone=home" in (await c.pln("call", "vault", "echo", "x")).stderr.decode()
        await grant(cluster, "c", properties={"team": "red", "zone": "home"})
        await settles(cluster, c, "vault", passes=True)
        await cluster.seed(example("echo"), "vault", on="a", **at_a)
        await settles(cluster, b, "vault", passes=True)


async def with_door(node: Node) -> int:
    """Start a node again with a TCP door; its port."""
    await node.stop()
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = int(found.getsockname()[1])
    await node.start("--http", f"127.0.0.1:{port}")
    return port


def ask(port: int, name: str) -> tuple[int, bytes]:
    """What a client of the TCP door is answered."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        connection.request("POST", f"/call/{name}/echo", b"x")
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


async def test_a_stranger_passes_a_policy_of_a_public_seed_only_with_the_tier_none() -> None:
    """It has no properties, whatever a policy denies of them, wherever the seed runs; what it may
    not call does not exist for it."""
    async with Cluster(2) as cluster:
        a = cluster[0]
        ids = {node["name"]: node["node"] for node in (await a.status())["nodes"]}
        port = await with_door(a)
        await cluster.linked()
        shut = {
            "members": 'caller.tier != "none"',
            "negated": '!(caller.props.team == "blue")',
            "guarded": '!has(caller.props.team) || caller.props.team == "red"',
            "private": "true",
        }
        open_ = {"anybody": "!has(caller.props.banned)", "plain": ""}
        for name, policy in {**shut, **open_}.items():
            for host in ("a", "b"):
                options = {"public": name != "private", "allow_if": policy, "min_replicas": 1}
                where = f'node.id == "{ids[host]}"'
                await cluster.seed(example("echo"), f"{name}-{host}", on=[host], host_if=where,
                                   **options)  # fmt: skip
        for host in ("a", "b"):
            answers = {n: await asyncio.to_thread(ask, port, f"{n}-{host}") for n in shut}
            unknown = await asyncio.to_thread(ask, port, "nothing")
            assert set(answers.values()) == {unknown}
            for name in open_:
                assert await asyncio.to_thread(ask, port, f"{name}-{host}") == (200, b"x")


async def test_a_stranger_lacks_the_property_that_a_public_seed_asks_for() -> None:
    """``--allow-prop`` beside ``--public``: for a stranger the seed does not exist."""
    async with Cluster(1) as cluster:
        port = await with_door(cluster[0])
        await cluster.linked()
        for name, allow in (("gated", [["team", "red"]]), ("open", [])):
            await cluster.seed(example("echo"), name, public=True, allow=allow, min_replicas=1)
        unknown = await asyncio.to_thread(ask, port, "nothing")
        assert await asyncio.to_thread(ask, port, "gated") == unknown
        assert await asyncio.to_thread(ask, port, "open") == (200, b"x")


async def test_a_policy_on_hosts_moves_replicas_and_is_explained() -> None:
    """What is granted brings a replica, what is taken away drives it off; an update may name other
    hosts, or all; the node that fails is told with the part."""
    async with Cluster(3) as cluster:
        control = Control(cluster[0].paths)
        on_gpu = {"host_if": 'node.props.gpu == "yes"', "min_replicas": 1}
        await grant(cluster, "b", properties={"gpu": "yes"})
        await cluster.seed(example("echo"), "model", on=["b"], **on_gpu)
        await grant(cluster, "c", properties={"gpu": "yes"})
        await grant(cluster, "b", properties={"gpu": "no"})

        async def hosts() -> set[str]:
            told = await cluster[0].get("/v1/why/place/model")
            return {node["name"] for node in told["nodes"] if node["claim"] == "ready"}

        async def only_c() -> bool:
            return await hosts() == {"c"}

        await until(only_c, 20, "model moved to c")
        told = await cluster[0].get("/v1/why/place/model")
        reasons = {node["name"]: node["reason"] for node in told["nodes"]}
        assert 'node.props.gpu == "yes" is missing' in reasons["a"]
        assert 'node.props.gpu == "yes" is false' in reasons["b"]
        assert "rank 1" in reasons["c"]
        shown = (await cluster[0].pln("why", "place", "model", "b")).stdout.decode()
        assert 'node.props.gpu -> "no"' in shown
        assert on_gpu["host_if"] in (await cluster[1].pln("inspect", "model")).stdout.decode()
        ids = {node["name"]: node["node"] for node in (await cluster[0].status())["nodes"]}
        by_id = {"host_if": f'node.id == "{ids["a"]}"', "min_replicas": 1}
        await asyncio.to_thread(control.publish, example("echo"), "model", by_id)

        async def only_a() -> bool:
            return await hosts() == {"a"}

        await until(only_a, 20, "model moved to a")
        await cluster.seed(example("echo"), "model", on="abc", everywhere=True)
        assert await refusal(cluster[2], "model") == ""


async def test_a_policy_that_does_not_parse_is_refused_before_the_module_is_sent() -> None:
    """By both doors, with the place; nothing is published."""
    async with Cluster(1) as cluster:
        line = ("seed", example("echo"), "bad", "--allow", 'caller.tier = "admin"')
        done = await cluster[0].pln(*line)
        assert done.returncode == 2
        told = done.stderr.decode()
        assert '    | caller.tier = "admin"\n    |             ^\n' in told
        assert "a comparison is ==" in told
        check_error(await cluster[0].pln(*line, "--json"), "bad-policy")
        async with cluster[0].connect() as mesh:
            with pytest.raises(PollenError) as refused:
                await mesh.seed(example("echo"), "bad", host_if="caller.tier")
            assert refused.value.slug == "bad-policy"
            with pytest.raises(TypeError, match="allow_if="):
                await mesh.seed(example("echo"), "bad", allow=TEAM)  # type: ignore[arg-type]
        assert (await cluster[0].status())["seeds"] == []
