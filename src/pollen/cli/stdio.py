"""``pln _stdio``: what ssh starts on a node's machine for a desk elsewhere. Nobody types it."""

from __future__ import annotations

import click

from pollen.cli.app import with_globals
from pollen.paths import resolve


@click.command("_stdio", hidden=True)
@with_globals
@click.pass_context
def _stdio_command(ctx: click.Context) -> None:
    """Carry a desk's connections to the node here, on stdin and stdout.

    \b
    Example:
      ssh user@host pln _stdio
    """
    from pollen.sdk import stdio

    # The folder here, whatever context this machine's user has in use: a desk goes one step.
    stdio.serve(resolve(ctx.ensure_object(dict).get("directory")))
