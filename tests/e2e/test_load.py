"""Under load: guests burn every core, or wait by the thousand; the nodes stay what they are."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from pollen.sdk.control import Control
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example
from tests.e2e.talk import alive, metric, settles

pytestmark = [pytest.mark.alone, pytest.mark.timeout(120)]


async def link_ages(cluster: Cluster) -> dict[tuple[str, str], int]:
    """Bytes received on each link; a link that was dropped meanwhile begins at 0 again."""
    found = {}
    for node in cluster:
        for peer in (await node.status())["nodes"]:
            if peer["state"] != "self":
                assert peer["state"] == "online", f"{node.name} lost {peer['name']}"
                found[node.name, peer["name"]] = peer["bytes_in"]
    return found


async def burn(cluster: Cluster, seconds: int, loose: bool) -> tuple[list[float], list[int]]:
    """Primes on every node for a while; how long ``status`` took, and the links' round trips."""
    for node in cluster:
        async with node.connect() as mesh:
            await mesh.call("primes", "primes", b"100")
    before = await link_ages(cluster)
    loads = [
        asyncio.ensure_future(
            node.pln("load", "primes/primes", "--json", "--duration", f"{seconds}s",
                     "--concurrency", "8", "--input", "400000")
        )
        for node in cluster
    ]  # fmt: skip
    answers: list[float] = []
    rtts: list[int] = []
    while not all(load.done() for load in loads):
        for node in cluster:
            began = time.monotonic()
            status = await node.status()
            answers.append(time.monotonic() - began)
            rtts += [peer["rtt_us"] for peer in status["nodes"] if peer["state"] == "online"]
            assert not loose or answers[-1] < 2.0
    for load in loads:
        done = await load
        report = json.loads(done.stdout)
        assert done.returncode == 0 and report["ok"] > 0 and report["failed"] == {}, report
    after = await link_ages(cluster)
    assert all(after[link] >= held for link, held in before.items()), "a link was dropped"
    return answers, rtts


async def test_ctrl_c_ends_a_load_on_all_nodes_that_make_it() -> None:
    """Each reports what it had done; the calls under way are cancelled and no failures."""
    async with Cluster(3) as cluster:
        await cluster.seed(example("echo"), "echo", everywhere=True)
        line = ["-m", "pollen.cli", "--dir", str(cluster[0].home), "load", "echo", "--json"]
        line += [word for node in cluster for word in ("--from", node.name)]
        line += ["--duration", "10m", "--rate", "100"]
        running = subprocess.Popen(cluster[0].command(*line), stdout=subprocess.PIPE)

        async def all_call() -> bool:
            counts = [await calls_made(node) for node in cluster]
            return min(counts) >= 10

        try:
            await until(all_call, 30, "every node calls")
            running.send_signal(signal.SIGINT)
            out, _ = await asyncio.to_thread(running.communicate, timeout=30)
        finally:
            running.kill()
        report = json.loads(out)
        assert (running.returncode, report["failed"]) == (130, {})
        assert [node["ok"] >= 10 for node in report["nodes"]] == [True] * 3
        assert report["seconds"] < 60


async def calls_made(node: Node) -> float:
    """Calls of echo from this node that ended well."""
    page = await asyncio.to_thread(Control(node.paths).text, "/v1/metrics")
    lines = [one for one in page.splitlines() if one.startswith("pollen_calls_total{")]
    mine = [one for one in lines if 'seed="echo"' in one and 'outcome="ok"' in one]
    return sum(float(one.rpartition(" ")[2]) for one in mine)


def percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


async def test_status_answers_and_links_hold_while_guests_burn_all_cores() -> None:
    """Done-when 7, with loose bounds: less than 2 s for each answer, no link drops."""
    async with Cluster(3) as cluster:
        for name in ("primes", "echo"):
            await cluster.seed(example(name), name, everywhere=True)
        answers, _ = await burn(cluster, 5, loose=True)
        print(f"status: median {statistics.median(answers) * 1e3:.0f} ms of {len(answers)}")
        await alive(*cluster)


@pytest.mark.slow
async def test_round_trips_stay_under_100_ms_while_guests_burn_all_cores() -> None:
    """Done-when 7, strict: 30 s; the links' own round trips as the transport measures them."""
    async with Cluster(3) as cluster:
        for name in ("primes", "echo"):
            await cluster.seed(example(name), name, everywhere=True)
        answers, rtts = await burn(cluster, 30, loose=False)
        p99 = percentile([float(rtt) for rtt in rtts], 0.99)
        slow = percentile(answers, 0.99)
        print(f"rtt p99 {p99 / 1e3:.1f} ms of {len(rtts)}; status p99 {slow * 1e3:.0f} ms")
        assert p99 < 100_000


