"""How far a map has come: one line on a terminal, an output of its own in a notebook.

Decides: where it is shown, how often, and what it says.
Does not know: what is mapped, or where it runs.
Invariants: stderr alone; nothing is drawn where nobody looks, in a pipe or a log. tqdm draws it
    where the program has tqdm. What is drawn never fails a map.
Source: docs/design/functions.md#calls.
"""

from __future__ import annotations

import contextlib
import importlib
import operator
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

# Seconds between two drawings.
PAUSE: Final = 0.25
Draw = Callable[[str], None]


def count_of(inputs: Iterable[Any]) -> int | None:
    """How many there are, where that can be known before one is taken."""
    with contextlib.suppress(Exception):  # what a user's own class may raise
        return operator.length_hint(inputs) or None
    return None


@contextlib.contextmanager
def shown(label: str, whole: int | None, *, is_wanted: bool) -> Iterator[Callable[[], None]]:
    """A function that is told of each result. ``label`` begins the line; ``whole``: of so many."""
    if not is_wanted:
        yield _nothing
        return
    if (theirs := _tqdm(label, whole)) is not None:
        with theirs:
            yield lambda: theirs.update() and None
        return
    line = Line(label, whole, _place(), time.monotonic)
    try:
        yield line.step
    finally:
        line.end()


def _nothing() -> None:
    """Where nobody looks."""


def _tqdm(label: str, whole: int | None) -> Any:
    try:
        tqdm = importlib.import_module("tqdm.auto").tqdm
    except ImportError:
        return None
    # None: on a terminal and in a notebook, and nowhere else.
    return tqdm(total=whole, desc=label, unit="call", mininterval=PAUSE, disable=None)


def _place() -> Draw | None:
    """Where a line can be drawn again and again, or None."""
    if (notebook := _notebook()) is not None:
        return notebook
    with contextlib.suppress(AttributeError, ValueError):  # there is none, or it is closed
        if sys.stderr.isatty() and os.environ.get("TERM") not in (None, "", "dumb"):
            return _draw_on_terminal
    return None


def _draw_on_terminal(text: str) -> None:
    width = shutil.get_terminal_size().columns - 1
    sys.stderr.write(f"\r{text[:width]}\x1b[K")
    sys.stderr.flush()


def _notebook() -> Draw | None:
    """An output of a cell, where this runs in one: IPython with a kernel, which shows outputs."""
    loaded = sys.modules.get("IPython")
    shell = loaded.get_ipython() if loaded is not None else None
    if shell is None or not hasattr(shell, "kernel"):
        return None
    display = importlib.import_module("IPython.display").display
    held: list[Any] = []

    def draw(text: str) -> None:
        data = {"text/plain": text}
        if held:
            held[0].update(data, raw=True)
        else:
            held.append(display(data, raw=True, display_id=True))

    return draw


class Line:
    """Counts results, and draws what came of it at most four times a second.

    ``draw`` None draws nothing. In a terminal and a notebook the last line stays as it ended.
    """

    def __init__(
        self, label: str, whole: int | None, draw: Draw | None, now: Callable[[], float]
    ) -> None:
        self._label, self._whole, self._draw, self._now = label, whole, draw, now
        self._began = self._drawn = now()
        self._done = 0

    def step(self) -> None:
        """One more result."""
        self._done += 1
        if self._draw is None:
            return
        now = self._now()
        if now - self._drawn >= PAUSE:
            self._drawn = now
            self._show(now)

    def end(self) -> None:
        """The last drawing; where none was before, the map was short, and nothing is drawn."""
        if self._draw is not None and self._drawn > self._began:
            self._show(self._now())
            if self._draw is _draw_on_terminal:
                with contextlib.suppress(OSError, ValueError):
                    sys.stderr.write("\n")

    def _show(self, now: float) -> None:
        assert self._draw is not None
        # A closed terminal or a kernel that ends is no reason to lose results.
        with contextlib.suppress(Exception):
            self._draw(text(self._label, self._done, self._whole, now - self._began))


def text(label: str, done: int, whole: int | None, seconds: float) -> str:
    """``score: 1,200 of 5,000, 310/s, 12 s left``."""
    rate = done / seconds if seconds > 0 else 0.0
    told = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"
    if whole is None:
        return f"{label}: {done:,}, {told}"
    if done >= whole or not rate:
        return f"{label}: {done:,} of {whole:,}, {told}"
    return f"{label}: {done:,} of {whole:,}, {told}, {_left((whole - done) / rate)} left"


def _left(seconds: float) -> str:
    for limit, per, unit in ((120, 1, "s"), (7_200, 60, "min")):
        if seconds < limit:
            return f"{seconds / per:.0f} {unit}"
    return f"{seconds / 3_600:.0f} h"
