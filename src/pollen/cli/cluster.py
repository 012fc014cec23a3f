"""Verbs around the daemon: init, up, down, restart, logs."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import click
from click.core import ParameterSource

from pollen.cli import output
from pollen.cli.app import complete_nodes, complete_seeds, paths_of, with_globals, with_json
from pollen.cli.proposals import here
from pollen.cli.values import DURATION, with_properties
from pollen.errors import PollenError, error_from
from pollen.paths import Paths
from pollen.plain import escaped, tame
from pollen.sdk.control import Control


@click.command("init")
@with_properties("A property of this node")
@click.option("--name", default="", help="The node's name; the machine's by default.")
@with_json
@with_globals
@click.pass_context
def init_command(ctx: click.Context, props: str, name: str, as_json: bool) -> None:
    """Make a new cluster with this machine as its first node.

    Writes a root key, which decides who is an admin. Running it again changes nothing.

    \b
    Examples:
      pln init
      pln init --name attic --prop zone=home
    """
    from pollen.runtime.folder import identity

    where = paths_of(ctx)
    founded = identity.init(where, name, props)
    if as_json:
        output.print_json(
            {"node": founded.node.hex(), "cluster": founded.cluster.hex(), "new": founded.is_new}
        )
        return
    verb = "made" if founded.is_new else "already in"
    click.echo(f"{verb} cluster {founded.cluster.hex()[:8]} as node {founded.node.hex()[:8]}")
    if founded.is_new:
        click.echo(f"hint: the root key is {where.root_key}; keep a copy off this machine")
        click.echo(here("next: pln up -d"))


def _ip(text: str) -> str:
    """An address of ``--ips``, also one in brackets. Raises ``usage``."""
    import ipaddress

    host = text.strip().removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError:
        reason = f"--ips has {text[:80]!r}, which is not an IP address"
        raise error_from("usage", reason, "as in: --ips 192.0.2.7,2001:db8::7") from None
    return host


def _listen(port: int | None, ips: tuple[str, ...]) -> list[str]:
    """The addresses that --port and --ips name; empty is the configured ones."""
    from pollen.runtime.folder.config import DEFAULT_PORT

    if port is None and not ips:
        return []
    port = DEFAULT_PORT if port is None else port
    given = [_ip(text) for held in ips for text in held.split(",") if text]
    hosts = given or ["0.0.0.0", "::"]
    return [f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host in hosts]


@click.command("up")
@click.option("-d", "--detach", is_flag=True, help="Go to the background and return when ready.")
@click.option("--port", type=click.IntRange(0, 65535), help="UDP port for links (60611).")
@click.option("--ips", multiple=True, metavar="IP[,IP…]", help="Listen on these addresses only.")
@click.option("--http", default="", metavar="IP:PORT", help="Also serve public seeds over TCP.")
@click.option("--http-paths", is_flag=True, help="Sites there at /~site/NAME/ as well.")
@click.option("--name", default="", help="The node's name.")
@with_globals
@click.pass_context
def up_command(
    ctx: click.Context,
    detach: bool,
    port: int | None,
    ips: tuple[str, ...],
    http: str,
    http_paths: bool,
    name: str,
) -> None:
    """Start the node here.

    Without -d it stays in the foreground and Ctrl-C ends it. A machine that is in no cluster yet
    starts a new one; to enter an existing one use pln join.

    \b
    Examples:
      pln up -d
      pln up --port 60700 --http 127.0.0.1:8080
    """
    from pollen.runtime import starting
    from pollen.runtime.folder import identity, service, supervised

    where = paths_of(ctx)
    listen = _listen(port, ips)
    # What cannot start must not leave a new cluster behind.
    paths_too = "on" if http_paths else ""
    options = service.StartOptions(listen=listen, http=http, http_paths=paths_too, name=name)
    unit = supervised.of(where)
    if unit is not None and options.settings():
        raise _untaken(where, options)
    held = starting.settings(where, options.settings())
    starting.check(held)
    if service.running(where) is None:
        # The folder of a system's service is its user's: root, who drives it, may not open a store
        # there. A member it is all the same, and the service itself looks closer.
        is_driven = unit is not None and not unit.is_user and where.member_file.exists()
        is_member = is_driven or identity.is_enrolled(where)
        starting.check_addresses(held)
        if not is_member:
            founded = identity.init(where, name)
            new = f"started a NEW cluster {founded.cluster.hex()[:8]}"
            click.echo(f"{new}; {here('to enter an existing one: pln join TOKEN')}", err=True)
    if unit is not None:
        start_supervised(where, unit, "start")
        return
    if detach:
        start_detached(where, options)
        return
    # The daemon replaces this process: one pid, and signals reach it directly.
    os.execv(
        sys.executable, [sys.executable, "-P", "-m", "pollen.runtime", *options.arguments(where)]
    )


def _untaken(where: Paths, options: Any) -> PollenError:
    """The refusal of options where a service is installed, with the lines that set them."""
    lines = [
        f"pln set {key} {','.join(value) if isinstance(value, list) else value}"
        for key, value in options.settings().items()
    ]
    reason = "a service takes its settings from the folder, not from options"
    return error_from("usage", reason, f"set them: {' && '.join(lines)}")


def start_supervised(where: Paths, unit: Any, verb: str) -> None:
    """Have the init system start the node, and wait until it answers."""
    from pollen.runtime.folder import service

    if verb == "start" and service.running(where) is not None:
        pid = service.running(where)
        reason = f"the daemon of {where.home} runs with pid {pid}"
        raise error_from("already-running", reason, "pln status")
    unit.do(verb)
    health = _answering(where, unit, service.START_SECONDS)
    who = f"node {health['name']} ({health['node'][:8]}), pid {health['pid']}"
    click.echo(f"up: {who}, in {where.home}, kept up by {unit.path.name}")


def _answering(where: Paths, unit: Any, seconds: float) -> dict[str, Any]:
    """The health of the node once it answers. Raises ``daemon-not-running`` when it does not."""
    ends = time.monotonic() + seconds
    while True:
        try:
            return Control(where).get("/v1/health")
        except PollenError as error:
            if error.slug != "daemon-not-running":
                raise
        if time.monotonic() > ends or unit.state() == "failed":
            reason = f"{unit.path.name} is {unit.state()}, and the node does not answer"
            raise error_from("daemon-not-running", reason, f"see {where.log_file}")
        time.sleep(0.05)


def start_detached(where: Paths, options: Any = None) -> None:
    """Start the daemon in the background and say where it is."""
    from pollen.runtime.folder import service

    pid = service.start(where, options or service.StartOptions())
    health = Control(where).get("/v1/health")
    click.echo(f"up: node {health['name']} ({health['node'][:8]}), pid {pid}, in {where.home}")


@click.command("down")
@click.option("--force", is_flag=True, help="Do not drain; end at once, by a kill if it is silent.")
@click.option("--grace", type=DURATION, default="5s", show_default=True, help="For calls to end.")
@with_globals
@click.pass_context
def down_command(ctx: click.Context, force: bool, grace: int) -> None:
    """Stop the node here. It leaves every route first, so that no call is lost.

    \b
    Examples:
      pln down
      pln down --force
    """
    from pollen.runtime.folder import service, supervised

    where = paths_of(ctx)
    unit = supervised.of(where)
    is_given = ctx.get_parameter_source("grace") is not ParameterSource.DEFAULT
    if unit is None:
        service.stop(where, 0 if force else grace, drain=not force, is_forced=force)
    elif force or is_given or not unit.takes_grace(where):
        # The manager would end it with the time that its unit has.
        _end_supervised(where, unit, 0 if force else grace if is_given else -1, force)
    elif unit.state() == "active":
        unit.do("stop")
    else:
        _end_supervised(where, unit, grace, force)
    click.echo("down")


def _end_supervised(where: Paths, unit: Any, grace: int, force: bool) -> None:
    """End the node itself, then have its manager leave it so.

    Raises ``daemon-not-running`` when there was neither a node nor a start to come.
    """
    from pollen.runtime.folder import service

    is_known = unit.state() not in ("inactive", "failed", "unknown")
    try:
        service.stop(where, grace, drain=not force, is_forced=force)
    except PollenError as error:
        if error.slug != "daemon-not-running":
            raise
        unit.do("stop")
        if not is_known:
            raise
        return
    # Else it would be started again, as one that failed.
    unit.do("stop")


@click.command("restart")
@with_globals
@click.pass_context
def restart_command(ctx: click.Context) -> None:
    """Stop the detached node and start it again, with the flags of its pln up.

    \b
    Example:
      pln restart
    """
    from pollen.runtime import starting
    from pollen.runtime.folder import service, supervised

    where = paths_of(ctx)
    options = service.options_of(where)
    if (unit := supervised.of(where)) is not None:
        # What the folder says is all that a service takes.
        kept = starting.settings(where, {})
        if starting.settings(where, options.settings()) != kept:
            raise _untaken(where, options)
        options = service.StartOptions()
    # What cannot start must not stop.
    pid = service.running(where)
    settings = starting.settings(where, options.settings())
    starting.check(settings)
    starting.check_addresses(settings, pid)
    has_unit = unit is not None and (pid is None or unit.state() == "active")
    if pid is not None and not (has_unit and unit is not None and unit.takes_grace(where)):
        service.stop(where)
    if unit is not None:
        # A manager that did not see the end yet would not start it by a mere start.
        start_supervised(where, unit, "restart" if has_unit else "start")
        return
    start_detached(where, options)


@click.command("logs")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
@click.option("-n", "--lines", type=click.IntRange(0, 10_000), default=50, show_default=True)
@click.option(
    "--seed", default="", metavar="NAME", shell_complete=complete_seeds, help="Only of this seed."
)
@click.option("--node", metavar="NODE", shell_complete=complete_nodes, help="Of another node.")
@with_json
@with_globals
@click.pass_context
def logs_command(
    ctx: click.Context, follow: bool, lines: int, seed: str, node: str | None, as_json: bool
) -> None:
    """Show the node's log; also when the node is down or silent.

    With --node the log of another one, over its link; that needs an admin's node here.

    \b
    Examples:
      pln logs -n 20
      pln logs -f --seed echo
      pln logs --node attic
    """
    from urllib.parse import quote

    where = paths_of(ctx)
    if node is not None:
        path = f"/v1/nodes/{quote(node, safe='')}/logs"
        _print_others(Control(where), path, f"seed={quote(seed)}", lines, follow, as_json)
        return
    query = f"lines={lines}&follow={'true' if follow else 'false'}&seed={quote(seed)}"
    shown = 0
    try:
        for line in Control(where).lines(f"/v1/logs?{query}"):
            _print_line(line, as_json)
            shown += 1
    except PollenError as error:
        if error.slug not in ("daemon-not-running", "daemon-not-answering"):
            raise
        if where.host:
            # What is in the folder there is for a pln of that machine.
            error.remedy = f"its last lines: {where.command('logs')}\n{error.remedy}"
            raise
        if not where.log_file.exists():
            raise error_from(
                "daemon-not-running", f"there is no log in {where.home}", "start it: pln up -d"
            ) from None
        from pollen.runtime.watch import logs

        for text in logs.tail(where.log_file, lines, seed):
            _print_line(text.encode(), as_json)
            shown += 1
        if error.slug == "daemon-not-answering":
            raise
    if seed and lines and not shown:
        click.echo(here(f"hint: no line is about {seed}; see: pln status seeds"), err=True)


def _print_others(
    control: Control, path: str, query: str, lines: int, follow: bool, as_json: bool
) -> None:
    """Lines of another node; when they are followed, it is asked again each second."""
    from urllib.parse import quote

    after, skip = "", 0
    # Of none the last one is asked for as well, to go on behind it.
    is_shown, lines = lines > 0, max(lines, 1)
    while True:
        since = f"&after={quote(after)}&skip={skip}" if after else f"&lines={lines}"
        for raw in control.lines(f"{path}?{query}{since}"):
            if is_shown:
                _print_line(raw, as_json)
            at = _time_of(raw)
            after, skip = at, skip + 1 if at == after else 1
        if not follow:
            return
        # Where nothing was there to go on from, everything is new from now on.
        is_shown, lines = True, 10_000
        time.sleep(1)


def _time_of(raw: bytes) -> str:
    try:
        return str(json.loads(raw).get("at", ""))
    except ValueError:
        return ""


def _print_line(raw: bytes, as_json: bool) -> None:
    text = raw.decode(errors="replace").rstrip("\n")
    if as_json:
        print(text, flush=True)
        return
    try:
        line = json.loads(text)
    except ValueError:
        print(escaped(text), flush=True)
        return
    line = tame(line)
    at, level, event = (str(line.pop(key, "")) for key in ("at", "level", "event"))
    fields = " ".join(f"{key}={value}" for key, value in line.items() if value not in ("", None))
    print(f"{at[:19].replace('T', ' ')}  {level:<7}  {event}  {fields}".rstrip(), flush=True)
