"""The command group: names to modules, global options, and how every command ends.

A verb's module is imported when the verb is used. Exit codes are those of ``pollen.errors``: 0 ok,
1 failure, 2 usage, 3 not found, 4 permission, 5 ambiguous, 6 unreachable; 130 after Ctrl-C.
"""

from __future__ import annotations

import copy
import difflib
import errno
import io
import os
import signal
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TextIO, TypeVar

import click

from pollen.errors import PollenError, error_from
from pollen.paths import Paths, cure, has_contexts, resolve
from pollen.plain import escaped, tame
from pollen.sdk import control

# Verb -> (module, one line for the overview), in the order of the overview.
VERBS: dict[str, tuple[str, str]] = {
    "init": ("cluster", "Make a new cluster with this machine as its first node"),
    "up": ("cluster", "Start the node here, in the foreground or detached"),
    "down": ("cluster", "Stop the node here; it drains first"),
    "restart": ("cluster", "Stop the detached node and start it again"),
    "logs": ("cluster", "Show the node's log"),
    "id": ("trust", "Print this node's public key"),
    "invite": ("trust", "Make a token with which another machine joins"),
    "join": ("trust", "Join a cluster with a token, and start"),
    "seed": ("compute", "Publish a WASM module or Python under a name, or update it"),
    "unseed": ("compute", "Withdraw a seed"),
    "call": ("calling", "Call a function of a seed"),
    "load": ("load", "Load a seed with calls and measure"),
    "status": ("status", "Show nodes, seeds and replicas on one screen"),
    "inspect": ("explain", "Show all that is known of a seed or a node"),
    "why": ("explain", "Explain where a seed runs, or where a call goes"),
    "doctor": ("machine", "Find what is wrong here, and what to do about it"),
    "set": ("machine", "Show or change this node's settings"),
    "unset": ("machine", "Take a setting back to its default"),
    "purge": ("machine", "Remove what this node keeps; its keys stay"),
    "completion": ("machine", "Print completion for bash, zsh or fish"),
    "demo": ("demo", "Run a three-node cluster here, from seed to take-over"),
    "sim": ("sim", "Run a simulated cluster with everything that can go wrong"),
    "version": ("trust", "Print the version"),
}

# The overview: what belongs together, under a title. A verb that no group names stands in the last.
GROUPS: dict[str, tuple[str, ...]] = {
    "The node here": (
        *("init", "up", "down", "restart", "service", "upgrade", "set", "unset", "purge", "id"),
    ),
    "Members of the cluster": ("invite", "join", "bootstrap", "members", "ping"),
    "Who may what": ("grant", "deny", "undeny", "props", "set-policy", "audit", "root"),
    "Seeds": (*("seed", "unseed", "versions", "rollback", "call", "load", "new", "run", "stubs"),),
    "Blobs and sites": ("fetch", "pin", "unpin", "reseal"),
    "Services": ("serve", "unserve", "connect", "disconnect"),
    "What goes on, and why": ("status", "top", "inspect", "why", "logs", "doctor"),
    "More": ("context", "completion", "demo", "sim", "version"),
}

# Verbs that only a program types, with their modules.
HIDDEN = {"_stdio": "stdio", "_upgrade": "taking"}
# The verbs of ``pollen.cli.verbs`` stand after this one in the overview.
_BEFORE_OTHERS = "join"
# What people try when a member shall go.
_REMOVING = ("remove", "revoke", "kick", "ban")

# A shell that completes a word does not wait for a silent daemon.
_COMPLETION_SECONDS = 1.0
# Another machine answers after ssh has logged in. Guess: half a second on a near one.
_COMPLETION_SECONDS_THERE = 5.0

F = TypeVar("F", bound=Callable[..., Any])


def overview() -> dict[str, tuple[str, str]]:
    """Every verb with its module and its line: those above, and each file of ``pollen.cli.verbs``.

    The files are read, not imported.
    """
    found = {}
    for path in sorted(Path(__file__).with_name("verbs").glob("[a-z]*.py")):
        with path.open(encoding="utf-8") as file:
            line = file.readline().strip().strip('"')
        found[path.stem.replace("_", "-")] = (f"verbs.{path.stem}", line)
    verbs: dict[str, tuple[str, str]] = {}
    for verb, entry in VERBS.items():
        verbs[verb] = entry
        if verb == _BEFORE_OTHERS:
            verbs |= found
    return verbs


