"""Put members out: links, calls and joins end at once"""

from __future__ import annotations

from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import complete_nodes, control_of, with_globals, with_json
from pollen.cli.membership import falls_lines, may_go_on, with_request, write_request
from pollen.cli.paper import check_new


@click.command("deny")
@click.argument("peers", nargs=-1, required=True, metavar="PEER...", shell_complete=complete_nodes)
@click.option("--reason", default="", metavar="TEXT", help="Why, for pln members and pln audit.")
@click.option(
    "--no-cascade", is_flag=True, help="Keep the members below: certify them from here first."
)
@click.option("--dry-run", is_flag=True, help="Only say what would fall.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_request
@with_json
@with_globals
@click.pass_context
def deny_command(
    ctx: click.Context,
    peers: tuple[str, ...],
    reason: str,
    no_cascade: bool,
    dry_run: bool,
    yes: bool,
    request_file: str | None,
    as_json: bool,
) -> None:
    """Put each PEER out of the cluster, and those that it let in.

    It shows what falls with them, and asks. Every live node cuts them within a second of hearing
    of it; `pln undeny` lets one in again.

    \b
    Examples:
      pln deny old-laptop --reason "sold it"
      pln deny attic --no-cascade
    """
    body = {"targets": list(peers), "reason": reason, "cascade": not no_cascade}
    asked = control_of(ctx)
    if request_file is not None:
        check_new(request_file)
        answer = asked.request("POST", "/v1/denies", {**body, "by_root": True})
        for line in _plan_lines(answer):
            click.echo(line, err=True)
        names = ", ".join(node["name"] for node in answer["denied"])
        write_request(answer, request_file, f"to deny {names}")
        return
    planned = asked.request("POST", "/v1/denies", {**body, "dry_run": True})
    if not as_json:
        for line in _plan_lines(planned):
            click.echo(line, err=True)
    if not dry_run and may_go_on("deny this?", yes, "pln deny"):
        planned = asked.request("POST", "/v1/denies", {**body, "dry_run": False})
    if as_json:
        output.print_json(planned)
    elif not dry_run:
        for node in planned["denied"]:
            click.echo(f"{node['name']} {node['node'][:8]} is denied")


def _plan_lines(planned: dict[str, Any]) -> list[str]:
    lines = [f"to be denied: {node['name']} {node['node'][:8]}" for node in planned["denied"]]
    lines += falls_lines(planned["falls"])
    lines += [f"stays: {n['name']} {n['node'][:8]}, certified from here" for n in planned["kept"]]
    if planned["seeds"]:
        lines.append(f"seeds that go with their publisher: {', '.join(planned['seeds'])}")
    if planned["services"]:
        lines.append(f"services that nobody serves any more: {', '.join(planned['services'])}")
    if planned["replicas"]:
        lines.append(f"replicas that find another host: {planned['replicas']}")
    return lines
