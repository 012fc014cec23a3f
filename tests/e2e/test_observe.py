"""What a node tells of itself: metrics, traces, logs."""

from __future__ import annotations

import asyncio
import http.client
import socket
from collections.abc import Iterator

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pollen.control import Control
from pollen.runtime.metrics import CONTENT_TYPE, METRICS
from pollen.testing import Cluster, Node
from tests.e2e.conftest import example, running
from tests.e2e.talk import refusal

pytestmark = pytest.mark.timeout(60)

HOSTS = {"echo": "b", "relay": "a", "trap": "a"}


@pytest.fixture(scope="module")
def split() -> Iterator[Cluster]:
    """relay and trap are on a, echo is on b."""
    properties = {"a": {"at": "a"}, "b": {"at": "b"}}
    with running(Cluster(2, properties=properties)) as cluster:
        asyncio.run(_publish(cluster))
        yield cluster


async def _publish(cluster: Cluster) -> None:
    for name, letter in HOSTS.items():
        await cluster.seed(example(name), name, on=letter, host=[["at", letter]])


async def families(node: Node) -> dict[str, Metric]:
    """The page of a node, parsed; of a counter with its whole name."""
    page = await asyncio.to_thread(Control(node.paths).text, "/v1/metrics")
    suffix = {"counter": "_total", "info": "_info"}
    found = list(text_string_to_metric_families(page))
    return {family.name + suffix.get(family.type, ""): family for family in found}


async def value(node: Node, name: str, **labels: str) -> float:
    """The sum of the samples of one name that have these labels."""
    samples = [s for family in (await families(node)).values() for s in family.samples]
    return sum(s.value for s in samples if s.name == name and labels.items() <= s.labels.items())


async def test_a_daemons_page_has_the_metrics_of_the_guide_and_no_others(split: Cluster) -> None:
    """``METRICS`` is what the guide lists (tests/unit/test_metrics.py)."""
    found = {n: f for n, f in (await families(split[0])).items() if n.startswith("pollen_")}
    # Text of version 0.0.4 knows no info: it is a gauge of that name.
    kinds = {name: m.kind.replace("info", "gauge") for name, m in METRICS.items()}
    assert {name: family.type for name, family in found.items()} == kinds
    assert await value(split[0], "process_resident_memory_bytes") > 1e7


async def test_calls_are_counted_where_they_begin_and_where_they_run(split: Cluster) -> None:
    """By seed and outcome, with their durations, on both sides."""
    a, b = split
    names = ("pollen_calls_total", "pollen_executions_total", "pollen_call_duration_seconds_count")
    before = [[await value(node, name, seed="echo") for name in names] for node in (a, b)]
    async with a.connect() as mesh:
        for _ in range(5):
            await mesh.call("echo", "echo", b"counted")
    after = [[await value(node, name, seed="echo") for name in names] for node in (a, b)]
    grown = [
        [n - m for n, m in zip(*pair, strict=True)] for pair in zip(after, before, strict=True)
    ]
    assert grown == [[5, 0, 5], [0, 5, 0]]
    assert await value(b, "pollen_execution_duration_seconds_count", seed="echo") >= 5


async def test_a_failed_call_is_counted_under_its_slug(split: Cluster) -> None:
    a = split[0]
    slugs = {"seed": "trap", "outcome": "guest-trapped"}
    names = ("pollen_calls_total", "pollen_executions_total")
    before = [await value(a, name, **slugs) for name in names]
    unknown = await value(a, "pollen_calls_unresolved_total")
    assert (await refusal(a, "trap", "trap")).slug == "guest-trapped"
    assert (await refusal(a, "nobody", "trap")).slug == "seed-not-found"
    assert [await value(a, name, **slugs) for name in names] == [n + 1 for n in before]
    assert await value(a, "pollen_calls_unresolved_total") == unknown + 1


async def test_the_page_for_prometheus_is_all_there_is_on_tcp() -> None:
    """``metrics`` opens a port with that page; everything else of the control API is not there."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = "{}:{}".format(*probe.getsockname())
    async with Cluster(1, settings={"metrics": address}):
        status, kind, page = await asyncio.to_thread(fetch, address, "GET", "/metrics")
        assert (status, kind) == (200, CONTENT_TYPE)
        assert "pollen_brain_events_total" in page
        for method, path in (("GET", "/v1/status"), ("POST", "/v1/shutdown"), ("GET", "/")):
            assert (await asyncio.to_thread(fetch, address, method, path))[0] == 404


def fetch(address: str, method: str, path: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], answer.read().decode()
    finally:
        connection.close()
