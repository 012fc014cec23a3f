"""What the verbs around membership share: what falls, and whether to go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import click

from pollen.errors import error_from

F = TypeVar("F", bound=Callable[..., Any])


def falls_lines(falls: list[dict[str, Any]]) -> list[str]:
    """A line for each member that falls with another one."""
    return [f"falls with it: {f['name']} {f['node'][:8]}, {f['why']}" for f in falls]


def may_go_on(
    question: str, yes: bool, command: str, why: str = "this takes something away, and asks first"
) -> bool:
    """Ask on a terminal; elsewhere nothing goes on without ``--yes``: ``why`` says so.

    Raises ``usage`` where there is nobody to ask, ``click.Abort`` on a no.
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise error_from("usage", why, f"{command} --yes …")
    return click.confirm(question, abort=True, err=True)


def until_text(unix_ms: int) -> str:
    """When access ends, to be put behind a line; nothing for never."""
    if not unix_ms:
        return ""
    return time.strftime(", until %Y-%m-%d %H:%M", time.localtime(unix_ms / 1000))


def with_request(function: F) -> F:
    """``--request``: what only the root may do is asked of it on another machine."""
    return click.option(
        "--request",
        "request_file",
        metavar="FILE",
        help="Change nothing; write a request for the root to sign: pln root sign.",
    )(function)


def write_request(answer: dict[str, Any], name: str, words: str) -> None:
    """Write what the root is asked to sign to a new file, or to standard output for ``-``."""
    import base64

    from pollen.cli import paper

    said = [f"A request to the root of a pollen cluster: {words}."]
    said += ["Where the root key is, be it without a network: pln root sign FILE"]
    raw = base64.b64decode(answer["request"])
    paper.write_new(name, paper.sheet(said, paper.REQUEST, raw))
    if name != "-":
        click.echo(f"wrote {name}; where the root key is: pln root sign {name}", err=True)
