"""The Prometheus page: what there is to measure, and its values at this moment.

Decides: names, types and meanings of all metrics; the guide lists the same ones.
Does not know: how a number came about, who asks for the page, or where.
Invariants: a name that is not in ``METRICS`` is not on the page; names follow the conventions of
    Prometheus (base units, ``_total``); labels hold names of seeds, slugs and kinds that this node
    knows, never what a stranger said.
Source: https://prometheus.io/docs/practices/naming/; calls by the RED method (rate, errors,
    duration). Refused: labels for peers and functions, which multiply the series of each seed.
"""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector, disable_created_metrics
from prometheus_client import Histogram as LiveHistogram
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from pollen.runtime.folder.version import VERSION

# For Prometheus before 3, which reads no other text format.
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_MICROS = 1e-6
_MILLIS = 1e-3
# Seconds. A handler of the brain has 10 ms at most, a disk may take what it likes.
HANDLE_BOUNDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1.0)
COMMIT_BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 10.0)

disable_created_metrics()  # type: ignore[no-untyped-call]


class Meaning(NamedTuple):
    """What a metric is: ``counter``, ``gauge``, ``histogram`` or ``info``; its labels."""

    kind: str
    text: str
    labels: tuple[str, ...] = ()


_SEED = ("seed", "version")
METRICS: Mapping[str, Meaning] = {
    # calls, by seed
    "pollen_calls_total": Meaning(
        "counter", "Calls that began on this node, by how they ended", (*_SEED, "outcome")
    ),
    "pollen_call_duration_seconds": Meaning(
        "histogram", "Time of a call that began on this node, from its beginning to its end", _SEED
    ),
    "pollen_executions_total": Meaning(
        "counter", "Calls that came to this node to run here, by outcome", (*_SEED, "outcome")
    ),
    "pollen_execution_duration_seconds": Meaning(
        "histogram", "Time that a guest ran on this node, nested calls included", _SEED
    ),
    "pollen_checks_total": Meaning(
        "counter", "Calls by which this node checked its own new replica", (*_SEED, "outcome")
    ),
    "pollen_check_duration_seconds": Meaning(
        "histogram", "Time that the guest of such a check ran", _SEED
    ),
    "pollen_executions_in_flight": Meaning("gauge", "Calls here that did not end yet", _SEED),
    # calls, of the node
    "pollen_door_calls_total": Meaning("counter", "Calls through the doors of this node"),
    "pollen_door_connections": Meaning("gauge", "Connections of strangers at the TCP door"),
    "pollen_door_connections_limit": Meaning("gauge", "Such connections that there may be"),
    "pollen_door_connections_total": Meaning("counter", "Such connections that were let in"),
    "pollen_door_buffered_bytes": Meaning(
        "gauge", "Bodies and answers over 16 KiB that the TCP door holds"
    ),
    "pollen_door_refusals_total": Meaning(
        "counter", "Connections and requests that a door turned away", ("reason",)
    ),
    "pollen_link_calls_total": Meaning("counter", "Calls from peers"),
    "pollen_door_streams_total": Meaning("counter", "Door calls that take the output in chunks"),
    "pollen_door_chunk_bytes_total": Meaning("counter", "Bytes of chunks sent to door clients"),
    "pollen_link_streams_total": Meaning("counter", "Peers' calls that take it in chunks"),
    "pollen_link_chunk_bytes_total": Meaning("counter", "Bytes of chunks sent to peers"),
    "pollen_calls_unresolved_total": Meaning("counter", "Calls of seeds that are not known here"),
    "pollen_call_retries_total": Meaning("counter", "Attempts beyond the first"),
    "pollen_calls_overloaded_total": Meaning("counter", "Calls refused here for load"),
    "pollen_calls_denied_total": Meaning("counter", "Callers that a gate turned away here"),
    "pollen_calls_duplicate_total": Meaning("counter", "Calls that came twice, refused"),
    "pollen_calls_cancelled_total": Meaning("counter", "Calls of peers that went away"),
    "pollen_calls_running": Meaning("gauge", "Calls that hold a slot"),
    "pollen_calls_queued": Meaning("gauge", "Calls that wait for a slot"),
    "pollen_queue_wait_seconds_total": Meaning("counter", "Time that calls waited for a slot"),
    # tunnels
    "pollen_tunnels_open": Meaning("gauge", "Tunnels that are open here, at either end"),
    "pollen_tunnels_cut_total": Meaning("counter", "Tunnels ended as not allowed any more"),
    "pollen_tunnel_listeners": Meaning("gauge", "Listeners of this machine for services"),
    "pollen_tunnel_refusals_total": Meaning(
        "counter", "Clients of this machine that got no tunnel", ("reason",)
    ),
    "pollen_service_checks_total": Meaning(
        "counter", "Checks of this node's own services, by how they ended", ("service", "outcome")
    ),
    "pollen_service_healthy": Meaning(
        "gauge", "Whether a service of this node passes its check: 1, else 0", ("service",)
    ),
    # packets through other members
    "pollen_mesh_packets_total": Meaning(
        "counter",
        "Packets through the mesh: sent, received, passed on for others, in halves, or why dropped",
        ("way",),
    ),
    "pollen_mesh_passed_bytes_total": Meaning("counter", "Bytes passed on for other members"),
    "pollen_mesh_carriers": Meaning("gauge", "Connections that carry such packets"),
    # guests
    "pollen_guest_instances": Meaning("gauge", "Living guests, idle ones included"),
    "pollen_guest_instances_idle": Meaning("gauge", "Guests that wait for their next call"),
    "pollen_guest_pool_memories": Meaning("gauge", "Memories taken from the pool of instances"),
    "pollen_guest_memory_bytes": Meaning("gauge", "Memory that guests have been given"),
    "pollen_guest_memory_limit_bytes": Meaning("gauge", "Memory that guests may have"),
    "pollen_compiles_total": Meaning("counter", "Modules compiled"),
    "pollen_code_cache_hits_total": Meaning("counter", "Modules taken from the code cache"),
    "pollen_memory_mappings": Meaning("gauge", "Memory mappings of the process"),
    "pollen_page_table_bytes": Meaning("gauge", "Page tables of the process"),
    "pollen_wake_seconds": Meaning(
        "histogram", "Time until a seed that ran nowhere was loaded here for a call, once a load"
    ),
    # brain and seam
    "pollen_brain_events_total": Meaning("counter", "Events that the brain has handled"),
    "pollen_brain_handle_seconds": Meaning("histogram", "Time that the brain took for an event"),
    "pollen_brain_slow_handles_total": Meaning("counter", "Events that took it more than 10 ms"),
    "pollen_brain_faults_total": Meaning("counter", "Events that failed in it; 0 is right"),
    "pollen_brain_heartbeat_age_seconds": Meaning("gauge", "Time since its last sign of life"),
    "pollen_events_waiting": Meaning("gauge", "Events on their way to the brain"),
    "pollen_event_stalls_total": Meaning("counter", "Events that had to wait for room"),
    "pollen_log_lines_dropped_total": Meaning("counter", "Log lines lost for want of room"),
    "pollen_spans_dropped_total": Meaning("counter", "Spans lost before they were exported"),
    "pollen_spans_exported_total": Meaning("counter", "Spans that a collector took"),
    "pollen_spans_failed_total": Meaning("counter", "Spans that no collector took"),
    "pollen_commands_waiting": Meaning("gauge", "Effects of the brain that wait for room"),
    "pollen_commands_refused_total": Meaning("counter", "Effects that had to wait for room"),
    "pollen_tables_generation": Meaning("gauge", "Changes of the tables that calls go by"),
    # cluster state
    "pollen_links": Meaning("gauge", "Peers that this node is linked with"),
    "pollen_link_connections": Meaning("gauge", "Connections to them, those that end included"),
    "pollen_records": Meaning("gauge", "Records held, those of withdrawn things included"),
    "pollen_gossip_records_waiting": Meaning("gauge", "Records that came and are not merged yet"),
    "pollen_gossip_owners_wanted": Meaning("gauge", "Owners whose records are being asked for"),
    "pollen_gossip_pushed_total": Meaning("counter", "Changes pushed over links"),
    "pollen_gossip_duplicates_total": Meaning("counter", "Records that came and were known"),
    "pollen_gossip_pulls_total": Meaning("counter", "Questions for missing records"),
    "pollen_gossip_pulled_records_total": Meaning("counter", "Records that such questions brought"),
    "pollen_gossip_digests_total": Meaning("counter", "Comparisons with a peer"),
    "pollen_rejections_total": Meaning("counter", "Faults of peers", ("kind",)),
    "pollen_store_commit_seconds": Meaning("histogram", "Time of a write to disk, with its sync"),
    "pollen_store_batches_waiting": Meaning("gauge", "Batches that wait for the disk"),
    "pollen_store_failures_total": Meaning("counter", "Writes that failed and are tried again"),
    # the program
    "pollen_build_info": Meaning("info", "What runs", ("version", "native", "python")),
    "pollen_uptime_seconds": Meaning("gauge", "Time since the daemon's start"),
}
# Numbers of the muscles: their name there, here, and the scale to base units.
NATIVE: Mapping[str, tuple[str, float]] = {
    "door_calls": ("pollen_door_calls_total", 1),
    "door_connections": ("pollen_door_connections", 1),
    "door_connections_most": ("pollen_door_connections_limit", 1),
    "door_accepted": ("pollen_door_connections_total", 1),
    "door_bytes": ("pollen_door_buffered_bytes", 1),
    "link_calls": ("pollen_link_calls_total", 1),
    "door_streams": ("pollen_door_streams_total", 1),
    "door_chunk_bytes": ("pollen_door_chunk_bytes_total", 1),
    "link_streams": ("pollen_link_streams_total", 1),
    "link_chunk_bytes": ("pollen_link_chunk_bytes_total", 1),
    "unresolved": ("pollen_calls_unresolved_total", 1),
    "retries": ("pollen_call_retries_total", 1),
    "overloaded": ("pollen_calls_overloaded_total", 1),
    "denied": ("pollen_calls_denied_total", 1),
    "duplicates": ("pollen_calls_duplicate_total", 1),
    "cancelled": ("pollen_calls_cancelled_total", 1),
    "running": ("pollen_calls_running", 1),
    "queued": ("pollen_calls_queued", 1),
    "queued_us": ("pollen_queue_wait_seconds_total", _MICROS),
    "tunnels_open": ("pollen_tunnels_open", 1),
    "tunnels_cut": ("pollen_tunnels_cut_total", 1),
    "tunnel_listeners": ("pollen_tunnel_listeners", 1),
    "guest_instances": ("pollen_guest_instances", 1),
    "guest_idle": ("pollen_guest_instances_idle", 1),
    "pool_memories": ("pollen_guest_pool_memories", 1),
    "guest_memory_bytes": ("pollen_guest_memory_bytes", 1),
    "compiles": ("pollen_compiles_total", 1),
    "code_cache_hits": ("pollen_code_cache_hits_total", 1),
    "mappings": ("pollen_memory_mappings", 1),
    "page_table_bytes": ("pollen_page_table_bytes", 1),
    "brain_age_ms": ("pollen_brain_heartbeat_age_seconds", _MILLIS),
    "events_waiting": ("pollen_events_waiting", 1),
    "control_stalls": ("pollen_event_stalls_total", 1),
    "events_dropped": ("pollen_log_lines_dropped_total", 1),
    "spans_dropped": ("pollen_spans_dropped_total", 1),
    "tables_generation": ("pollen_tables_generation", 1),
    "links": ("pollen_links", 1),
    "link_connections": ("pollen_link_connections", 1),
}


