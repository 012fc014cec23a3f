"""Verbs around this machine's folder and shell: doctor, set, unset, purge, completion."""

from __future__ import annotations

import shlex
import sys
from typing import Any

import click

from pollen.cli import output
from pollen.cli.app import paths_of, with_globals, with_json
from pollen.cli.proposals import here
from pollen.cli.values import DURATION, SIZE
from pollen.errors import error_from
from pollen.paths import Paths
from pollen.plain import escaped, escaped_lines
from pollen.units import human_bytes


def _keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from pollen.runtime.folder import config

    return [key for key in config.MEANINGS if key.startswith(incomplete)]


def _values(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    from pollen.runtime.folder import config

    words = {"log_level": config.LEVELS, "discovery": ("multicast", "static:")}
    words["upgrade.from"] = config.TAKES_FROM
    offered = words.get(str(ctx.params.get("key")), ())
    return [word for word in offered if word.startswith(incomplete)]


@click.command("set")
@click.argument("key", required=False, shell_complete=_keys)
@click.argument("value", required=False, shell_complete=_values)
@with_json
@with_globals
@click.pass_context
def set_command(ctx: click.Context, key: str | None, value: str | None, as_json: bool) -> None:
    """Set KEY to VALUE in this node's config.toml; alone, list the settings.

    Sizes and durations take a unit, lists have commas. A running node reads its settings when it
    is started again.

    \b
    Examples:
      pln set
      pln set memory_bytes 512MiB
      pln set listen 192.0.2.7:60611,[2001:db8::7]:60611
    """
    from pollen.runtime.folder import config

    where = paths_of(ctx)
    if key is None:
        _list_settings(where, as_json)
        return
    config.check_key(key)
    if value is None:
        raise error_from(
            "usage", f"{key} has no value", f"pln set {key} VALUE, or: pln unset {key}"
        )
    _change(where, key, _typed(key, value))


@click.command("unset")
@click.argument("key", shell_complete=_keys)
@with_globals
@click.pass_context
def unset_command(ctx: click.Context, key: str) -> None:
    """Take KEY out of config.toml, so that its default holds.

    \b
    Example:
      pln unset memory_bytes
    """
    _change(paths_of(ctx), key, None)


def _typed(key: str, value: str) -> str | int | list[str]:
    if key.endswith("_bytes"):
        return 0 if value in ("0", "0B") else SIZE.convert(value, None, None)
    if key.endswith("_ms"):
        return 0 if value in ("0", "0s") else DURATION.convert(value, None, None)
    if key.endswith("_percent"):
        return int(click.IntRange(0, 100).convert(value, None, None))  # type: ignore[arg-type]
    if key in ("listen", "http_hosts"):
        return [item for item in value.split(",") if item]
    return value


def _change(where: Paths, key: str, value: str | int | list[str] | None) -> None:
    from pollen import lock, paths
    from pollen.runtime import starting
    from pollen.runtime.folder import config, service

    paths.make_home(where)
    held = config.write_setting(where.config_file, key, value, starting.check)
    click.echo(f"{key} = {_shown(key, config.value_of(held, key))}")
    for address in starting.absent(held, key):
        click.echo(f"hint: this machine does not have the address of {address} now")
    if service.running(where) is None:
        return
    if key in config.AT_ONCE:
        click.echo("hint: it holds from now on")
    elif key in lock.read_flags(where):
        hint = "the running node has it from a flag: pln down, then pln up without it"
        click.echo(f"hint: {here(hint)}")
    else:
        click.echo(here("hint: the running node reads it at: pln restart"))


def _shown(key: str, value: Any) -> str:
    if key.endswith("_bytes"):
        return human_bytes(value)
    if key.endswith("_ms"):
        return f"{value / 1000:g}s"
    return ",".join(value) if isinstance(value, list) else str(value)


def _list_settings(where: Paths, as_json: bool) -> None:
    import msgspec

    from pollen.runtime.folder import config

    held = config.read_config(where.config_file)
    if as_json:
        output.print_json(msgspec.to_builtins(held))
        return
    for key, meaning in config.MEANINGS.items():
        click.echo(f"{key} = {_shown(key, config.value_of(held, key))}")
        click.echo(f"    {meaning}")
    click.echo(f"in {where.config_file}; each is read when the node starts")


@click.command("purge")
@click.option("--include-keys", is_flag=True, help="Also the node's key and the root key.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@with_globals
@click.pass_context
def purge_command(ctx: click.Context, include_keys: bool, yes: bool) -> None:
    """Remove what this node keeps: records, modules, compiled code, logs.

    Its settings stay, and its keys unless --include-keys: with its key it comes back as the same
    node by a new token. The node must be down.

    \b
    Examples:
      pln purge
      pln purge --include-keys --yes
    """
    from pollen import lock, paths
    from pollen.runtime.folder import identity

    where = paths_of(ctx)
    paths.check_home(where)
    pid = lock.read_pid(where)
    if pid is not None:
        raise error_from(
            "already-running", f"the daemon of {where.home} runs with pid {pid}", "pln down"
        )
    for line in _what_falls(where, include_keys):
        click.echo(line)
    if not yes:
        if not output.can_ask():
            raise error_from("usage", "purge asks before it removes anything", "pln purge --yes")
        if not click.confirm("remove all this?"):
            click.echo("nothing was removed")
            ctx.exit(1)
    identity.purge(where, include_keys=include_keys)
    click.echo(f"purged {where.home}")
    if include_keys and where.config_file.exists():
        file = where.config_file
        click.echo(f"hint: the settings stay; without them: rm {shlex.quote(str(file))}")


def _what_falls(where: Paths, include_keys: bool) -> list[str]:
    files = [file for path in where.state() for file in (path, *path.rglob("*"))]
    size = sum(file.lstat().st_size for file in files if file.is_file())
    lines = [f"{where.home}: {human_bytes(size)} of records, modules, code and logs"]
    if include_keys and where.node_key.exists():
        lines.append(f"{where.node_key}: this machine will be another node")
    if include_keys and where.root_key.exists():
        lines.append(f"{where.root_key}: without a copy nobody can make admins of its cluster")
    return lines + _whom_it_leaves(where)


def _whom_it_leaves(where: Paths) -> list[str]:
    """Members that would be without an admin, and what to do first."""
    from pollen.runtime.folder import leaving

    left = leaving.members_without_admin(where)
    if not left:
        return []
    names = ", ".join(left[:3]) + (f" and {len(left) - 3} more" if len(left) > 3 else "")
    return [
        f"the only admin: for {names} nobody could invite, grant, deny or renew any more",
        here(f"hint: first: pln up -d, then: pln grant {left[0]} --admin"),
    ]


@click.command("doctor")
@with_json
@with_globals
@click.pass_context
def doctor_command(ctx: click.Context, as_json: bool) -> None:
    """Look for what is wrong with this machine, its folder and its node, and say what to do.

    Exit code 1 when something does not work; warnings alone are 0.

    \b
    Example:
      pln doctor
    """
    import msgspec

    from pollen.runtime import doctor

    findings = doctor.examine(paths_of(ctx))
    if as_json:
        output.print_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        for finding in findings:
            colour = {"ok": "green", "warning": "yellow", "failure": "red"}[finding.level]
            word = output.coloured(f"{finding.level:<8}", colour, sys.stdout)
            click.echo(f"{word} {finding.name:<11} {here(escaped(finding.text))}")
            for line in escaped_lines(finding.remedy) if finding.remedy else ():
                click.echo(f"{'':<21}{here(line)}")
    ctx.exit(1 if any(finding.level == "failure" for finding in findings) else 0)


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion_command(shell: str) -> None:
    """Print what makes SHELL complete verbs, options and the names of seeds and nodes.

    \b
    Examples:
      eval "$(pln completion bash)"                                in ~/.bashrc
      eval "$(pln completion zsh)"                                 in ~/.zshrc
      pln completion fish > ~/.config/fish/completions/pln.fish    once
    """
    from click.shell_completion import get_completion_class

    from pollen.cli.app import pln

    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(pln, {}, "pln", "_PLN_COMPLETE").source())
