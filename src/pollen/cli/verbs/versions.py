"""List the versions of a name that are kept"""

from __future__ import annotations

import click

from pollen.cli import output
from pollen.cli.app import complete_seeds, control_of, with_globals, with_json
from pollen.cli.proposals import here
from pollen.plain import escaped
from pollen.units import human_bytes

_HEAD = ("VERSION", "SEED", "CONTENT", "SIZE", "COPIES")


@click.command("versions")
@click.argument("name", shell_complete=complete_seeds)
@with_json
@with_globals
@click.pass_context
def versions_command(ctx: click.Context, name: str, as_json: bool) -> None:
    """List the version of NAME that counts, and the former ones that are kept, the newest first.

    pln seed --keep says how many stay. COPIES: on how many nodes a version is ready now.

    \b
    Example:
      pln versions my-site
    """
    found = control_of(ctx).versions(name)
    if as_json:
        output.print_json(found)
        return
    current, *former = found["versions"]
    rows = [
        (
            f"{held['number']}" + (" now" if held is current else ""),
            held["seed"][:8],
            held["content"][:8],
            human_bytes(held["size_bytes"]),
            str(held["copies"]),
        )
        for held in (current, *former)
    ]
    for line in output.table_lines(_HEAD, rows, columns=output.width()):
        click.echo(line)
    if former:
        named = escaped(found["name"])
        click.echo(here(f"hint: back to one of them: pln rollback {named} VERSION"))
    else:
        click.echo("no former version is kept")
