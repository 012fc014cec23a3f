"""A pipeline of three seeds on five nodes of this machine: ``python examples/pipeline/run.py``.

ingest checks readings and hands them to terminal, terminal works and hands its result to sink; each
is a seed that the mesh places, and each calls the next one by its name, wherever that runs. The
script makes the cluster, publishes the seeds, loads the pipeline lightly, then as much as the
machine can take, and prints once a second what each stage does and where its replicas are. At the
end it says what bounds the rate and what a nested call costs. Nothing is left behind, also after
Ctrl-C.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import os
import statistics
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from prometheus_client.parser import text_string_to_metric_families

from pollen import Control
from pollen.testing import Cluster, Node

HERE = Path(__file__).parent
STAGES = ("ingest", "terminal", "sink")
NEXT = {"ingest": "pln://seed/terminal/terminal", "terminal": "pln://seed/sink/sink"}
READINGS = "\n".join(f"room-{i} {20_000 + 370 * i % 9_000}" for i in range(16)).encode()
# How often terminal smooths its values: about a millisecond of work for a batch.
ROUNDS = 24_000
# Calls a second in the light phase.
LIGHT_RATE = 100
# Calls under way from each node in the heavy phase.
HEAVY_CALLS = 8
IN_FLIGHT = 64


async def main() -> int:
    options = arguments()
    async with Cluster(options.nodes) as cluster:
        say(f"{options.nodes} nodes are up; publishing sink, terminal and ingest")
        for stage in reversed(STAGES):
            config = {"next": NEXT[stage]} if stage in NEXT else {}
            if stage == "terminal":
                config["rounds"] = str(ROUNDS)
            await cluster.seed(module(stage), stage, min_replicas=1, config=config)
        async with cluster[0].connect() as mesh:
            reply = await mesh.call("ingest", data=READINGS)
            say(f"one batch of {len(READINGS)} bytes: {reply.text!r}")
        table = Table(cluster)
        light = await phase(table, "light", options.seconds, cluster.nodes[:1], rate=LIGHT_RATE)
        heavy = await phase(table, "heavy", options.seconds, cluster.nodes[:3], calls=HEAVY_CALLS)
        quiet = await quieten(table, options.quiet)
    nested = await nested_cost(options.rounds)
    say("")
    bound = profile(heavy, nested["terminal_alone_us"])
    if options.json:
        report = {
            "light": light,
            "heavy": heavy,
            "quiet": quiet,
            "profile": bound,
            "nested": nested,
        }
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A pipeline of three seeds, on five nodes here.")
    parser.add_argument("--nodes", type=int, default=5, help="how many (default 5)")
    parser.add_argument("--seconds", type=int, default=15, help="of each phase (default 15)")
    parser.add_argument("--quiet", type=int, default=90, help="seconds to watch it go back (90)")
    parser.add_argument("--rounds", type=int, default=5, help="of the measurement at the end")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there, too")
    return parser.parse_args()


def say(text: str) -> None:
    print(text, flush=True)


def module(stage: str) -> Path:
    return HERE / f"{stage}.wasm"


# --- load and what it does ---------------------------------------------------------------------


async def load(node: Node, seed: str, function: str, data: bytes, **how: Any) -> dict[str, Any]:
    """What ``pln load`` does on that node: its report, whose latencies are in microseconds."""
    body = {"seed": seed, "function": function, "input_base64": base64.b64encode(data).decode()}
    timeout = how["duration_ms"] / 1000 + 120
    control = Control(node.paths)
    return await asyncio.to_thread(
        control.request, "POST", "/v1/load", {"rate": 0, "concurrency": 64, **body, **how}, timeout
    )


async def phase(
    table: Table,
    name: str,
    seconds: int,
    sources: list[Node],
    *,
    rate: int = 0,
    calls: int = IN_FLIGHT,
) -> dict[str, Any]:
    """Load the pipeline from some nodes at once and print the table each second meanwhile."""
    where = " and ".join(node.name for node in sources)
    say(
        f"\n{name} load from {where}: "
        + (f"{rate} calls a second" if rate else f"{calls} in flight each")
    )
    how = {"rate": rate, "concurrency": calls, "duration_ms": seconds * 1000}
    before, began = await table.sample(), time.monotonic()
    psutil.cpu_percent()
    # The nodes generate the load; this process only watches.
    loads = [
        asyncio.ensure_future(load(node, "ingest", "ingest", READINGS, **how)) for node in sources
    ]
    try:
        while not all(one.done() for one in loads):
            await asyncio.wait(loads, timeout=1.0)
            await table.print()
        reports = [await one for one in loads]
    finally:
        for one in loads:
            one.cancel()
        await asyncio.gather(*loads, return_exceptions=True)
    after, took = await table.sample(), time.monotonic() - began
    found = {
        "seconds": took,
        "rate": sum(report["rate"] for report in reports),
        "ok": sum(report["ok"] for report in reports),
        "failed": sum(sum(report["failed"].values()) for report in reports),
        "p50_us": max(report["latency_us"]["p50"] for report in reports),
        "p99_us": max(report["latency_us"]["p99"] for report in reports),
        "cpu_seconds": after.cpu - before.cpu,
        "busy_cores": (after.cpu - before.cpu) / took,
        "machine_busy": psutil.cpu_percent() / 100,
        "most_replicas": {stage: max(table.counts[stage]) for stage in STAGES},
        "stages": {stage: after.of(stage).since(before.of(stage)).view() for stage in STAGES},
        "replicas": after.replicas,
    }
    say(
        f"{name}: {found['ok']} calls, {found['rate']:.0f} a second, {found['failed']} failed; "
        f"p50 {ms(found['p50_us'])}, p99 {ms(found['p99_us'])}"
    )
    return found


async def quieten(table: Table, seconds: int) -> dict[str, Any]:
    """Without load the replicas that it called for go again, as the demand is forgotten."""
    began = time.monotonic()
    say("\nno load: what it called for is given up")
    while (took := time.monotonic() - began) < seconds:
        await asyncio.sleep(1.0)
        await table.print()
        if table.last is not None and all(len(on) == 1 for on in table.last.replicas.values()):
            break
    return {"seconds": took, "replicas": table.last.replicas if table.last else {}}


class Stage(NamedTuple):
    """What a stage did on all nodes: executions, seconds of them, and how many by upper bound."""

    count: float
    seconds: float
    buckets: dict[float, float]

    def since(self, before: Stage) -> Stage:
        less = {bound: n - before.buckets.get(bound, 0) for bound, n in self.buckets.items()}
        return Stage(self.count - before.count, self.seconds - before.seconds, less)

    def at_most(self, part: float) -> float:
        """The bound in seconds under which that part of the executions ended."""
        for bound, count in sorted(self.buckets.items()):
            if count >= part * self.count > 0:
                return bound
        return 0.0

    def view(self) -> dict[str, float]:
        mean = self.seconds / self.count if self.count else 0.0
        return {"count": self.count, "mean_us": mean * 1e6}


class Sample(NamedTuple):
    """All stages at a moment, the cpu seconds that the nodes have used, and who has replicas."""

    at: float
    cpu: float
    stages: dict[str, Stage]
    replicas: dict[str, list[str]]

    def of(self, stage: str) -> Stage:
        return self.stages.get(stage, Stage(0, 0, {}))


class Table:
    """The live table: on a terminal it stays in place, elsewhere it is printed when it matters."""

    EVERY = 5.0

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.last: Sample | None = None
        self._printed = 0.0
        self._lines = 0
        self.began = time.monotonic()
        self.counts: dict[str, set[int]] = {stage: {0} for stage in STAGES}

    async def sample(self) -> Sample:
        pages = await asyncio.gather(
            *(asyncio.to_thread(Control(n.paths).text, "/v1/metrics") for n in self._cluster)
        )
        status = await self._cluster[0].status()
        cpu = 0.0
        for node in self._cluster:
            times = psutil.Process(node.pid).cpu_times()
            cpu += times.user + times.system
        replicas = {
            seed["name"]: sorted(r["name"] for r in seed["replicas"] if r["state"] == "ready")
            for seed in status["seeds"]
        }
        return Sample(time.monotonic(), cpu, stages_of(pages), replicas)

    async def print(self) -> None:
        now, last = await self.sample(), self.last
        self.last = now
        if last is None:
            return
        moved = now.replicas != last.replicas
        for stage, counts in self.counts.items():
            counts.add(len(now.replicas.get(stage, [])))
        live = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        due = (
            now.at - self._printed >= self.EVERY
            and now.of("ingest").count > last.of("ingest").count
        )
        if not (live or moved or due):
            return
        self._printed = now.at
        lines = [f"{'':>4}  stage      calls/s   p50 under   p99 under  replicas"]
        for stage in STAGES:
            did = now.of(stage).since(last.of(stage))
            rate, where = did.count / (now.at - last.at), now.replicas.get(stage, [])
            lines.append(
                f"{now.at - self.began:>3.0f}s  {stage:<9}{rate:>9.0f}{under(did, 0.5):>12}"
                f"{under(did, 0.99):>12}  {len(where)}: {' '.join(where)}"
            )
        if live and self._lines:
            print(f"\x1b[{self._lines}A\x1b[J", end="")
        self._lines = len(lines) if live else 0
        say("\n".join(lines))


def stages_of(pages: Iterable[str]) -> dict[str, Stage]:
    """The executions of each seed, summed over the metrics of all nodes."""
    found: dict[str, Stage] = {}
    for page in pages:
        for family in text_string_to_metric_families(page):
            if family.name != "pollen_execution_duration_seconds":
                continue
            for name, labels, value, *_ in family.samples:
                count, seconds, buckets = found.get(labels["seed"], Stage(0, 0, {}))
                if name.endswith("_count"):
                    count += value
                elif name.endswith("_sum"):
                    seconds += value
                else:
                    bound = float(labels["le"])
                    buckets = {**buckets, bound: buckets.get(bound, 0) + value}
                found[labels["seed"]] = Stage(count, seconds, buckets)
    return found


def under(stage: Stage, part: float) -> str:
    return ms(stage.at_most(part) * 1e6) if stage.count else "-"


def ms(micros: float) -> str:
    return f"{micros / 1000:.2f} ms" if micros < 10_000 else f"{micros / 1000:.0f} ms"


# --- what bounds it ----------------------------------------------------------------------------


def profile(heavy: dict[str, Any], alone_us: float) -> dict[str, float]:
    """Where a call of the heavy phase spent its cpu time and its time.

    ``alone_us`` is what terminal costs a core when nothing else runs; the time that the nodes' cpu
    was used beyond it is the price of the mesh: links, calls, the other stages, the brains.
    """
    cores = os.cpu_count() or 1
    cpu_us = heavy["cpu_seconds"] * 1e6 / heavy["ok"]
    ran_us = sum(heavy["stages"][stage]["mean_us"] for stage in STAGES)
    found = {
        "cores": cores,
        "busy_of_nodes": heavy["busy_cores"] / cores,
        "busy_of_all": heavy["machine_busy"],
        "cpu_us": cpu_us,
        "terminal_alone_us": alone_us,
        "work_of_cpu": alone_us / cpu_us,
        "ran_us": ran_us,
        "waited_us": heavy["p50_us"] - ran_us,
    }
    say(
        f"what bounds the heavy load:\n"
        f"  the machine has {cores} cores; they were {found['busy_of_all']:.0%} busy, with these "
        f"nodes {found['busy_of_nodes']:.0%}\n"
        f"  a call took {cpu_us:.0f} us of cpu on all nodes; terminal's own work is "
        f"{alone_us:.0f} us of it, {found['work_of_cpu']:.0%}\n"
        f"  of {ms(heavy['p50_us'])} (p50) its guests ran {ms(ran_us)} on average; the rest it "
        f"waited, for a slot, for a core or on a link"
    )
    return found


# --- what a nested call costs ------------------------------------------------------------------


async def nested_cost(rounds: int) -> dict[str, Any]:
    """On one node: the pipeline's rate, and the one that its stages' own rates predict.

    One pipeline call is three local calls, so it should cost what they cost one by one: 1 / (1/a +
    1/b + 1/c), where a, b and c are the rates of the stages called alone with the same
    inputs. What it costs beyond that is the suspending and resuming of the two callers. All are
    measured in turn in each round, so that whatever else the machine does falls on all alike.
    """
    say("\nwhat a nested call costs, on one node with next to no work in terminal:")
    seen: list[dict[str, float]] = []
    async with Cluster(1) as cluster:
        (node,) = cluster
        inputs = await publish_alone(cluster)
        for _ in range(rounds):
            rates = {}
            for seed, (function, data) in inputs.items():
                report = await load(node, seed, function, data, duration_ms=1_500)
                if report["failed"]:
                    raise RuntimeError(f"{seed}: {report['failed']}")
                rates[seed] = report["rate"]
            seen.append(rates)
        heavy = await load(
            node, *WORK, inputs["terminal-alone"][1], duration_ms=2_000, concurrency=1
        )
    return tell_nested(seen, 1e6 / heavy["rate"])


WORK = ("terminal-work", "terminal")


async def publish_alone(cluster: Cluster) -> dict[str, tuple[str, bytes]]:
    """The chain, its stages without a next one, and terminal at full work; inputs by seed."""
    for stage in reversed(STAGES):
        config = {"next": NEXT[stage]} if stage in NEXT else {}
        await cluster.seed(module(stage), stage, min_replicas=1, config=config)
        await cluster.seed(module(stage), f"{stage}-alone", min_replicas=1)
    work = {"rounds": str(ROUNDS)}
    await cluster.seed(module("terminal"), WORK[0], min_replicas=1, config=work)
    inputs, data = {}, READINGS
    async with cluster[0].connect() as mesh:
        for stage in STAGES:
            inputs[f"{stage}-alone"] = (stage, data)
            data = (await mesh.call(f"{stage}-alone", stage, data)).data
        reply = await mesh.call("ingest", "ingest", READINGS)
    if reply.data != data:
        raise RuntimeError(f"the chain says {reply.data!r}, its stages one by one {data!r}")
    return {**inputs, "ingest": ("ingest", READINGS)}


def tell_nested(seen: list[dict[str, float]], alone_us: float) -> dict[str, Any]:
    """Print and return the medians over the rounds; ratios are taken within a round."""
    names = [f"{stage}-alone" for stage in STAGES]
    predicted = [1 / sum(1 / rates[name] for name in names) for rates in seen]
    ratios = [rates["ingest"] / wish for rates, wish in zip(seen, predicted, strict=True)]
    middle = {name: statistics.median(rates[name] for rates in seen) for name in seen[0]}
    wish, ratio = statistics.median(predicted), statistics.median(ratios)
    for name in names:
        say(f"  {name:<15}{middle[name]:>9.0f} calls a second, {1e6 / middle[name]:.1f} us each")
    say(f"  {'predicted':<15}{wish:>9.0f} = 1 / (sum of the three), {1e6 / wish:.1f} us each")
    held = middle["ingest"]
    say(f"  {'measured':<15}{held:>9.0f} calls a second, {1e6 / held:.1f} us each")
    say(f"  the ratio is {ratio:.2f} (rounds: {' '.join(f'{one:.2f}' for one in ratios)})")
    rates = {**middle, "predicted": wish}
    return {"rates": rates, "ratio": ratio, "ratios": ratios, "terminal_alone_us": alone_us}


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except KeyboardInterrupt:
        sys.exit(130)
