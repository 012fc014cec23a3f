"""The metrics page: what it is made of, and that the guide lists just that."""

from __future__ import annotations

import re

import msgspec
from prometheus_client.parser import text_string_to_metric_families

from pollen.runtime.watch import metrics
from pollen.runtime.watch.metrics import METRICS, Timings
from tests.style.tree import ROOT

GUIDE = ROOT / "docs" / "guide" / "observe.md"
ROW = re.compile(r"^\| `(pollen_\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", re.MULTILINE)


def page(native: dict[str, object]) -> str:
    timings = Timings()
    timings.handle.observe(0.002)
    packed = msgspec.msgpack.encode(native)
    return metrics.metrics_page(
        packed,
        {"pollen_records": 7},
        {"flood": 2},
        {"sent": 3},
        {"api": (0, 5, 3)},
        timings,
        "engine 1",
    )


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    families = text_string_to_metric_families(text)
    found = (sample for family in families for sample in family.samples)
    return {(s.name, frozenset(s.labels.items())): s.value for s in found}


def test_the_guide_lists_every_metric_with_its_type_labels_and_meaning() -> None:
    listed = {
        name: (kind, tuple(re.findall(r"`(\w+)`", labels)), text)
        for name, kind, labels, text in ROW.findall(GUIDE.read_text())
    }
    assert listed == {name: (m.kind, m.labels, m.text) for name, m in METRICS.items()}


def test_names_follow_the_conventions() -> None:
    """``pollen_``, base units, ``_total`` for counters and for nothing else."""
    for name, meaning in METRICS.items():
        assert re.fullmatch(r"pollen_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (meaning.kind == "counter"), name
        assert meaning.kind != "histogram" or name.endswith("_seconds")
        assert not re.search(r"_(us|ms|kb|mb|micros|millis)(_|$)", name)


def test_every_number_of_the_muscles_has_a_name_here() -> None:
    names = [name for name, _ in metrics.NATIVE.values()]
    assert len(set(names)) == len(names)
    assert set(names) <= set(METRICS)


def test_the_checks_of_services_are_told_by_service() -> None:
    """Whether it is healthy now, and how often it was checked, by how that ended."""
    found = samples(page({}))
    api = ("service", "api")
    assert found["pollen_service_healthy", frozenset({api})] == 0
    for outcome, count in (("good", 5), ("bad", 3)):
        key = frozenset({api, ("outcome", outcome)})
        assert found["pollen_service_checks_total", key] == count


def test_numbers_come_in_base_units() -> None:
    found = samples(page({"queued_us": 1_500_000, "brain_age_ms": 250, "of-a-later-version": 1}))
    assert found["pollen_queue_wait_seconds_total", frozenset()] == 1.5
    assert found["pollen_brain_heartbeat_age_seconds", frozenset()] == 0.25
    assert found["pollen_records", frozenset()] == 7
    assert found["pollen_rejections_total", frozenset({("kind", "flood")})] == 2
    assert found["pollen_brain_handle_seconds_sum", frozenset()] == 0.002


def test_a_seed_has_its_rate_errors_and_duration() -> None:
    """Buckets add up, and an outcome is a label."""
    called = {"ended": {"ok": 4, "deadline": 1}, "buckets": [3, 0, 2], "sum_us": 2_000_000}
    nothing = {"ended": {"ok": 0}, "buckets": [0, 0, 0], "sum_us": 0}
    checked = {**nothing, "ended": {"ok": 0, "guest-failed": 3}}
    seed = {"name": "echo", "version": "79b339fa", "called": called, "executed": nothing}
    seed = {**seed, "checked": checked}
    found = samples(page({"bounds_us": [50, 1_000_000], "seeds": [{**seed, "in_flight": 6}]}))
    labels = {("seed", "echo"), ("version", "79b339fa")}

    def of(name: str, *more: tuple[str, str]) -> float:
        return found[name, frozenset({*labels, *more})]

    assert of("pollen_calls_total", ("outcome", "ok")) == 4
    assert of("pollen_calls_total", ("outcome", "deadline")) == 1
    buckets = [
        of("pollen_call_duration_seconds_bucket", ("le", le)) for le in ("5e-05", "1", "+Inf")
    ]
    assert buckets == [3, 3, 5]
    assert of("pollen_call_duration_seconds_sum") == 2.0
    assert of("pollen_executions_in_flight") == 6
    assert of("pollen_checks_total", ("outcome", "guest-failed")) == 3
