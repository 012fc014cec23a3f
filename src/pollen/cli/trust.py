"""Verbs around identity: id, invite, join, version."""

from __future__ import annotations

from pathlib import Path

import click

from pollen.cli import output
from pollen.cli.app import control_of, paths_of, with_globals, with_json
from pollen.cli.cluster import start_detached, start_supervised
from pollen.cli.values import DURATION, read_input, with_properties
from pollen.errors import Conflict, PollenError, error_from
from pollen.paths import Paths


@click.command("id")
@with_json
@with_globals
@click.pass_context
def id_command(ctx: click.Context, as_json: bool) -> None:
    """Print this node's public key; makes one on first use.

    \b
    Example:
      pln id
    """
    from pollen.runtime.folder import identity

    node = identity.node_id(paths_of(ctx)).hex()
    if as_json:
        output.print_json({"node": node})
    else:
        click.echo(node)


@click.command("invite")
@click.option("--subject", default="", metavar="KEY", help="Only this node's key may use it.")
@click.option("--ttl", type=DURATION, default="5m", show_default=True, help="How long it is good.")
@click.option("--expire-after", type=DURATION, help="End the new member's access after this time.")
@click.option(
    "--lease", type=DURATION, help="How long it stays a member without contact to an admin (30d)."
)
@click.option("--publisher", is_flag=True, help="The new member may publish seeds.")
@click.option("--admin", is_flag=True, help="The new member may also invite others.")
@with_properties("A property of the new member")
@with_json
@with_globals
@click.pass_context
def invite_command(
    ctx: click.Context,
    subject: str,
    ttl: int,
    expire_after: int | None,
    lease: int | None,
    publisher: bool,
    admin: bool,
    props: str,
    as_json: bool,
) -> None:
    """Make a token with which another machine joins. Good for one use, here, for a short time.

    \b
    Examples:
      pln invite
      pln invite --publisher --prop zone=home --ttl 1h
      pln invite | ssh pi pln join -
    """
    body = {
        "subject": subject,
        "ttl_ms": ttl,
        "tier": "admin" if admin else "publisher" if publisher else "leaf",
        "properties": props,
        "access_ms": expire_after or 0,
        "lease_ms": lease or 0,
    }
    answer = control_of(ctx).request("POST", "/v1/invites", body)
    if as_json:
        output.print_json(answer)
        return
    click.echo(answer["token"])
    use = "once" if answer["single_use"] else f"by {subject[:8]}"
    where = ", ".join(answer["addresses"])
    grade = f"{answer['tier']}, to be used {use} within {output.human_age(ttl)} at {where}"
    click.echo(f"hint: {grade}", err=True)


@click.command("join")
@click.argument("token")
@click.option("--no-up", is_flag=True, help="Enrol only; do not start the node.")
@click.option("--name", default="", help="The node's name; the machine's by default.")
@click.option("--yes", is_flag=True, help="Replace a cluster of one node without asking.")
@with_json
@with_globals
@click.pass_context
def join_command(
    ctx: click.Context, token: str, no_up: bool, name: str, yes: bool, as_json: bool
) -> None:
    """Join a cluster with a TOKEN (or - for stdin, @file), and start the node detached.

    A cluster that this machine started and never shared is replaced, after a question.

    \b
    Examples:
      pln join pln1…
      pln invite | ssh pi pln join -
    """
    from pollen.runtime.folder import enrol, service, supervised

    where = paths_of(ctx)
    if token == "-" or token.startswith("@"):
        token = read_input(token).decode(errors="replace")
    token = token.strip()
    if not no_up and service.running(where) is None:
        _check_ports(where)
    try:
        joined = enrol.join(where, token, name, replace=yes)
    except Conflict as conflict:
        if yes or "alone" not in conflict.reason or not output.can_ask():
            raise
        click.confirm(f"{conflict.reason}; replace that cluster?", abort=True, err=True)
        if service.running(where) is not None:
            service.stop(where)
        joined = enrol.join(where, token, name, replace=True)
    except PollenError as error:
        if error.slug != "already-running":
            raise
        # Stopping it is not all: a cluster that was shared is not left by joining another.
        remedy = (
            "pln down\nthen join again: a cluster of this node alone is replaced, another is not"
        )
        raise error_from(error.slug, error.reason, remedy) from None
    if as_json:
        output.print_json({"node": joined.node.hex(), "cluster": joined.cluster.hex()})
    else:
        cluster, node = joined.cluster.hex()[:8], joined.node.hex()[:8]
        click.echo(f"joined cluster {cluster} as node {node} ({joined.tier})")
    if not no_up and service.running(where) is None:
        try:
            if (unit := supervised.of(where)) is not None:
                start_supervised(where, unit, "start")
            else:
                start_detached(where, service.StartOptions(name=name))
        except PollenError as error:
            raise _member_all_the_same(error) from None


def _check_ports(where: Paths) -> None:
    """What could not start must not use up a token."""
    from pollen.runtime.folder import config, ports

    listen = config.read_config(where.config_file).listen
    try:
        ports.check_free(listen)
    except PollenError as error:
        free = ",".join(ports.next_free(listen))
        remedy = f"the token is not used up; take another port, then join: pln set listen {free}"
        raise error_from(error.slug, error.reason, remedy) from None


def _member_all_the_same(error: PollenError) -> PollenError:
    """The token is used up: joining again is not what to do when the start fails."""
    how = f"{error.remedy}\nthen start it with: pln up -d"
    if error.slug == "port-in-use":
        how = "start it with: pln up -d --port N"
    return error_from(error.slug, error.reason, f"this machine is a member now; {how}")


@click.command("version")
@click.option("--short", is_flag=True, help="The number only.")
@with_json
@with_globals
@click.pass_context
def version_command(ctx: click.Context, short: bool, as_json: bool) -> None:
    """Print the version of pollen and of what it is built on.

    \b
    Example:
      pln version --short
    """
    import platform

    from pollen import __version__

    if short:
        click.echo(__version__)
        return
    try:
        from pollen import _native

        native = _native.engine_version()
    except ImportError:
        native = "not installed"
    facts = {"pollen": __version__, "python": platform.python_version(), "native": native}
    facts["from"] = str(Path(__file__).parents[1])
    if as_json:
        output.print_json(facts)
        return
    for key, value in facts.items():
        click.echo(f"{key:<7} {value}")
