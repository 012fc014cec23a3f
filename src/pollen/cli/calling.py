"""The verb call: one call of a seed's function, its input as typed and its output as it comes."""

from __future__ import annotations

import base64
import os
import re
import shlex
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import click

from pollen.cli import arguments, output
from pollen.cli.app import (
    complete_functions,
    complete_seeds,
    control_of,
    paths_of,
    with_globals,
    with_json,
)
from pollen.cli.values import DURATION, read_input
from pollen.errors import BadRequest, CallError, GuestError, NotFound, PollenError, error_from
from pollen.sdk.control import Control

if TYPE_CHECKING:
    from pollen.paths import Paths
    from pollen.sdk.replies import Reply

# The functions of a program compiled as a WASI command.
_PROGRAM = ["_start"]
WAIT = "How long to wait for the answer."
RETRIES = "How often another host is tried, when the function has not run."
_TRACEPARENT = re.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")


@click.command("call")
@click.argument("name", shell_complete=complete_seeds)
@click.argument("function", required=False, shell_complete=complete_functions)
@click.argument("texts", metavar="[INPUT]...", nargs=-1)
@click.option("--input", "raw", help="The input as it is: text, - for stdin, @file.")
@click.option("--timeout", type=DURATION, default="60s", show_default=True, help=WAIT)
@click.option("--retries", type=click.IntRange(0, 255), default=3, show_default=True, help=RETRIES)
@click.option("--idempotent", is_flag=True, help="Running it twice does no harm.")
@click.option("--stream", is_flag=True, help="Write the output as it comes.")
@click.option("--head", help="Bytes for the function beside its input: text or @file.")
@click.option("-v", "--verbose", is_flag=True, help="Say on stderr where it ran and how long.")
@with_json
@with_globals
@click.pass_context
def call_command(ctx: click.Context, /, name: str, **given: Any) -> None:
    """Call FUNCTION of seed NAME with INPUT; the raw output goes to stdout.

    FUNCTION may be left out when there is only one. INPUT is text, - for stdin, @file for a file.
    A program (a WASI command) has its INPUT as standard input. A Python function takes arguments:
    name=text, name:=JSON, name=@file.

    \b
    Examples:
      pln call hello greet world
      pln call hello greet name=world times:=2
      pln call resize - < photo.jpg > small.jpg
      pln call --stream tail follow access.log | grep 404
    """
    if given["stream"] and given["as_json"]:
        reason = "--stream writes pieces and --json one object"
        raise error_from("usage", reason, "give one of them")
    where, seed = paths_of(ctx), name.removeprefix("seed/")
    verbose = given["verbose"]
    trace = _traceparent(is_wanted=verbose)
    if verbose:
        ctx.call_on_close(lambda: click.echo(f"trace {str(trace).split('-')[1]}", err=True))
    asks = _asked(ctx, seed, given["function"], given["texts"], given["raw"])
    limits = {"timeout": given["timeout"] / 1000, "retries": given["retries"]}
    head = read_input(given["head"])
    said = {"idempotent": given["idempotent"] or None, "traceparent": trace, "head": head}
    is_streamed = given["stream"] or (asks.gives == "stream" and not given["as_json"])
    try:
        reply = _answer(ctx, where, seed, asks, _stream if is_streamed else _ask, limits, said)
    except GuestError as error:
        from pollen.sdk.python import missing

        error.remedy = "\n".join(filter(None, (missing.cure(error.reason), error.remedy)))
        # What was streamed is written already.
        _write(b"" if is_streamed else error.output, is_followed=True)
        raise
    if given["as_json"]:
        facts = {name: getattr(reply, name) for name in reply.__struct_fields__ if name != "data"}
        output.print_json({**_as_json(reply.data), **facts})
    else:
        data = arguments.shown(reply.data) if asks.gives == "json" else reply.data
        _write(data, is_followed=verbose)
    if verbose:
        _print_way(reply)


