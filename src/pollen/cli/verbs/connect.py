"""Reach a service of another member at a port of this machine"""

from __future__ import annotations

from pathlib import Path

import click

from pollen.cli import output
from pollen.cli.app import complete_services, control_of, paths_of, with_globals, with_json
from pollen.cli.values import DURATION
from pollen.errors import error_from


@click.command("connect")
@click.argument("service", default="", metavar="NAME[@NODE]", shell_complete=complete_services)
@click.argument("local", default="", metavar="[LOCAL]")
@click.option("--proxy", is_flag=True, help="Every service by name: SOCKS5 and HTTP at LOCAL.")
@click.option("--stdio", is_flag=True, help="One client: standard input and output, no listener.")
@click.option("--any-user", is_flag=True, help="Others than this user may come as well.")
@click.option(
    "--auth",
    metavar="FILE",
    default="",
    help="With --proxy: clients give a user and a password of FILE, lines USER:PASSWORD.",
)
@click.option("--idle", type=DURATION, help="End a client of a UDP service after so long (2m).")
@with_json
@with_globals
@click.pass_context
def connect_command(
    ctx: click.Context,
    service: str,
    local: str,
    proxy: bool,
    stdio: bool,
    any_user: bool,
    auth: str,
    idle: int | None,
    as_json: bool,
) -> None:
    """Let programs of this user reach the service NAME at LOCAL: PORT, IP:PORT or unix:PATH.

    Without LOCAL it is the port of the service on 127.0.0.1, or any port when that is taken. The
    listener stands again after a restart, until `pln disconnect`. Whoever comes through it comes as
    this node.

    With --proxy LOCAL (127.0.0.1:1080) leads to all services: a program that takes a proxy asks it
    for NAME.pln, or NAME--NODE.pln. Other machines may come when --auth names a file on the node's
    machine that only its user reads; what they send goes through their network as it is.

    \b
    Examples:
      pln connect api
      pln connect --proxy
      pln connect --proxy 192.168.1.5:1080 --auth ~/.pln-users
      pln connect db@attic 5433
      ssh -o ProxyCommand='pln connect --stdio ssh@attic' attic
    """
    if proxy:
        # What stands first is where it listens.
        if stdio or local or idle:
            raise error_from(
                "usage", "--proxy takes LOCAL, --any-user, --auth", "pln connect --proxy 1080"
            )
        service, local = "", service
    elif not service:
        raise click.UsageError("Missing argument 'NAME[@NODE]'.")
    if stdio:
        if local or any_user or auth or idle or as_json:
            raise error_from("usage", "--stdio takes no other option and no LOCAL")
        from pollen.sdk import reach

        ctx.exit(reach.join_stdio(paths_of(ctx), service))
    body = {"service": service, "local": local, "any_user": any_user, "idle_ms": idle or 0}
    body["auth"] = str(Path(auth).expanduser().absolute()) if auth else ""
    answer = control_of(ctx).request("POST", "/v1/listeners", body)
    if as_json:
        output.print_json(answer)
        return
    if proxy:
        click.echo(f"a proxy is at {answer['bound']} (SOCKS5, HTTP)")
        click.echo(f"hint: curl -x socks5h://{answer['bound']} http://NAME.pln/", err=True)
        return
    kind = "udp " if answer["datagrams"] else ""
    at = f" of {answer['provider']}" if answer["provider"] else ""
    already = "already " if answer["unchanged"] else ""
    click.echo(f"{answer['service']}{at} is {already}at {kind}{answer['bound']}")
