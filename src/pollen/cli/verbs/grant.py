"""Give a member more or less, at once and everywhere"""

from __future__ import annotations

import time
from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import complete_nodes, control_of, with_globals, with_json
from pollen.cli.membership import (
    falls_lines,
    may_go_on,
    until_text,
    with_request,
    write_request,
)
from pollen.cli.paper import check_new
from pollen.cli.values import DURATION, with_properties


@click.command("grant")
@click.argument("peer", shell_complete=complete_nodes)
@click.option("--admin", "tier", flag_value="admin", help="It may also invite, grant and deny.")
@click.option("--publisher", "tier", flag_value="publisher", help="It may publish seeds.")
@click.option("--leaf", "tier", flag_value="leaf", help="It may only call and host.")
@with_properties("A property to set")
@click.option("--unset-prop", "drops", multiple=True, metavar="KEY", help="A property to remove.")
@click.option(
    "--access-until",
    metavar="TIME",
    help="End its access after this time, e.g. 30d; `never` takes the end away.",
)
@click.option("--dry-run", is_flag=True, help="Only say what it would change.")
@click.option("--yes", is_flag=True, help="Do not ask when something is taken away.")
@with_request
@with_json
@with_globals
@click.pass_context
def grant_command(
    ctx: click.Context,
    peer: str,
    tier: str | None,
    props: str,
    drops: tuple[str, ...],
    access_until: str | None,
    dry_run: bool,
    yes: bool,
    request_file: str | None,
    as_json: bool,
) -> None:
    """Change what PEER may do: a node's name or the first digits of its id.

    It takes effect on live links within a second, without a reconnect. A seed sees new properties
    on its next call.

    \b
    Examples:
      pln grant pi --publisher --prop zone=garden
      pln grant pi --leaf --unset-prop zone
      pln grant laptop --access-until 30d
      pln grant laptop --admin --request request.txt
    """
    if not (tier or props != "{}" or drops or access_until):
        raise click.UsageError("say what to change, e.g. --publisher or --prop zone=home")
    body = {
        "target": peer,
        "tier": tier or "",
        "properties": props,
        "drops": list(drops),
        "until_unix_ms": _until(access_until),
    }
    asked = control_of(ctx)
    if request_file is not None:
        check_new(request_file)
        answer = asked.request("POST", "/v1/grants", {**body, "by_root": True})
        if answer["changed"]:
            write_request(answer, request_file, _line(answer, dry_run=True))
        else:
            click.echo(_line(answer, dry_run=True), err=True)
        return
    planned = asked.request("POST", "/v1/grants", {**body, "dry_run": True})
    is_less = bool(planned["takes"] or planned["falls"])
    if is_less and not as_json:
        for text in planned["takes"]:
            click.echo(f"{planned['name']} loses {text}", err=True)
        for line in falls_lines(planned["falls"]):
            click.echo(line, err=True)
    if not dry_run and (not is_less or may_go_on("grant this?", yes, "pln grant")):
        planned = asked.request("POST", "/v1/grants", {**body, "dry_run": False})
    if as_json:
        output.print_json(planned)
    else:
        click.echo(_line(planned, dry_run=dry_run))


def _until(text: str | None) -> int:
    if text is None:
        return -1
    if text == "never":
        return 0
    return int(time.time() * 1000) + int(DURATION.convert(text, None, None))


def _line(granted: dict[str, Any], *, dry_run: bool) -> str:
    if not granted["changed"]:
        return f"{granted['name']} has that already"
    does = "would be" if dry_run else "is"
    article = "an" if granted["tier"] == "admin" else "a"
    props = "" if granted["properties"] == "{}" else f", {granted['properties']}"
    until = until_text(granted["access_until_unix_ms"])
    return f"{granted['name']} {does} {article} {granted['tier']} now{props}{until}"