def resident_mb(node: Node, field: str = "Rss") -> float:
    for line in Path(f"/proc/{node.pid}/smaps_rollup").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {field} of {node.name}")


# Calls begun at once. A burst of 10,000 keeps the two cores of a small machine busy for longer
# than the half second of silence after which a link with calls on it is routed around.
_BATCH = 1_000


async def suspend(number: int, patience: float) -> None:
    """So many calls suspended on a, each on a child that runs or waits for a slot on b."""
    properties = {"a": {"at": "a"}, "b": {"at": "b"}}
    async with Cluster(2, properties=properties) as cluster:
        a, b = cluster
        await cluster.seed(example("loop"), "loop", on="b", host=[["at", "b"]], timeout_ms=600_000)
        config = {"next": "pln://seed/loop/loop"}
        limits = {"memory_bytes": 1 << 20, "timeout_ms": 600_000, "config": config}
        await cluster.seed(example("relay"), "relay", on="a", host=[["at", "a"]], **limits)
        await cluster.seed(example("echo"), "echo", on="ab")
        before = resident_mb(a)
        async with a.connect() as mesh:
            relay = mesh.function("relay", "relay", timeout=600, retries=0)
            calls: list[asyncio.Future[Any]] = []

            async def are_suspended() -> bool:
                ended = [call for call in calls if call.done()]
                assert len(ended) == 0, f"{len(ended)} ended: {ended[0].exception()}"
                waiting = await metric(b, "calls_running") + await metric(b, "calls_queued")
                return waiting == len(calls)

            began = time.monotonic()
            while len(calls) < number:
                calls += [asyncio.ensure_future(relay(b"")) for _ in range(_BATCH)]
                await until(are_suspended, patience, f"{len(calls)} calls wait for b")
            suspended = time.monotonic() - began
            assert await metric(a, "calls_running") == 0, "a suspended call holds no slot"
            assert await metric(b, "calls_queued") > number / 2
            answers = []
            for node in (a, b, a, b):
                at = time.monotonic()
                assert {n["state"] for n in (await node.status())["nodes"]} == {"self", "online"}
                answers.append(time.monotonic() - at)
            assert max(answers) < 2.0
            held = resident_mb(a) - before
            tables = await metric(a, "page_table_bytes") / 1e6
            print(
                f"{number} suspended in {suspended:.1f} s: {held:.0f} MB resident, page tables "
                f"{tables:.0f} MB, {await metric(a, 'memory_mappings')} mappings; status "
                f"{max(answers) * 1e3:.0f} ms; b holds {resident_mb(b):.0f} MB"
            )
            for call in calls:
                call.cancel()
            for node in (b, a):
                await settles(node, "calls_running", 0, timeout=patience)
                await settles(node, "calls_queued", 0, timeout=patience)
            await asyncio.gather(*calls, return_exceptions=True)
        await alive(a, b)


async def test_a_thousand_suspended_calls_each_on_a_queued_child() -> None:
    """Done-when 6 at a tenth."""
    await suspend(1_000, 30)


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_ten_thousand_suspended_calls_each_on_a_queued_child() -> None:
    """Done-when 6."""
    await suspend(10_000, 200)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.slow
@pytest.mark.timeout(180)
async def test_an_idle_node_costs_next_to_nothing() -> None:
    """Done-when 9: three linked, quiet for 30 s; then 20 s measured."""
    quiet, measured = 30.0, 20.0
    async with Cluster(3) as cluster:
        await cluster.seed(example("echo"), "echo", everywhere=True)
        await alive(*cluster)
        start = time.monotonic()

        async def has_passed(seconds: float) -> bool:
            return time.monotonic() - start >= seconds

        await until(lambda: has_passed(quiet), quiet + 5, "it was quiet", poll=1.0)
        before = [(cpu_seconds(node.pid), await node.status()) for node in cluster]
        began = time.monotonic()
        await until(lambda: has_passed(quiet + measured), measured + 5, "measured", poll=5.0)
        spent = time.monotonic() - began
        for node, (cpu, held) in zip(cluster, before, strict=True):
            share = (cpu_seconds(node.pid) - cpu) / spent
            memory = resident_mb(node, "Pss")
            now = (await node.status())["nodes"]
            rates = [
                (new["bytes_out"] + new["bytes_in"] - old["bytes_out"] - old["bytes_in"]) / spent
                for old, new in zip(held["nodes"], now, strict=True)
            ]
            print(f"{node.name}: cpu {share:.2%}, {memory:.1f} MB PSS, {max(rates):.0f} B/s a link")
            assert share < 0.01
            assert memory < 120
            assert max(rates) < 1_000
