"""Who may what, and who no longer may: real daemons of every tier, denied, cut off and copied."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.errors import PollenError
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example
from tests.e2e.talk import check_error

pytestmark = pytest.mark.timeout(180)

ALLOWED, DENIED = 0, 4
# A cut is seen within a second of the record's arrival; the rest is the time of the looking.
CUT = 2.0


async def join(cluster: Cluster, name: str, tier: str, at: int = 0, **wish: object) -> Node:
    """Another node, enrolled by one of the cluster's, started and linked."""
    node = cluster._node(chr(ord("a") + len(cluster.nodes)))
    assert node.name == name
    body = {"tier": tier, **wish}
    token = (await cluster[at].post("/v1/invites", body))["token"]
    done = await node.pln("join", "--no-up", "--name", name, token)
    assert done.returncode == 0, done.stderr
    cluster.nodes.append(node)
    await node.start()
    await cluster.linked()
    return node


async def tiers() -> Cluster:
    """a has the root key, b is an admin without it, c a publisher, d a leaf, e a leaf of b."""
    cluster = await Cluster(1).__aenter__()
    for name, tier, at in (
        ("b", "admin", 0),
        ("c", "publisher", 0),
        ("d", "leaf", 0),
        ("e", "leaf", 1),
    ):
        await join(cluster, name, tier, at)
    await cluster.seed(example("echo"), "echo", on="abcde", everywhere=True)
    return cluster


@pytest.fixture(scope="module")
def everybody() -> Iterator[Cluster]:
    """One node of each tier."""
    cluster = asyncio.run(tiers())
    try:
        yield cluster
    finally:
        asyncio.run(cluster.__aexit__(None, None, None))


async def members(node: Node) -> dict[str, Any]:
    """What ``pln members --json`` prints there, by name."""
    return {m["name"]: m for m in (await node.get("/v1/members"))["members"]}


async def shows(node: Node, name: str, **fields: object) -> None:
    """Wait until a node shows a member so."""

    async def is_so() -> bool:
        held = (await members(node)).get(name, {})
        return all(held.get(key) == value for key, value in fields.items())

    await until(is_so, 20, f"{node.name} shows {name} with {fields}")


# Verb, then what each of root-holder, admin, publisher and leaf is answered.
TABLE: list[tuple[list[str], tuple[int, int, int, int]]] = [
    (["call", "echo", "echo", "hi"], (ALLOWED, ALLOWED, ALLOWED, ALLOWED)),
    (["status"], (ALLOWED, ALLOWED, ALLOWED, ALLOWED)),
    (["members"], (ALLOWED, ALLOWED, ALLOWED, ALLOWED)),
    (["props", "e"], (ALLOWED, ALLOWED, ALLOWED, ALLOWED)),
    (["audit"], (ALLOWED, ALLOWED, ALLOWED, ALLOWED)),
    (["seed", example("shout"), "own-NODE"], (ALLOWED, ALLOWED, ALLOWED, DENIED)),
    (["unseed", "own-NODE"], (ALLOWED, ALLOWED, ALLOWED, DENIED)),
    (["unseed", "of-a"], (ALLOWED, ALLOWED, DENIED, DENIED)),
    (["invite"], (ALLOWED, ALLOWED, DENIED, DENIED)),
    (["invite", "--publisher"], (ALLOWED, ALLOWED, DENIED, DENIED)),
    (["invite", "--admin"], (ALLOWED, DENIED, DENIED, DENIED)),
    (["grant", "e", "--prop", "by=NODE", "--dry-run"], (ALLOWED, ALLOWED, DENIED, DENIED)),
    (["grant", "e", "--publisher", "--dry-run"], (ALLOWED, ALLOWED, DENIED, DENIED)),
    (["grant", "e", "--admin", "--dry-run"], (ALLOWED, DENIED, DENIED, DENIED)),
    (["grant", "c", "--prop", "by=NODE"], (ALLOWED, DENIED, DENIED, DENIED)),
    (["deny", "e", "--dry-run"], (ALLOWED, ALLOWED, DENIED, DENIED)),
    (["deny", "c", "--dry-run"], (ALLOWED, DENIED, 2, DENIED)),
    (["deny", "a", "--dry-run"], (2, DENIED, DENIED, DENIED)),
    (["deny", "b", "--dry-run"], (ALLOWED, 2, DENIED, DENIED)),
    (["undeny", "e"], (2, 2, 2, 2)),
    (
        ["load", "echo", "--from", "b", "--duration", "100ms"],
        (ALLOWED, ALLOWED, DENIED, DENIED),
    ),
]


