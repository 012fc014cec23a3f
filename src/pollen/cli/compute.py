"""Verbs around seeds: seed, unseed, call."""

from __future__ import annotations

import base64
import os
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pollen.cli import output
from pollen.cli.app import (
    complete_functions,
    complete_seeds,
    control_of,
    paths_of,
    with_globals,
    with_json,
)
from pollen.cli.options import options_given, with_options
from pollen.cli.proposals import here
from pollen.cli.values import DURATION, read_input
from pollen.errors import Ambiguous, CallError, GuestError, NotFound, PollenError, error_from
from pollen.sdk.control import Control
from pollen.units import human_bytes

if TYPE_CHECKING:
    from pollen.paths import Paths
    from pollen.sdk.replies import Reply

# The functions of a program compiled as a WASI command.
_PROGRAM = ["_start"]
# How often a watched file is looked at, and how long it must rest.
_WATCH_SECONDS = 0.2
# How long ``pln seed`` waits for its hosts.
_SETTLE_SECONDS = 10.0
WAIT = "How long to wait for the answer."
RETRIES = "How often another host is tried, when the function has not run."
_TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@click.command("seed")
@click.argument("source")
@click.argument("name", required=False)
@with_options
@click.option("--take-over", is_flag=True, help="Replace a seed of this name of another owner.")
@click.option("--watch", is_flag=True, help="Publish again when SOURCE changes, until Ctrl-C.")
@with_json
@with_globals
@click.pass_context
def seed_command(ctx: click.Context, /, source: str, name: str | None, **given: Any) -> None:
    """Publish the module SOURCE as seed NAME (its file name by default), or update it.

    \b
    Examples:
      pln seed hello.wasm
      pln seed hello.wasm greeter --allow-prop team=red --idempotent
      pln seed build/hello.wasm --watch
    """
    path = Path(source)
    if source == "-" or path.is_dir() or path.suffix not in (".wasm", ".wat"):
        reason = f"{source} is not a WASM module"
        raise error_from("usage", reason, "name a file that ends in .wasm")
    options = {**options_given(given), "take_over": given["take_over"]}
    control, seen = control_of(ctx), _mark(path)
    _publish(control, path, name, options, given["as_json"])
    if given["watch"] and not given["as_json"]:
        click.echo(f"watching {path}; Ctrl-C ends it")
    while given["watch"]:
        seen = _changed(path, seen)
        # Compilers write a file in steps. A half-written module is refused; the next change is
        # looked at again.
        try:
            _publish(control, path, name, options, given["as_json"])
        except PollenError as error:
            error.remedy = here(error.remedy)
            output.print_error(error, as_json=given["as_json"])


def _mark(path: Path) -> tuple[int, int, int]:
    """What changes when a file does; zeros while there is none."""
    try:
        held = path.stat()
    except OSError:
        return 0, 0, 0
    return held.st_mtime_ns, held.st_size, held.st_ino


def _changed(path: Path, seen: tuple[int, int, int]) -> tuple[int, int, int]:
    """Wait until the file is another than it was and stays so for a moment."""
    while True:
        time.sleep(_WATCH_SECONDS)
        mark = _mark(path)
        if mark in (seen, (0, 0, 0)):
            continue
        time.sleep(_WATCH_SECONDS)
        if _mark(path) == mark:
            return mark


def _publish(
    control: Control, path: Path, name: str | None, options: dict[str, Any], as_json: bool
) -> None:
    """Publish, and go on when it is where it is to be; of an update the old version serves on."""
    from pollen.core.labels import check_name

    if not name and check_name(path.stem) is not None:
        reason = f"the file's name, {path.stem!r}, is not a name for a seed"
        raise error_from("usage", reason, f"give it one: pln seed {path} NAME")
    try:
        answer = control.publish(path, name or path.stem, options)
    except Ambiguous as error:
        # Kept for the next change of a file that is watched.
        options[_ask_reading(error, as_json)] = True
        answer = control.publish(path, name or path.stem, options)
    state = control.wait_ready(answer["name"], answer["seed"], _SETTLE_SECONDS)
    _print_seeded(answer, as_json)
    if not as_json:
        _print_place(state, answer)


def _ask_reading(error: Ambiguous, as_json: bool) -> str:
    """What a module is that may be either; the error itself where there is nobody to ask."""
    if as_json or not output.can_ask():
        raise error
    click.echo(f"{error.reason}; the program's input is stdin", err=True)
    kinds = click.Choice(["program", "library"])
    return str(click.prompt("which is it?", type=kinds, err=True))


