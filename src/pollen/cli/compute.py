"""Verbs around seeds: seed, unseed."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from pollen.cli import output, progress
from pollen.cli.app import (
    complete_seeds,
    control_of,
    with_globals,
    with_json,
)
from pollen.cli.membership import may_go_on
from pollen.cli.options import flags_typed, options_given, with_options
from pollen.cli.proposals import here
from pollen.cli.published import print_place, print_seeded, settled
from pollen.errors import Ambiguous, PollenError, error_from
from pollen.plain import escaped
from pollen.sdk.control import Control
from pollen.sdk.python.kinds import KINDS, kind_of
from pollen.sdk.python.publish import Made, Wish, prepare, publish
from pollen.sdk.sites import Manner
from pollen.units import human_bytes

# How often a watched file is looked at, and how long it must rest.
_WATCH_SECONDS = 0.2
# After so long a user is told what takes its time. Guess: people wonder after two.
_WORD_SECONDS = 2.0


@click.command("seed")
@click.argument("source")
@click.argument("name", required=False)
@with_options
@click.option("-m", "is_package", is_flag=True, help="SOURCE is the name of a Python package.")
@click.option("--kind", type=click.Choice(KINDS), default=None, help="What SOURCE is.")
@click.option("--requirements", metavar="FILE", help="Packages that Python code wants, for pip.")
@click.option("--spa", is_flag=True, help="Of a site: its first page answers for routes, too.")
@click.option("--dot-files", is_flag=True, help="Of a site: files with a leading dot belong to it.")
@click.option(
    "--links", is_flag=True, help="Of a site: links within the folder are what they name."
)
@click.option(
    "--header",
    "headers",
    metavar="NAME: VALUE",
    multiple=True,
    help="Of a site: said with every file; again for more.",
)
@click.option("--take-over", is_flag=True, help="Replace a seed of this name of another owner.")
@click.option("--no-wait", is_flag=True, help="End when it is on this node's disk.")
@click.option("--yes", is_flag=True, help="Do not ask when an update leaves options out.")
@click.option("--watch", is_flag=True, help="Publish again when SOURCE changes, until Ctrl-C.")
@with_json
@with_globals
@click.pass_context
def seed_command(ctx: click.Context, /, source: str, name: str | None, **given: Any) -> None:
    """Publish SOURCE as seed NAME (its file name by default), or update it.

    SOURCE is a WASM module, a Python file or a folder of Python: those are called. A folder with
    an index.html is a site. Any other file is a blob, which others fetch; - is standard input.

    \b
    Examples:
      pln seed hello.wasm
      pln seed hello.py
      pln seed film.mp4
      pln seed ./public my-site
      pln seed plans.pdf --sealed --allow-prop team=red
      tar c photos | pln seed - photos.tar
      pln seed hello.wasm greeter --allow-prop team=red --idempotent
      pln seed build/hello.wasm --watch
    """
    path = Path(source)
    wish = Wish(
        source,
        given["kind"] or "",
        given["is_package"],
        given["requirements"] or "",
        manner=Manner(given["spa"], given["dot_files"], given["headers"], given["links"]),
    )
    if source == "-":
        if wish.kind not in ("", "blob"):
            raise error_from("usage", "what is called is not read from stdin", "name a file")
        if not name:
            raise error_from("usage", "what comes from stdin has no name", "pln seed - NAME")
    wish = replace(wish, kind=kind_of(source, wish.kind, is_package=wish.is_package))
    if given["watch"] and (wish.kind == "python" or source == "-"):
        raise error_from("usage", "--watch looks at a module, a blob or a site", "leave it out")
    options = {**options_given(given), "take_over": given["take_over"]}
    control, seen = control_of(ctx), _mark(path)
    is_awaited, asks = not given["no_wait"], None if given["yes"] else flags_typed(ctx)
    _publish(control, wish, name, options, given["as_json"], asks, is_awaited=is_awaited)
    if given["watch"] and not given["as_json"]:
        click.echo(f"watching {path}; Ctrl-C ends it")
    while given["watch"]:
        seen = _changed(path, seen)
        # Compilers write a file in steps. A half-written module is refused; the next change is
        # looked at again.
        try:
            _publish(control, wish, name, options, given["as_json"], is_awaited=is_awaited)
        except PollenError as error:
            error.remedy = here(error.remedy)
            output.print_error(error, as_json=given["as_json"])


def _mark(path: Path) -> set[tuple[str, int, int, int]]:
    """What changes when a file does, or any of a folder's; empty while there is none."""
    below = path.rglob("*") if path.is_dir() else [path]
    found = set()
    with contextlib.suppress(OSError):
        for file in below:
            held = file.stat()
            found.add((str(file), held.st_mtime_ns, held.st_size, held.st_ino))
    return found