@dataclass(frozen=True)
class _Asks:
    """What is called with which input. ``gives``: what the function's signature says of its output,
    where the input was typed as arguments; else empty, and the output is shown as it is. ``texts``:
    the words of an input that was not."""

    function: str | None
    data: bytes
    is_plain: bool
    gives: str = ""
    texts: tuple[str, ...] = ()


def _asked(
    ctx: click.Context, seed: str, function: str | None, texts: tuple[str, ...], raw: str | None
) -> _Asks:
    """The call as it was typed. Raises ``usage``, ``bad-argument``."""
    words = texts
    if function and raw is None and not arguments.is_name(function):
        # What names an input is one, wherever it stands.
        is_input = function == "-" or function.startswith("@")
        if is_input or arguments.is_argument(function):
            words, function = (function, *texts), None
    if raw is not None:
        if words:
            reason = f"--input is the whole input, and {words[0][:80]!r} is more of it"
            raise error_from("usage", reason, "give one of them")
        return _Asks(function, read_input(raw), is_plain=False)
    if any(map(arguments.is_argument, words)):
        described = _described(control_of(ctx), seed)
        name = function or (next(iter(described)) if len(described) == 1 else None)
        signature = described.get(name or "")
        if signature is not None:
            data = arguments.encode(str(name), signature, words)
            return _Asks(name, data, is_plain=False, gives=str(signature.get("gives", "")))
    if len(words) > 1:
        reason = f"{len(words)} inputs were given, and a function has one"
        remedy = "quote it as one word; arguments by name are for Python functions"
        line = _named_line(control_of(ctx), seed, function, words)
        raise error_from("usage", reason, line or f"{remedy}: pln inspect {seed}")
    data = read_input(words[0] if words else None)
    return _Asks(function, data, is_plain=not words, texts=words)


def _named_line(control: Control, seed: str, function: str | None, texts: tuple[str, ...]) -> str:
    """The call with these words as arguments by name, for a function that takes such."""
    described = _described(control, seed)
    name = function or (next(iter(described)) if len(described) == 1 else "")
    words = arguments.named(described.get(name, {}), texts)
    return f"try: {shlex.join(['pln', 'call', seed, name])} {' '.join(words)}" if words else ""


def _described(control: Control, seed: str) -> dict[str, Any]:
    """The functions that published a signature, with it."""
    state = control.get(f"/v1/seeds/{quote(seed, safe='')}")
    functions = state.get("description", {}).get("functions", {})
    return functions if isinstance(functions, dict) else {}


def _answer(
    ctx: click.Context,
    where: Paths,
    seed: str,
    asks: _Asks,
    ask: Any,
    limits: dict[str, Any],
    said: dict[str, Any],
) -> Reply:
    """The call, and what can be said of a seed or function that is not there."""
    function = asks.function
    try:
        try:
            return ask(where, (seed, function), limits, asks.data, said)  # type: ignore[no-any-return]
        except NotFound as error:
            # A program has one function, so the one word that follows its name is the input.
            is_word = function and asks.is_plain
            if not is_word or not _is_program(error, control_of(ctx), seed):
                raise
            return ask(where, (seed, None), limits, str(function).encode(), said)  # type: ignore[no-any-return]
    except BadRequest as error:
        is_json = any(text[:1] in ("{", "[", "@", "-") for text in asks.texts)
        if error.slug == "bad-argument" and not asks.gives and not is_json:
            line = _named_line(control_of(ctx), seed, function, asks.texts)
            error.remedy = "\n".join(filter(None, (line, error.remedy.replace("NAME", seed))))
        raise
    except NotFound as error:
        if error.slug == "function-not-found" and function and asks.is_plain:
            # Who leaves the function out and gives an input has named the input a function.
            remedy = f'{error.remedy}\nif that is the input: pln call {seed} FUNCTION "{function}"'
            raise error_from(error.slug, error.reason, remedy, node=error.node) from None
        raise _with_neighbours(error, control_of(ctx), seed) from None


def _print_way(reply: Reply) -> None:
    """Where it ran and how long, on stderr."""
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
