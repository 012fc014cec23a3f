"""An upgrade of nodes on other machines: one at a time, over the user's own ssh.

Decides: the order, and that the first failure ends it.
Does not know: how one node is upgraded; that is ``pln upgrade`` there.
Invariants: no node is begun before the one before it is healthy again. What was done and what was
    not is said in any case.
Source: docs/guide/upgrade.md.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator, Sequence

import click

from pollen import recorded
from pollen.cli import remote
from pollen.errors import PollenError, error_from
from pollen.paths import Paths, contexts_file
from pollen.plain import escaped
from pollen.sdk import hosts


def far(where: Paths, source: str | None, options: Sequence[str]) -> int:
    """Upgrade the node of another machine; its exit code. A wheel of this machine goes along.

    Raises ``wheel-invalid`` when it cannot be read, ``unreachable`` and ``denied``.
    """
    with opened(source) as stdin:
        return _sent(where, stdin, options)


def _sent(where: Paths, wheel: int, options: Sequence[str]) -> int:
    """``wheel`` is a descriptor of it, which is read from its beginning; DEVNULL for none."""
    line = ["upgrade", *options]
    if wheel != subprocess.DEVNULL:
        line += ["--", "-"]
        os.lseek(wheel, 0, os.SEEK_SET)
    return remote.run_there(where, line, stdin=wheel)


@contextlib.contextmanager
def opened(source: str | None) -> Iterator[int]:
    """A descriptor of the wheel that the user named; ``DEVNULL`` for none.

    Raises ``usage`` for standard input and ``wheel-invalid`` for what cannot be read again.
    """
    if source is None:
        yield subprocess.DEVNULL
        return
    if source == "-":
        reason = "standard input can be read once, and not by another machine"
        raise error_from("usage", reason, "name a wheel file")
    try:
        file = open(source, "rb")  # noqa: SIM115, PTH123 - closed below
    except OSError as error:
        reason = recorded.unread(source, error)
        raise error_from("wheel-invalid", reason, "name a file that ends with .whl") from None
    with file:
        if not file.seekable():
            reason = f"{source} can be read once, as a pipe can"
            raise error_from("wheel-invalid", reason, "name a file that ends with .whl")
        yield file.fileno()


def all_contexts(ctx: click.Context, source: str | None, options: Sequence[str]) -> None:
    """Upgrade the node of each context in turn. Raises ``usage`` when there is none, and
    ``upgrade-failed`` with who is upgraded and who is not."""
    if ctx.ensure_object(dict).get("host") or ctx.ensure_object(dict).get("directory"):
        raise error_from("usage", "--all is for each context, so -H and --dir have no place", "")
    held = hosts.read()[1]
    if not held:
        reason = f"there are no contexts in {contexts_file()}"
        raise error_from("usage", reason, "name the machines first: pln context add NAME HOST")
    done: list[str] = []
    # Opened once: a file that is replaced meanwhile would give the nodes two versions.
    with opened(source) as wheel:
        for name, host in held.items():
            click.echo(f"{escaped(name)}: {escaped(host)}")
            if why := _tried(host, wheel, options):
                left = [left for left in held if left not in (*done, name)]
                raise _stopped(name, why, done, left)
            done.append(name)
    verb = "could be upgraded" if "--dry-run" in options else "upgraded, or were so already"
    click.echo(f"{verb}: {escaped(', '.join(done))}")


def _tried(host: str, wheel: int, options: Sequence[str]) -> str:
    """Why it failed there; empty when it did not."""
    try:
        code = _sent(hosts.parse(host), wheel, options)
    except PollenError as error:
        return error.reason
    except OSError as error:
        return recorded.unread("the wheel", error)
    except KeyboardInterrupt:
        return "you interrupted it here; what was begun there may go on"
    return f"pln upgrade there ended with {code}" if code else ""


def _stopped(name: str, why: str, done: list[str], left: list[str]) -> PollenError:
    told = [f"upgraded: {', '.join(done)}"] if done else ["none was upgraded before it"]
    told += [f"not begun: {', '.join(left)}"] if left else []
    remedy = f"{'; '.join(told)}\nlook there: pln -H {name} status; then run it again"
    return error_from("upgrade-failed", f"{name} failed: {why}", remedy)
