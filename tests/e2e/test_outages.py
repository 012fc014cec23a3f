"""A host is lost under an open-loop stream of calls: who notices, when, and what it costs."""

from __future__ import annotations

import json
import time
from collections import Counter
from typing import Any

import pytest

from pollen.testing import Cluster, Node, until
from pollen.testing.namespaces import Network
from tests.e2e.bars import within
from tests.e2e.conftest import NO_SPACES, example
from tests.e2e.streams import executions, longest_gap, stream

pytestmark = [pytest.mark.figure, pytest.mark.timeout(180)]

# Calls a second, and how long they go on after the fault.
RATE = 600
OUTAGE = 7.0
# The longest silence of the stream, and until when replicas are back, seconds (Done-when 7).
GAP = 2.0
BACK = 5.0


async def replicas(node: Node) -> set[str]:
    """The names of the nodes that are ready for calls, as a node sees it."""
    for seed in (await node.status())["seeds"]:
        if seed["name"] == "journal":
            return {r["name"] for r in seed["replicas"] if r["state"] == "ready"}
    return set()


async def serving(cluster: Cluster) -> Node:
    """The node that answers the calls of the first one."""
    async with cluster[0].connect() as mesh:
        reply = await mesh.call("journal", "journal", b"who serves")
    ids = {(await node.status())["node"]: node for node in cluster}
    return ids[reply.node]


async def outage(how: str, *, is_idempotent: bool) -> dict[str, Any]:
    """Lose one of the two hosts under the stream; what came of it."""
    if how == "drop" and not Network.is_possible():
        pytest.skip(NO_SPACES)
    roles = {name: {"role": "host" if name != "a" else "door"} for name in "abcd"}
    async with Cluster(4, namespaces=how == "drop", properties=roles) as cluster:
        a = cluster.nodes[0]
        await cluster.seed(example("journal"), "journal", host=[["role", "host"]])
        victim = await serving(cluster)
        back: list[float] = []

        async def fault() -> None:
            if how == "kill":
                assert victim.process is not None
                victim.process.kill()
            elif how == "stop":
                victim.pause()
            else:
                assert cluster.network is not None
                cluster.network.cut(victim.name, [n.name for n in cluster if n is not victim])
            began = time.monotonic()

            async def is_back() -> bool:
                ready = await replicas(a) - {victim.name}
                return len(ready) >= 2

            await until(is_back, 30, "two hosts are ready again")
            back.append(time.monotonic() - began)

        async with a.connect() as mesh:
            calls, at = await stream(
                mesh, fault, rate=RATE, seconds=OUTAGE, is_idempotent=is_idempotent
            )
        if how == "stop":
            victim.resume()
        elif how == "drop":
            assert cluster.network is not None
            cluster.network.heal()
        if how != "kill":
            # What hung goes on, and must not run again what others ran, on its own node.
            await cluster.linked(60)
        ran = executions(cluster)
    return {
        "how": how,
        "idempotent": is_idempotent,
        "calls": len(calls),
        "in the outage": sum(at <= call.began <= at + back[0] for call in calls),
        "failed": dict(Counter(call.slug for call in calls if call.slug)),
        "gap": round(longest_gap(calls, at), 3),
        "back": round(back[0], 3),
        "twice on a node": sum(n > 1 for held in ran.values() for n in held.values()),
        "twice": sum(n > 1 for n in sum(ran.values(), Counter[str]()).values()),
        "executions": sum(n for held in ran.values() for n in held.values()),
        "slowest": round(max(call.ended - call.began for call in calls), 3),
    }


def tell(report: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> None:
    """The figures, in the output of a run that passes, too."""
    with capsys.disabled():
        print(f"\n  {json.dumps(report)}")


@pytest.mark.parametrize("how", ["kill", "stop", "drop"])
async def test_a_lost_host_costs_an_idempotent_stream_nothing(
    how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """No call fails, none runs twice on one node, and the stream never stands still for long."""
    report = await outage(how, is_idempotent=True)
    tell(report, capsys)
    assert report["failed"] == {}
    assert report["twice on a node"] == 0
    assert report["executions"] >= report["calls"]
    assert report["in the outage"] >= 1_000
    assert report["gap"] <= within(GAP)
    assert report["back"] <= within(BACK)


@pytest.mark.parametrize("how", ["kill", "stop", "drop"])
async def test_what_may_have_run_is_not_run_again_without_leave(
    how: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A seed that is not idempotent: failures are counted and told, and nothing runs twice."""
    report = await outage(how, is_idempotent=False)
    tell(report, capsys)
    assert report["twice"] == 0
    assert set(report["failed"]) <= {"unreachable"}
    assert report["gap"] <= within(GAP)
