"""``pln status``: one screen; a health line first, hints last."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import complete_nodes, control_of, with_globals, with_json
from pollen.cli.proposals import here
from pollen.errors import error_from
from pollen.plain import escaped
from pollen.units import human_bytes

_SECTIONS = ("nodes", "seeds", "blobs", "sites", "services")


@click.command("status")
@click.argument("section", type=click.Choice(_SECTIONS), required=False)
@click.option("--wide", is_flag=True, help="All columns, whatever the terminal's width.")
@click.option("--include-offline", is_flag=True, help="Also nodes that are not reachable.")
@click.option("--watch", is_flag=True, help="Redraw each second until Ctrl-C.")
@click.option("--node", metavar="NODE", shell_complete=complete_nodes, help="As another node sees.")
@with_json
@with_globals
@click.pass_context
def status_command(
    ctx: click.Context,
    section: str | None,
    wide: bool,
    include_offline: bool,
    watch: bool,
    node: str | None,
    as_json: bool,
) -> None:
    """Show nodes, seeds, blobs, sites and services as this node sees them.

    With --node as another one sees them, over its link; that needs an admin's node here.

    \b
    Examples:
      pln status
      pln status seeds --wide
      pln status services
      pln status --node attic
    """
    control = control_of(ctx)
    if section == "services" and node is not None:
        reason = "services are shown as this node sees them"
        raise error_from("usage", reason, f"there: pln status services; or: pln -H {node} status")
    path = "/v1/status" if node is None else _path_of(node)
    while True:
        status = control.get(path)
        if node is None and section in (None, "services"):
            status = {**status, "services": control.get("/v1/services")}
        if as_json:
            output.print_json(_section(status, section) if section else status)
        else:
            columns = 10_000 if wide else output.width()
            sections = (section,) if section else _SECTIONS
            lines = status_lines(status, sections, columns, include_offline)
            lines = [here(line) for line in lines]
            click.echo("\n".join(output.redrawn(lines) if watch and output.can_move() else lines))
        if not watch:
            return
        time.sleep(1)


def _section(status: dict[str, Any], section: str) -> Any:
    """A part of the answer; blobs and sites are seeds of other kinds."""
    if section not in ("seeds", "blobs", "sites"):
        return status[section]
    of_kind = {"blob": "blobs", "site": "sites"}
    return [seed for seed in status["seeds"] if of_kind.get(seed["kind"], "seeds") == section]


def _path_of(node: str) -> str:
    from urllib.parse import quote

    return f"/v1/nodes/{quote(node, safe='')}/status"


def status_lines(
    status: dict[str, Any], sections: tuple[str, ...], columns: int, include_offline: bool
) -> list[str]:
    """The screen. Warnings follow the health line, hints come last."""
    head, _, rest = status["summary"].partition(":")
    colour = "green" if status["healthy"] else "yellow"
    lines = [f"{output.coloured(head, colour, sys.stdout)}:{rest}"]
    lines += [f"warning: {text}" for text in status["warnings"]]
    if "nodes" in sections:
        lines += ["", *_node_lines(status, columns, include_offline)]
    # That there are none is no news to who has blobs or sites.
    if "seeds" in sections:
        is_news = _section(status, "seeds") or not status["seeds"]
        lines += ["", *_seed_lines(status, columns)] if is_news or len(sections) == 1 else []
    for kind in ("blobs", "sites"):
        if kind in sections and (len(sections) == 1 or _section(status, kind)):
            lines += ["", *_held_lines(kind, _section(status, kind), columns)]
    if "services" in sections:
        lines += service_lines(status.get("services"), columns, is_asked=len(sections) == 1)
    lines += [f"hint: {text}" for text in status["hints"]]
    return lines


HEAD = ("NODE", "ID", "STATE", "TIER", "RTT", "PATH", "REPLICAS", "MEMORY", "ADDRESS")


def _node_lines(status: dict[str, Any], columns: int, include_offline: bool) -> list[str]:
    absent = ("offline", "left")
    shown = [n for n in status["nodes"] if include_offline or n["state"] not in absent]
    rows: list[tuple[str, ...]] = [
        (
            node["name"] + ("*" if node["state"] == "self" else ""),
            node["node"][:8],
            "online" if node["state"] == "self" else node["state"],
            node["tier"],
            output.human_us(node["rtt_us"]),
            node["path"] or "-",
            str(node["ready"]),
            human_bytes(node["memory_bytes"]),
            node["addresses"][0] if node["addresses"] else "-",
        )
        for node in shown
    ]
    head: tuple[str, ...] = HEAD
    if not any(node["path"].startswith("via ") for node in shown):
        # Everybody is reached directly: that goes without saying.
        at = head.index("PATH")
        head, rows = head[:at] + head[at + 1 :], [row[:at] + row[at + 1 :] for row in rows]
    lines = output.table_lines(
        head, rows, drop=("ADDRESS", "MEMORY", "TIER", "RTT", "ID"), columns=columns
    )
    states = [node["state"] for node in status["nodes"]]
    hidden = [f"{states.count(state)} {state}" for state in absent if state in states]
    if hidden and not include_offline:
        lines.append(f"{', '.join(hidden)}; see them with --include-offline")
    return lines


def service_lines(services: dict[str, Any] | None, columns: int, *, is_asked: bool) -> list[str]:
    """What is served and what listens here; nothing where there is neither and nobody asked."""
    if services is None or not (is_asked or services["services"] or services["listeners"]):
        return []
    lines = ["", *_served_lines(services["services"], columns)]
    lines += _check_lines(services["services"])
    if services["listeners"]:
        lines += ["", *_listener_lines(services["listeners"], columns)]
    return lines


def _served_lines(services: list[dict[str, Any]], columns: int) -> list[str]:
    if not services:
        return ["no services; serve one with: pln serve PORT NAME"]
    rows = [
        (
            held["name"],
            "udp" if held["datagrams"] else "tcp",
            ", ".join(_provider_text(provider) for provider in held["providers"]),
            held["target"] or "-",
            str(held["open"]),
            str(held["opened"]),
            str(held["refused"]),
            human_bytes(held["bytes_in"] + held["bytes_out"]),
        )
        for held in services
    ]
    head = ("SERVICE", "KIND", "SERVED BY", "TARGET", "OPEN", "OPENED", "REFUSED", "BYTES")
    drop = ("BYTES", "REFUSED", "OPENED", "KIND", "TARGET")
    return output.table_lines(head, rows, drop=drop, columns=columns)


def _provider_text(provider: dict[str, Any]) -> str:
    name, state = provider["name"], provider["state"]
    if state == "self":
        name, state = f"{name}*", "online"
    # A node of before says nothing of health.
    state = provider.get("health") or state if state == "online" else state
    return name if state == "online" else f"{name} ({state})"


def _check_lines(services: list[dict[str, Any]]) -> Iterator[str]:
    """Whose check fails, since when and why; and what this node's own checks say before that."""
    for held in services:
        for provider in held["providers"]:
            if provider.get("health") == "failing":
                age = output.human_age(max(0, int(time.time() * 1000) - provider["health_unix_ms"]))
                why = escaped(provider["health_reason"]) or "no reason is told"
                yield f"{held['name']} at {provider['name']} fails its check for {age}: {why}"
        check = held.get("check")
        if check and check["state"] != "failing" and check["error"]:
            yield f"{held['name']}: the last check here failed: {escaped(check['error'])}"


