"""Loads of several nodes: their end, and a node that does not answer."""

from __future__ import annotations

import asyncio
import threading
from typing import Any, cast

import msgspec
import pytest

from pollen.core import commands as cmd
from pollen.errors import BadRequest, Unreachable
from pollen.runtime import workloads
from pollen.runtime.control import loads
from pollen.runtime.workloads import Workloads
from pollen.testing import until

PLAN = loads.LoadRequest(name="mine", seed="echo", function="echo", duration_ms=600_000)
LATENCY = loads.Latency(p50=1, p90=1, p99=1, p999=1, max=1)
REPORT = loads.LoadReport(ok=5, failed={}, missed=0, seconds=1.0, rate=5.0, latency_us=LATENCY)
NODES = [
    cmd.NodeView(
        node=name,
        name=name.upper(),
        state="online",
        tier="admin",
        properties="{}",
        addresses=[],
        version="",
        ready=0,
        memory_bytes=0,
    )
    for name in "abc"
]
SEED = cmd.SeedView(
    name="echo",
    seed="5eed",
    content="",
    size_bytes=0,
    functions=["echo"],
    publisher="a",
    publisher_name="A",
    name_epoch=1,
    ready=3,
    wanted=3,
    replicas=[],
    options=cmd.SeedOptions(),
)
STATUS = cmd.Status(
    cluster="",
    node="a",
    name="A",
    version="",
    healthy=True,
    summary="",
    warnings=[],
    hints=[],
    nodes=NODES,
    seeds=[SEED],
    uptime_ms=0,
    view_age_ms=0,
    memory_bytes=0,
    rejections={},
    events_dropped=0,
    control_stalls=0,
)


class Muscles:
    """A load runs until it is ended."""

    def __init__(self) -> None:
        self.running: dict[str, threading.Event] = {}

    def run_workload(self, *, name: str, **_: Any) -> bytes:
        ended = self.running.setdefault(name, threading.Event())
        assert ended.wait(20), "nobody ended the load"
        del self.running[name]
        return msgspec.json.encode(REPORT)

    def end_workload(self, name: str) -> int:
        if name not in self.running:
            return 0
        self.running[name].set()
        return 1


class Town:
    """Nodes a, b, c. Messages to the ``dead`` are lost; a load comes to a ``slow`` one when it was
    told once to end it."""

    def __init__(self, *, dead: str = "", slow: str = "") -> None:
        self.dead, self.slow = dead, slow
        self.told = asyncio.Event()
        self.muscles = {name: Muscles() for name in "abc"}
        self.workloads = {
            name: Workloads(name, cast(Any, self.muscles[name]), self.ask) for name in "abc"
        }

    async def ask(self, command: cmd.Command, seconds: float) -> msgspec.Struct:
        if isinstance(command, cmd.StatusCommand):
            return STATUS
        assert isinstance(command, cmd.AdminCommand)
        if command.node in self.dead:
            await asyncio.Event().wait()
        node = self.workloads[command.node]
        if command.verb == "end-load":
            body = await node.serve_end(command.args)
            self.told.set()
            return cmd.Administered(body=body)
        if command.node in self.slow:
            await self.told.wait()
        return cmd.Administered(body=await node.serve(command.args))

    async def begin(self, *nodes: str, on: str) -> asyncio.Task[loads.LoadReport]:
        """A load of some nodes that a has begun and that runs ``on`` these."""
        plan = msgspec.structs.replace(PLAN, nodes=list(nodes))
        running = asyncio.create_task(self.workloads["a"].run(plan))

        async def all_run() -> bool:
            return all(self.muscles[name].running for name in on)

        await until(all_run, 10, "the load runs", poll=0.005)
        return running

    def is_calm(self) -> bool:
        return not any(muscles.running for muscles in self.muscles.values())


@pytest.mark.parametrize("nodes", [(), ("b",), ("a", "b", "c"), ("b", "b", "a", "a")])
def test_a_load_ends_at_all_nodes_that_make_it(nodes: tuple[str, ...]) -> None:
    async def run() -> None:
        town = Town()
        asked = "".join(dict.fromkeys(nodes)) or "a"
        running = await town.begin(*nodes, on=asked)
        assert await town.workloads["a"].end("mine") == loads.LoadEnded(nodes=len(asked))
        report = await running
        assert report.ok == 5 * len(asked) and town.is_calm()
        assert [held.node for held in report.nodes] == (list(asked) if nodes else [])
        assert await town.workloads["a"].end("mine") == loads.LoadEnded(nodes=0)

    asyncio.run(run())


def test_a_dead_node_keeps_no_report_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has none among them; with nobody else there is nothing to report."""
    monkeypatch.setattr(workloads, "_END_MS", 50)

    async def run() -> None:
        town = Town(dead="b")
        running = await town.begin("a", "b", on="a")
        await town.workloads["a"].end("mine")
        assert [held.node for held in (await running).nodes] == ["a"]
        alone = await town.begin("b", on="")

        async def is_ended() -> bool:
            return (await town.workloads["a"].end("mine")).nodes > 0

        await until(is_ended, 10, "the load of b is ended", poll=0.005)
        with pytest.raises(Unreachable, match="no node ended the load"):
            await alone

    asyncio.run(run())


def test_a_node_where_the_load_has_not_come_yet_is_told_again() -> None:
    async def run() -> None:
        town = Town(slow="b")
        running = await town.begin("a", "b", on="a")
        await town.workloads["a"].end("mine")
        assert [held.node for held in (await running).nodes] == ["a", "b"]
        assert town.is_calm()

    asyncio.run(run())


def test_who_gives_up_ends_the_load_everywhere() -> None:
    async def run() -> None:
        town = Town()
        running = await town.begin("a", "b", "c", on="abc")
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

        async def is_calm() -> bool:
            return town.is_calm()

        await until(is_calm, 10, "nobody loads", poll=0.005)

    asyncio.run(run())


def test_a_name_is_for_one_load_at_a_time() -> None:
    async def run() -> None:
        town = Town()
        running = await town.begin(on="a")
        with pytest.raises(BadRequest, match="is under way"):
            await town.workloads["a"].run(PLAN)
        await town.workloads["a"].end("mine")
        await running

    asyncio.run(run())