def _print_place(state: dict[str, Any], answer: dict[str, Any]) -> None:
    """Where it is ready, and what is missing. ``state`` is a ``SeedState``."""
    view, name, seed = state["seed"], answer["name"], answer["seed"]
    if view is None or seed not in (view["seed"], view["halted"]):
        return  # updated again by somebody else, or withdrawn
    if view["halted"] == seed:
        click.echo(here(f"hint: the version before serves on; see: pln why place {name}"))
        return
    ready = [held["name"] for held in view["replicas"] if held["state"] == "ready"]
    if ready:
        click.echo(f"  ready on:  {', '.join(ready)}")
    for warning in state["warnings"]:
        click.echo(here(f"warning: {warning}"))
    if not ready and answer["replaced"]:
        click.echo("hint: the version before serves on until this one is ready")
    if len(ready) < view["wanted"] and not state["warnings"]:
        few = f"{len(ready)} of {view['wanted']} replicas are ready"
        click.echo(here(f"hint: {few}; see: pln why place {name}"))


def _print_seeded(answer: dict[str, Any], as_json: bool) -> None:
    """What became of the publication; the brain words the changes (``seeds.specs``)."""
    if as_json:
        output.print_json(answer)
        return
    verb = "unchanged" if answer["unchanged"] else "updated" if answer["replaced"] else "seeded"
    size = human_bytes(answer["size_bytes"])
    click.echo(f"{verb} {answer['name']} ({answer['seed'][:8]}, {size})")
    click.echo(f"  functions: {', '.join(answer['functions'])}")
    for change in answer["changed"]:
        click.echo(f"  changed:   {change}")
    exports = [name for name in answer["functions"] if name not in _PROGRAM]
    how = exports[0] if exports else "- < FILE"
    click.echo(here(f"  call it:   pln call {answer['name']} {how}"))
    if exports and set(_PROGRAM) & set(answer["functions"]):
        click.echo("hint: a program's exports mostly need its runtime started; in Go, build them")
        click.echo("hint: with go build -buildmode=c-shared")


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


@click.command("call")
@click.argument("name", shell_complete=complete_seeds)
@click.argument("function", required=False, shell_complete=complete_functions)
@click.argument("text", metavar="[INPUT]", required=False)
@click.option("--timeout", type=DURATION, default="60s", show_default=True, help=WAIT)
@click.option("--retries", type=click.IntRange(0, 255), default=3, show_default=True, help=RETRIES)
@click.option("--idempotent", is_flag=True, help="Running it twice does no harm.")
@click.option("--stream", is_flag=True, help="Write the output as it comes.")
@click.option("--head", help="Bytes for the function beside its input: text or @file.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr where it ran and how long.")
@with_json
@with_globals
@click.pass_context
def call_command(
    ctx: click.Context,
    name: str,
    function: str | None,
    text: str | None,
    timeout: int,
    retries: int,
    idempotent: bool,
    stream: bool,
    head: str | None,
    verbose: bool,
    as_json: bool,
) -> None:
    """Call FUNCTION of seed NAME with INPUT; the raw output goes to stdout.

    FUNCTION may be left out when there is only one. INPUT is text, - for stdin, @file for a file.
    A program (a WASI command) has its INPUT as standard input.

    \b
    Examples:
      pln call hello greet world
      pln call resize - < photo.jpg > small.jpg
      pln call --stream tail follow access.log | grep 404
    """
    if stream and as_json:
        reason = "--stream writes pieces and --json one object"
        raise error_from("usage", reason, "give one of them")
    where = paths_of(ctx)
    seed = name.removeprefix("seed/")
    if function and text is None and (function == "-" or function.startswith("@")):
        # What names an input is one, wherever it stands.
        function, text = None, function
    data = read_input(text)
    trace = _traceparent(is_wanted=verbose)
    if verbose:
        ctx.call_on_close(lambda: click.echo(f"trace {str(trace).split('-')[1]}", err=True))
    limits = {"timeout": timeout / 1000, "retries": retries}
    said = {"idempotent": idempotent or None, "traceparent": trace, "head": read_input(head)}
    ask = _stream if stream else _ask
    try:
        try:
            reply = ask(where, (seed, function), limits, data, said)
        except NotFound as error:
            # A program has one function, so the one word that follows its name is the input.
            if not function or text is not None or not _is_program(error, control_of(ctx), seed):
                raise
            reply = ask(where, (seed, None), limits, function.encode(), said)
    except GuestError as error:
        # What was streamed is written already.
        _write(b"" if stream else error.output, is_followed=True)
        raise
    except NotFound as error:
        if error.slug == "function-not-found" and function and text is None:
            # Who leaves the function out and gives an input has named the input a function.
            remedy = f'{error.remedy}\nif that is the input: pln call {seed} FUNCTION "{function}"'
            raise error_from(error.slug, error.reason, remedy, node=error.node) from None
        raise _with_neighbours(error, control_of(ctx), seed) from None
    if as_json:
        facts = {name: getattr(reply, name) for name in reply.__struct_fields__ if name != "data"}
        output.print_json({**_as_json(reply.data), **facts})
    else:
        _write(reply.data, is_followed=verbose)
    if verbose:
        how = f"direct, {reply.rtt * 1000:.1f} ms away" if reply.rtt else "here"
        woke = f"woke it: {reply.wake * 1000:.1f} ms, " if reply.wake else ""
        spent = f"{woke}queued {reply.queue * 1000:.2f} ms, ran {reply.run * 1000:.2f} ms"
        total = f"{reply.elapsed * 1000:.2f} ms in all, {reply.attempts} attempt(s)"
        click.echo(f"ran on {reply.node[:8]} ({how}): {spent}, {total}", err=True)