@pytest.mark.parametrize(
    ("verb", "answers"), [pytest.param(*row, id="-".join(row[0][:3])) for row in TABLE]
)
async def test_who_may_what(everybody: Cluster, verb: list[str], answers: tuple[int, ...]) -> None:
    """A row of the guide's table; what is refused names its slug and changes nothing."""
    for node, code in zip(everybody.nodes[:4], answers, strict=True):
        if "of-a" in verb:
            await everybody.seed(example("primes"), "of-a")
        line = [part.replace("NODE", node.name) for part in verb]
        done = await node.pln(*line)
        assert done.returncode == code, f"{node.name}: {line}: {done.stderr.decode()}"
        if code == DENIED:
            check_error(await node.pln(*line, "--json"), "denied")


async def test_a_grant_reaches_gates_on_live_links() -> None:
    """A caller that lacked a property passes the gate a moment later, over the same link."""
    async with Cluster(3) as cluster:
        await cluster[0].post("/v1/grants", {"target": "a", "properties": '{"place":"here"}'})
        options = {"allow": [["team", "red"]], "host": [["place", "here"]], "min_replicas": 1}
        await cluster.seed(example("echo"), "gated", on="a", **options)
        async with cluster[1].connect() as mesh:
            with pytest.raises(PollenError) as refused:
                await mesh.call("gated", "echo", b"x")
            assert refused.value.slug == "denied"
            await cluster[0].post("/v1/grants", {"target": "b", "properties": '{"team":"red"}'})

            async def passes() -> bool:
                try:
                    return (await mesh.call("gated", "echo", b"x")).data == b"x"
                except PollenError as error:
                    assert error.slug == "denied"
                    return False

            began = time.monotonic()
            await until(passes, 10, "b passes the gate")
            assert time.monotonic() - began < CUT
            await cluster[0].post("/v1/grants", {"target": "b", "drops": ["team"]})

            async def is_out() -> bool:
                return not await passes()

            await until(is_out, CUT, "b passes the gate no more")
            status = await cluster[1].status()
            assert {n["name"]: n["state"] for n in status["nodes"]} == {
                "b": "self",
                "a": "online",
                "c": "online",
            }


async def test_a_denied_node_under_load_is_cut_and_replaced() -> None:
    """300 calls a second of two others; a host is denied: no call of theirs fails, its replica runs
    elsewhere, and neither its old folder nor a copy of it gets in again."""
    async with Cluster(4) as cluster:
        a = cluster[0]
        await cluster.seed(example("echo"), "echo", min_replicas=2)
        hosts = await hosts_of(a, "echo")
        victim = next(node for node in cluster.nodes[1:] if node.name in hosts)
        others = [node for node in cluster if node is not victim]
        load = Load()
        users = [asyncio.create_task(load.call_from(node)) for node in others[1:]]
        await until(load.has_made(300), 10, "300 calls were made")
        done = await a.pln("deny", victim.name, "--yes", "--reason", "it was stolen")
        assert done.returncode == 0, done.stderr

        async def is_cut() -> bool:
            views = [await node.status() for node in others]
            return all(victim.name not in {n["name"] for n in view["nodes"]} for view in views)

        await until(is_cut, CUT, f"{victim.name} is cut everywhere")

        async def is_rehosted() -> bool:
            found = await hosts_of(a, "echo")
            return len(found) >= 2 and victim.name not in found

        await until(is_rehosted, 20, "the replicas run elsewhere")
        await until(load.has_made(load.made + 150), 10, "calls go on")
        load.ended.set()
        await asyncio.gather(*users)
        assert load.failed == []
        await victim.kill()
        stolen = shutil.copytree(victim.home, victim.home.with_name("copy"), ignore=_SOCKETS)
        for folder in (victim.home, stolen):
            back = Node(victim.name, Path(folder), victim.address, None)
            await back.start()
            await until(lambda node=back: is_told(node), 20, "it is told that it is out")
            for node in others:
                assert victim.name not in {n["name"] for n in (await node.status())["nodes"]}
                assert (await members(node))[victim.name]["state"] == "denied"
            await back.kill()


