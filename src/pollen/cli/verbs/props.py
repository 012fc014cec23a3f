"""Show the properties of a member, which gates read"""

from __future__ import annotations

import json

import click

from pollen.cli import output
from pollen.cli.app import complete_nodes, control_of, with_globals, with_json
from pollen.errors import error_from


@click.command("props")
@click.argument("peer", required=False, shell_complete=complete_nodes)
@with_json
@with_globals
@click.pass_context
def props_command(ctx: click.Context, peer: str | None, as_json: bool) -> None:
    """Show the properties of PEER, a name or the first digits of an id; without one, this node's.

    They are in its certificate, so it cannot change them itself: `pln grant` does.

    \b
    Examples:
      pln props
      pln props pi --json
    """
    members = control_of(ctx).get("/v1/members")["members"]
    if peer is None:
        found = [member for member in members if member["state"] == "self"]
        peer = "this node"
    else:
        found = [member for member in members if member["name"] == peer]
        found = found or [m for m in members if m["node"].startswith(peer.lower())]
    if not found:
        raise error_from("peer-not-found", f"{peer} is not a known member", "pln members")
    if len(found) > 1:
        ways = ", ".join(f"{member['name']} {member['node'][:8]}" for member in found[:8])
        raise error_from("ambiguous", f"{peer!r} means {len(found)} members", f"one of: {ways}")
    try:
        held = json.loads(found[0]["properties"])
    except ValueError:
        reason = f"the properties of {found[0]['name']} are no object: {found[0]['properties']}"
        raise error_from("internal", reason, "bring the nodes to one version") from None
    if as_json:
        output.print_json(held)
        return
    for key, value in _flat(held):
        click.echo(f"{key}={value}")


def _flat(held: dict[str, object], above: str = "") -> list[tuple[str, str]]:
    """As ``--prop`` takes them: dotted keys, and a line for each value of a list."""
    lines: list[tuple[str, str]] = []
    for key, value in held.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{above}{key}.")
            continue
        for item in value if isinstance(value, list) else [value]:
            lines.append((f"{above}{key}", item if isinstance(item, str) else json.dumps(item)))
    return lines