class OutcomesView(msgspec.Struct, frozen=True):
    """Calls of one seed: how many ended how, and how long they took (not cumulative)."""

    ended: dict[str, int]
    buckets: list[int]
    sum_us: int


class SeedView(msgspec.Struct, frozen=True):
    """What the muscles tell of one seed."""

    name: str
    version: str
    called: OutcomesView
    executed: OutcomesView
    checked: OutcomesView
    in_flight: int


class TimesView(msgspec.Struct, frozen=True):
    """Durations by size (not cumulative) and their sum."""

    buckets: list[int]
    sum_us: int


class NativeView(msgspec.Struct, frozen=True):
    """The part of the muscles' map that is not a plain number."""

    seeds: list[SeedView] = []
    bounds_us: list[int] = []
    wakes: TimesView = TimesView([], 0)
    door_refused: dict[str, int] = {}
    tunnel_refused: dict[str, int] = {}


class Timings:
    """The durations that the runtime itself measures. Safe from any thread."""

    def __init__(self) -> None:
        self.handle = _live("pollen_brain_handle_seconds", HANDLE_BOUNDS)
        self.commit = _live("pollen_store_commit_seconds", COMMIT_BOUNDS)


def _live(name: str, bounds: Sequence[float]) -> LiveHistogram:
    return LiveHistogram(name, METRICS[name].text, buckets=bounds, registry=None)


