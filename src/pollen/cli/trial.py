"""A node for one command: ``pln run`` tries a file on it, and nobody else reaches it.

Decides: where that node lives, that it looks for no other one, and what it leaves.
Does not know: what is tried, and how it is called.
Invariants: two commands at once never share a node. Its folder stays, so that the next one need
    not compile the interpreter again. The node ends with the command, also by kill -9 on Linux.
Source: docs/design/cli.md#trying.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from pollen.errors import PollenError, error_from
from pollen.paths import Paths, resolve
from pollen.plain import escaped
from pollen.sdk.control import Control

# The node, and the name under which the file is tried.
NAME: Final = "trial"
# Seconds until it answers, and between two looks.
_START_SECONDS: Final = 30.0
_POLL_SECONDS: Final = 0.02
_PR_SET_PDEATHSIG: Final = 1
# Lines of its log that are shown.
_LINES: Final = 1_000
# A list with nobody behind it: a node without a list asks the local network.
_NOBODY: Final = "static:127.0.0.1:9"


@contextlib.contextmanager
def trial_node() -> Iterator[Paths]:
    """The folder of a node that runs while the block does. Raises ``state-unusable``, and
    ``internal`` when it does not start."""
    from pollen.runtime.watch.logs import GUESTS

    with _folder() as home:
        where = resolve(str(home))
        shutil.rmtree(where.log_file.with_name(GUESTS), ignore_errors=True)
        _enrol(where)
        line = [sys.executable, "-P", "-m", "pollen.runtime", "--dir", str(home)]
        line += ["--listen", "127.0.0.1:0"]
        with where.last_words.open("wb") as words:
            # Not in the terminal's group: Ctrl-C is for this command, which then ends its node.
            process = subprocess.Popen(
                line,
                stdin=subprocess.DEVNULL,
                stdout=words,
                stderr=words,
                start_new_session=True,
                # No other thread runs here.
                preexec_fn=_end_with_parent,  # noqa: PLW1509
            )
        try:
            _await_start(where, process)
            yield where
            # What was tried is not loaded again by the next one.
            Control(where).withdraw(NAME)
        finally:
            process.kill()
            process.wait()


def _end_with_parent() -> None:
    """In the child: Linux kills it when this process ends, however that comes (prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _await_start(where: Paths, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(PollenError):
            if Control(where).get("/v1/health")["state"] == "running":
                return
        time.sleep(_POLL_SECONDS)
    said = where.last_words.read_text(errors="replace").strip().splitlines()[-5:]
    raise error_from("internal", "\n".join(["the node did not start", *said]), "ask again")


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    """The folder that is kept, or one for this time alone while another command has that."""
    kept = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pollen" / "run"
    try:
        kept.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(kept / "in-use", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        lock = -1
    try:
        if lock >= 0 and _is_locked(lock):
            yield kept
            return
        with tempfile.TemporaryDirectory(prefix="pln-run-") as folder:
            yield Path(folder)
    finally:
        if lock >= 0:
            os.close(lock)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _enrol(where: Paths) -> None:
    """A cluster of its own, which no other node is invited to and which looks for none."""
    from pollen.runtime.folder import config, identity

    if not where.member_file.exists():
        identity.init(where, name=NAME)
    config.write_setting(where.config_file, "discovery", _NOBODY)


def show_log(where: Paths) -> None:
    """What the file wrote to its log, on standard error."""
    lines: list[dict[str, Any]] = []
    with contextlib.suppress(PollenError):
        path = f"/v1/logs?lines={_LINES}&follow=false&seed={NAME}"
        lines = [json.loads(raw) for raw in Control(where).lines(path)]
    for fields in lines:
        if fields.get("source") == "guest":
            level = "" if fields["level"] == "info" else f"{fields['level']}: "
            click.echo(escaped(f"{level}{fields['text']}"), err=True)


def without_node(error: PollenError, source: str) -> PollenError:
    """The same error for somebody who knows of no node: with what there is to do about the file."""
    lines = error.remedy.replace(f"pln call {NAME}", f"pln run {source}").split("\n")
    error.remedy = "\n".join(line for line in lines if NAME not in line)
    error.reason = error.reason.replace(f'seed "{NAME}"', source).replace(f"{NAME}/", "")
    error.node = None
    return error
