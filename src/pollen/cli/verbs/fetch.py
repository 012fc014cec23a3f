"""Fetch a blob into a file, or a site into a folder"""

from __future__ import annotations

from pathlib import Path

import click

from pollen.cli import output, progress
from pollen.cli.app import complete_seeds, control_of, with_globals, with_json
from pollen.cli.values import RATE
from pollen.units import human_bytes


@click.command("fetch")
@click.argument("name", shell_complete=complete_seeds)
@click.argument("dest", default="", metavar="[DEST]")
@click.option("--force", is_flag=True, help="Replace what is there; of a site, the whole folder.")
@click.option(
    "--bwlimit",
    type=RATE,
    default=0,
    metavar="RATE",
    help="How much may come from other nodes in a second, for instance 2MiB.",
)
@with_json
@with_globals
@click.pass_context
def fetch_command(
    ctx: click.Context, name: str, dest: str, force: bool, bwlimit: int, as_json: bool
) -> None:
    """Fetch the blob NAME, or the one with this hash, into DEST: a file, a folder, or - for stdout.

    Without DEST it is a file of that name here. A site becomes a folder, and on stdout a tar file.
    What is not on this node comes from its holders, several at once, and every byte is checked
    against the blob's hash.

    \b
    Examples:
      pln fetch film.mp4
      pln fetch film.mp4 ~/films
      pln fetch photos.tar - | tar x
      pln fetch my-site ./public
      pln fetch film.mp4 --bwlimit 500KiB
    """
    from pollen.sdk import files

    wanted = None if dest == "-" else Path(dest or name)
    with progress.shown(f"fetching {name}", as_json=as_json) as tell:
        size, place, count = files.fetch(
            control_of(ctx), name, wanted, tell, force=force, bytes_per_s=bwlimit
        )
    if place is None:
        return
    if as_json:
        told = {"name": name, "file": str(place), "size_bytes": size}
        output.print_json(told if count is None else {**told, "files": count})
        return
    what = human_bytes(size) if count is None else f"{count} file" + "s" * (count != 1)
    click.echo(f"fetched {name} into {place} ({what})")
