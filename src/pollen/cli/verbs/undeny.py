"""Let a denied member in again, with what it had"""

from __future__ import annotations

import click

from pollen.cli import output
from pollen.cli.app import control_of, with_globals, with_json
from pollen.cli.membership import with_request, write_request
from pollen.cli.paper import check_new


@click.command("undeny")
@click.argument("peer")
@with_request
@with_json
@with_globals
@click.pass_context
def undeny_command(ctx: click.Context, peer: str, request_file: str | None, as_json: bool) -> None:
    """Let PEER in again, and those that fell with it: a name or the first digits of an id.

    Who denied it may, and who has the root key. A node that was denied comes back by itself within
    two minutes while it runs, and at its next start otherwise.

    \b
    Example:
      pln undeny old-laptop
    """
    if request_file is not None:
        check_new(request_file)
        wish = {"target": peer, "by_root": True}
        answer = control_of(ctx).request("POST", "/v1/undenies", wish)
        write_request(answer, request_file, f"to let {answer['name']} in again")
        return
    granted = control_of(ctx).request("POST", "/v1/undenies", {"target": peer})
    if as_json:
        output.print_json(granted)
    else:
        click.echo(f"{granted['name']} {granted['node'][:8]} is a member again, {granted['tier']}")
