"""Measure the way to a member or a service, and back"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import click

from pollen.cli import output
from pollen.cli.app import (
    complete_nodes,
    complete_services,
    control_of,
    paths_of,
    with_globals,
    with_json,
)
from pollen.cli.values import DURATION
from pollen.errors import PollenError, error_from
from pollen.plain import escaped
from pollen.sdk.control import Control

# These may be otherwise the next time; what else is refused stays so.
_LOST = ("unreachable", "provider-refused", "overloaded")
# Digits of an id that may stand for a node. As in the core.
_DIGITS = 4
_COUNT_MAX = 1_000_000

# A round: the id of the node that answered.
Round = Callable[[], str]


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    names = complete_nodes(ctx, param, incomplete)
    return names + complete_services(ctx, param, incomplete)


@click.command("ping")
@click.argument("target", metavar="PEER|SERVICE", shell_complete=_complete)
@click.option("-c", "--count", type=click.IntRange(1, _COUNT_MAX), default=5, show_default=True)
@click.option("-i", "--interval", type=DURATION, default="1s", show_default=True)
@with_json
@with_globals
@click.pass_context
def ping_command(ctx: click.Context, target: str, count: int, interval: int, as_json: bool) -> None:
    """Measure round trips to a member, or to a service NAME or NAME@NODE.

    For a member: a question to its brain, which answers admins only, until the answer is here. For
    a service: from asking the node here until the provider has connected to it; the connection ends
    at once, without a byte. node/NAME and service/NAME say which is meant when both exist. It fails
    when nothing answered.

    \b
    Examples:
      pln ping attic
      pln ping api -c 20 -i 200ms
      pln ping service/api@attic --json
    """
    control = control_of(ctx)
    nodes: list[dict[str, Any]] = control.get("/v1/status")["nodes"]
    kind, name, once = _meant(ctx, control, nodes, target)
    names = {node["node"]: node["name"] for node in nodes}
    rounds: list[dict[str, Any]] = []
    last: PollenError | None = None
    try:
        for number in range(1, count + 1):
            if rounds:
                time.sleep(interval / 1000)
            said, last = _timed(once, names, last)
            rounds.append(said)
            if not as_json:
                click.echo(f"{number}: {_line(said)}")
    finally:
        # Also after Ctrl-C.
        report = {"kind": kind, "target": name, **summed(rounds)}
        if rounds and as_json:
            output.print_json(report)
        elif rounds:
            click.echo(_summary(report))
    if not report["answered"] and last is not None:
        raise last


def _timed(
    once: Round, names: dict[str, str], last: PollenError | None
) -> tuple[dict[str, Any], PollenError | None]:
    """One round, and the last refusal so far. Raises what would be the same the next time."""
    began = time.perf_counter_ns()
    try:
        node = once()
    except PollenError as error:
        if error.slug not in _LOST:
            raise
        slug, reason = error.slug, error.reason
        return {"us": 0, "node": "", "name": "", "slug": slug, "reason": reason}, error
    micros = max(1, (time.perf_counter_ns() - began) // 1_000)
    name = names.get(node, node[:8])
    return {"us": micros, "node": node, "name": name, "slug": "", "reason": ""}, last


def summed(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The rounds with how many there were, how many were answered, and their times; 0 for none."""
    times = [held["us"] for held in rounds if not held["slug"]]
    return {
        "sent": len(rounds),
        "answered": len(times),
        "min_us": min(times, default=0),
        "avg_us": round(sum(times) / len(times)) if times else 0,
        "max_us": max(times, default=0),
        "rounds": rounds,
    }


def _line(said: dict[str, Any]) -> str:
    if said["slug"]:
        return f"[{said['slug']}] {escaped(said['reason'])}"
    return f"{escaped(said['name'])} answered after {output.human_us(said['us'])}"


def _summary(report: dict[str, Any]) -> str:
    line = f"{report['answered']} of {report['sent']} answered"
    if not report["answered"]:
        return line
    times = (f"{word} {output.human_us(report[f'{word}_us'])}" for word in ("min", "avg", "max"))
    return f"{line}: {', '.join(times)}"


# -- what is meant ---------------------------------------------------------------------------------


def _meant(
    ctx: click.Context, control: Control, nodes: list[dict[str, Any]], target: str
) -> tuple[str, str, Round]:
    """``node`` or ``service``, its name, and a round. Raises ``peer-not-found``, ``ambiguous``."""
    prefix, slash, text = target.partition("/")
    kind = prefix if slash and prefix in ("node", "service") else ""
    text = text if kind else target
    name, at, _ = text.partition("@")
    services = {held["name"]: held for held in control.get("/v1/services")["services"]}
    found = _found(nodes, text) if kind != "service" else []
    serves = kind != "node" and (kind == "service" or name in services or bool(at))
    if found and serves:
        ways = f"node/{text} or service/{text}"
        raise error_from("ambiguous", f"{text!r} is a node and a service", f"say: {ways}")
    if serves:
        return "service", text, _service(ctx, text, services.get(name))
    if not found:
        what = "node" if kind else "node or service"
        reason = f"no {what} {text[:80]!r} is known"
        raise error_from("peer-not-found", reason, "see: pln status")
    if len(found) > 1:
        ways = ", ".join(f"{node['name']} {node['node'][:8]}" for node in found[:8])
        raise error_from("ambiguous", f"{text[:80]!r} means {len(found)} nodes", f"one of: {ways}")
    return "node", found[0]["name"], _member(control, nodes, found[0])


def _found(nodes: list[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    named = [node for node in nodes if node["name"] == text]
    digits = text.lower()
    is_id = len(digits) >= _DIGITS and all(c in "0123456789abcdef" for c in digits)
    return named or [node for node in nodes if is_id and node["node"].startswith(digits)]


def _member(control: Control, nodes: list[dict[str, Any]], node: dict[str, Any]) -> Round:
    """Ask its brain for the shortest answer that it has: no line of its log."""
    if node["state"] == "self":
        others = [held["name"] for held in nodes if held["state"] == "online"]
        remedy = f"as in: pln ping {others[0]}" if others else "pln status"
        raise error_from("usage", f"{node['name']} is the node that asks", remedy)
    path = f"/v1/nodes/{quote(node['node'], safe='')}/logs?lines=0"

    def once() -> str:
        try:
            for _ in control.lines(path):
                pass
        except PollenError as error:
            if error.slug != "denied":
                raise
            remedy = "pln status shows how far it is; its services: pln ping SERVICE@NODE"
            raise error_from("denied", error.reason, remedy) from None
        return str(node["node"])

    return once


def _service(ctx: click.Context, text: str, service: dict[str, Any] | None) -> Round:
    """Connect to it through the node here, and hang up."""
    if service is not None and service["datagrams"]:
        reason = f"{service['name']} takes datagrams, and nothing says that one has come"
        providers = [held["name"] for held in service["providers"]]
        raise error_from("usage", reason, f"as in: pln ping node/{(providers or ['NODE'])[0]}")
    from pollen.sdk import reach

    paths = paths_of(ctx)
    # Whom NAME@NODE means is asked once: the rounds are all of the way there.
    asked = reach.parted(paths, text)
    return lambda: reach.touch(paths, *asked)
