"""Name machines that ssh reaches, and choose the one that is meant"""

from __future__ import annotations

from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import with_json
from pollen.errors import error_from


def _names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from pollen.sdk import hosts

    return [name for name in (*hosts.read()[1], hosts.LOCAL) if name.startswith(incomplete)]


@click.group("context")
def context_command() -> None:
    """Name machines that ssh reaches, and choose the one that verbs go to.

    \b
    Examples:
      pln context add lab ssh://me@lab.example
      pln context use lab
      pln context use local
    """


@context_command.command("list")
@with_json
def list_command(as_json: bool) -> None:
    """List the contexts; * marks the one in use.

    \b
    Example:
      pln context list
    """
    from pollen.sdk import hosts

    use, held = hosts.read()
    rows = [{"name": hosts.LOCAL, "host": "", "in_use": use == hosts.LOCAL}]
    rows += [{"name": name, "host": held[name], "in_use": name == use} for name in sorted(held)]
    if as_json:
        output.print_json({"contexts": rows})
        return
    told: list[Any] = [
        (f"{row['name']}{'*' if row['in_use'] else ''}", row["host"] or "this machine")
        for row in rows
    ]
    for line in output.table_lines(("CONTEXT", "HOST"), told, drop=(), columns=output.width()):
        click.echo(line)


@context_command.command("use")
@click.argument("name", shell_complete=_names)
def use_command(name: str) -> None:
    """Send verbs to NAME from now on; local is this machine.

    \b
    Examples:
      pln context use lab
      pln context use local
    """
    from pollen.sdk import hosts

    _, held = hosts.read()
    if name != hosts.LOCAL and name not in held:
        raise _unknown(name)
    hosts.write(name, held)
    where = "this machine" if name == hosts.LOCAL else held[name]
    click.echo(f"in use: {name} ({where})")


@context_command.command("add")
@click.argument("name")
@click.argument("host")
def add_command(name: str, host: str) -> None:
    """Name HOST, which is user@host or ssh://user@host:port/folder; ssh is not started.

    ~/.ssh/config holds for it. A folder begins with / or with ~.

    \b
    Examples:
      pln context add lab ssh://me@lab.example
      pln context add attic ssh://me@attic:2222/srv/pln
    """
    from pollen.sdk import hosts

    hosts.check_name(name)
    hosts.parse(host)
    use, held = hosts.read()
    verb = "changed" if name in held else "added"
    hosts.write(use, {**held, name: host})
    click.echo(f"{verb} {name}: {host}")
    click.echo(f"hint: try it: pln -H {name} status; use it always: pln context use {name}")


@context_command.command("remove")
@click.argument("name", shell_complete=_names)
def remove_command(name: str) -> None:
    """Forget NAME; when it is in use, verbs go to this machine again.

    \b
    Example:
      pln context remove lab
    """
    from pollen.sdk import hosts

    use, held = hosts.read()
    if name not in held:
        raise _unknown(name)
    del held[name]
    hosts.write(hosts.LOCAL if use == name else use, held)
    click.echo(f"removed {name}")
    if use == name:
        click.echo(f"in use: {hosts.LOCAL} (this machine)")


def _unknown(name: str) -> Exception:
    return error_from("usage", f"there is no context named {name!r}", "pln context list")
