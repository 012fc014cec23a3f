"""Make machines that have nothing yet members, over your own ssh"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click

from pollen import recorded
from pollen.cli import output
from pollen.cli.app import control_of, with_globals, with_json
from pollen.cli.values import with_properties
from pollen.errors import error_from
from pollen.plain import escaped
from pollen.sdk import hosts
from pollen.sdk.bootstrap.bundle import Bundles
from pollen.sdk.bootstrap.desk import Desk, Grant
from pollen.sdk.bootstrap.run import Machine, Options, Outcome, Sessions, Target

# Machines at once. Guess: each is one ssh, and 20 MB that go out.
_JOBS = 8
_JOBS_MAX = 64


@click.group("bootstrap")
@with_globals
def bootstrap_command() -> None:
    """Make machines members that have nothing of pollen yet.

    \b
    Example:
      pln bootstrap ssh pi@192.0.2.7 root@192.0.2.8
    """


@bootstrap_command.command("ssh")
@click.argument("machines", nargs=-1, required=True, metavar="[NAME=]USER@HOST…")
@click.option("--admin", "tier", flag_value="admin", help="They may also invite, grant and deny.")
@click.option("--publisher", "tier", flag_value="publisher", help="They may publish seeds.")
@click.option("--leaf", "tier", flag_value="leaf", help="They may only call and host (default).")
@with_properties("A property of the new members")
@click.option("--user", "is_own", is_flag=True, help="For the login's user alone, without root.")
@click.option("--wheel", metavar="FILE", help="The wheel of pollen to install; see: make wheel.")
@click.option("--wheels", metavar="DIR", help="Take the wheels that it needs from here.")
@click.option("--jobs", type=click.IntRange(1, _JOBS_MAX), default=_JOBS, show_default=True)
@click.option("--dry-run", is_flag=True, help="Only look, and say what would be done.")
@click.option("--accept-new-keys", is_flag=True, help="Trust host keys that are not known yet.")
@with_json
@with_globals
@click.pass_context
def ssh_command(
    ctx: click.Context,
    machines: tuple[str, ...],
    tier: str | None,
    props: str,
    is_own: bool,
    wheel: str | None,
    wheels: str | None,
    jobs: int,
    dry_run: bool,
    accept_new_keys: bool,
    as_json: bool,
) -> None:
    """Install pollen on machines over your own ssh, make them members, and start them.

    A machine is USER@HOST, ssh://USER@HOST:PORT or a context; - reads them from standard input,
    @FILE from a file, one a line. What is done already is left alone: run it again when it broke.

    \b
    Examples:
      pln bootstrap ssh pi@192.0.2.7 attic=root@192.0.2.8
      pln bootstrap ssh @machines.txt --publisher --prop zone=garden
      pln bootstrap ssh root@192.0.2.8 --wheel dist/pollen.whl --dry-run
    """
    targets = targets_of(machines)
    given = readable(wheel, is_folder=False), readable(wheels, is_folder=True)
    desk = Desk(control_of(ctx), Grant(tier or "", props))
    desk.check()
    bundles = Bundles(*given)
    bundles.prepare()
    options = Options(is_own=is_own, is_dry=dry_run, accepts_new_keys=accept_new_keys)
    screen = Screen([target.host for target in targets], is_silent=as_json)
    sessions = Sessions()

    def run(target: Target) -> Outcome:
        def show(word: str) -> None:
            screen.show(target.host, word)

        outcome = Machine(target, options, (desk, bundles, sessions), show).run()
        screen.end(target.host, _word(outcome, is_dry=dry_run))
        if as_json:
            screen.print(object_of(outcome))
        return outcome

    with ThreadPoolExecutor(jobs) as pool:
        try:
            outcomes = list(pool.map(run, targets))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            sessions.end()
            raise
    if not as_json:
        _report(outcomes, tier, is_dry=dry_run)
    if worst := max((held.error.exit_code for held in outcomes if held.error), default=0):
        ctx.exit(worst)


def readable(text: str | None, *, is_folder: bool) -> Path | None:
    """What the user named, before any machine is asked. Raises ``usage`` when it cannot be read."""
    if text is None:
        return None
    path = Path(text).expanduser()
    try:
        if is_folder:
            next(path.iterdir(), None)
        else:
            path.open("rb").close()
    except OSError as error:
        remedy = "name a folder of wheels" if is_folder else "name a file that ends with .whl"
        raise error_from("usage", recorded.unread(text, error), remedy) from None
    return path


def targets_of(texts: tuple[str, ...]) -> list[Target]:
    """The machines of a line, files read. Raises ``usage``, also for one that is named twice."""
    from pollen.cli.values import read_input

    words: list[str] = []
    for text in texts:
        if text == "-" or text.startswith("@"):
            lines = read_input(text).decode(errors="replace").splitlines()
            words += [line for line in map(_without_comment, lines) if line]
        else:
            words.append(text)
    if not words:
        raise error_from("usage", "no machine is named", "give user@host, one a line in a file")
    found = [target_of(word) for word in words]
    for kind, names in (
        ("machine", [target.paths.host for target in found]),
        ("name", [target.name for target in found if target.name]),
    ):
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            reason = f"the {kind} {twice[0].removeprefix('ssh://')!r} is given twice"
            raise error_from("usage", reason, "name each machine once, each by another name")
    return found


def _without_comment(line: str) -> str:
    return line.partition("#")[0].strip()


def target_of(word: str) -> Target:
    """The machine of ``[name=]host``. Raises ``usage`` or ``name-invalid``."""
    from pollen.core.codec import Refusal
    from pollen.core.labels import check_name

    name, equals, host = ("", "", word) if word.startswith("-") else word.rpartition("=")
    if equals and isinstance(refused := check_name(name), Refusal):
        raise refused.to_error()
    known = hosts.read()[1]
    paths = hosts.parse(known.get(host, host))
    if host == hosts.LOCAL:
        raise error_from("usage", "local is this machine", "here: pln join TOKEN")
    if paths.is_given:
        reason = f"{host!r} names a folder, and the folder is chosen there"
        raise error_from("usage", reason, f"leave it out: {paths.host}")
    return Target(paths, name)


class Screen:
    """One line a machine: drawn over on a terminal, else a line for each change."""

    def __init__(self, names: list[str], *, is_silent: bool) -> None:
        self._words = dict.fromkeys(names, "waiting")
        self._width = max(map(len, names))
        self._is_silent = is_silent
        rows = shutil.get_terminal_size().lines
        is_dumb = os.environ.get("TERM") in (None, "", "dumb")
        # More lines than the screen has cannot be drawn over.
        self._is_drawn = sys.stderr.isatty() and not is_dumb and len(names) < rows
        self._drawing = threading.Lock()
        self._is_begun = False

    def show(self, name: str, word: str) -> None:
        """What is done there now."""
        self._change(name, f"{word} ...")

    def end(self, name: str, word: str) -> None:
        """How it ended."""
        self._change(name, word)

    def print(self, value: dict[str, Any]) -> None:
        """A result for programs, whole."""
        with self._drawing:
            output.print_json(value)
            sys.stdout.flush()

    def _change(self, name: str, word: str) -> None:
        with self._drawing:
            self._words[name] = word
            if self._is_silent:
                return
            if not self._is_drawn:
                click.echo(self._line(name), err=True)
                return
            up = f"\x1b[{len(self._words)}A" if self._is_begun else ""
            self._is_begun = True
            clear = output.steering("\r\x1b[K", sys.stderr)
            lines = "".join(f"{clear}{self._line(one)}\n" for one in self._words)
            sys.stderr.write(output.steering(up, sys.stderr) + lines)
            sys.stderr.flush()

    def _line(self, name: str) -> str:
        text = f"{name:<{self._width}}  {escaped(self._words[name])}"
        return text[: output.width() - 1] if self._is_drawn else text


def _word(outcome: Outcome, *, is_dry: bool) -> str:
    if outcome.error is not None:
        return f"failed [{outcome.error.slug}]"
    if not outcome.steps:
        return "nothing to do"
    if is_dry:
        return f"would be: {', '.join(outcome.steps)}"
    return f"done in {outcome.seconds:.0f} s"


def object_of(outcome: Outcome) -> dict[str, Any]:
    """An outcome for programs."""
    error = outcome.error
    return {
        "host": outcome.host,
        "ok": error is None,
        "name": outcome.name,
        "node": outcome.node,
        "tier": outcome.tier,
        "version": outcome.version,
        "steps": list(outcome.steps),
        "notes": list(outcome.notes),
        "seconds": round(outcome.seconds, 3),
        "error": None if error is None else error.to_dict(),
    }


def _report(outcomes: list[Outcome], tier: str | None, *, is_dry: bool) -> None:
    noted: dict[str, list[str]] = {}
    for held in outcomes:
        if held.error is not None:
            output.print_error(held.error, as_json=False)
            continue
        for note in held.notes if not is_dry else ():
            noted.setdefault(note, []).append(held.host)
        if tier and held.tier and held.tier != tier:
            change = f"pln grant {held.name} --{tier}"
            click.echo(
                f"hint: {held.host} is a {held.tier} already; to change it: {change}", err=True
            )
    for note, names in noted.items():
        click.echo(f"hint: {', '.join(names)}: {escaped(note)}", err=True)
    failed = [held for held in outcomes if held.error is not None]
    idle = [held for held in outcomes if held.error is None and not held.steps]
    made = len(outcomes) - len(failed) - len(idle)
    count = len(outcomes)
    verb = "would become" if is_dry else "became"
    what = "a member" if made == 1 else "members"
    parts = [f"{made} {verb} {what}"] if made else []
    parts += [f"{len(idle)} had nothing to do"] if idle else []
    parts += [f"{len(failed)} failed"] if failed else []
    click.echo(f"{count} machine{'' if count == 1 else 's'}: {', '.join(parts)}")
