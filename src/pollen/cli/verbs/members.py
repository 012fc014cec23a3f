"""Show who is a member, by whom and until when, and who is denied"""

from __future__ import annotations

import shutil
import time
from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import control_of, with_globals, with_json


@click.command("members")
@click.option("--tree", is_flag=True, help="Who let in whom.")
@with_json
@with_globals
@click.pass_context
def members_command(ctx: click.Context, tree: bool, as_json: bool) -> None:
    """Show everybody who is or was a member, as this node knows.

    LEASE is how long a member stays one without hearing from an admin.

    \b
    Examples:
      pln members
      pln members --tree
    """
    answer = control_of(ctx).get("/v1/members")
    if as_json:
        output.print_json(answer)
        return
    lines = tree_lines(answer) if tree else table(answer["members"], shutil.get_terminal_size()[0])
    for line in lines:
        click.echo(line)


def table(members: list[dict[str, Any]], columns: int) -> list[str]:
    """A line a member; who is denied says by whom and why on a line of its own."""
    now = int(time.time() * 1000)
    members = sorted(members, key=lambda member: (member["name"], member["node"]))
    rows = [
        (
            member["name"] + ("*" if member["state"] == "self" else ""),
            member["node"][:8],
            "online" if member["state"] == "self" else member["state"],
            member["tier"],
            member["issuer_name"],
            _left(member["member_until_unix_ms"], now),
            _left(member["access_until_unix_ms"], now) if member["access_until_unix_ms"] else "-",
            "" if member["properties"] == "{}" else member["properties"],
        )
        for member in members
    ]
    head = ("MEMBER", "ID", "STATE", "TIER", "BY", "LEASE", "ACCESS", "PROPERTIES")
    # A column that says nothing of anybody is left out.
    told = [n for n in range(len(head)) if any(row[n] not in ("", "-") for row in rows)]
    drop = ("PROPERTIES", "ACCESS", "LEASE", "BY", "ID")
    lines = output.table_lines(
        tuple(head[n] for n in told),
        [tuple(row[n] for n in told) for row in rows],
        drop=drop,
        columns=columns,
    )
    return lines + [denied_line(member, now) for member in members if member["denied_by"]]


def denied_line(member: dict[str, Any], now: int) -> str:
    """Who denied a member, when and why."""
    ago = output.human_age(max(now - member["denied_unix_ms"], 0))
    why = f": {member['reason']}" if member["reason"] else ""
    return f"{member['name']} was denied by {member['denied_by']} {ago} ago{why}"


def tree_lines(answer: dict[str, Any]) -> list[str]:
    """Each member below the one that let it in, the root first."""
    members = sorted(answer["members"], key=lambda member: (member["name"], member["node"]))
    known = {member["node"] for member in members}
    tops = [m for m in members if m["issuer"] not in known]
    lines = [f"root {answer['root'][:8]}"]

    def grow(held: list[dict[str, Any]], indent: str) -> None:
        for number, member in enumerate(held):
            is_last = number == len(held) - 1
            mark = "" if member["state"] in ("self", "online") else f", {member['state']}"
            text = f"{member['name']} {member['node'][:8]} {member['tier']}{mark}"
            lines.append(f"{indent}{'└─ ' if is_last else '├─ '}{text}")
            below = [m for m in members if m["issuer"] == member["node"]]
            grow(below, indent + ("   " if is_last else "│  "))

    grow(tops, "")
    return lines


def _left(until: int, now: int) -> str:
    return output.human_age(until - now) if until > now else "ended"