class _Page(Collector):
    """The families of one moment."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def metrics_page(
    native: bytes,
    numbers: Mapping[str, float],
    rejections: Mapping[str, int],
    mesh: Mapping[str, int],
    checks: Mapping[str, tuple[int, int, int]],
    timings: Timings,
    engine: str,
) -> str:
    """The page: the muscles' msgpack map, our own numbers by metric, peers' faults by kind,
    packets through the mesh by their way, and of each service that is checked whether it is
    healthy, and how many checks it passed and failed."""
    registry = CollectorRegistry(auto_describe=False)
    view = msgspec.msgpack.decode(native, type=NativeView)
    families = itertools.chain(
        _of_seeds(view),
        _of_wakes(view),
        _of_numbers({**_of_native(native), **numbers}),
        [_by_kind("pollen_door_refusals_total", view.door_refused)],
        [_by_kind("pollen_tunnel_refusals_total", view.tunnel_refused)],
        _of_checks(checks),
        [_by_kind("pollen_mesh_packets_total", mesh)],
        [_by_kind("pollen_rejections_total", rejections)],
        [_build(engine)],
    )
    registry.register(_Page(families))
    registry.register(timings.handle)
    registry.register(timings.commit)
    ProcessCollector(registry=registry)
    return generate_latest(registry).decode()


def _of_native(native: bytes) -> dict[str, float]:
    """The plain numbers of the muscles under their names on the page."""
    held: Mapping[str, Any] = msgspec.msgpack.decode(native)
    known = ((NATIVE[key], value) for key, value in held.items() if key in NATIVE)
    return {name: value * scale for (name, scale), value in known}


def _of_numbers(numbers: Mapping[str, float]) -> Iterator[Metric]:
    for name in METRICS:
        if name in numbers:
            yield _labelled(name, [((), numbers[name])])


def _labelled(name: str, rows: Iterable[tuple[Sequence[str], float]]) -> Metric:
    meaning = METRICS[name]
    make: Callable[..., Any] = GaugeMetricFamily
    if meaning.kind == "counter":
        make = CounterMetricFamily
    family = make(name, meaning.text, labels=meaning.labels)
    for labels, value in rows:
        family.add_metric(labels, value)
    assert isinstance(family, Metric)
    return family


def _by_kind(name: str, counts: Mapping[str, int]) -> Metric:
    return _labelled(name, [((kind,), count) for kind, count in counts.items()])


def _of_checks(checks: Mapping[str, tuple[int, int, int]]) -> Iterator[Metric]:
    rows = [
        row
        for name, (_, good, bad) in checks.items()
        for row in (((name, "good"), good), ((name, "bad"), bad))
    ]
    yield _labelled("pollen_service_checks_total", rows)
    healthy = [((name,), is_healthy) for name, (is_healthy, _, _) in checks.items()]
    yield _labelled("pollen_service_healthy", healthy)


def _of_wakes(view: NativeView) -> Iterator[Metric]:
    if not view.wakes.buckets:
        return
    name = "pollen_wake_seconds"
    buckets = _cumulative([bound * _MICROS for bound in view.bounds_us], view.wakes.buckets)
    total = view.wakes.sum_us * _MICROS
    yield HistogramMetricFamily(name, METRICS[name].text, buckets=buckets, sum_value=total)


def _of_seeds(view: NativeView) -> Iterator[Metric]:
    seeds, bounds = view.seeds, [bound * _MICROS for bound in view.bounds_us]
    sides = (
        ("pollen_calls_total", "pollen_call_duration_seconds", [s.called for s in seeds]),
        (
            "pollen_executions_total",
            "pollen_execution_duration_seconds",
            [s.executed for s in seeds],
        ),
        ("pollen_checks_total", "pollen_check_duration_seconds", [s.checked for s in seeds]),
    )
    for total, duration, held in sides:
        rows = [
            ((seed.name, seed.version, outcome), count)
            for seed, outcomes in zip(seeds, held, strict=True)
            for outcome, count in outcomes.ended.items()
        ]
        yield _labelled(total, rows)
        family = HistogramMetricFamily(duration, METRICS[duration].text, labels=_SEED)
        for seed, outcomes in zip(seeds, held, strict=True):
            buckets = _cumulative(bounds, outcomes.buckets)
            family.add_metric((seed.name, seed.version), buckets, outcomes.sum_us * _MICROS)
        yield family
    flying = [((seed.name, seed.version), seed.in_flight) for seed in seeds]
    yield _labelled("pollen_executions_in_flight", flying)


def _cumulative(bounds: Sequence[float], counts: Sequence[int]) -> list[tuple[str, float]]:
    ends = [*(f"{bound:g}" for bound in bounds), "+Inf"]
    return list(zip(ends, itertools.accumulate(counts), strict=True))


def _build(engine: str) -> Metric:
    value = {"version": VERSION, "native": engine, "python": platform.python_version()}
    # The library appends _info.
    name = "pollen_build_info"
    return InfoMetricFamily(name.removesuffix("_info"), METRICS[name].text, value=value)
