"""Loads made from this node, from others, and for others: who is asked, and what it all comes to.

Errors: ``peer-not-found`` for a node that is no member, what ``core.admin`` says of one that
cannot or will not, ``bad-request`` for a report that is none. A load that failed at one node has
run at the others: the error comes when all have ended. One that is ended early has its report.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from pollen.core import commands as cmd
from pollen.errors import BadRequest, error_from
from pollen.runtime.control import routes
from pollen.runtime.native import Muscles

# Calls under way at the end of a load have a minute; then the report takes its way.
GRACE_MS = 75_000
# How long another node has to end a load, which takes it no time; and how often one that has not
# come to the muscles yet is tried again here.
_END_MS = 10_000
_END_AGAIN_S = 0.02

Ask = Callable[[cmd.Command, float], Awaitable[msgspec.Struct]]


class Loads:
    """``ask`` gives the brain a command and waits so many seconds; ``own`` is our id in hex."""

    def __init__(self, own: str, muscles: Muscles, ask: Ask) -> None:
        self._own = own
        self._muscles = muscles
        self._ask = ask
        # By name: the nodes that are to load or do, until each has ended.
        self._under_way: dict[str, set[str]] = {}

    async def run(self, plan: routes.LoadRequest) -> routes.LoadReport:
        """Load from here, or at once from all nodes that the plan names."""
        if not plan.name:
            return await self._run(plan)
        if plan.name in self._under_way:
            reason = f"a load of the name {plan.name!r} is under way"
            raise BadRequest("bad-request", reason, "give each a name of its own, or none")
        self._under_way[plan.name] = set(plan.nodes or [self._own])
        try:
            return await self._run(plan)
        finally:
            del self._under_way[plan.name]

    async def end(self, name: str) -> routes.LoadEnded:
        """End what ``run`` does under this name; calls under way are cancelled."""
        nodes = sorted(self._under_way.get(name, ()))
        ended = await asyncio.gather(
            *[self._end_at(node, name) for node in nodes], return_exceptions=True
        )
        for one in ended:
            if isinstance(one, BaseException):
                raise one
        return routes.LoadEnded(nodes=len(nodes))

    async def _end_at(self, node: str, name: str) -> None:
        if node != self._own:
            command = cmd.AdminCommand(
                node=node, verb="end-load", args=name.encode(), wait_ms=_END_MS
            )
            await self._ask(command, _END_MS / 1000 + 5)
            return
        # It may be on its way to the muscles still, in a thread that has not begun.
        while self._own in self._under_way.get(name, ()) and not self._muscles.end_load(name):
            await asyncio.sleep(_END_AGAIN_S)

    async def _run(self, plan: routes.LoadRequest) -> routes.LoadReport:
        status = await self._ask(cmd.StatusCommand(), GRACE_MS / 1000)
        assert isinstance(status, cmd.Status)
        routes.check_target(plan, status.seeds)
        if not plan.nodes:
            return await self._from(self._own, plan)
        names = {held.node: held.name for held in status.nodes}
        for node in plan.nodes:
            if node not in names:
                raise error_from("peer-not-found", f"no node {node[:16]!r}", "pln status nodes")
        alone = msgspec.structs.replace(plan, nodes=[])
        ended = await asyncio.gather(
            *[self._from(node, alone) for node in plan.nodes], return_exceptions=True
        )
        reports = [one for one in ended if not isinstance(one, BaseException)]
        for one in ended:
            if isinstance(one, BaseException):
                raise one
        return merge([(node, names[node]) for node in plan.nodes], reports)

    async def serve(self, args: bytes) -> bytes:
        """The verb ``load``: an admin elsewhere wants this node to load a seed."""
        try:
            plan = msgspec.json.decode(args, type=routes.LoadRequest)
        except msgspec.MsgspecError as error:
            raise BadRequest("bad-request", f"the request is no load: {error}") from None
        if plan.nodes:
            raise BadRequest("bad-request", "a load for another node names no nodes itself")
        return msgspec.json.encode(await self.run(plan))

    async def serve_end(self, args: bytes) -> bytes:
        """The verb ``end-load``: what an admin elsewhere had this node begin is to end."""
        try:
            name = args.decode()
        except UnicodeDecodeError:
            raise BadRequest("bad-request", "the name of a load is UTF-8") from None
        return msgspec.json.encode(await self.end(name))

    async def _here(self, plan: routes.LoadRequest) -> routes.LoadReport:
        """A thread waits, the calls stay in the muscles."""
        try:
            data = base64.b64decode(plan.input_base64, validate=True)
        except ValueError:
            raise BadRequest("bad-request", "input_base64 is no base64") from None
        report = await asyncio.to_thread(
            self._muscles.run_load,
            name=plan.name,
            seed=plan.seed,
            function=plan.function,
            input=data,
            rate=plan.rate,
            concurrency=plan.concurrency,
            duration_ms=plan.duration_ms,
        )
        return msgspec.json.decode(report, type=routes.LoadReport)

    async def _from(self, node: str, plan: routes.LoadRequest) -> routes.LoadReport:
        try:
            return await (self._here(plan) if node == self._own else self._there(node, plan))
        finally:
            self._under_way.get(plan.name, set()).discard(node)

    async def _there(self, node: str, plan: routes.LoadRequest) -> routes.LoadReport:
        wait_ms = plan.duration_ms + GRACE_MS
        args = msgspec.json.encode(plan)
        command = cmd.AdminCommand(node=node, verb="load", args=args, wait_ms=wait_ms)
        answered = await self._ask(command, wait_ms / 1000 + 5)
        assert isinstance(answered, cmd.Administered)
        try:
            return msgspec.json.decode(answered.body, type=routes.LoadReport)
        except msgspec.MsgspecError as error:
            reason = f"node {node[:8]} sent no report: {error}"
            raise BadRequest("bad-request", reason, "bring it to this version") from None


def merge(
    nodes: Sequence[tuple[str, str]], reports: Sequence[routes.LoadReport]
) -> routes.LoadReport:
    """All of it as one: sums, the longest time, and of each percentile the slowest node's."""
    failed: dict[str, int] = {}
    for report in reports:
        for slug, count in report.failed.items():
            failed[slug] = failed.get(slug, 0) + count
    latencies = [msgspec.structs.asdict(report.latency_us) for report in reports]
    worst = {name: max(held[name] for held in latencies) for name in latencies[0]}
    return routes.LoadReport(
        ok=sum(report.ok for report in reports),
        failed=failed,
        missed=sum(report.missed for report in reports),
        seconds=max(report.seconds for report in reports),
        rate=sum(report.rate for report in reports),
        latency_us=routes.Latency(**worst),
        nodes=[
            routes.NodeLoad(
                node=node,
                name=name,
                ok=report.ok,
                rate=report.rate,
                failed=sum(report.failed.values()),
                latency_us=report.latency_us,
            )
            for (node, name), report in zip(nodes, reports, strict=True)
        ],
    )
