"""An open-loop stream of calls of the ``journal`` seed, and what became of each.

The calls start on time whatever became of those before them. Each carries its number, and each
execution writes it to the seed's log on the node that ran it, which outlives the node.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from pollen.errors import PollenError
from pollen.sdk.client import Mesh
from pollen.testing import Cluster, until
from tests.e2e.talk import logged

# How long the stream runs before the fault, seconds.
BEFORE = 1.0


class Sent(msgspec.Struct):
    """One call of the stream; times are seconds of the monotonic clock."""

    number: int
    began: float
    ended: float = 0.0
    slug: str = ""
    node: str = ""


async def one(mesh: Mesh, sent: Sent, *, is_idempotent: bool) -> None:
    """Call, and note what became of it."""
    try:
        reply = await mesh.call(
            "journal", "journal", f"call-{sent.number}", timeout=20, idempotent=is_idempotent
        )
        assert reply.text == f"call-{sent.number}"
        sent.node = reply.node
    except PollenError as error:
        sent.slug = error.slug
    sent.ended = time.monotonic()


async def stream(
    mesh: Mesh,
    fault: Callable[[], Awaitable[None]],
    *,
    rate: int,
    seconds: float,
    is_idempotent: bool,
) -> tuple[list[Sent], float]:
    """Calls at a constant rate, with the fault after a second, and so long after it.

    The calls, and when the fault struck.
    """
    calls: list[Sent] = []
    running: list[asyncio.Task[None]] = []
    start = time.monotonic()
    struck: asyncio.Task[None] | None = None
    at = start + BEFORE

    async def is_due() -> bool:
        return len(calls) < (time.monotonic() - start) * rate

    while (elapsed := time.monotonic() - start) < BEFORE + seconds:
        if struck is None and elapsed >= BEFORE:
            at = time.monotonic()
            struck = asyncio.ensure_future(fault())
        while len(calls) < elapsed * rate:
            calls.append(Sent(number=len(calls), began=time.monotonic()))
            call = one(mesh, calls[-1], is_idempotent=is_idempotent)
            running.append(asyncio.ensure_future(call))
        await until(is_due, 10, "the next call is due", poll=0.001)
    assert struck is not None
    await struck
    await asyncio.gather(*running)
    return calls, at


def longest_gap(calls: list[Sent], since: float) -> float:
    """The longest time between two successes that ended one after the other, from ``since`` on."""
    ends = sorted(call.ended for call in calls if not call.slug and call.ended >= since)
    return max((b - a for a, b in zip([since, *ends], ends, strict=False)), default=float("inf"))


def executions(cluster: Cluster) -> dict[str, Counter[str]]:
    """How often each call ran on each node, by the seed's log there."""
    return {
        node.name: Counter(
            line["text"] for line in logged(node, "call-") if line.get("source") == "guest"
        )
        for node in cluster
    }
