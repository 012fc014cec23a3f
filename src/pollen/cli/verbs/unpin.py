"""Leave it to the plan whether this node keeps a copy"""

from __future__ import annotations

import click

from pollen.cli import output
from pollen.cli.app import complete_seeds, control_of, with_globals, with_json


@click.command("unpin")
@click.argument("name", shell_complete=complete_seeds)
@with_json
@with_globals
@click.pass_context
def unpin_command(ctx: click.Context, name: str, as_json: bool) -> None:
    """Leave it to the plan again whether this node keeps a copy of NAME.

    The copy leaves the disk when as many others are ready as the publisher asked for.

    \b
    Example:
      pln unpin film.mp4
    """
    answer = control_of(ctx).pin(name, is_pinned=False)
    if as_json:
        output.print_json(answer)
    else:
        was = "is pinned here no more" if answer["was_pinned"] else "was not pinned here"
        click.echo(f"{name} {was}")
