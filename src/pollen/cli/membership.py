"""What the verbs around membership share: what falls, and whether to go on."""

from __future__ import annotations

import sys
import time
from typing import Any

import click

from pollen.errors import error_from


def falls_lines(falls: list[dict[str, Any]]) -> list[str]:
    """A line for each member that falls with another one."""
    return [f"falls with it: {f['name']} {f['node'][:8]}, {f['why']}" for f in falls]


def may_go_on(question: str, yes: bool, command: str) -> bool:
    """Ask on a terminal; elsewhere nothing goes on without ``--yes``.

    Raises ``usage`` where there is nobody to ask, ``click.Abort`` on a no.
    """
    if yes:
        return True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise error_from("usage", "this takes something away, and asks first", f"{command} --yes …")
    return click.confirm(question, abort=True, err=True)


def until_text(unix_ms: int) -> str:
    """When access ends, to be put behind a line; nothing for never."""
    if not unix_ms:
        return ""
    return time.strftime(", until %Y-%m-%d %H:%M", time.localtime(unix_ms / 1000))
