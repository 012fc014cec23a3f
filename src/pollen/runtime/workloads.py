"""Loads made from this node, from others, and for others: who is asked, and what it all comes to.

Errors: ``peer-not-found`` for a node that is not a member, what ``core.desk.admin`` says of one
that cannot or will not, ``bad-request`` for a report that is none. A load that failed at one node
has run at the others: the error comes when all have ended. One that is ended early has the reports
that came; a node that does not end it in time has none among them.
"""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from pollen.core import commands as cmd
from pollen.core.servicewords import ServiceList, ServicesCommand
from pollen.errors import BadRequest, PollenError, error_from
from pollen.runtime.control import loads
from pollen.runtime.loop.native import Muscles

# Calls under way at the end of a load have a minute; then the report takes its way.
GRACE_MS = 75_000
# How long a node has to end a load, which takes it no time; and how often one whose load has not
# come to its muscles yet is asked again.
_END_MS = 10_000
_END_AGAIN_S = 0.02

T = TypeVar("T")
Ask = Callable[[cmd.Command, float], Awaitable[msgspec.Struct]]


@dataclass
class _UnderWay:
    """One load: what each node owes us, by its id, and whether it was ended early."""

    reports: dict[str, asyncio.Task[loads.LoadReport]] = field(default_factory=dict)
    is_ended: bool = False


class Workloads:
    """``ask`` gives the brain a command and waits so many seconds; ``own`` is our id in hex."""

    def __init__(self, own: str, muscles: Muscles, ask: Ask) -> None:
        self._own = own
        self._muscles = muscles
        self._ask = ask
        self._under_way: dict[str, _UnderWay] = {}

    async def run(self, plan: loads.LoadRequest) -> loads.LoadReport:
        """Load from here, or at once from all nodes that the plan names; cancelled, end it."""
        plan = msgspec.structs.replace(plan, name=plan.name or os.urandom(16).hex())
        if plan.name in self._under_way:
            reason = f"a load of the name {plan.name!r} is under way"
            raise BadRequest("bad-request", reason, "give each a name of its own, or none")
        load = self._under_way[plan.name] = _UnderWay()
        try:
            return await self._run(plan, load)
        except asyncio.CancelledError:
            await self.end(plan.name)
            raise
        finally:
            for report in load.reports.values():
                report.cancel()
            del self._under_way[plan.name]

    async def end(self, name: str) -> loads.LoadEnded:
        """End what ``run`` does under this name, whose reports come at once: calls under way are
        cancelled. Returns when each node has ended it or is not waited for any more."""
        load = self._under_way.get(name)
        if load is None:
            return loads.LoadEnded(nodes=0)
        load.is_ended = True
        loading = [node for node, report in load.reports.items() if not report.done()]
        await asyncio.gather(*[self._end_at(node, name, load.reports[node]) for node in loading])
        return loads.LoadEnded(nodes=len(loading))

    async def _end_at(self, node: str, name: str, report: asyncio.Task[loads.LoadReport]) -> None:
        try:
            async with asyncio.timeout(_END_MS / 1000):
                # It may be on its way still, to that node or in a thread that has not begun.
                while not (report.done() or await self._has_ended(node, name)):
                    await asyncio.sleep(_END_AGAIN_S)
        except (TimeoutError, PollenError):
            report.cancel()

    async def _has_ended(self, node: str, name: str) -> bool:
        if node == self._own:
            return self._muscles.end_workload(name) > 0
        command = cmd.AdminCommand(node=node, verb="end-load", args=name.encode(), wait_ms=_END_MS)
        answered = await self._ask(command, _END_MS / 1000)
        assert isinstance(answered, cmd.Administered)
        return _read(answered.body, node, loads.LoadEnded).nodes > 0

    async def _run(self, plan: loads.LoadRequest, load: _UnderWay) -> loads.LoadReport:
        status = await self._ask(cmd.StatusCommand(), GRACE_MS / 1000)
        assert isinstance(status, cmd.Status)
        if plan.service:
            told = await self._ask(ServicesCommand(), GRACE_MS / 1000)
            assert isinstance(told, ServiceList)
            loads.check_service(plan, told.services)
        else:
            loads.check_target(plan, status.seeds)
        names = {held.node: held.name for held in status.nodes}
        for node in plan.nodes:
            if node not in names:
                raise error_from("peer-not-found", f"no node {node[:16]!r}", "pln status nodes")
        if load.is_ended:
            raise BadRequest("bad-request", "the load was ended before it began")
        alone = msgspec.structs.replace(plan, nodes=[])
        for node in plan.nodes or [self._own]:
            if node not in load.reports:
                load.reports[node] = asyncio.create_task(self._from(node, alone))
        await asyncio.wait(load.reports.values())
        came = {node: task for node, task in load.reports.items() if _has_come(task)}
        if len(came) < len(load.reports) and not (load.is_ended and came):
            raise next(_error_of(task) for node, task in load.reports.items() if node not in came)
        if not plan.nodes:
            return came[self._own].result()
        return merge(
            [(node, names[node]) for node in came], [task.result() for task in came.values()]
        )

    async def serve(self, args: bytes) -> bytes:
        """The verb ``load``: an admin elsewhere wants this node to load a seed."""
        try:
            plan = msgspec.json.decode(args, type=loads.LoadRequest)
        except msgspec.MsgspecError as error:
            remedy = "bring both nodes to one version"
            raise BadRequest("bad-request", f"the request is not a load: {error}", remedy) from None
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

    async def _from(self, node: str, plan: loads.LoadRequest) -> loads.LoadReport:
        if node == self._own:
            return await self._here(plan)
        wait_ms = plan.warm_up_ms + plan.duration_ms + GRACE_MS
        args = msgspec.json.encode(plan)
        command = cmd.AdminCommand(node=node, verb="load", args=args, wait_ms=wait_ms)
        answered = await self._ask(command, wait_ms / 1000 + 5)
        assert isinstance(answered, cmd.Administered)
        return _read(answered.body, node, loads.LoadReport)

    async def _here(self, plan: loads.LoadRequest) -> loads.LoadReport:
        """A thread waits, the calls stay in the muscles; cancelled, they end."""
        try:
            data = base64.b64decode(plan.input_base64, validate=True)
        except ValueError:
            raise BadRequest("bad-request", "input_base64 is not base64") from None
        try:
            report = await asyncio.to_thread(
                self._muscles.run_workload,
                name=plan.name,
                seed=plan.seed,
                function=plan.function,
                service=plan.service,
                input=data,
                rate=plan.rate,
                concurrency=plan.concurrency,
                duration_ms=plan.duration_ms,
                warm_up_ms=plan.warm_up_ms,
            )
        except asyncio.CancelledError:
            self._muscles.end_workload(plan.name)
            raise
        return msgspec.json.decode(report, type=loads.LoadReport)


