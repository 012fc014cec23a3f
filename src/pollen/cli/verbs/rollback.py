"""Publish a former version of a name again"""

from __future__ import annotations

import click

from pollen.cli.app import complete_seeds, control_of, with_globals, with_json
from pollen.cli.published import print_place, print_seeded, settled


@click.command("rollback")
@click.argument("name", shell_complete=complete_seeds)
@click.argument("version", default="", metavar="[VERSION]")
@with_json
@with_globals
@click.pass_context
def rollback_command(ctx: click.Context, name: str, version: str, as_json: bool) -> None:
    """Publish a former version of NAME again, with the options that it had.

    VERSION is its number, or the first digits of its hash or its content's (pln versions NAME);
    without it, the version before. It gets the next number, and what it takes the place of is kept
    as any former version: so rolling back twice comes to where it began.

    \b
    Examples:
      pln rollback my-site
      pln rollback my-site 3
    """
    control = control_of(ctx)
    answer = control.rollback(name, version)
    state = settled(control, answer, as_json=as_json)
    python = "Python" if state["seed"] and state["seed"]["manifest"] else ""
    print_seeded(answer, python, state, as_json, "rolled back")
    if not as_json:
        print_place(state, answer)
