"""Spans of real calls reach a real receiver of OTLP over HTTP; the extra is wanted for that."""

from __future__ import annotations

import asyncio
import contextlib
import http.server
import importlib.util
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example
from tests.e2e.talk import over_http
from tests.e2e.test_observe import CALLER, TRACE, value

pytestmark = pytest.mark.timeout(60)
IS_INSTALLED = importlib.util.find_spec("opentelemetry") is not None
with_extra = pytest.mark.skipif(not IS_INSTALLED, reason='needs "pollen-mesh[otel]"')


class Collector(http.server.ThreadingHTTPServer):
    """Keeps the spans that are posted to it, each with the attributes of its resource."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Receiver)
        self.spans: list[tuple[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Receiver(http.server.BaseHTTPRequestHandler):
    """``POST /v1/traces``; other paths are not found."""

    def do_POST(self) -> None:
        from opentelemetry.proto.collector.trace.v1 import trace_service_pb2

        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            import gzip

            body = gzip.decompress(body)
        assert isinstance(self.server, Collector)
        request = trace_service_pb2.ExportTraceServiceRequest.FromString(body)
        for of_node in request.resource_spans:
            named = {a.key: a.value.string_value for a in of_node.resource.attributes}
            spans = [span for scope in of_node.scope_spans for span in scope.spans]
            self.server.spans += [(named["service.instance.id"], span) for span in spans]
        self.send_response(200 if self.path == "/v1/traces" else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        return


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@with_extra
async def test_a_nested_call_over_two_nodes_is_one_tree_of_spans() -> None:
    """The caller, relay begun and run on a, echo begun on a and run on b: each the parent of the
    next, with where it ran and how it ended."""
    properties = {"a": {"at": "a"}, "b": {"at": "b"}}
    with collecting() as collector:
        settings = {"otlp_endpoint": collector.url, "otlp_sample_percent": "0"}
        async with Cluster(2, properties=properties, settings=settings) as cluster:
            a, b = cluster
            await cluster.seed(example("relay"), "relay", on="a", host=[["at", "a"]])
            await cluster.seed(example("echo"), "echo", on="b", host=[["at", "b"]])
            body = b"pln://seed/echo/echo\nin a tree"
            headers = {"traceparent": CALLER}
            for sent in (headers, {}):
                answer = await asyncio.to_thread(
                    over_http, a.paths.call_socket, "/call/relay/relay", body, headers=sent
                )
                assert answer.body == b"in a tree"

            async def are_there() -> bool:
                return len(collector.spans) >= 4

            await until(are_there, 20, "four spans came")
            # A node counts what its collector has taken, a moment later.
            for node, sent_by_it in ((a, 3), (b, 1)):

                async def are_counted(node: Node = node, count: int = sent_by_it) -> bool:
                    return await value(node, "pollen_spans_exported_total") == count

                await until(are_counted, 20, f"{sent_by_it} spans of {node.name} are counted")
            nodes = [(await node.status())["node"] for node in (a, b)]
    assert len(collector.spans) == 4, "the trace that began without a context is not sampled at 0 %"
    check_tree(collector.spans, *nodes)


def check_tree(held: list[tuple[str, Any]], a: str, b: str) -> None:
    by_parent = {span.parent_span_id.hex(): (node, span) for node, span in held}
    parent, walked = CALLER.split("-")[2], []
    for _ in held:
        node, span = by_parent[parent]
        assert span.trace_id.hex() == TRACE
        assert 0 < span.start_time_unix_nano <= span.end_time_unix_nano
        said = {x.key: x.value.string_value or x.value.int_value for x in span.attributes}
        assert said["rpc.system"] == "pollen"
        walked.append((node, span.kind, span.name, said["pollen.node"]))
        parent = span.span_id.hex()
    server, client = 2, 3
    assert walked == [
        (a, client, "relay/relay", a),
        (a, server, "relay/relay", a),
        (a, client, "echo/echo", b),
        (b, server, "echo/echo", b),
    ]


@with_extra
async def test_a_collector_that_is_down_costs_spans_and_no_call() -> None:
    """They are counted as failed and the log says so; a failed call's span has its slug."""
    with collecting() as collector:
        url = collector.url
    async with Cluster(1, settings={"otlp_endpoint": url}) as cluster:
        (a,) = cluster
        await cluster.seed(example("echo"), "echo")
        async with a.connect() as mesh:
            assert (await mesh.call("echo", "echo", b"x")).data == b"x"

        async def has_failed() -> bool:
            return await value(a, "pollen_spans_failed_total") >= 2

        await until(has_failed, 30, "two spans failed")
        assert '"otlp-failed"' in a.paths.log_file.read_text()


@with_extra
async def test_nothing_is_kept_when_nobody_asked() -> None:
    """Off by default: a sampled call leaves no span behind, not even a dropped one."""
    assert not any(name.startswith("OTEL_") for name in os.environ)
    async with Cluster(1) as cluster:
        (a,) = cluster
        await cluster.seed(example("echo"), "echo")
        headers = {"traceparent": CALLER}
        for _ in range(3):
            await asyncio.to_thread(
                over_http, a.paths.call_socket, "/call/echo/echo", b"x", headers=headers
            )
        assert await value(a, "pollen_calls_total", seed="echo", outcome="ok") == 3
        assert await value(a, "pollen_spans_exported_total") == 0
        assert await value(a, "pollen_spans_dropped_total") == 0
