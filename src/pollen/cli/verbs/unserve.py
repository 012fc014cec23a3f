"""Serve a name no more"""

from __future__ import annotations

from urllib.parse import quote

import click

from pollen.cli import output
from pollen.cli.app import complete_services, control_of, with_globals, with_json


@click.command("unserve")
@click.argument("name", shell_complete=complete_services)
@click.option("--everywhere", is_flag=True, help="Also on the other nodes that serve it.")
@with_json
@with_globals
@click.pass_context
def unserve_command(ctx: click.Context, name: str, everywhere: bool, as_json: bool) -> None:
    """Serve NAME on this node no more. Its tunnels are cut.

    \b
    Examples:
      pln unserve api
      pln unserve api --everywhere
    """
    path = f"/v1/services/{quote(name, safe='')}"
    answer = control_of(ctx).request("DELETE", f"{path}?everywhere={str(everywhere).lower()}")
    if as_json:
        output.print_json(answer)
        return
    where = "by nobody" if not answer["providers"] else f"by {', '.join(answer['providers'])}"
    click.echo(f"{answer['name']} is served here no more; it is served {where}")
