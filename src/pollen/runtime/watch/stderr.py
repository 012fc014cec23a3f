"""What is written where nobody reads: the loop's faults, and ``daemon.err``.

Decides: how often the same fault is told, and how large ``daemon.err`` grows.
Does not know: who writes to file descriptor 2: Python, the muscles, the C library.
Invariants: ``daemon.err`` and the one before it hold at most ``FILE_BYTES`` each, and what came
    within one second.
Source: measured: 362 MB of tracebacks in one attack of four minutes. Refused: a pipe to a thread
    that writes the file, since the last words of a crash would stay in the pipe.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Bytes; a trace of every thread is about 20 kB. Guess.
FILE_BYTES = 1 << 20
# Seconds between two looks at its size.
LOOK = 1.0
# Seconds in which one kind of fault is told once.
QUIET = 10.0
# Kinds of fault that are told apart; what is beyond them counts as one. Guess.
_KINDS = 64


class Quiet:
    """Tells each kind of fault once in ``QUIET`` seconds, with the number of those left out."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._told: dict[str, tuple[float, int]] = {}

    def speak(self, kind: str) -> int | None:
        """How many were left out since the last one, or None when this one is to be left out."""
        if kind not in self._told and len(self._told) >= _KINDS:
            kind = ""
        at, left_out = self._told.get(kind, (float("-inf"), 0))
        if self._clock() - at < QUIET:
            self._told[kind] = (at, left_out + 1)
            return None
        self._told[kind] = (self._clock(), 0)
        return left_out


def loop_handler(log: Any) -> Callable[[asyncio.AbstractEventLoop, dict[str, Any]], None]:
    """An exception handler for asyncio's loop that writes to the node's log, and not often."""
    quiet = Quiet()

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        message, error = str(context.get("message", "")), context.get("exception")
        left_out = quiet.speak(f"{message} {type(error).__name__}")
        if left_out is not None:
            log.error("loop-fault", what=message, left_out=left_out, exc_info=error)

    return handle


@contextlib.contextmanager
def kept(path: Path) -> Iterator[None]:
    """While the context lasts, a full ``path`` is moved to ``.1``, if stderr goes there."""
    if not _is_stderr(path):
        yield
        return
    over = threading.Event()

    def watch() -> None:
        while not over.wait(LOOK):
            with contextlib.suppress(OSError):
                rotate(path)

    thread = threading.Thread(target=watch, name="pollen-stderr", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def rotate(path: Path) -> None:
    """Begin a new file when this one is full; file descriptor 2 then goes to the new one."""
    if not _is_stderr(path) or os.fstat(2).st_size <= FILE_BYTES:
        return
    path.replace(path.with_name(f"{path.name}.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    new = os.open(path, flags, 0o600)
    try:
        os.dup2(new, 2)
    finally:
        os.close(new)


def _is_stderr(path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(2), path.stat())
    except OSError:
        return False