_SOCKETS = shutil.ignore_patterns("*.sock")


async def hosts_of(node: Node, name: str) -> set[str]:
    """Who has a ready replica of a seed, as this node sees it."""
    seeds = {seed["name"]: seed for seed in (await node.status())["seeds"]}
    return {r["name"] for r in seeds[name]["replicas"] if r["state"] == "ready"}


async def is_told(node: Node) -> bool:
    """Whether a node says that others let it in no more."""
    return "let this node in no more" in " ".join((await node.status())["warnings"])


class Load:
    """Idempotent calls, 150 a second from each node, until ``ended``; what failed is noted."""

    def __init__(self) -> None:
        self.made = 0
        self.failed: list[str] = []
        self.ended = asyncio.Event()

    async def call_from(self, node: Node) -> None:
        """The calls of one node, at fixed times whatever the ones before did."""
        async with node.connect() as mesh:
            due = time.monotonic()
            while not self.ended.is_set():
                due += 1 / 150
                try:
                    await mesh.call("echo", "echo", b"x", idempotent=True, timeout=5)
                except PollenError as error:
                    self.failed.append(f"{node.name}: {error}")
                self.made += 1
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.ended.wait(), max(due - time.monotonic(), 0))

    def has_made(self, count: int) -> Callable[[], Awaitable[bool]]:
        """A condition: so many calls have ended."""

        async def enough() -> bool:
            return self.made >= count

        return enough


async def test_a_deny_while_its_subject_is_down_holds_when_it_comes_back() -> None:
    """And it is let in again by the next generation, with what it had."""
    async with Cluster(3) as cluster:
        a, b, c = cluster.nodes
        await b.stop()
        assert (await a.pln("deny", "b", "--yes")).returncode == 0
        await a.stop()
        await b.start()
        await until(lambda: is_told(b), 20, "b is told that it is out")
        assert (await members(c))["b"]["state"] == "denied"
        assert "b" not in {n["name"] for n in (await c.status())["nodes"]}
        await a.start()
        await cluster[0].post("/v1/undenies", {"target": "b"})
        await cluster.linked(120)
        await shows(b, "b", state="self", generation=2, tier="publisher")


async def test_a_deny_of_an_admin_fells_whom_it_let_in() -> None:
    """Directly and below; without cascade those below stay and stay linked."""
    async with Cluster(1) as cluster:
        a = cluster[0]
        for name, tier, at in (("b", "admin", 0), ("c", "publisher", 1), ("d", "leaf", 1)):
            await join(cluster, name, tier, at)
        done = await a.pln("deny", "b", "--dry-run")
        assert b"falls with it: c" in done.stderr
        assert b"falls with it: d" in done.stderr
        assert (await a.pln("deny", "b", "--no-cascade", "--yes")).returncode == 0
        for name in "cd":
            await shows(a, name, state="online", issuer_name="the root")
        await shows(a, "b", state="denied")
        await shows(cluster[2], "c", state="self", issuer_name="the root")
        assert (await a.pln("undeny", "b")).returncode == 0
        await cluster.linked(120)
        assert (await a.pln("grant", "c", "--leaf", "--yes")).returncode == 0
        await shows(cluster[3], "c", tier="leaf", state="online")


async def test_a_deny_in_one_half_holds_in_the_other_after_the_heal(spaces: None) -> None:
    """Across the cut the denied one goes on; then it is out everywhere, whoever granted it what."""
    async with Cluster(4, namespaces=True) as cluster:
        a, b, c, _ = cluster.nodes
        assert (await a.pln("grant", "b", "--admin")).returncode == 0
        await shows(b, "b", tier="admin")
        assert cluster.network is not None
        cluster.network.cut("ac", "bd")
        assert (await a.pln("deny", "d", "--yes")).returncode == 0
        await shows(c, "d", state="denied")
        assert (await members(b))["d"]["state"] in ("online", "offline")
        cluster.network.heal()
        await shows(b, "d", state="denied")
        nodes = {n["name"] for n in (await b.status())["nodes"]}
        assert "d" not in nodes


