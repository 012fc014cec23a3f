"""What guests log: files of each seed, so that no seed pushes out the lines of another.

Decides: which lines go when there are too many. They are the oldest of the seed that holds most.
Does not know: what a line says, how many may come a second (the muscles count that).
Invariants: all files together hold at most ``BUDGET_BYTES`` and one segment; a seed that holds less
    than its share loses nothing to a seed that holds more.
Source: docs/guide/observe.md#logs.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from pathlib import Path

from pollen.runtime.watch.files import RotatingFile, segments

# All seeds of a node together. As much as the node's own lines times four. Guess.
BUDGET_BYTES = 32 * 1024 * 1024
# What goes at once. Guess.
SEGMENT_BYTES = 1024 * 1024
# Open at a time: each takes a descriptor.
OPEN_MAX = 32


class GuestFiles:
    """A folder with the lines of each seed, ``NAME.log`` and older segments. Thread-safe."""

    def __init__(
        self, folder: Path, *, budget: int = BUDGET_BYTES, segment: int = SEGMENT_BYTES
    ) -> None:
        self._folder = folder
        self._budget, self._segment = budget, segment
        self._open: OrderedDict[str, RotatingFile] = OrderedDict()
        self._lock = threading.Lock()

    def write_line(self, seed: str, line: str) -> None:
        """Append a line of a seed; a full disk loses the line, never the daemon."""
        with self._lock:
            file = self._file(seed or "unknown")
            if file is not None and file.write_line(line):
                self._keep_to_budget()

    def close(self) -> None:
        """Close all files."""
        with self._lock:
            for file in self._open.values():
                file.close()
            self._open.clear()

    def _file(self, seed: str) -> RotatingFile | None:
        file = self._open.get(seed)
        if file is None:
            try:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                file = RotatingFile(self._folder / f"{seed}.log", self._segment, kept=None)
            except OSError:
                return None
            self._open[seed] = file
            self._keep_to_budget()
        self._open.move_to_end(seed)
        if len(self._open) > OPEN_MAX:
            self._open.popitem(last=False)[1].close()
        return file

    def _keep_to_budget(self) -> None:
        """Drop segments until the rest fits: of who holds most, else what was written longest ago.

        A seed's newest segment goes only when no seed has an older one.
        """
        held = {path: segments(path) for path in files_of(self._folder)}
        sizes = {path: sum(map(_size, parts)) for path, parts in held.items()}
        while sum(sizes.values()) > self._budget and len(held) > 0:
            many = [path for path, parts in held.items() if len(parts) > 1]
            path = max(many, key=sizes.__getitem__) if many else min(held, key=_written)
            oldest = held[path].pop()
            sizes[path] -= _size(oldest)
            with contextlib.suppress(OSError):
                oldest.unlink()
            if not held[path]:
                del held[path], sizes[path]
                file = self._open.pop(path.name.removesuffix(".log"), None)
                if file is not None:
                    file.close()


def files_of(folder: Path) -> list[Path]:
    """The newest segment of each seed that logged."""
    return sorted(folder.glob("*.log"))


def _size(path: Path) -> int:
    with contextlib.suppress(OSError):
        return path.stat().st_size
    return 0


def _written(path: Path) -> float:
    with contextlib.suppress(OSError):
        return path.stat().st_mtime
    return 0.0
