"""Keep a copy of a blob or a site on this node"""

from __future__ import annotations

import click

from pollen.cli import output
from pollen.cli.app import complete_seeds, control_of, with_globals, with_json


@click.command("pin")
@click.argument("name", shell_complete=complete_seeds)
@with_json
@with_globals
@click.pass_context
def pin_command(ctx: click.Context, name: str, as_json: bool) -> None:
    """Keep a copy of the blob or site NAME on this node, whatever the plan says.

    It is fetched now, follows each new version, and is read without the others from then on. The
    node must be one that may hold it, and have room for it.

    \b
    Examples:
      pln pin film.mp4
      pln -H laptop pin my-site
    """
    answer = control_of(ctx).pin(name)
    if as_json:
        output.print_json(answer)
        return
    again = " already" if answer["was_pinned"] else ""
    click.echo(f"{name} is{again} pinned on this node")
    click.echo(f"  its copy:  pln inspect {name}")