def _has_come(task: asyncio.Task[loads.LoadReport]) -> bool:
    return not task.cancelled() and task.exception() is None


def _error_of(task: asyncio.Task[loads.LoadReport]) -> BaseException:
    if task.cancelled():
        return error_from("unreachable", "no node ended the load in time", "pln status nodes")
    error = task.exception()
    assert error is not None
    return error


def _read(body: bytes, node: str, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        reason = f"node {node[:8]} sent no {kind.__name__}: {error}"
        raise BadRequest("bad-request", reason, "bring it to this version") from None


def merge(
    nodes: Sequence[tuple[str, str]], reports: Sequence[loads.LoadReport]
) -> loads.LoadReport:
    """All of it as one: sums, the longest time, and of each percentile the slowest node's."""
    failed: dict[str, int] = {}
    for report in reports:
        for slug, count in report.failed.items():
            failed[slug] = failed.get(slug, 0) + count
    latencies = [msgspec.structs.asdict(report.latency_us) for report in reports]
    worst = {name: max(held[name] for held in latencies) for name in latencies[0]}
    return loads.LoadReport(
        ok=sum(report.ok for report in reports),
        failed=failed,
        missed=sum(report.missed for report in reports),
        seconds=max(report.seconds for report in reports),
        rate=sum(report.rate for report in reports),
        latency_us=loads.Latency(**worst),
        bytes_in=sum(report.bytes_in for report in reports),
        nodes=[
            loads.NodeLoad(
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