def _listener_lines(listeners: list[dict[str, Any]], columns: int) -> list[str]:
    rows = [
        (
            f"{held['service']}@{held['provider']}"
            if held["provider"]
            else held["service"] or "(proxy)",
            f"udp {held['bound']}" if held["datagrams"] else held["bound"],
            (held["reason"] and f"{held['state']}: {held['reason']}") or held["state"],
        )
        for held in listeners
    ]
    return output.table_lines(("LISTENER OF", "AT", "STATE"), rows, columns=columns)


def _held_lines(kind: str, blobs: list[dict[str, Any]], columns: int) -> list[str]:
    """Blobs, or sites: what is held and handed out."""
    if not blobs:
        what = "a file with: pln seed FILE" if kind == "blobs" else "a folder with: pln seed FOLDER"
        return [f"no {kind}; publish {what}"]
    rows = [
        (
            blob["name"],
            blob["content"][:8],
            human_bytes(blob["size_bytes"]),
            f"{blob['ready']}/{blob['wanted']}" + " pinned" * blob.get("is_pinned", False),
            ", ".join(sorted(r["name"] for r in blob["replicas"] if r["state"] == "ready")) or "-",
            blob["publisher_name"] or blob["publisher"][:8],
        )
        for blob in blobs
    ]
    head = (kind[:-1].upper(), "CONTENT", "SIZE", "COPIES", "HELD BY", "BY")
    return output.table_lines(head, rows, drop=("BY", "HELD BY", "CONTENT"), columns=columns)


def _seed_lines(status: dict[str, Any], columns: int) -> list[str]:
    seeds = _section(status, "seeds")
    if not seeds:
        return ["no seeds; publish one with: pln seed FILE.wasm NAME"]
    # While an update is ready nowhere, the version before is what a caller gets.
    answering = [seed.get("before") or seed for seed in seeds]
    rows = [
        (
            seed["name"],
            held["seed"][:8],
            f"{held['ready']}/{max(seed['wanted'], held['ready'])}",
            str(seed["calls"]),
            str(seed["failures"]),
            output.human_us(seed["run_us"]),
            seed["publisher_name"] or seed["publisher"][:8],
            ", ".join(held["functions"]),
        )
        for seed, held in zip(seeds, answering, strict=True)
    ]
    head = ("SEED", "HASH", "READY", "CALLS", "FAILED", "RUN", "BY", "FUNCTIONS")
    return output.table_lines(
        head, rows, drop=("FUNCTIONS", "BY", "FAILED", "RUN", "HASH"), columns=columns
    )
