"""Write the functions of a seed for Python's type checkers"""

from __future__ import annotations

from pathlib import Path

import click

from pollen.cli.app import complete_seeds, control_of, with_globals
from pollen.errors import error_from
from pollen.sdk.python.stubs import class_name, module_of


@click.command("stubs")
@click.argument("name", shell_complete=complete_seeds)
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--force", is_flag=True, help="Replace FILE.")
@with_globals
@click.pass_context
def stubs_command(ctx: click.Context, name: str, file: str | None, force: bool) -> None:
    """Write the functions of the seed NAME as Python classes into FILE, or to standard output.

    A type checker and an editor then know what mesh.use(NAME, CLASS) takes and gives. The file
    imports nothing of Pollen, and is made from what the seed says of itself: a Python seed does.

    \b
    Example:
      pln stubs hello hello_seed.py
    """
    from urllib.parse import quote

    state = control_of(ctx).get(f"/v1/seeds/{quote(name, safe='')}")
    if state["seed"] is None:
        raise error_from("seed-not-found", f'no seed "{name}"', "pln status seeds")
    functions = state["description"].get("functions")
    if not isinstance(functions, dict) or not functions:
        reason = f'seed "{name}" says nothing of what its functions take'
        raise error_from("bad-request", reason, "a Python seed does: pln seed FILE.py")
    text = module_of(name, state["seed"]["seed"][:8], functions)
    if file is None:
        click.echo(text, nl=False)
        return
    place = Path(file)
    if place.exists() and not force:
        raise error_from("file-exists", f"{place} is there already", "to replace it: --force")
    try:
        place.write_text(text)
    except OSError as error:
        raise error_from("bad-request", f"{place}: {error.strerror}", "name another") from None
    title = class_name(name)
    click.echo(f"wrote {place}")
    click.echo(f"  use it:  from {place.stem} import {title}; mesh.use({name!r}, {title})")
