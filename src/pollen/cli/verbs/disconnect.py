"""Close a listener that pln connect opened"""

from __future__ import annotations

from urllib.parse import quote

import click

from pollen.cli import output
from pollen.cli.app import complete_services, control_of, with_globals, with_json


@click.command("disconnect")
@click.argument("target", metavar="SERVICE|LOCAL", shell_complete=complete_services)
@with_json
@with_globals
@click.pass_context
def disconnect_command(ctx: click.Context, target: str, as_json: bool) -> None:
    """Close the listeners of a service, or the one at LOCAL. Their clients are cut.

    \b
    Examples:
      pln disconnect api
      pln disconnect 127.0.0.1:8080
    """
    answer = control_of(ctx).request("DELETE", f"/v1/listeners/{quote(target, safe='')}")
    if as_json:
        output.print_json(answer)
        return
    for bound in answer["bound"]:
        click.echo(f"nothing listens at {bound} any more")
