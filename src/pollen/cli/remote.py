"""Verbs whose node is on another machine: which go there, how, and which do not.

Decides: for each verb whether it speaks with that node's sockets, is run there by ssh, is refused
with the line to type, or has nothing to do with a node.
Does not know: how a socket is reached (``pollen.sdk.far``).
Invariants: ``WAYS`` has every verb. Nothing that was meant for another machine happens here.
Source: docs/design/cli.md#other-machines.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
from enum import Enum
from typing import Final

import click

from pollen.cli import proposals
from pollen.errors import PollenError, error_from, error_from_dict
from pollen.paths import Paths
from pollen.plain import escaped
from pollen.sdk import hosts

# Bytes that a verb which runs there may print, in all. Guess: findings and settings are some KiB.
_PRINTS: Final = 4 << 20
# Seconds between two looks whether ssh has ended, while something else holds its stderr. Guess.
_LOOK: Final = 0.05
_PIECE: Final = 64 * 1024
# The far pln acts on its own machine, whatever context its user has in use.
_FAR_PLN: Final = f"env PLN_HOST={hosts.LOCAL} pln"


class Way(Enum):
    """How a verb gets to a node of another machine."""

    # Over the node's own sockets; files that the line names are of this machine.
    SOCKETS = "sockets"
    # Run there by ssh: it is about that machine's folder or process, and asks nothing.
    SSH = "ssh"
    # Run there by ssh as well, by the verb itself: a file of this machine goes along.
    CARRIED = "ssh with a file"
    # Refused with the line to type: it makes a member or a process, shows secrets or removes.
    BY_HAND = "by hand"
    # About no node.
    HERE = "here"


WAYS: dict[str, Way] = {
    "init": Way.BY_HAND,
    "up": Way.BY_HAND,
    "down": Way.SSH,
    "restart": Way.SSH,
    "logs": Way.SOCKETS,
    "id": Way.SSH,
    "invite": Way.SOCKETS,
    "join": Way.BY_HAND,
    "audit": Way.SOCKETS,
    "bootstrap": Way.SOCKETS,
    "connect": Way.SOCKETS,
    "context": Way.HERE,
    "deny": Way.SOCKETS,
    "disconnect": Way.SOCKETS,
    "grant": Way.SOCKETS,
    "members": Way.SOCKETS,
    "ping": Way.SOCKETS,
    "props": Way.SOCKETS,
    "root": Way.BY_HAND,
    "set-policy": Way.SOCKETS,
    "serve": Way.SOCKETS,
    "service": Way.BY_HAND,
    "top": Way.SOCKETS,
    "undeny": Way.SOCKETS,
    "fetch": Way.SOCKETS,
    "unserve": Way.SOCKETS,
    "upgrade": Way.CARRIED,
    "seed": Way.SOCKETS,
    "unseed": Way.SOCKETS,
    "versions": Way.SOCKETS,
    "rollback": Way.SOCKETS,
    "reseal": Way.SOCKETS,
    "pin": Way.SOCKETS,
    "unpin": Way.SOCKETS,
    "stubs": Way.SOCKETS,
    "new": Way.HERE,
    "run": Way.HERE,
    "call": Way.SOCKETS,
    "load": Way.SOCKETS,
    "status": Way.SOCKETS,
    "inspect": Way.SOCKETS,
    "why": Way.SOCKETS,
    "doctor": Way.SSH,
    "set": Way.SSH,
    "unset": Way.SSH,
    "purge": Way.BY_HAND,
    "completion": Way.HERE,
    "demo": Way.HERE,
    "sim": Way.HERE,
    "version": Way.HERE,
}


def way_of(verb: str) -> Way:
    """The way of a verb; one that the table lacks is not run from afar."""
    return WAYS.get(verb, Way.BY_HAND)


def paths_of(ctx: click.Context) -> Paths:
    """The node that flags, environment and context mean. Raises ``usage``."""
    held = ctx.ensure_object(dict)
    if "paths" not in held:
        held["paths"] = hosts.chosen(held.get("host"), held.get("directory"))
        held["label"] = held.get("host") or os.environ.get("PLN_HOST") or hosts.read()[0]
        flag, folder = held.get("host"), held.get("directory")
        if flag is not None or held["paths"].host:
            proposals.remember_host(flag, folder, held["paths"], way_of)
    found = held["paths"]
    assert isinstance(found, Paths)
    return found


def check(ctx: click.Context, line: list[str]) -> int | None:
    """Before a verb runs: None to go on, or the exit code of one that was run there.

    ``line`` is the verb with its arguments as typed. Raises ``usage`` for one that is refused.
    """
    held, way = ctx.ensure_object(dict), way_of(line[0])
    if way is Way.HERE:
        if held.get("host") not in (None, hosts.LOCAL):
            reason = f"pln {line[0]} is about no node, so it has no host"
            raise error_from("usage", reason, f"leave out -H: pln {line[0]} --help")
        return None
    paths = paths_of(ctx)
    if not paths.host:
        return None
    if way is Way.BY_HAND:
        raise _by_hand(held.get("host"), paths, without_place(line))
    if way is Way.SSH:
        if not held.get("json"):
            say_where(held["label"])
        return run_there(paths, without_place(line), is_exact=bool(held.get("json")))
    if way is Way.CARRIED:
        return None
    if not held.get("json"):
        from pollen.sdk import far

        label = held["label"]
        far.arrivals.append(lambda _, machine: say_where(label, machine))
    return None


def say_where(label: str, machine: str = "") -> None:
    """The machine as the user named it, and the name that it has for itself."""
    host = label.removeprefix("ssh://")
    known = f" ({machine})" if machine and machine not in host else ""
    click.echo(f"on {escaped(host)}{known}", err=True)


def _by_hand(flag: str | None, paths: Paths, line: list[str]) -> PollenError:
    verb, host = line[0], paths.host.removeprefix("ssh://")
    remedy = f"there: {paths.command(shlex.join(line))}"
    if flag is None:
        source = "PLN_HOST names" if os.environ.get("PLN_HOST") else "the context in use is"
        reason = f"pln {verb} does not go to another machine, and {source} {host}"
        return error_from("usage", reason, f"{remedy}\nhere: pln -H local {shlex.join(line)}")
    return error_from("usage", f"pln {verb} does not go to another machine ({host})", remedy)


def without_place(line: list[str]) -> list[str]:
    """The words of a line that are not ``-H`` or ``--dir``."""
    kept: list[str] = []
    rest = iter(line)
    for word in rest:
        if word == "--":
            return [*kept, word, *rest]
        if word in ("-H", "--host", "--dir"):
            next(rest, None)
        elif not word.startswith(("--host=", "--dir=")) and not (
            word.startswith("-H") and not word.startswith("--")
        ):
            kept.append(word)
    return kept


def run_there(
    paths: Paths, line: list[str], *, is_exact: bool = False, stdin: int = subprocess.DEVNULL
) -> int:
    """Run ``pln LINE`` on the node's machine, show what it prints, return its exit code.

    ``stdin`` is a file of this machine, to be its standard input.

    Commands in what it prints are made to go there, unless ``is_exact``: it is for a program.
    Raises ``unreachable`` or ``denied`` when ssh does not get there.
    """
    from pollen.sdk import diagnosis, tunnel

    try:
        command = tunnel.ssh_line(paths, shlex.join(line), _FAR_PLN)
        code, printed, errors = _heard(paths, command, stdin)
    except (OSError, ValueError) as error:
        reason = f"ssh cannot be started: {error}"
        raise error_from("unreachable", reason, "install OpenSSH, or set PLN_SSH") from None
    said = errors.decode(errors="replace")
    if code in (126, 127, diagnosis.SSH_FAILED):
        raise error_from_dict(diagnosis.of_ssh(paths, code, said))
    for text, is_error in ((printed.decode(errors="replace"), False), (said, True)):
        click.echo(text if is_exact else _from_here(paths, text), nl=False, err=is_error)
    return code


def _heard(paths: Paths, command: list[str], stdin: int) -> tuple[int, bytes, bytes]:
    """Run ssh; its code, stdout and stderr. Raises ``unreachable`` when it prints too much.

    It ends with ssh itself: a master that ssh leaves behind may hold its stderr for much longer.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=stdin, stdout=pipe, stderr=pipe, bufsize=0) as ssh:
        assert ssh.stdout and ssh.stderr
        said = {ssh.stdout.fileno(): bytearray(), ssh.stderr.fileno(): bytearray()}
        poll = select.poll()
        for descriptor in said:
            poll.register(descriptor, select.POLLIN)
        left = len(said)
        try:
            while left:
                # Looked at first: what ssh wrote before its end is in the pipes by then.
                is_over = ssh.poll() is not None
                ready = poll.poll(0 if is_over else _LOOK * 1000)
                if is_over and not ready:
                    break
                for descriptor, _ in ready:
                    data = os.read(descriptor, _PIECE)
                    said[descriptor] += data
                    if not data:
                        poll.unregister(descriptor)
                        left -= 1
                if sum(map(len, said.values())) > _PRINTS:
                    raise _prints_too_much(paths)
            code = ssh.wait()
        except BaseException:
            ssh.kill()
            raise
    printed, errors = said.values()
    return code, bytes(printed), bytes(errors)


def _prints_too_much(paths: Paths) -> PollenError:
    host, most = paths.host.removeprefix("ssh://"), _PRINTS >> 20
    remedy = f"what was asked may have been done: look there with: {paths.ssh()}"
    return error_from("unreachable", f"{host} printed more than {most} MiB", remedy)


def _from_here(paths: Paths, text: str) -> str:
    """A text of the far pln, whose commands are for its machine, as one of ours."""
    if paths.is_given:
        # It was given the folder, and names it in each command; so shall ``proposals``.
        text = text.replace(f"pln --dir {shlex.quote(str(paths.home))} ", "pln ")
    return proposals.here(text)