async def test_an_admin_sees_the_status_and_the_log_of_another_node() -> None:
    """Over the link, by name or digits of the id; whoever is no admin is refused by that node."""
    async with Cluster(2) as cluster:
        a, b = cluster.nodes
        shown = json.loads((await a.pln("status", "--node", "b", "--json")).stdout)
        assert {n["name"]: n["state"] for n in shown["nodes"]} == {"a": "online", "b": "self"}
        told = await a.pln("logs", "--node", shown["node"][:8], "-n", "50")
        assert told.returncode == 0
        assert b"  up  " in told.stdout
        check_error(await b.pln("status", "--node", "a", "--json"), "denied")
        check_error(await b.pln("logs", "--node", "a", "--json"), "denied")
        check_error(await a.pln("logs", "--node", "nobody", "--json"), "peer-not-found")


async def test_an_admin_watches_what_all_nodes_do() -> None:
    """`pln top`: rates by each node's own counters; a node that will not tell says why."""
    async with Cluster(2, properties={"b": {"place": "b"}}) as cluster:
        a, b = cluster.nodes
        await cluster.seed(example("echo"), "echo", on=["b"], host=[("place", "b")])
        line = a.command("-m", "pollen.cli", "--dir", str(a.home))
        load = await asyncio.create_subprocess_exec(
            *line, "load", "echo", "--duration", "30s", "--rate", "200", stdout=subprocess.DEVNULL
        )
        try:

            async def is_seen() -> bool:
                shown = json.loads((await a.pln("top", "--once", "--json")).stdout)
                told = {node["name"]: node["told"] for node in shown["nodes"]}
                rate = told["b"]["calls_per_s"]
                seeds = {seed["name"]: seed["calls_per_s"] for seed in shown["seeds"]}
                assert told["a"]["calls_per_s"] == 0 and seeds.get("echo", 0) == rate
                return bool(100 < rate < 300)

            await until(is_seen, 20, "the calls show where they run")
            screen = (await a.pln("top", "--once", "--interval", "500ms")).stdout
            assert b"2 nodes: " in screen and b"echo" in screen
            assert all(len(row) <= 80 for row in screen.splitlines()), screen
        finally:
            load.send_signal(signal.SIGINT)
            await load.wait()
        elsewhere = json.loads((await b.pln("top", "--once", "--json")).stdout)
        problems = {node["name"]: node["problem"] for node in elsewhere["nodes"]}
        assert problems["a"].startswith("[denied]") and not problems["b"]
        assert b"a: [denied]" in (await b.pln("top", "--once")).stdout
        check_error(await a.pln("top", "--interval", "1ms", "--json"), "usage")


async def test_the_log_of_another_node_is_followed() -> None:
    """Each line once, until Ctrl-C."""
    async with Cluster(2) as cluster:
        a, b = cluster.nodes
        line = a.command("-m", "pollen.cli", "--dir", str(a.home))
        line += ["logs", "--node", "b", "-f", "-n", "0", "--json"]
        process = await asyncio.create_subprocess_exec(*line, stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        first = asyncio.ensure_future(process.stdout.readline())
        try:
            # It says nothing of when it begins to follow.
            for number in range(20):
                done = await b.pln("seed", example("echo"), f"early-{number}")
                assert done.returncode == 0, done.stderr
                if first.done():
                    break
            found = [(await asyncio.wait_for(first, 20)).decode()]
            for number in range(3):
                done = await b.pln("seed", example("echo"), f"echo-{number}")
                assert done.returncode == 0, done.stderr
            async with asyncio.timeout(20):
                while sum("echo-2" in text for text in found) == 0:
                    found.append((await process.stdout.readline()).decode())
        finally:
            process.send_signal(signal.SIGINT)
            assert await process.wait() == 130
        assert len(found) == len(set(found))
        assert any("echo-0" in text for text in found)