def _changed(path: Path, seen: set[tuple[str, int, int, int]]) -> set[tuple[str, int, int, int]]:
    """Wait until the file is another than it was and stays so for a moment."""
    while True:
        time.sleep(_WATCH_SECONDS)
        mark = _mark(path)
        if not mark or mark == seen:
            continue
        time.sleep(_WATCH_SECONDS)
        if _mark(path) == mark:
            return mark


def _publish(
    control: Control,
    wish: Wish,
    name: str | None,
    options: dict[str, Any],
    as_json: bool,
    typed: Collection[str] | None = None,
    *,
    is_awaited: bool,
) -> None:
    """Publish, and go on when it is where it is to be, if that is awaited; of an update the old
    version serves on.

    ``typed``: the flags of the line; without them nobody is asked about those that are not there.
    """
    from pollen.core.labels import check_name

    made = prepare(wish, lambda text: click.echo(text, err=True))
    named = name or (made.name if made.module else re.sub("[^a-z0-9.-]", "-", made.name.lower()))
    if not name and check_name(named) is not None:
        reason = f"the file's name, {named!r}, is not a name for a seed"
        raise error_from("usage", reason, f"give it one: pln seed {wish.source} NAME")
    left_out = [] if typed is None else control.left_out(named, options)
    # What was typed at its default was not left out.
    left_out = [flag for flag in left_out if flag.split()[0] not in (typed or ())]
    if left_out:
        text = f"left out, and so back at their defaults: {' '.join(left_out)}"
        click.echo(escaped(text), err=True)
        why = f"this update of {named} leaves options out, and asks first"
        may_go_on("update it without them?", False, "give them again, or: pln seed", why)
    try:
        with patience(made), progress.shown(f"sending {named}", as_json=as_json) as tell:
            answer = publish(control, made, named, options, tell)
    except Ambiguous as error:
        # Kept for the next change of a file that is watched.
        options[_ask_reading(error, as_json)] = True
        answer = publish(control, made, named, options)
    if not is_awaited:
        # Whom it is sealed for is told at once.
        state = control.wait_ready(named, answer["seed"], 0) if options.get("sealed") else {}
        print_seeded(answer, _python_of(made), state, as_json)
        return
    state = settled(control, answer, as_json=as_json, is_python=bool(made.bundle))
    print_seeded(answer, _python_of(made), state, as_json)
    if not as_json:
        print_place(state, answer)


def _python_of(made: Made) -> str:
    return f"Python, {human_bytes(made.size)}" if made.size else ""


@contextlib.contextmanager
def patience(made: Made) -> Iterator[None]:
    """Say on stderr what takes so long with the first Python seed of a node."""
    told = "the node compiles Python, which it does once ..."
    timer = threading.Timer(_WORD_SECONDS, lambda: click.echo(told, err=True))
    if made.bundle:
        timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _ask_reading(error: Ambiguous, as_json: bool) -> str:
    """What a module is that may be either; the error itself where there is nobody to ask."""
    if as_json or not output.can_ask():
        raise error
    click.echo(f"{error.reason}; the program's input is stdin", err=True)
    kinds = click.Choice(["program", "library"])
    return str(click.prompt("which is it?", type=kinds, err=True))


@click.command("unseed")
@click.argument("target", shell_complete=complete_seeds)
@with_json
@with_globals
@click.pass_context
def unseed_command(ctx: click.Context, target: str, as_json: bool) -> None:
    """Withdraw the seed TARGET, a name or a hash.

    \b
    Example:
      pln unseed hello
    """
    answer = control_of(ctx).withdraw(target)
    if as_json:
        output.print_json(answer)
    else:
        click.echo(f"withdrew {answer['name']} ({answer['seed'][:8]})")
