"""Let a denied member in again, with what it had"""

from __future__ import annotations

import click

from pollen.cli import output
from pollen.cli.app import control_of, with_globals, with_json


@click.command("undeny")
@click.argument("peer")
@with_json
@with_globals
@click.pass_context
def undeny_command(ctx: click.Context, peer: str, as_json: bool) -> None:
    """Let PEER in again, and those that fell with it: a name or the first digits of an id.

    Who denied it may, and who has the root key. A node that was denied comes back by itself within
    two minutes while it runs, and at its next start otherwise.

    \b
    Example:
      pln undeny old-laptop
    """
    granted = control_of(ctx).request("POST", "/v1/undenies", {"target": peer})
    if as_json:
        output.print_json(granted)
    else:
        click.echo(f"{granted['name']} {granted['node'][:8]} is a member again, {granted['tier']}")
