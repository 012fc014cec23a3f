"""Serve what listens here to other members, under a name"""

from __future__ import annotations

import click

from pollen.cli import output
from pollen.cli.app import control_of, with_globals, with_json
from pollen.cli.values import DURATION, PAIR


@click.command("serve")
@click.argument("target", metavar="TARGET")
@click.argument("name")
@click.option(
    "--allow-prop", "allow", type=PAIR, multiple=True, metavar="KEY=VALUE", help="Members need it."
)
@click.option(
    "--allow", "allow_if", default="", metavar="EXPR", help="Must be true of a member that comes."
)
@click.option("--beside", is_flag=True, help="Together with the nodes that serve the name already.")
@click.option("--take-over", is_flag=True, help="Instead of the nodes that serve the name already.")
@click.option(
    "--proxy-header", is_flag=True, help="Tell the service who comes: PROXY protocol, version 2."
)
@click.option("--idle", type=DURATION, help="End a client of a UDP service after so long (2m).")
@click.option(
    "--check", default="", metavar="CHECK", help="tcp or http:/PATH: go elsewhere while it fails."
)
@click.option("--check-every", type=DURATION, help="From one check to the next (10s).")
@click.option("--check-timeout", type=DURATION, help="How long a check may take (2s).")
@with_json
@with_globals
@click.pass_context
def serve_command(
    ctx: click.Context,
    target: str,
    name: str,
    allow: tuple[tuple[str, str], ...],
    allow_if: str,
    beside: bool,
    take_over: bool,
    proxy_header: bool,
    idle: int | None,
    check: str,
    check_every: int | None,
    check_timeout: int | None,
    as_json: bool,
) -> None:
    """Let members reach TARGET under NAME: [tcp:|udp:]PORT, [tcp:|udp:]HOST:PORT or unix:PATH.

    A port alone is one of the node's machine. The service stays served after a restart, until
    `pln unserve`.

    With --check the node connects to the service every now and then, or asks it for PATH and takes
    a status from 200 to 399. A provider that failed three times in a row is tried last, until it
    passed twice.

    \b
    Examples:
      pln serve 8080 api
      pln serve udp:53 dns --allow-prop team=home
      pln serve 8080 api --beside --check http:/healthz --check-every 5s
      pln serve 192.168.1.9:80 printer --allow 'caller.tier == "admin"'
      pln serve unix:/run/postgresql/.s.PGSQL.5432 db
    """
    body = {
        "name": name,
        "target": target,
        "allow": [list(pair) for pair in allow],
        "allow_if": allow_if,
        "beside": beside,
        "take_over": take_over,
        "proxy_header": proxy_header,
        "idle_ms": idle or 0,
        "check": check,
        "check_every_ms": check_every or 0,
        "check_timeout_ms": check_timeout or 0,
    }
    answer = control_of(ctx).request("POST", "/v1/services", body)
    if as_json:
        output.print_json(answer)
        return
    kind = "udp " if answer["datagrams"] else ""
    word = "serves" if not answer["unchanged"] else "serves already"
    click.echo(f"{answer['providers'][0]} {word} {kind}{answer['target']} as {name}")
    if len(answer["providers"]) > 1:
        click.echo(f"so do: {', '.join(answer['providers'][1:])}")
    click.echo(f"hint: on another member: pln connect {name}", err=True)
