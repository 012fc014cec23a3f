"""``pln load``: calls at a rate or a concurrency, from here or from several nodes, as they go; or
a service, asked so often."""

from __future__ import annotations

import base64
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import (
    complete_nodes,
    complete_seeds,
    complete_services,
    control_of,
    with_globals,
    with_json,
)
from pollen.cli.explain import find
from pollen.cli.values import DURATION, read_input
from pollen.errors import PollenError, error_from
from pollen.sdk.control import Control
from pollen.units import human_bytes

_PERCENTILES = ("p50", "p90", "p99", "p999", "max")
_LOOK_SECONDS = 1.0
_AGAIN_SECONDS = 0.05
# Calls under way at the end have a minute of their own, and reports take their way.
_AFTER_SECONDS = 120.0


@click.command("load")
@click.argument(
    "target", metavar="[NAME[/FUNCTION]]", required=False, shell_complete=complete_seeds
)
@click.option(
    "--service",
    metavar="NAME",
    shell_complete=complete_services,
    help="A service in place of a seed: connect, say the input, read to the end.",
)
@click.option("--rate", type=click.IntRange(1, 1_000_000), help="Calls a second (open loop).")
@click.option("--concurrency", type=click.IntRange(1, 10_000), default=64, show_default=True)
@click.option("--duration", type=DURATION, default="10s", show_default=True)
@click.option(
    "--warm-up",
    type=DURATION,
    help="Load for so long before, which counts for nothing.",
)
@click.option("--input", "text", help="Input of every call; - for stdin, @file.")
@click.option(
    "--from",
    "sources",
    metavar="NODE",
    multiple=True,
    shell_complete=complete_nodes,
    help="A node that calls, in place of this one; again for more.",
)
@with_json
@with_globals
@click.pass_context
def load_command(
    ctx: click.Context,
    target: str | None,
    service: str | None,
    rate: int | None,
    concurrency: int,
    duration: int,
    warm_up: int | None,
    text: str | None,
    sources: tuple[str, ...],
    as_json: bool,
) -> None:
    """Load a seed, or a service, from this node and print rates and latencies.

    With --rate calls are due at a constant rate and latency counts from when each was due; without
    it, as many as --concurrency are always under way, but for those that were told to come back.
    With --service each time counts from the opening of a tunnel to the end of the answer; without
    --input nothing is said but the end.
    With --from each node named does all of it, at the same time; that needs an admin's node.
    Ctrl-C ends it early and prints what there is; once more gives that up.

    \b
    Examples:
      pln load hello/greet --duration 5s
      pln load hello --rate 1000 --input world --warm-up 5s
      pln load hello --from attic --from cellar
      pln load --service web --input "@request.txt"
    """
    if (target is None) == (service is None):
        raise error_from("usage", "a load is of a seed or of a service", "NAME, or --service NAME")
    control = control_of(ctx)
    seed, _, function = (target or "").removeprefix("seed/").partition("/")
    nodes, said = _ids(control, sources), read_input(text)
    body = {
        "name": os.urandom(16).hex(),
        "seed": seed,
        "function": function,
        "service": (service or "").removeprefix("service/"),
        "rate": rate or 0,
        "concurrency": concurrency,
        "duration_ms": duration,
        "warm_up_ms": warm_up or 0,
        "input_base64": base64.b64encode(said).decode(),
        "nodes": nodes,
    }
    seconds = ((warm_up or 0) + duration) / 1000
    with _live(control, seed, seconds) if seed else nullcontext():
        report, is_whole = _load(control, body, seconds + _AFTER_SECONDS)
    if as_json:
        output.print_json(report)
    else:
        _print(report, len(said) if service else None)
    silent = set(nodes) - {node["node"] for node in report["nodes"]}
    if silent:
        click.echo(f"no report from {', '.join(node[:8] for node in sorted(silent))}", err=True)
    if not is_whole:
        ctx.exit(130)
    ctx.exit(1 if report["failed"] else 0)