def _ask(
    where: Paths,
    target: tuple[str, str | None],
    limits: dict[str, Any],
    data: bytes,
    said: dict[str, Any],
) -> Reply:
    """One call of a seed's function, over a connection of its own."""
    from pollen.cli.patience import Watch
    from pollen.sdk.blocking import SyncMesh

    with SyncMesh(where) as mesh, Watch(where, mesh) as watch:
        try:
            return mesh.function(*target, **limits)(data, **said)
        except CallError as error:
            raise watch.error or error from None


def _stream(
    where: Paths,
    target: tuple[str, str | None],
    limits: dict[str, Any],
    data: bytes,
    said: dict[str, Any],
) -> Reply:
    """As ``_ask``, with each piece of the output written when it comes."""
    from pollen.cli.patience import Watch
    from pollen.sdk.blocking import SyncMesh

    piece = b""
    with SyncMesh(where) as mesh, Watch(where, mesh) as watch:
        try:
            with mesh.function(*target, **limits).stream(data, **said) as pieces:
                for piece in pieces:
                    sys.stdout.buffer.write(piece)
                    sys.stdout.buffer.flush()
                return pieces.reply
        except CallError as error:
            raise watch.error or error from None
        finally:
            _end_line(piece, is_followed=said["traceparent"] is not None)


def _is_program(error: NotFound, control: Control, seed: str) -> bool:
    """Whether a function was not found because the seed is a program."""
    if error.slug != "function-not-found":
        return False
    held = control.get("/v1/status")["seeds"]
    return any(s["functions"] == _PROGRAM for s in held if seed in (s["name"], s["seed"]))


def _traceparent(*, is_wanted: bool) -> str | None:
    """The trace that the environment names, else a new and sampled one if somebody will see it."""
    import secrets

    given = os.environ.get("TRACEPARENT", "")
    if _TRACEPARENT.fullmatch(given):
        return given
    return f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01" if is_wanted else None


def _write(data: bytes, *, is_followed: bool) -> None:
    """The raw output; what stderr says after it in the same place begins on a line of its own."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    _end_line(data, is_followed=is_followed)


def _end_line(data: bytes, *, is_followed: bool) -> None:
    """The end of the line that this output left open, where somebody reads what comes next."""
    if not data or data.endswith(b"\n"):
        return
    if sys.stdout.isatty():
        click.echo()
    elif is_followed and os.path.sameopenfile(1, 2):
        click.echo(err=True)


def _as_json(data: bytes) -> dict[str, str | None]:
    """Text as it is; other output under another name, so that nobody takes one for the other."""
    try:
        return {"data": data.decode()}
    except UnicodeDecodeError:
        return {"data": None, "data_base64": base64.b64encode(data).decode()}


def _with_neighbours(error: NotFound, control: Control, seed: str) -> PollenError:
    """The same error with what the node knows: the cluster, its view's age, near names."""
    if error.slug != "seed-not-found":
        return error
    import difflib

    try:
        status = control.get("/v1/status")
    except PollenError:
        return error
    near = difflib.get_close_matches(seed, [held["name"] for held in status["seeds"]], n=1)
    age = output.human_age(status["view_age_ms"])
    nodes = len(status["nodes"])
    plural = "" if nodes == 1 else "s"
    view = f"view {age} old, {nodes} node{plural}"
    reason = f'no seed named "{seed}" in cluster {status["cluster"][:8]} ({view})'
    remedy = [f"did you mean: {near[0]}"] if near else []
    return error_from("seed-not-found", reason, "\n".join([*remedy, "try: pln status seeds"]))
