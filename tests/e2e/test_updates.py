"""An update of a seed that is being called: it rolls from host to host, or it is halted."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example
from tests.e2e.streams import executions, stream

pytestmark = pytest.mark.timeout(120)
RATE = 300


async def journal(node: Node) -> dict[str, Any]:
    """What a node's status says of the seed."""
    seeds = (await node.status())["seeds"]
    return next(seed for seed in seeds if seed["name"] == "journal")


async def test_an_update_under_load_fails_no_call() -> None:
    """Old and new side by side, then the new alone; nothing runs twice."""
    async with Cluster(3) as cluster:
        a = cluster[0]
        first = await cluster.seed(example("journal"), "journal")

        async def update() -> None:
            control = await cluster.seed(example("journal"), "journal", config={"version": "2"})
            assert control["replaced"] == first["seed"]

            async def is_done() -> bool:
                views = [await journal(node) for node in cluster]
                return all(v["seed"] == control["seed"] and v["ready"] == 2 for v in views)

            await until(is_done, 20, "the new version serves everywhere")

        async with a.connect() as mesh:
            calls, _ = await stream(mesh, update, rate=RATE, seconds=8, is_idempotent=True)
        ran = sum(executions(cluster).values(), Counter[str]())
    assert Counter(call.slug for call in calls) == {"": len(calls)}
    assert len(ran) == len(calls) and set(ran.values()) == {1}


async def test_a_version_that_traps_is_halted_and_the_old_one_serves_on() -> None:
    """A few first calls fail and say so; then the name leads to the version before."""
    async with Cluster(3) as cluster:
        a = cluster[0]
        first = await cluster.seed(example("journal"), "journal")
        broken: list[float] = []

        async def update() -> None:
            async with a.connect() as mesh:
                second = await mesh.seed(example("journal"), "journal", config={"broken": "yes"})

            async def is_halted() -> bool:
                views = [await journal(node) for node in cluster]
                return all(
                    (v["seed"], v["halted"]) == (first["seed"], second["seed"]) for v in views
                )

            began = time.monotonic()
            await until(is_halted, 20, "the new version is halted everywhere")
            broken.append(time.monotonic() - began)

        async with a.connect() as mesh:
            calls, at = await stream(mesh, update, rate=RATE, seconds=10, is_idempotent=True)
        status = await a.status()
        first_seed = (await journal(a))["seed"]
    failed = [call for call in calls if call.slug]
    print(f"halted after {broken[0]:.2f} s, {len(failed)} of {len(calls)} calls failed")
    assert first_seed == first["seed"]
    assert {call.slug for call in failed} == {"guest-trapped"}
    assert all(not call.slug for call in calls if call.began > at + broken[0] + 1)
    assert any("is halted" in warning for warning in status["warnings"])