def _load(control: Control, body: dict[str, Any], timeout: float) -> tuple[dict[str, Any], bool]:
    """The report, and whether it is of the whole load; Ctrl-C has the node end it before."""
    heard: Future[dict[str, Any]] = Future()

    def ask() -> None:
        try:
            heard.set_result(control.request("POST", "/v1/load", body, timeout=timeout))
        except Exception as error:
            heard.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        return heard.result(), True
    except KeyboardInterrupt:
        # The request may not have come there yet: then nothing of that name loads so far.
        while not (control.request("DELETE", f"/v1/load/{body['name']}")["nodes"] or heard.done()):
            time.sleep(_AGAIN_SECONDS)
        return heard.result(), False


def _ids(control: Control, names: tuple[str, ...]) -> list[str]:
    if not names:
        return []
    status = control.get("/v1/status")
    found = [find(status, name if "/" in name else f"node/{name}")[1]["node"] for name in names]
    return list(dict.fromkeys(found))


def _print(report: dict[str, Any], said: int | None) -> None:
    """``said``: bytes of each request to a service; none with a seed."""
    what = "call" if said is None else "request"
    seconds = f"{report['seconds']:.1f} s"
    if report["failed"] and not report["ok"]:
        slugs = ", ".join(f"{count} x {slug}" for slug, count in report["failed"].items())
        click.echo(f"0 ok in {seconds}; every {what} failed: {slugs}")
        return
    click.echo(f"{report['ok']} {what}s in {seconds}: {report['rate']:.0f} a second")
    if said is not None:
        there = human_bytes(int(said * report["rate"]))
        back = human_bytes(int(report["bytes_in"] / max(report["seconds"], 1e-9)))
        click.echo(f"{there} a second there, {back} a second back")
    for node in report["nodes"]:
        failed = f", {node['failed']} failed" if node["failed"] else ""
        p99 = output.human_us(node["latency_us"]["p99"])
        click.echo(f"  from {node['name']}: {node['rate']:.0f} a second, p99 {p99}{failed}")
    latency = report["latency_us"]
    words = "  ".join(f"{name} {output.human_us(latency[name])}" for name in _PERCENTILES)
    click.echo(f"slowest node: {words}" if len(report["nodes"]) > 1 else words)
    if report["missed"]:
        click.echo(
            f"{report['missed']} {what}s late or never begun: raise --concurrency or lower --rate"
        )
    for slug, count in report["failed"].items():
        click.echo(f"failed: {count} x {slug}")


@contextmanager
def _live(control: Control, seed: str, seconds: float) -> Iterator[None]:
    """A line on the terminal that says how it goes, once a second; gone at the end."""
    if not (output.can_move() and sys.stderr.isatty()):
        yield
        return
    done = threading.Event()
    looking = threading.Thread(target=_look, args=(control, seed, seconds, done), daemon=True)
    looking.start()
    try:
        yield
    finally:
        done.set()
        looking.join()
        click.echo(_erased(), nl=False, err=True)


def _erased() -> str:
    return output.steering("\r\x1b[K", sys.stderr)


def _look(control: Control, seed: str, seconds: float, done: threading.Event) -> None:
    began = at = time.monotonic()
    held = _counted(control, seed)
    while not done.wait(_LOOK_SECONDS):
        now, new = time.monotonic(), _counted(control, seed)
        ok, failed = ((new[i] - held[i]) / (now - at) for i in (0, 1))
        line = f"{now - began:.0f} of {seconds:.0f} s: {ok:.0f} calls a second here"
        line += f", {failed:.0f} failed" if failed else ""
        click.echo(f"{_erased()}{line}", nl=False, err=True)
        at, held = now, new


def _counted(control: Control, seed: str) -> tuple[float, float]:
    """Calls of a seed that this node has made so far: well ended, and failed."""
    ok = failed = 0.0
    try:
        page = control.text("/v1/metrics")
    except PollenError:
        return 0.0, 0.0
    for line in page.splitlines():
        if line.startswith("pollen_calls_total{") and f'seed="{seed}"' in line:
            count = float(line.rpartition(" ")[2])
            if 'outcome="ok"' in line:
                ok += count
            elif 'outcome="cancelled"' not in line:
                failed += count
    return ok, failed
