"""What a node tells of itself: metrics, traces, logs."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pollen.runtime.watch import logs
from pollen.runtime.watch.metrics import CONTENT_TYPE, METRICS
from pollen.sdk.control import Control
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example, running
from tests.e2e.talk import over_http, refusal
from tests.style.tree import ROOT

pytestmark = pytest.mark.timeout(60)

HOSTS = {"echo": "b", "journal": "b", "relay": "a", "trap": "a"}
CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
TRACE = CALLER.split("-")[1]
DASHBOARD = ROOT / "docs" / "grafana" / "pollen.json"
# What Prometheus adds to what a node says.
ADDED = {"instance", "job", "le"}


@pytest.fixture(scope="module")
def split() -> Iterator[Cluster]:
    """relay and trap are on a, echo and journal on b."""
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
    """``METRICS`` is what the guide lists (tests/unit/runtime/test_metrics.py)."""
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


def queries(dashboard: dict[str, Any]) -> list[str]:
    """Every expression of a dashboard, and what its variables ask."""
    targets = [t for panel in dashboard["panels"] for t in panel.get("targets", ())]
    asked = [v["query"] for v in dashboard["templating"]["list"] if v["type"] == "query"]
    return [*(target["expr"] for target in targets), *asked]


async def test_every_query_of_the_dashboard_asks_for_what_a_daemon_has(split: Cluster) -> None:
    """Names of samples, and the labels that are matched or summed by."""
    refused = await refusal(split[0], "trap", "trap")
    assert refused.slug == "guest-trapped"
    # A kind of fault that did not happen has no series; the guide lists its labels.
    labels = {name: set(m.labels) | ADDED for name, m in METRICS.items()}
    for family in (await families(split[0])).values():
        for sample in family.samples:
            labels.setdefault(sample.name, set(ADDED)).update(sample.labels)
    asked = queries(json.loads(DASHBOARD.read_text()))
    assert len(asked) > 40
    for query in asked:
        names = re.findall(r"\b(?:pollen|process)_\w+", query)
        grouped = re.findall(r"by \(([^)]*)\)", query) + re.findall(r", (\w+)\)$", query)
        used = {label.strip() for group in grouped for label in group.split(",")}
        used |= set(re.findall(r"[{,](\w+)[=!]", query))
        assert names and not used - set.intersection(*(labels[name] for name in names)), query


async def logged(node: Node, text: str) -> dict[str, Any]:
    """The line that a guest logged, once it is there."""
    found: list[dict[str, Any]] = []

    async def is_there() -> bool:
        lines = logs.tail(node.paths.log_file, 10_000)
        found[:] = [line for line in map(json.loads, lines) if line.get("text") == text]
        return bool(found)

    await until(is_there, 10, f"{node.name} logs {text!r}")
    return found[0]


async def test_one_trace_leads_through_doors_nodes_and_nested_calls(split: Cluster) -> None:
    """From an HTTP request on a, through relay there, to journal on b, whose line names it."""
    a, b = split
    body = b"pln://seed/journal/journal\nnested and traced"
    headers = {"traceparent": CALLER}
    answer = await asyncio.to_thread(
        over_http, a.paths.call_socket, "/call/relay/relay", body, headers=headers
    )
    assert (answer.status, answer.body) == (200, b"nested and traced")
    _, trace, span, flags = answer.headers["traceresponse"].split("-")
    assert (trace, flags) == (TRACE, "01")
    line = await logged(b, "nested and traced")
    assert (line["trace_id"], line["seed"]) == (TRACE, "journal")
    assert len({line["span_id"], span, CALLER.split("-")[2]}) == 3


@pytest.mark.parametrize("sent", ["00-short", CALLER.upper(), CALLER.replace("4bf9", "zzzz")])
async def test_a_malformed_context_begins_a_new_trace(split: Cluster, sent: str) -> None:
    headers = {"traceparent": sent}
    answer = await asyncio.to_thread(
        over_http, split[0].paths.call_socket, "/call/echo/echo", b"x", headers=headers
    )
    assert answer.status == 200
    assert re.fullmatch("00-[0-9a-f]{32}-[0-9a-f]{16}-00", answer.headers["traceresponse"])
    assert TRACE not in answer.headers["traceresponse"]


async def test_without_a_context_the_log_has_one_and_the_response_does_not(split: Cluster) -> None:
    a, b = split
    answer = await asyncio.to_thread(
        over_http, a.paths.call_socket, "/call/journal/journal", b"untraced"
    )
    assert "traceresponse" not in answer.headers
    assert re.fullmatch("[0-9a-f]{32}", (await logged(b, "untraced"))["trace_id"])


async def test_every_answer_of_a_call_has_its_times(split: Cluster) -> None:
    """``Server-Timing`` in milliseconds, of a failure, too; the total holds the others."""
    for target, status in (("/call/echo/echo", 200), ("/call/trap/trap", 500)):
        answer = await asyncio.to_thread(over_http, split[0].paths.call_socket, target, b"x")
        assert answer.status == status
        times = dict(re.findall(r"(\w+);dur=(\d+\.\d{3})", answer.headers["server-timing"]))
        assert list(times) == ["queue", "run", "total"]
        assert float(times["total"]) >= float(times["queue"]) + float(times["run"])


async def test_the_command_names_its_trace(split: Cluster) -> None:
    """``-v`` prints the trace that the guest's line has; TRACEPARENT hands one in."""
    a, b = split
    done = await a.pln("call", "journal", "journal", "by hand", "-v")
    said = done.stderr.decode()
    trace = re.findall("^trace ([0-9a-f]{32})$", said, re.MULTILINE)
    assert trace == [(await logged(b, "by hand"))["trace_id"]]
    assert re.search(r"ran on [0-9a-f]{8} \(direct, .* ms away\): queued", said)
    failed = await a.pln("call", "trap", "trap", "-v")
    assert re.search("^trace [0-9a-f]{32}$", failed.stderr.decode(), re.MULTILINE)


def fetch(address: str, method: str, path: str) -> tuple[int, str, str]:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["content-type"], answer.read().decode()
    finally:
        connection.close()