def grouped(verbs: Iterable[str]) -> dict[str, list[str]]:
    """The verbs by the title of their group."""
    known = {name for names in GROUPS.values() for name in names}
    groups = {title: [*names] for title, names in GROUPS.items()}
    groups[next(reversed(groups))] += [name for name in verbs if name not in known]
    return groups


class Verbs(click.Group):
    """Loads a verb's module on use and suggests near names."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(overview())

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in HIDDEN:
            entry = (HIDDEN[cmd_name], "")
        elif (found := VERBS.get(cmd_name) or overview().get(cmd_name)) is not None:
            entry = found
        else:
            return None
        stem = cmd_name.replace("-", "_")
        command = getattr(import_module(f"pollen.cli.{entry[0]}"), f"{stem}_command")
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] == "help":
            args = [*args[1:], "--help"]
            if len(args) == 1:
                click.echo(ctx.get_help())
                ctx.exit()
        if args and args[0] in _REMOVING:
            remedy = "did you mean: pln deny"
            raise error_from("usage", f"there is no command {args[0]!r}", remedy)
        if args and args[0] not in VERBS and args[0] not in {*HIDDEN, *overview()}:
            near = difflib.get_close_matches(args[0], overview(), n=1)
            hint = f"did you mean: pln {near[0]}" if near else "see: pln --help"
            raise error_from("usage", f"there is no command {args[0]!r}", hint)
        name, command, rest = super().resolve_command(ctx, args)
        if command is not None and name not in HIDDEN:
            command = _guarded(command, args)
        return name, command, rest

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = {name: line for name, (_, line) in overview().items()}
        wide = max(map(len, lines))
        for title, names in grouped(lines).items():
            with formatter.section(title):
                # Of one width in all groups.
                formatter.write_dl([(name.ljust(wide), lines[name]) for name in names])


def _guarded(command: click.Command, line: list[str]) -> click.Command:
    """The command, which looks before it runs whether its node is on another machine.

    Of a group each command does: the options may stand behind its name.
    """
    guarded, run = copy.copy(command), command.invoke
    if isinstance(guarded, click.Group):
        resolve_bare = guarded.resolve_command

        def resolve_guarded(
            ctx: click.Context, args: list[str]
        ) -> tuple[str | None, click.Command | None, list[str]]:
            name, inner, rest = resolve_bare(ctx, args)
            return name, inner and _guarded(inner, line), rest

        guarded.resolve_command = resolve_guarded  # type: ignore[method-assign]
        return guarded

    def invoke(ctx: click.Context) -> Any:
        if _may_be_far(ctx):
            from pollen.cli import remote

            code = remote.check(ctx, line)
            if code is not None:
                ctx.exit(code)
        return run(ctx)

    guarded.invoke = invoke  # type: ignore[method-assign]
    return guarded


def _may_be_far(ctx: click.Context) -> bool:
    """Whether anything says that another machine may be meant; without it nothing is loaded."""
    held = ctx.ensure_object(dict)
    if held.get("host") is not None:
        return True
    if held.get("directory") is not None:
        return False
    is_here = os.environ.get("PLN_DIR") or not has_contexts()
    return bool(os.environ.get("PLN_HOST")) or not is_here


def with_globals(function: F) -> F:
    """The options that every verb takes, before or after its name."""
    function = click.option(
        "-H",
        "--host",
        "machine",
        metavar="HOST",
        expose_value=False,
        callback=_remember_host,
        help="The node of another machine: a context, user@host or ssh://… (PLN_HOST).",
    )(function)
    return click.option(
        "--dir",
        "directory",
        metavar="DIR",
        expose_value=False,
        callback=_remember_directory,
        help="The node's folder (PLN_DIR; ~/.pln); with -H the folder there.",
    )(function)


def with_json(function: F) -> F:
    """``--json`` for verbs that print data; errors then are JSON too."""
    return click.option(
        "--json", "as_json", is_flag=True, callback=_remember_json, help="Print JSON."
    )(function)


def _remember_directory(
    ctx: click.Context, param: click.Parameter, value: str | None
) -> str | None:
    if value is not None:
        from pollen.cli import proposals

        ctx.ensure_object(dict)["directory"] = value
        proposals.remember_directory(value)
    return value


def _remember_host(ctx: click.Context, param: click.Parameter, value: str | None) -> str | None:
    if value is not None:
        ctx.ensure_object(dict)["host"] = value
    return value


def _remember_json(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    if value:
        ctx.ensure_object(dict)["json"] = True
    return value


def paths_of(ctx: click.Context) -> Paths:
    """The folder that the options, PLN_DIR or the default name, or a node of another machine."""
    if _may_be_far(ctx):
        from pollen.cli import remote

        return remote.paths_of(ctx)
    return resolve(ctx.ensure_object(dict).get("directory"))


class Asked(control.Control):
    """The control API for people: no text of an answer steers a terminal or forges a line.

    With ``--json`` texts stay as they are; JSON escapes them itself.
    """

    def __init__(self, paths: Paths, *, is_exact: bool) -> None:
        super().__init__(paths)
        self._is_exact = is_exact

    def _decoded(self, raw: bytes) -> Any:
        answer = super()._decoded(raw)
        return answer if self._is_exact else tame(answer)


def control_of(ctx: click.Context) -> Asked:
    """The control API of the folder that the options name."""
    return Asked(paths_of(ctx), is_exact=bool(ctx.ensure_object(dict).get("json")))


def complete_seeds(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names of the seeds that this node knows, for the shell; none when it does not answer."""
    return _names(ctx, "seeds", incomplete)


