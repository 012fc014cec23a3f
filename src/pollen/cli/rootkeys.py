"""What the verbs around the root key share: passphrases, sealed files, the node that must know.

A passphrase is typed, or read from a file or a descriptor; there is no option for itself.
"""

from __future__ import annotations

import os
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from pollen.cli import output, paper
from pollen.cli.membership import may_go_on
from pollen.errors import PollenError, error_from
from pollen.sdk.control import Control

if TYPE_CHECKING:
    from pollen.runtime.folder import rootkey

F = TypeVar("F", bound=Callable[..., Any])

# Longer lines are not a passphrase. Characters.
_LINE_MAX = 4096


def with_passphrase(function: F) -> F:
    """Where a passphrase comes from when nobody is there to type it."""
    by_file = click.option(
        "--passphrase-file", metavar="FILE", help="Its first line is the passphrase."
    )
    by_fd = click.option(
        "--passphrase-fd", type=int, metavar="N", help="Read it from this open descriptor."
    )
    return by_file(by_fd(function))


def passphrase_of(file: str | None, descriptor: int | None, *, is_new: bool) -> str:
    """From where it was said; typed on a terminal otherwise, twice for a new one."""
    try:
        if descriptor is not None:
            with os.fdopen(descriptor, encoding="utf-8") as stream:
                return _line(stream.readline(_LINE_MAX))
        if file is not None:
            with Path(file).expanduser().open(encoding="utf-8") as stream:
                return _line(stream.readline(_LINE_MAX))
    except (OSError, ValueError) as error:
        where = file or f"the descriptor {descriptor}"
        reason = f"no passphrase can be read from {where}: {error}"
        raise error_from("usage", reason, "give a file: --passphrase-file FILE") from None
    if not output.can_ask():
        reason = "a passphrase is wanted, and there is no terminal to ask on"
        raise error_from("usage", reason, "give a file: --passphrase-file FILE")
    text = "a passphrase for it" if is_new else "the passphrase of the root key"
    return str(click.prompt(text, hide_input=True, confirmation_prompt=is_new, err=True))


def _line(text: str) -> str:
    return text.rstrip("\r\n")


def opened(file: str, passphrase_file: str | None, passphrase_fd: int | None) -> rootkey.Held:
    """The key in a file, whose passphrase is asked for only when it is sealed."""
    from pollen.runtime.folder import rootkey
    from pollen.runtime.loop.native import RealNative

    text = paper.read(file)

    def ask() -> str:
        return passphrase_of(passphrase_file, passphrase_fd, is_new=False)

    return rootkey.read(paper.between(text, rootkey.AGE), text, ask, RealNative())


def sheet_of(cluster: bytes, root: bytes, block: str) -> str:
    """A sealed key with words above it, as it is written or printed."""
    from pollen.runtime.folder import rootkey

    said = rootkey.words(cluster, root)
    lines = [line for text in said for line in textwrap.wrap(text, 76) or [""]]
    return "\n".join([*lines, "", block])


def tell(control: Control) -> str:
    """Have the running node look again; what is to be said of that."""
    try:
        control.request("POST", "/v1/roots/key", {})
    except PollenError as error:
        if error.slug != "daemon-not-running":
            raise
        return "; the node is not running"
    return "; the node knows it"


def succeed_away(key: str, export: str, out: str, passphrase: str, *, yes: bool) -> None:
    """A successor on a machine without a node: its sealed key, and the answer that makes it one."""
    from pollen.runtime.folder import rootkey
    from pollen.runtime.loop.native import RealNative

    native = RealNative()
    for name in (export, out):
        paper.check_new(name)
    rootkey.check_passphrase(passphrase)
    text = paper.read(key)
    held = rootkey.read(paper.between(text, rootkey.AGE), text, lambda: passphrase, native)
    cluster = held.cluster
    if cluster is None:
        reason = f"{key} is a plain key file, which names no cluster"
        raise error_from("root-file-invalid", reason, "give the file of pln root export")
    question = (
        f"make a new root key of cluster {cluster.hex()[:8]}, signed by {held.root.hex()[:8]}?"
    )
    may_go_on(question, yes, "pln root succeed", "the root signs nothing unasked")
    fresh, secret = rootkey.fresh(native)
    raw = rootkey.succession(held, cluster, fresh.public, time.time_ns())
    answer = rootkey.answer(raw, held, native)
    block = rootkey.seal(secret, cluster, passphrase)
    paper.write_new(export, sheet_of(cluster, fresh.public, block))
    words = ["A pollen root signed its successor. On any node of the cluster: pln root apply FILE"]
    paper.write_new(out, paper.sheet(words, paper.ANSWER, answer))
    click.echo(f"sealed the new root key {fresh.public.hex()[:8]} in {export}", err=True)
