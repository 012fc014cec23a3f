"""Show what admins did, to whom and when"""

from __future__ import annotations

import time

import click

from pollen.cli import output
from pollen.cli.app import control_of, with_globals, with_json


@click.command("audit")
@click.option("-n", "most", type=click.IntRange(1, 100_000), default=50, show_default=True)
@with_json
@with_globals
@click.pass_context
def audit_command(ctx: click.Context, most: int, as_json: bool) -> None:
    """Show the last acts of admins, the newest first. Each was signed by who did it.

    They are kept for a year, on every node.

    \b
    Example:
      pln audit -n 10
    """
    acts = control_of(ctx).get(f"/v1/audit?most={most}")["acts"]
    if as_json:
        output.print_json(acts)
        return
    if not acts:
        click.echo("no admin has done anything yet that is kept")
    for act in acts:
        at = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(act["at_unix_ms"] / 1000))
        subject = f"{act['subject_name']} {act['subject'][:8]}"
        detail = f": {act['detail']}" if act["detail"] else ""
        click.echo(f"{at}  {act['by_name']}  {act['verb']} {subject}{detail}")
