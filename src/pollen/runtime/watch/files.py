"""A log file that is renamed when it is full, and the segments that are kept of it.

Decides: when a file is full.
Does not know: what a line says; who reads the files (``logs``).
Invariants: ``.1`` is the newest of the renamed ones; a full disk loses a line, never the daemon.
Source: docs/guide/observe.md#logs.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any


class RotatingFile:
    """A file that is renamed to ``.1``, ``.2`` and so on when it is full. Safe from any thread.

    ``kept``: so many renamed ones at most; None for any number, and somebody else removes them.
    """

    def __init__(self, path: Path, limit: int, kept: int | None) -> None:
        self._path = path
        self._limit = limit
        self._kept = kept
        self._lock = threading.Lock()
        self._file = self._open()
        self._is_over = False

    def _open(self) -> Any:
        descriptor = os.open(
            self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        return os.fdopen(descriptor, "ab", buffering=0)

    def write_line(self, line: str) -> bool:
        """Append one line. True when the file was full, so that a new one began."""
        data = line.encode("utf-8", "replace") + b"\n"
        has_rotated = False
        with self._lock:
            if self._is_over:
                return False
            try:
                if self._file.closed:
                    # A rotation that failed half way: the disk may have room again.
                    self._file = self._open()
                if self._file.tell() + len(data) > self._limit:
                    self._rotate()
                    has_rotated = True
                self._file.write(data)
            except OSError:
                return False
        return has_rotated

    def _rotate(self) -> None:
        self._file.close()
        older = segments(self._path)
        for n in range(len(older) - 1, -1, -1):
            if self._kept is not None and n >= self._kept:
                older[n].unlink()
            else:
                older[n].replace(self._path.with_name(f"{self._path.name}.{n + 1}"))
        self._file = self._open()

    def close(self) -> None:
        """Close the file; later lines are dropped."""
        with self._lock:
            self._is_over = True
            self._file.close()


def segments(path: Path) -> list[Path]:
    """The file and what was renamed of it, newest first; numbers without a gap do not matter."""
    older = []
    for held in path.parent.glob(f"{path.name}.*"):
        number = held.name.removeprefix(f"{path.name}.")
        if number.isdecimal():
            older.append((int(number), held))
    return ([path] if path.exists() else []) + [held for _, held in sorted(older)]
