"""``pln top``: rates out of two looks, and the screen."""

from __future__ import annotations

from typing import Any

from pollen.cli.verbs.top import rates_between, top_lines
from tests.cli.conftest import Pln


def node(name: str, uptime_ms: int | None, **calls: int) -> dict[str, Any]:
    """What the daemon gives for a node; one without an uptime told nothing."""
    seeds = [
        {"name": seed, "calls": total, "failures": total // 10, "in_flight": 1, "queued": 2}
        | {"run_us": 5}
        for seed, total in calls.items()
    ]
    figures = {"uptime_ms": uptime_ms, "memory_bytes": 1 << 20, "seeds": seeds}
    return {
        "node": name * 64,
        "name": name,
        "state": "online",
        "ready": 1,
        "memory_bytes": 1 << 30,
        "problem": "" if uptime_ms is not None else "[denied] only admins are told",
        "figures": figures if uptime_ms is not None else None,
    }


def both(*pairs: tuple[dict[str, Any] | None, dict[str, Any]]) -> dict[str, Any]:
    before = {"nodes": [old for old, _ in pairs if old is not None]}
    return rates_between(before, {"nodes": [new for _, new in pairs]})


def test_a_rate_is_counted_by_the_clock_of_its_node() -> None:
    """Two seconds passed there, whatever passed here; the seed's rate is that of all nodes."""
    shown = both(
        (node("a", 1_000, echo=100), node("a", 3_000, echo=300)),
        (node("b", 1_000, echo=0, sum=10), node("b", 2_000, echo=400, sum=20)),
    )
    assert [(n["name"], n["told"]["calls_per_s"]) for n in shown["nodes"]] == [
        ("b", 410),
        ("a", 100),
    ]
    assert [(s["name"], s["calls_per_s"], s["nodes"]) for s in shown["seeds"]] == [
        ("echo", 500, 2),
        ("sum", 10, 1),
    ]
    assert shown["seeds"][0]["failures_per_s"] == 50 and shown["seeds"][0]["queued"] == 4


def test_a_node_that_came_or_began_again_has_no_rates_yet() -> None:
    """Its counters began at 0, and would show as a fall or as a burst."""
    shown = both(
        (node("a", 90_000, echo=9_000), node("a", 500, echo=3)),
        (None, node("b", 70_000, echo=5_000)),
        (node("c", None), node("c", 70_000, echo=5_000)),
    )
    assert [n["told"]["calls_per_s"] for n in shown["nodes"]] == [0, 0, 0]
    assert shown["seeds"][0]["in_flight"] == 3


def test_who_told_nothing_is_named_with_the_reason() -> None:
    """Once for all that have the same one."""
    silent = [(None, node(name, None)) for name in "bc"]
    lines = top_lines(both((node("a", 1_000), node("a", 2_000)), *silent), 80)
    assert "3 nodes: 0 calls/s; 2 told nothing" in lines[0]
    assert lines[-1] == "b, c: [denied] only admins are told"
    assert all(len(line) <= 80 for line in lines)


def test_a_node_alone_is_watched(up: Pln) -> None:
    """Without a terminal there is nothing that moves the cursor."""
    said = up.ok("top", "--once", "--interval", "200ms")
    assert said.startswith("1 node: 0 calls/s\n") and "\x1b" not in said
