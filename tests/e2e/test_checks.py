"""A seed with a check: no replica is called before its check passed, and a failure is said."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from pollen.sdk.control import Control
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example
from tests.e2e.streams import executions, stream
from tests.e2e.talk import check_error, logged, refusal

pytestmark = pytest.mark.timeout(120)
RATE = 200


async def seed_view(node: Node, name: str) -> dict[str, Any]:
    """What a node's status says of a seed."""
    seeds = (await node.status())["seeds"]
    return next(seed for seed in seeds if seed["name"] == name)


async def page(node: Node, metric: str, seed: str) -> dict[str, int]:
    """A counter of a seed by outcome."""
    text = await asyncio.to_thread(Control(node.paths).text, "/v1/metrics")
    found: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith(f"pollen_{metric}{{") and f'seed="{seed}"' in line:
            outcome = line.split('outcome="')[1].split('"')[0]
            found[outcome] = found.get(outcome, 0) + int(float(line.split()[-1]))
    return found


async def test_a_replica_whose_check_fails_is_refused_and_tried_again() -> None:
    """``pln seed`` says so and ends; when what it looks for is there, the seed runs by itself."""
    async with Cluster(2) as cluster:
        a, b = cluster
        line = ["seed", example("relay"), "relay", "--check", "relay"]
        done = await a.pln(*line, "--config", "next=pln://seed/echo/echo")
        told = done.stdout.decode()
        assert done.returncode == 0, done.stderr
        assert "check `relay` failed: guest-failed: the request failed" in told, told
        assert "ready on:" not in told, told

        async def both_refuse() -> bool:
            view = await seed_view(b, "relay")
            refused = [r for r in view["replicas"] if r["state"] == "refused"]
            return any("check `relay` failed" in replica["reason"] for replica in refused)

        await until(both_refuse, 20, "b hears of a refusal")
        why = await a.pln("why", "place", "relay")
        assert "check `relay` failed" in why.stdout.decode()
        assert "pln logs --seed relay" in why.stdout.decode()
        assert logged(a, "check-failed") or logged(b, "check-failed")
        await cluster.seed(example("echo"), "echo")
        await cluster.ready("relay", on=["a", "b"], timeout=40)
        shown = await a.pln("inspect", "relay")
        assert "\n  check        relay\n" in shown.stdout.decode(), shown.stdout
        checks = [await page(node, "checks_total", "relay") for node in cluster]
        assert all(held["ok"] == 1 for held in checks), checks
        assert any(held.get("guest-failed", 0) >= 1 for held in checks), checks
        # A check is no call of anybody: no demand, no execution, and so no further replica.
        for node in cluster:
            assert sum((await page(node, "executions_total", "relay")).values()) == 0
            view = await seed_view(node, "relay")
            assert (view["calls"], view["failures"]) == (0, 0)
        async with b.connect() as mesh:
            reply = await mesh.call("relay", "relay", b"pln://seed/echo/echo\nthere")
        assert reply.data == b"there"


async def test_the_version_before_serves_on_while_an_update_fails_its_check() -> None:
    """No call fails, and ``pln seed`` says what became of the update."""
    async with Cluster(3) as cluster:
        a = cluster[0]
        first = await cluster.seed(example("journal"), "journal", check="journal")
        said: list[str] = []

        async def update() -> None:
            line = ["seed", example("journal"), "journal", "--check", "journal"]
            done = await a.pln(*line, "--config", "broken=yes")
            assert done.returncode == 0, done.stderr
            said.append(done.stdout.decode())

        async with a.connect() as mesh:
            calls, _ = await stream(mesh, update, rate=RATE, seconds=6, is_idempotent=True)
        failed = [call.slug for call in calls if call.slug]
        view = await seed_view(a, "journal")
        ran = sum(executions(cluster).values(), Counter[str]())
        old = [r["name"] for r in view["replicas"] if r["state"] == "ready"]
    print(said[0])
    assert not failed, failed
    assert len(ran) == len(calls)
    assert "check `journal` failed: guest-trapped" in said[0], said[0]
    assert "the version before serves on" in said[0], said[0]
    assert view["seed"] != first["seed"] and view["ready"] == 0 and not old


async def test_the_one_machine_whose_check_fails_is_not_called() -> None:
    """The others host the seed; a check passes its own seed's gate, and no other's."""
    wears = {name: {"disk": "ssd"} for name in "ab"}
    async with Cluster(3, properties=wears) as cluster:
        await cluster.seed(example("echo"), "echo", allow=[("disk", "ssd")])
        how: dict[str, Any] = {"check": "relay", "config": {"next": "pln://seed/echo/echo"}}
        async with cluster[0].connect() as mesh:
            await mesh.seed(
                example("relay"), "relay", everywhere=True, allow=[("no", "body")], **how
            )
        await cluster.ready("relay", on=["a", "b"], timeout=40)

        async def c_refuses() -> bool:
            view = await seed_view(cluster[0], "relay")
            held = {r["name"]: r["reason"] for r in view["replicas"] if r["state"] == "refused"}
            return "check `relay` failed" in held.get("c", "")

        await until(c_refuses, 20, "a hears of c's refusal")
        checks = await page(cluster[2], "checks_total", "relay")
        assert checks.get("ok", 0) == 0 and checks["guest-failed"] >= 1, checks


async def test_a_call_that_wakes_a_seed_waits_for_its_check() -> None:
    """The check ran before the call, on the node that woke; a call of a broken one runs nowhere."""
    async with Cluster(2) as cluster:
        a, b = cluster
        async with a.connect() as mesh:
            await mesh.seed(example("journal"), "journal", min_replicas=0, check="journal")
            reply = await mesh.call("journal", "journal", "call-1", timeout=20)
            assert reply.text == "call-1" and reply.wake > 0
        (woken,) = [n for n in cluster if (await n.status())["node"] == reply.node]
        assert (await page(woken, "checks_total", "journal"))["ok"] == 1
        lines = [line["text"] for line in logged(woken, "guest") if line.get("seed") == "journal"]
        assert lines[-2:] == ["", "call-1"], lines

        async with b.connect() as mesh:
            broken = {"broken": "yes"}
            await mesh.seed(
                example("journal"), "naps", min_replicas=0, check="journal", config=broken
            )
        error = await refusal(a, "naps", "journal", "never", timeout=4)
        assert error.slug in ("unreachable", "deadline", "seed-not-found"), error
        assert not error.may_have_executed
        for node in cluster:
            assert not (await page(node, "executions_total", "naps")).get("guest-trapped")
            assert not any("never" in line["text"] for line in logged(node, "never"))


async def test_a_check_that_the_module_does_not_export_is_refused_at_once() -> None:
    """With the exports, and nothing is published."""
    async with Cluster(1) as cluster:
        (node,) = cluster
        done = await node.pln("seed", example("shout"), "shout", "--check", "ping", "--json")
        problem = check_error(done, "function-not-found")
        assert "ping" in problem["title"]
        assert problem["remedy"] == "name one of: shout, upper"
        assert (await node.status())["seeds"] == []
