"""Load below and above what a node can do: nothing fails below, above it the rest is in time."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

import pollen
from pollen.errors import GuestError, Overloaded
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example
from tests.e2e.pace import Pace
from tests.e2e.talk import metric
from tests.e2e.test_load import resident_mb

pytestmark = pytest.mark.alone

# About 10 ms of one core; many times what it takes to bring the call there.
WORK = "100000"


async def load(
    node: Node, seconds: int, rate: int = 0, concurrency: int = 64, warm_up: int = 0
) -> Any:
    """One load of primes and its report; ``rate`` 0: closed loop."""
    line = ["load", "primes/primes", "--json", "--input", WORK, "--duration", f"{seconds}s"]
    line += ["--concurrency", str(concurrency), *(["--rate", str(rate)] if rate else [])]
    line += ["--warm-up", f"{warm_up}s"] if warm_up else []
    done = await node.pln(*line)
    report = json.loads(done.stdout)
    assert done.returncode == bool(report["failed"]), done.stderr
    return report


async def capacity(node: Node) -> float:
    """How many calls a second the node does now."""
    return float((await load(node, 5, concurrency=16))["rate"])


# Seconds after a slow window in which its queue may still be refused: what waits is half a second
# of work, and 30 % of the machine are left for it.
_DRAIN = 3.0


async def overload(
    seconds: int, below_seconds: int, share: float, pieces: int = 1, warm_up: int = 0
) -> tuple[list[Any], Any]:
    """A node at a share of what it does, so many times, then at 150 %: the reports, and what is
    always so.

    What a machine does differs from minute to minute (204 and 324 calls/s were seen in one day), so
    each piece has its own measure. Within one it may halve (``pace``): 70 % of the one is 140 % of
    the other, and what is refused then is no fault.
    """
    async with Cluster(1) as cluster:
        (node,) = cluster
        await cluster.seed(example("primes"), "primes", timeout_ms=60_000)
        below = []
        for _ in range(pieces):
            most = await capacity(node)
            report = await watched(node, below_seconds, int(most * share))
            print(f"capacity {most:.0f}/s; {share:.0%}: {report}")
            assert report["failed"].keys() <= {"overloaded"}, report
            assert report["refused_at_pace"] == 0, report
            below.append(report)
        most = await capacity(node)
        pressed = load(node, seconds, int(most * 1.5), concurrency=4_000, warm_up=warm_up)
        above, refused = await asyncio.gather(pressed, refusals(node, warm_up + seconds))
        assert set(above["failed"]) == {"overloaded"}, above
        assert refused > 0
        after = await load(node, 3, concurrency=4)
        assert after["failed"] == {}, "it is over when the load is"
    print(f"capacity {most:.0f}/s; 150 %: {above}; {refused} refused by SDK")
    return below, above


async def watched(node: Node, seconds: int, rate: int) -> Any:
    """A load, and beside its report: the slope of the daemon's resident memory in MB a minute, how
    many calls were refused while the machine kept its pace, and for how many seconds it did.
    """
    seen: list[tuple[float, float, float]] = []

    async def look() -> None:
        refused = await metric(node, "calls_overloaded_total")
        seen.append((time.monotonic(), resident_mb(node), refused))

    with Pace() as pace:
        await look()
        running = asyncio.ensure_future(load(node, seconds, rate, concurrency=1_000))
        while not running.done():
            await asyncio.wait([running], timeout=0.5)
            await look()
    # The first half fills pools and caches.
    late = seen[len(seen) // 2 :]
    slope = statistics.linear_regression(
        [at / 60 for at, _, _ in late], [mb for _, mb, _ in late]
    ).slope
    steady = [
        (then - since, after - before)
        for (since, _, before), (then, _, after) in itertools.pairwise(seen)
        if not pace.slow(since - _DRAIN, then)
    ]
    return {
        **(await running),
        "mb_a_minute": slope,
        "refused_at_pace": sum(refused for _, refused in steady),
        "seconds_at_pace": sum(lasted for lasted, _ in steady),
    }


async def refusals(node: Node, seconds: int) -> int:
    """Calls of the SDK while it lasts; a refusal says that nothing ran, and when to come back."""
    end = time.monotonic() + seconds - 1

    async def ask(work: Callable[[bytes], Awaitable[object]]) -> int:
        refused = 0
        while time.monotonic() < end:
            try:
                await work(WORK.encode())
            except Overloaded as error:
                assert error.retry_after and error.retry_after > 0
                assert not error.may_have_executed
                refused += 1
        return refused

    async with node.connect() as mesh:
        work = mesh.function("primes", "primes", timeout=20)
        return sum(await asyncio.gather(*[ask(work) for _ in range(64)]))


@pytest.mark.timeout(120)
async def test_above_its_capacity_a_node_refuses_and_serves_the_rest() -> None:
    """Done-when 7 in short: refusals only, with a time to come back; over when the load is."""
    _, above = await overload(6, 6, 0.3)
    assert above["ok"] > 0


def primes_below(number: int) -> str:
    """What the example answers."""
    sieve = bytearray([1]) * number
    for prime in range(2, math.isqrt(number) + 1):
        sieve[prime * prime :: prime] = bytes(len(range(prime * prime, number, prime)))
    return str(sum(sieve[2:]))


@pytest.mark.timeout(120)
async def test_map_waits_where_a_call_would_be_refused() -> None:
    """More than a node can do at once, for longer than a burst: all are answered, in order."""
    counts = [str(60_000 + number) for number in range(400)]
    async with Cluster(1) as cluster:
        await cluster.seed(example("primes"), "primes", timeout_ms=60_000)
        # A closed loop alone is never refused: others call twice as fast as the node serves.
        most = (await load(cluster[0], 3, concurrency=16))["rate"]
        pressed = asyncio.ensure_future(load(cluster[0], 12, int(most * 2), concurrency=4_000))

        async def refuses() -> bool:
            return await metric(cluster[0], "calls_overloaded_total") > 0

        await until(refuses, 10, "the node refuses calls")
        async with cluster[0].connect() as mesh:
            work = mesh.function("primes", "primes")
            replies = [reply.text async for reply in work.map(counts, in_flight=200)]
        with pollen.connect_sync(cluster[0].paths.home) as mesh:
            twin = mesh.function("primes", "primes")
            again = await asyncio.to_thread(
                lambda: [reply.text for reply in twin.map(counts, in_flight=200)]
            )
        assert (await pressed)["failed"].keys() == {"overloaded"}
    assert replies == again == [primes_below(int(count)) for count in counts]


async def closed_loop(cluster: Cluster, callers: int, seconds: float) -> tuple[int, float]:
    """So many SDK tasks that each call again when they are answered: calls, and their p99 in s."""
    took: list[float] = []
    async with cluster[0].connect() as mesh:
        relay = mesh.function("relay", "relay", timeout=60)
        end = time.monotonic() + seconds

        async def again() -> None:
            while time.monotonic() < end:
                since = time.monotonic()
                reply = await relay(b"pln://seed/shout/shout\nab")
                took.append(time.monotonic() - since)
                assert reply.data == b"AB"

        await asyncio.gather(*[again() for _ in range(callers)])
    return len(took), sorted(took)[len(took) * 99 // 100]


@pytest.mark.timeout(300)
async def test_a_closed_loop_of_nested_calls_is_served_and_not_refused() -> None:
    """Callers who wait for their answers make a queue that does not grow."""
    async with Cluster(1) as cluster:
        for name in ("relay", "shout"):
            await cluster.seed(example(name), name)
        for callers in (64, 512, 4_096):
            calls, p99 = await closed_loop(cluster, callers, 5)
            print(f"{callers} callers: {calls} calls in 5 s, p99 {p99:.3f} s")
            assert calls >= callers
            # Of the mean wait: 1.7 to 2.6 times on an idle machine, 3.02 was seen once. Below 20 ms
            # it is the kernel that decides who of a busy machine runs.
            assert p99 <= max(4 * callers * 5 / calls, 0.02)
        assert await metric(cluster[0], "calls_overloaded_total") == 0


@pytest.mark.timeout(120)
async def test_a_chain_of_sixteen_nested_calls_works_and_the_next_is_the_hop_limit() -> None:
    """seam.md, split: a chain does not pay for breadth that it does not use."""
    async with Cluster(1) as cluster:
        for name in ("relay", "echo"):
            await cluster.seed(example(name), name)
        async with cluster[0].connect() as mesh:
            # The first relay is at depth 0; each URI is one nested call.
            chain = b"pln://seed/relay/relay\n"
            reply = await mesh.call("relay", "relay", chain * 15 + b"pln://seed/echo/echo\nend")
            assert reply.data == b"end"
            with pytest.raises(GuestError) as raised:
                await mesh.call("relay", "relay", chain * 16 + b"pln://seed/echo/echo\nend")
    assert "[hop-limit]" in raised.value.remedy, raised.value.remedy


@pytest.mark.slow
@pytest.mark.timeout(2_400)
async def test_ten_minutes_of_load_and_one_above_capacity() -> None:
    """Done-when 7, strict.

    Above capacity a minute is judged that follows on the five seconds in which a node may find that
    it has no closed loop before it
    (docs/decisions/few-fresh-calls-a-core.md#the-minute-above-capacity).
    """
    below, above = await overload(60, 60, 0.7, pieces=10, warm_up=5)
    assert sum(report["seconds_at_pace"] for report in below) > 200, "the machine kept no pace"
    assert statistics.median(report["mb_a_minute"] for report in below) < 1.0
    assert above["latency_us"]["p99"] <= 10 * max(report["latency_us"]["p99"] for report in below)
