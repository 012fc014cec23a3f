"""Seal a blob anew for the nodes that may read it now"""

from __future__ import annotations

import click

from pollen.cli import output
from pollen.cli.app import complete_seeds, control_of, with_globals, with_json
from pollen.cli.published import print_place, print_seeded, settled
from pollen.sdk.sealing import reseal


@click.command("reseal")
@click.argument("name", shell_complete=complete_seeds)
@with_json
@with_globals
@click.pass_context
def reseal_command(ctx: click.Context, name: str, as_json: bool) -> None:
    """Seal the blob NAME anew, for the nodes that may read it now.

    A sealed blob is for the nodes that could read it when it was sealed. Whoever was granted since
    reads it after this; whoever was denied cannot open what is sealed from now on. It runs on the
    node that published the blob, and needs no file: the node opens its own copy.

    \b
    Example:
      pln reseal plans.pdf
    """
    control = control_of(ctx)
    answer = reseal(control, name)
    if answer is None:
        if as_json:
            output.print_json({"name": name, "unchanged": True})
        else:
            click.echo(f"{name} is sealed for the nodes that may read it; nothing to do")
        return
    state = settled(control, answer, as_json=as_json)
    print_seeded(answer, "", state, as_json, "sealed anew")
    if not as_json:
        print_place(state, answer)
