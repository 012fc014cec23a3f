"""How far a file has come: one line on a terminal, and nothing elsewhere.

Decides: how often the line is drawn, and what it says.
Does not know: what moves, or whereto.
Invariants: stderr only; the line is gone when the transfer ends.
Source: docs/design/cli.md#fetching.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator

from pollen.cli import output
from pollen.units import human_bytes

# Seconds between two drawings; what is over sooner draws nothing.
_PAUSE = 0.25


@contextlib.contextmanager
def shown(what: str, *, as_json: bool) -> Iterator[Callable[[int, int], None]]:
    """A function that is told of the bytes done and of all of them."""
    if as_json or not sys.stderr.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        yield lambda done, whole: None
        return
    line = _Line(what)
    try:
        yield line.tell
    finally:
        line.clear()


class _Line:
    def __init__(self, what: str) -> None:
        self._what = what
        self._began = self._drawn = time.monotonic()
        self._is_drawn = False

    def tell(self, done: int, whole: int) -> None:
        now = time.monotonic()
        if now - self._drawn < _PAUSE:
            return
        self._drawn, self._is_drawn = now, True
        self._draw(progress_text(self._what, done, whole, now - self._began))

    def clear(self) -> None:
        if self._is_drawn:
            self._draw("")

    def _draw(self, text: str) -> None:
        home, rest = (output.steering(key, sys.stderr) for key in ("\r", "\x1b[K"))
        sys.stderr.write(f"{home}{text[: output.width() - 1]}{rest}")
        sys.stderr.flush()


def progress_text(what: str, done: int, whole: int, seconds: float) -> str:
    """``fetching film: 1.5 GiB of 4.0 GiB, 110 MiB/s, 24 s left``."""
    rate = done / seconds if seconds > 0 else 0.0
    text = f"{what}: {human_bytes(done)} of {human_bytes(whole)}, {human_bytes(int(rate))}/s"
    left = (whole - done) / rate if rate > 0 else 0.0
    return f"{text}, {output.human_age(int(left * 1000))} left" if done < whole and rate else text
