"""Have systemd or launchd keep the node up"""

from __future__ import annotations

import os
from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import paths_of, with_globals, with_json
from pollen.cli.membership import may_go_on
from pollen.paths import Paths


@click.group("service")
@with_globals
def service_command() -> None:
    """Have systemd or launchd start the node with the machine, and again when it fails.

    Where one is installed, pln up, down and restart drive it.

    \b
    Examples:
      sudo pln service install
      pln service install --user
    """


def _place(ctx: click.Context, is_user: bool) -> Paths:
    """The folder: the one that was named, else /var/lib/pln, or the user's own."""
    from pollen.paths import resolve
    from pollen.runtime.folder import units

    given = ctx.ensure_object(dict).get("directory") or os.environ.get("PLN_DIR")
    return paths_of(ctx) if given or is_user else resolve(str(units.SYSTEM_HOME))


@service_command.command("install")
@click.option("--user", "is_user", is_flag=True, help="For your own user; the node runs as you.")
@click.option("--print", "is_shown", is_flag=True, help="Only print what would be written.")
@with_globals
@click.pass_context
def install_command(ctx: click.Context, is_user: bool, is_shown: bool) -> None:
    """Install a service for the node: of the system, as the user pln, in /var/lib/pln.

    With --user it is one of your own, for the folder of --dir or PLN_DIR, else ~/.pln.

    \b
    Examples:
      sudo pln service install
      pln service install --user --print
    """
    from pollen.runtime.folder import service as detached
    from pollen.runtime.folder import supervised

    where = _place(ctx, is_user)
    if is_shown:
        click.echo(supervised.text_of(supervised.plan(where, is_user=is_user)), nl=False)
        return
    service = supervised.install(where, is_user=is_user)
    click.echo(f"installed {service.path}, for the node in {where.home}")
    if detached.running(where) is not None and service.state() != "active":
        again = f"{'' if is_user else 'sudo '}pln --dir {where.home} restart"
        click.echo(f"the node runs already, without it; to hand it over: {again}")
        return
    if where.member_file.exists():
        service.do("start")
        click.echo("started it")
        return
    become = "" if is_user else "sudo -u pln "
    click.echo(f"next: {become}pln --dir {where.home} join --no-up TOKEN")
    click.echo(f"then: {'' if is_user else 'sudo '}pln --dir {where.home} up")


@service_command.command("uninstall")
@click.option("--user", "is_user", is_flag=True, help="The one of your own user.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_globals
@click.pass_context
def uninstall_command(ctx: click.Context, is_user: bool, yes: bool) -> None:
    """Stop the node, and remove its service. The folder stays, with keys and records.

    \b
    Example:
      sudo pln service uninstall
    """
    from pollen.runtime.folder import supervised

    where = _place(ctx, is_user)
    service = supervised.installed(where)
    if service is None:
        click.echo(f"no service is installed for {where.home}")
        return
    if may_go_on(f"stop the node and remove {service.path}?", yes, "pln service uninstall"):
        service.remove(where)
        click.echo(f"removed {service.path}; the node's folder stays: {where.home}")


@service_command.command("status")
@click.option("--user", "is_user", is_flag=True, help="The one of your own user.")
@with_json
@with_globals
@click.pass_context
def status_command(ctx: click.Context, is_user: bool, as_json: bool) -> None:
    """Show whether a service is installed for the node, and what its manager says.

    \b
    Example:
      pln service status
    """
    from pollen.runtime.folder import service as detached
    from pollen.runtime.folder import supervised

    where = _place(ctx, is_user)
    held, pid = supervised.installed(where), detached.running(where)
    view: dict[str, Any] = {
        "folder": str(where.home),
        "unit": "" if held is None else str(held.path),
        "manager_runs": supervised.runs_manager(),
        "state": held.state() if held is not None and supervised.runs_manager() else "",
        "pid": pid or 0,
    }
    if as_json:
        output.print_json(view)
        return
    click.echo(f"folder   {view['folder']}")
    click.echo(f"service  {view['unit'] or 'none is installed'}")
    if held is not None:
        click.echo(f"manager  {view['state'] or 'none runs on this machine'}")
    click.echo(f"node     {f'pid {pid}' if pid else 'not running'}")
