"""The node's log: JSON lines in rotating files, and human text on a terminal.

A line is ``{"at", "level", "event", …fields}``; ``at`` is UTC with milliseconds. What guests say
has files of its own beside the node's: who talks much rotates nothing away but guests' words.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import json
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from pollen.plain import tame

FILE_BYTES = 8 * 1024 * 1024
FILES_KEPT = 3
# The guests' file, beside the node's.
GUESTS = "seeds.log"
_AT_END = len('{"at": "2026-01-01T00:00:00.000Z"')
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class RotatingFile:
    """A file that is renamed to ``.1`` … ``.3`` when it is full. Safe from any thread."""

    def __init__(self, path: Path, limit: int) -> None:
        self._path = path
        self._limit = limit
        self._lock = threading.Lock()
        self._file = self._open()
        self._is_over = False

    def _open(self) -> Any:
        descriptor = os.open(
            self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        return os.fdopen(descriptor, "ab", buffering=0)

    def write_line(self, line: str) -> None:
        """Append one line; a full disk loses the line, never the daemon."""
        data = line.encode("utf-8", "replace") + b"\n"
        with self._lock:
            if self._is_over:
                return
            try:
                if self._file.closed:
                    # A rotation that failed half way: the disk may have room again.
                    self._file = self._open()
                if self._file.tell() + len(data) > self._limit:
                    self._rotate()
                self._file.write(data)
            except OSError:
                return

    def _rotate(self) -> None:
        self._file.close()
        for n in range(FILES_KEPT - 1, 0, -1):
            older = self._path.with_name(f"{self._path.name}.{n}")
            if older.exists():
                older.replace(self._path.with_name(f"{self._path.name}.{n + 1}"))
        self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._file = self._open()

    def close(self) -> None:
        """Close the file; later lines are dropped."""
        with self._lock:
            self._is_over = True
            self._file.close()


class _Sink:
    """What structlog writes to: the node's file or the guests', and a terminal if there is one."""

    def __init__(self, file: RotatingFile, guests: RotatingFile, with_text: bool) -> None:
        self._file = file
        self._guests = guests
        self._with_text = with_text

    def msg(self, message: str, *, is_guests: bool) -> None:
        (self._guests if is_guests else self._file).write_line(message)
        if self._with_text:
            print(human_line(message), file=sys.stderr, flush=True)

    debug = info = warning = error = critical = log = msg


@contextlib.contextmanager
def opened(path: Path, *, level: str = "info", with_text: bool = False) -> Iterator[Any]:
    """A structlog logger over ``path`` and the guests' file; they are closed with the context."""
    file, guests = (RotatingFile(held, FILE_BYTES) for held in files(path))
    try:
        yield _make_logger(_Sink(file, guests, with_text), level)
    finally:
        file.close()
        guests.close()


def files(path: Path) -> tuple[Path, Path]:
    """The node's file and the guests' beside it."""
    return path, path.with_name(GUESTS)


def _make_logger(sink: _Sink, level: str) -> Any:
    return structlog.wrap_logger(
        sink,
        processors=[
            structlog.processors.add_log_level,
            _stamp,
            structlog.processors.format_exc_info,
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS.get(level, 20)),
    )


def _stamp(_logger: Any, _method: str, fields: Any) -> Any:
    at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"at": at, "level": fields.pop("level"), "event": fields.pop("event"), **fields}


_json = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)


def _render(logger: Any, method: str, fields: Any) -> tuple[tuple[Any], dict[str, bool]]:
    # So the muscles name the source of a line that a guest wrote (host.rs).
    is_guests = fields.get("source") == "guest"
    return (_json(logger, method, fields),), {"is_guests": is_guests}


def human_line(line: str) -> str:
    """A JSON line as a person reads it on a terminal."""
    fields = tame(json.loads(line))
    at, level, event = fields.pop("at", ""), fields.pop("level", ""), fields.pop("event", "")
    rest = " ".join(f"{key}={value}" for key, value in fields.items())
    return f"{at[11:23]} {level:<7} {event} {rest}".rstrip()


def tail(path: Path, lines: int, seed: str = "") -> list[str]:
    """The last lines of the node and its guests, in files that are kept, oldest first; only those
    of one seed when it is named."""
    both = list(merged(_tail(file, lines, seed) for file in files(path)))
    return both[max(len(both) - lines, 0) :]


def _tail(path: Path, lines: int, seed: str) -> Iterable[str]:
    found: collections.deque[str] = collections.deque()
    for name in (path, *(path.with_name(f"{path.name}.{n}") for n in range(1, FILES_KEPT + 1))):
        missing = lines - len(found)
        if missing <= 0:
            break
        last: collections.deque[str] = collections.deque(maxlen=missing)
        with (
            contextlib.suppress(FileNotFoundError),
            name.open(encoding="utf-8", errors="replace") as file,
        ):
            last.extend(line.rstrip("\n") for line in file if is_about(line, seed))
        found.extendleft(reversed(last))
    return found


def merged(series: Iterable[Iterable[str]]) -> Iterator[str]:
    """Lines of several files by their times, those of one file in its order."""
    # A line begins with its time, written so that text order is the order of time.
    return heapq.merge(*series, key=lambda line: line[:_AT_END])


class Follower:
    """What is appended to a log's file from now on; a rotated one is followed under its name."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._position, self._inode = self._mark()

    def read(self, seed: str = "") -> list[str]:
        """The whole lines since the last time, of one seed when it is named."""
        size, inode = self._mark()
        if inode != self._inode or size < self._position:
            self._position, self._inode = 0, inode
        if size == self._position:
            return []
        try:
            with self._path.open("rb") as file:
                file.seek(self._position)
                chunk = file.read()
        except FileNotFoundError:
            return []  # Between two names of a rotation; it is there the next time.
        whole = chunk[: chunk.rfind(b"\n") + 1]
        self._position += len(whole)
        # Not splitlines: a guest's text may hold other ends of lines than JSON escapes.
        lines = whole.decode("utf-8", "replace").split("\n")[:-1]
        return [line for line in lines if is_about(line, seed)]

    def _mark(self) -> tuple[int, int]:
        try:
            held = self._path.stat()
        except FileNotFoundError:
            return 0, 0
        return held.st_size, held.st_ino


def is_about(line: str, seed: str) -> bool:
    """True when a line speaks of this seed (name or hash prefix), or no seed is asked for."""
    if not seed:
        return True
    # Names and hashes are the same in JSON; most lines are about others and need no reading.
    if seed not in line:
        return False
    try:
        fields = json.loads(line)
    except ValueError:
        return False
    return seed in (fields.get("name"), fields.get("seed")) or str(
        fields.get("seed", "")
    ).startswith(seed)