def complete_nodes(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names of the nodes that this one knows, as for seeds."""
    return _names(ctx, "nodes", incomplete)


def complete_either(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """Seeds and nodes."""
    return complete_seeds(ctx, param, incomplete) + complete_nodes(ctx, param, incomplete)


def complete_services(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The names that somebody serves."""
    return _plain((held["name"] for held in _asked(ctx, "services")["services"]), incomplete)


def complete_functions(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The functions of the seed that the line names."""
    seed = str(ctx.params.get("name") or ctx.params.get("seed") or "").removeprefix("seed/")
    found = [held for held in _asked(ctx, "status")["seeds"] if held["name"] == seed]
    held_by = [held.get("before") or held for held in found]
    return _plain((name for held in held_by for name in held["functions"]), incomplete)


def _names(ctx: click.Context, kind: str, incomplete: str) -> list[str]:
    return _plain((held["name"] for held in _asked(ctx, "status")[kind]), incomplete)


def _plain(names: Iterable[str], incomplete: str) -> list[str]:
    return [name for name in names if name.startswith(incomplete) and name == escaped(name)]


def _asked(ctx: click.Context, what: str) -> dict[str, Any]:
    """What the node answers within the time that a shell has; nothing of a silent one."""
    try:
        where = paths_of(ctx)
        timeout = _COMPLETION_SECONDS_THERE if where.host else _COMPLETION_SECONDS
        return control.Control(where).get(f"/v1/{what}", timeout=timeout)
    except PollenError:
        return {"seeds": [], "nodes": [], "services": []}


@click.group(
    cls=Verbs,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    invoke_without_command=True,
)
@with_globals
@click.version_option(None, "--version", package_name="pollen-mesh", message="%(version)s")
@click.pass_context
def pln(ctx: click.Context) -> None:
    """Pollen turns your machines into one: seed a WASM module on any of them, call it from any.

    \b
    A cluster of two in three commands:
      pln up -d                  on the first machine
      pln invite                 there; it prints a token
      pln join TOKEN             on the second machine
    """
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main() -> NoReturn:
    """Run ``pln`` and exit; see the module for the codes."""
    # Read here too: an error in the options themselves comes before click has read them all.
    given = [_as_text(argument) for argument in sys.argv[1:]]
    sys.argv[1:] = given
    sys.stdout, sys.stderr = _opened(sys.stdout), _opened(sys.stderr)
    # The size of the terminal is asked of these; the streams that they were are of no more use.
    sys.__stdout__, sys.__stderr__ = sys.stdout, sys.stderr  # type: ignore[misc, assignment]
    given = given[: given.index("--")] if "--" in given else given
    held: dict[str, Any] = {"json": "--json" in given}
    code = _run(held)
    _take_interrupts(False)
    sys.exit(code)


def _take_interrupts(ours: bool) -> None:
    """Whether Ctrl-C raises ``KeyboardInterrupt`` here, or the kernel ends the process.

    Outside ``_run`` nobody would catch it. A caller that ignores Ctrl-C goes on to ignore it.
    """
    now = signal.getsignal(signal.SIGINT)
    if ours and now is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    elif not ours and now is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _opened(stream: TextIO) -> TextIO:
    """A letter that an encoding lacks is shown by its number; so is one that steers a terminal."""
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    if stream.isatty():
        from pollen.cli.output import Terminal

        return Terminal.over(stream)
    stream.reconfigure(errors="backslashreplace")
    return stream


def _as_text(argument: str) -> str:
    """An argument that the locale could not read is UTF-8 after all, where it can be."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return os.fsencode(argument).decode(errors="surrogateescape")
    return argument


def _run(held: dict[str, Any]) -> int:
    if sys.stderr.isatty() and "_PLN_COMPLETE" not in os.environ:
        control.listeners.append(lambda text: print(text, file=sys.stderr, flush=True))
    try:
        _take_interrupts(True)
        code = pln.main(prog_name="pln", standalone_mode=False, obj=held)
        sys.stdout.flush()
    except PollenError as error:
        if os.environ.get("PLN_DEBUG") == "1":
            raise
        _print_error(error, held)
        return error.exit_code
    except click.exceptions.Exit as done:
        return done.exit_code
    except (click.Abort, KeyboardInterrupt) as end:
        # Of Ctrl-C click has made a line's end already, of a question's end it has not.
        if end.__cause__ is None:
            print(file=sys.stderr)
        return 130
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        usage = error_from("usage", _usage_text(error), _usage_remedy(error))
        _print_error(usage, held)
        return usage.exit_code
    except UnicodeEncodeError:
        usage = error_from("usage", "an argument is not UTF-8", "give bytes by file: @FILE")
        _print_error(usage, held)
        return usage.exit_code
    except (BrokenPipeError, SystemExit):
        # Whoever read our output has enough: click exits so, and by nothing else.
        _give_up_stdout()
        return 0
    except OSError as error:
        if os.environ.get("PLN_DEBUG") == "1":
            raise
        known = _of_system(error)
        _print_error(known, held)
        return known.exit_code
    return code if isinstance(code, int) else 0


def _print_error(error: PollenError, held: dict[str, Any]) -> None:
    from pollen.cli import output, proposals

    as_json = bool(held.get("json"))
    if not as_json:
        error.remedy = proposals.here(error.remedy)
    output.print_error(error, as_json=as_json)


def _give_up_stdout() -> None:
    """Python would complain once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _of_system(error: OSError) -> PollenError:
    """What the system refused and nobody below had words for: a file of the folder, or stdout."""
    why = error.strerror or str(error)
    if error.filename is None and error.errno in (errno.ENOSPC, errno.EIO, errno.EDQUOT):
        _give_up_stdout()
        return error_from("usage", f"the output cannot be written: {why}", "send it elsewhere")
    if error.filename is None:
        return error_from("internal", f"the system refused: {why}", "see: PLN_DEBUG=1 pln …")
    path = Path(os.fsdecode(error.filename))
    return error_from("state-unusable", f"{path} cannot be used: {why}", cure(path, error))


def _usage_text(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    return message[:1].lower() + message[1:].rstrip(".")


def _usage_remedy(error: click.ClickException) -> str:
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "pln"
    return f"see: {path} --help"
