"""Watch what all nodes do: calls, queues and memory"""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import control_of, with_globals, with_json
from pollen.cli.values import DURATION
from pollen.units import human_bytes

_NODE_HEAD = ("NODE", "CALLS/S", "FAILED/S", "RUNNING", "QUEUED", "REPLICAS", "MEMORY", "UP")
_SEED_HEAD = ("SEED", "CALLS/S", "FAILED/S", "RUNNING", "QUEUED", "RUN", "NODES")
# Between two looks that are too close the rates are noise.
_LEAST_MS = 200


@click.command("top")
@click.option(
    "--interval", type=DURATION, default="1s", show_default=True, help="Time between two looks."
)
@click.option("--once", is_flag=True, help="Measure one interval, and end.")
@with_json
@with_globals
@click.pass_context
def top_command(ctx: click.Context, interval: int, once: bool, as_json: bool) -> None:
    """Watch what all nodes do, as each tells itself; the busiest first. Ctrl-C ends it.

    Other nodes tell an admin's node only. On any other one their rows say why they are empty.

    \b
    Examples:
      pln top
      pln top --once --json
    """
    if interval < _LEAST_MS:
        raise click.BadParameter(f"--interval is under {_LEAST_MS} ms")
    control = control_of(ctx)
    before: dict[str, Any] = control.get("/v1/figures")
    while True:
        time.sleep(interval / 1000)
        now = control.get("/v1/figures")
        rates = rates_between(before, now)
        if as_json:
            output.print_json(rates)
        else:
            lines = top_lines(rates, output.width())
            is_drawn = output.can_move() and not once
            click.echo("\n".join(output.redrawn(lines) if is_drawn else lines))
        if once:
            return
        before = now


def rates_between(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Rates a second of nodes and seeds. A node counts by its own clock: between two looks at it.

    One that was not there before, or began again, has no rates yet.
    """
    earlier = {node["node"]: node["figures"] for node in before["nodes"]}
    seeds: dict[str, dict[str, Any]] = {}
    nodes = []
    for node in now["nodes"]:
        row = {key: node[key] for key in ("node", "name", "state", "ready", "problem")}
        row |= {"memory_bytes": node["memory_bytes"], "told": None}
        nodes.append(row)
        figures, last = node["figures"], earlier.get(node["node"])
        if figures is None:
            continue
        took = (figures["uptime_ms"] - last["uptime_ms"]) / 1000 if last else 0.0
        counted = {seed["name"]: seed for seed in last["seeds"]} if last else {}
        told = _told(figures)
        for seed in figures["seeds"]:
            at = seeds.setdefault(seed["name"], {**_ZERO, "run_us": 0, "nodes": 0})
            for key in ("in_flight", "queued"):
                at[key] += seed[key]
            at["run_us"] = max(at["run_us"], seed["run_us"])
            at["nodes"] += 1
            if took <= 0:
                continue
            old = counted.get(seed["name"], {"calls": 0, "failures": 0})
            for key, total in (("calls_per_s", "calls"), ("failures_per_s", "failures")):
                rate = max(seed[total] - old[total], 0) / took
                at[key] += rate
                told[key] += rate
        row["told"] = told
    return {
        "nodes": sorted(nodes, key=lambda row: (-_busy(row["told"]), row["name"])),
        "seeds": sorted(
            ({"name": name, **row} for name, row in seeds.items()),
            key=lambda row: (-_busy(row), row["name"]),
        ),
    }


_ZERO: dict[str, Any] = {"calls_per_s": 0.0, "failures_per_s": 0.0, "in_flight": 0, "queued": 0}


def _told(figures: dict[str, Any]) -> dict[str, Any]:
    told = {**_ZERO, "uptime_ms": figures["uptime_ms"], "memory_bytes": figures["memory_bytes"]}
    for key in ("in_flight", "queued"):
        told[key] = sum(seed[key] for seed in figures["seeds"])
    return told


def _busy(row: dict[str, Any] | None) -> float:
    return float(row["calls_per_s"]) if row else -1.0


def top_lines(rates: dict[str, Any], columns: int) -> list[str]:
    """The screen: one line in all, the nodes, the seeds, and why nodes told nothing."""
    told = [node["told"] for node in rates["nodes"] if node["told"]]
    calls = sum(row["calls_per_s"] for row in told)
    failed = sum(row["failures_per_s"] for row in told)
    nodes = len(rates["nodes"])
    silent = nodes - len(told)
    head = f"{nodes} node{'' if nodes == 1 else 's'}: {calls:,.0f} calls/s"
    head += f", {failed:,.0f} failed/s" if failed else ""
    head += f"; {silent} told nothing" if silent else ""
    lines = [output.coloured(head, "yellow" if silent or failed else "green", sys.stdout), ""]
    rows = [_node_row(node) for node in rates["nodes"]]
    drop = ("UP", "REPLICAS", "MEMORY", "FAILED/S", "QUEUED")
    lines += output.table_lines(_NODE_HEAD, rows, drop=drop, columns=columns)
    if rates["seeds"]:
        lines += ["", *_seed_lines(rates["seeds"], columns)]
    problems: dict[str, list[str]] = {}
    for node in rates["nodes"]:
        if node["problem"]:
            problems.setdefault(node["problem"], []).append(node["name"])
    lines += [f"{', '.join(names)}: {text}" for text, names in problems.items()]
    return lines


def _seed_lines(seeds: list[dict[str, Any]], columns: int) -> list[str]:
    rows = [_seed_row(seed) for seed in seeds]
    drop = ("NODES", "RUN", "FAILED/S", "QUEUED")
    return output.table_lines(_SEED_HEAD, rows, drop=drop, columns=columns)


def _node_row(node: dict[str, Any]) -> tuple[str, ...]:
    name = node["name"] + ("*" if node["state"] == "self" else "")
    told = node["told"]
    if told is None:
        return (name, "-", "-", "-", "-", str(node["ready"]), "-", "-")
    memory = f"{human_bytes(told['memory_bytes'])} of {human_bytes(node['memory_bytes'])}"
    up = output.human_age(told["uptime_ms"])
    return (name, *_rates(told), str(node["ready"]), memory, up)


def _seed_row(seed: dict[str, Any]) -> tuple[str, ...]:
    return (seed["name"], *_rates(seed), output.human_us(seed["run_us"]), str(seed["nodes"]))


def _rates(row: dict[str, Any]) -> tuple[str, str, str, str]:
    return (
        f"{row['calls_per_s']:,.0f}",
        f"{row['failures_per_s']:,.0f}",
        str(row["in_flight"]),
        str(row["queued"]),
    )
