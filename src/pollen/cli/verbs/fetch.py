"""Fetch a blob into a file"""

from __future__ import annotations

from pathlib import Path

import click

from pollen.cli import output, progress
from pollen.cli.app import complete_seeds, control_of, with_globals, with_json
from pollen.units import human_bytes


@click.command("fetch")
@click.argument("name", shell_complete=complete_seeds)
@click.argument("dest", default="", metavar="[DEST]")
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@with_json
@with_globals
@click.pass_context
def fetch_command(ctx: click.Context, name: str, dest: str, force: bool, as_json: bool) -> None:
    """Fetch the blob NAME, or the one with this hash, into DEST: a file, a folder, or - for stdout.

    Without DEST it is a file of that name here. What is not on this node comes from its holders,
    several at once, and every byte is checked against the blob's hash.

    \b
    Examples:
      pln fetch film.mp4
      pln fetch film.mp4 ~/films
      pln fetch photos.tar - | tar x
    """
    from pollen.sdk import files

    place = None if dest == "-" else Path(dest or name)
    if place is not None and place.is_dir():
        place /= name
    with progress.shown(f"fetching {name}", as_json=as_json) as tell:
        size = files.fetch(control_of(ctx), name, place, tell, force=force)
    if as_json and place is not None:
        output.print_json({"name": name, "file": str(place), "size_bytes": size})
    elif place is not None:
        click.echo(f"fetched {name} into {place} ({human_bytes(size)})")
