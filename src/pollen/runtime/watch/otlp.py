"""Spans of sampled calls, exported by OTLP over HTTP: the extra ``pollen-mesh[otel]``.

Decides: when spans are taken from the muscles, and what a span is called there.
Does not know: which calls are sampled (the muscles), how OTLP is spoken (opentelemetry).
Invariants: nothing here runs unless an endpoint was named; no call waits for it: the muscles keep
    2048 spans and drop what does not fit, and a thread takes them once a second; a collector that
    is down costs its spans and a line a minute.
Source: OpenTelemetry, semantic conventions for RPC. Refused: the SDK's tracer and its batch
    processor, which make a span where the call is, in Python.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import msgspec

from pollen.errors import BadRequest
from pollen.runtime.folder.config import Config
from pollen.runtime.folder.version import VERSION

DRAIN_SECONDS = 1.0
BATCH_MAX = 512
COMPLAIN_SECONDS = 60.0
CLOSE_SECONDS = 5.0
_PATH = "/v1/traces"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
REMEDY = 'install the extra: pip install "pollen-mesh[otel]"'


class Span(msgspec.Struct, frozen=True):
    """One finished call as the muscles tell it; ``ran`` where it ran, else where it began."""

    trace: bytes
    span: bytes
    parent: bytes
    ran: bool
    seed: str
    version: bytes
    function: str
    start_unix_ns: int
    duration_ns: int
    slug: str
    node: bytes
    attempts: int
    queue_us: int
    run_us: int


def is_installed() -> bool:
    """Whether the extra is there."""
    try:
        return importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False


def check_extra(config: Config) -> None:
    """Raise ``config-invalid`` when the settings ask for what is not installed."""
    if config.otlp_endpoint and not is_installed():
        reason = "otlp_endpoint is set, and what exports spans is not installed"
        raise BadRequest("config-invalid", reason, f"{REMEDY}, or: pln unset otlp_endpoint")


def is_wanted(config: Config, environment: Mapping[str, str]) -> bool:
    """Whether an endpoint was named, in the settings or by OpenTelemetry's own variables."""
    if config.otlp_endpoint:
        return True
    if environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    if environment.get("OTEL_TRACES_EXPORTER", "otlp") != "otlp":
        return False
    return any(environment.get(name) for name in _ENDPOINTS)


def endpoint_of(config: Config) -> str | None:
    """The whole URL; None leaves it to the variables."""
    url = config.otlp_endpoint
    if not url:
        return None
    return url if urlsplit(url).path not in ("", "/") else url.rstrip("/") + _PATH


class Exporter:
    """Takes spans from ``drain`` once a second and sends them. Closed once, idempotent."""

    def __init__(self, config: Config, node: str, drain: Callable[[], bytes], log: Any) -> None:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        # What it has to say is said in the node's log, not on stderr.
        quiet = logging.getLogger("opentelemetry")
        quiet.addHandler(logging.NullHandler())
        quiet.propagate = False
        self._sender: Any = OTLPSpanExporter(endpoint=endpoint_of(config))
        self._make = make_translator(node)
        self._drain = drain
        self._log = log
        self._stop = threading.Event()
        self._complained = -COMPLAIN_SECONDS
        self._thread = threading.Thread(target=self._run, name="pollen-otlp", daemon=True)
        self.counters = {"exported": 0, "failed": 0}

    def start(self) -> None:
        """Export from now on."""
        self._thread.start()

    def close(self) -> None:
        """Send what is there, then end; a collector that hangs is not waited for."""
        if self._stop.is_set():
            return
        self._stop.set()
        self._thread.join(CLOSE_SECONDS)
        self._sender.shutdown()

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stop.wait(DRAIN_SECONDS)
            try:
                self._turn()
            except Exception as error:
                self._complain(f"{type(error).__name__}: {error}", 0)

    def _turn(self) -> None:
        spans = msgspec.msgpack.decode(self._drain(), type=list[Span])
        for batch in _batches(spans):
            result = self._sender.export([self._make(span) for span in batch])
            if result.value == 0:
                self.counters["exported"] += len(batch)
            else:
                self.counters["failed"] += len(batch)
                self._complain("the collector did not take them", len(batch))

    def _complain(self, reason: str, lost: int) -> None:
        now = time.monotonic()
        if now - self._complained < COMPLAIN_SECONDS:
            return
        self._complained = now
        remedy = "check otlp_endpoint and the collector"
        self._log.warning("otlp-failed", reason=reason, spans=lost, remedy=remedy)


def _batches(spans: Sequence[Span]) -> Iterator[Sequence[Span]]:
    for at in range(0, len(spans), BATCH_MAX):
        yield spans[at : at + BATCH_MAX]


def make_translator(node: str) -> Callable[[Span], Any]:
    """From our spans to OpenTelemetry's, as spans of this node."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.util.instrumentation import InstrumentationScope
    from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
    from opentelemetry.trace.status import Status, StatusCode

    # What the environment names goes first: OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES.
    own = {"service.instance.id": node, "service.version": VERSION}
    if "OTEL_SERVICE_NAME" not in os.environ:
        own["service.name"] = "pollen"
    resource = Resource.create(own)
    scope = InstrumentationScope("pollen", VERSION)

    def context(span: Span, number: bytes, *, is_remote: bool) -> SpanContext:
        trace, own = int.from_bytes(span.trace), int.from_bytes(number)
        return SpanContext(trace, own, is_remote, TraceFlags(TraceFlags.SAMPLED))

    def translated(span: Span) -> ReadableSpan:
        return ReadableSpan(
            name=f"{span.seed}/{span.function}",
            context=context(span, span.span, is_remote=False),
            parent=context(span, span.parent, is_remote=span.ran) if span.parent else None,
            resource=resource,
            attributes=attributes_of(span),
            kind=SpanKind.SERVER if span.ran else SpanKind.CLIENT,
            status=Status(StatusCode.ERROR, span.slug) if span.slug else Status(),
            start_time=span.start_unix_ns,
            end_time=span.start_unix_ns + span.duration_ns,
            instrumentation_scope=scope,
        )

    return translated


def attributes_of(span: Span) -> dict[str, str | int]:
    """What a span says beside its name and times; ``error.type`` is the slug."""
    said: dict[str, str | int] = {
        "rpc.system": "pollen",
        "rpc.service": span.seed,
        "rpc.method": span.function,
        "pollen.version": span.version.hex()[:8],
        "pollen.node": span.node.hex(),
        "pollen.attempts": span.attempts,
        "pollen.queue_us": span.queue_us,
        "pollen.run_us": span.run_us,
    }
    return {**said, "error.type": span.slug} if span.slug else said
