"""The node's log: JSON lines in rotating files, and human text on a terminal.

A line is ``{"at", "level", "event", …fields}``; ``at`` is UTC with milliseconds. Lines of guests go
to files of their own beside the node's (``guests``), so a seed that logs much rotates away only its
own lines. The tail of a log, and what follows it, are read here too.
"""

from __future__ import annotations

import collections
import contextlib
import heapq
import json
import re
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from pollen.plain import tame
from pollen.runtime.watch.files import RotatingFile, segments
from pollen.runtime.watch.guests import GuestFiles, files_of

FILE_BYTES = 8 * 1024 * 1024
FILES_KEPT = 3
# The folder of the guests' files, beside the node's.
GUESTS = "seed-logs"
_AT_END = len('{"at": "2026-01-01T00:00:00.000Z"')
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}


class _Sink:
    """What structlog writes to: the node's file or a seed's, and a terminal if there is one."""

    def __init__(self, file: RotatingFile, guests: GuestFiles, with_text: bool) -> None:
        self._file = file
        self._guests = guests
        self._with_text = with_text

    def msg(self, message: str, *, guest: str | None) -> None:
        if guest is None:
            self._file.write_line(message)
        else:
            self._guests.write_line(guest, message)
        if self._with_text:
            print(human_line(message), file=sys.stderr, flush=True)

    debug = info = warning = error = critical = log = msg


@contextlib.contextmanager
def opened(path: Path, *, level: str = "info", with_text: bool = False) -> Iterator[Any]:
    """A structlog logger over ``path`` and the guests' files; they are closed with the context."""
    file = RotatingFile(path, FILE_BYTES, kept=FILES_KEPT)
    guests = GuestFiles(path.with_name(GUESTS))
    try:
        yield _make_logger(_Sink(file, guests, with_text), level)
    finally:
        file.close()
        guests.close()


def files(path: Path) -> list[Path]:
    """The node's file and those of its guests that there are now."""
    return [path, *files_of(path.with_name(GUESTS))]


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


# Where ``_stamp`` puts it.
_AT = re.compile(r'\{"at": "([^"]{24})"')

_json = structlog.processors.JSONRenderer(default=str, ensure_ascii=False)


def _render(logger: Any, method: str, fields: Any) -> tuple[tuple[Any], dict[str, str | None]]:
    # So the muscles name the source of a line that a guest wrote (host.rs).
    guest = str(fields.get("seed", "")) if fields.get("source") == "guest" else None
    return (_json(logger, method, fields),), {"guest": guest}


def time_of(line: str) -> str:
    """The ``at`` of a line, ISO 8601 in UTC; empty for a line that has none."""
    found = _AT.match(line)
    return found[1] if found else ""


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
    for name in segments(path):
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


class Followers:
    """What is appended to the files of a node and its guests from now on, also to new files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._held = {file: Follower(file) for file in files(path)}

    def read(self, seed: str = "") -> list[str]:
        """The whole lines since the last time by their times, of one seed when it is named."""
        for file in files(self._path):
            if file not in self._held:
                self._held[file] = Follower(file, is_new=True)
        return list(merged([follower.read(seed) for follower in self._held.values()]))


class Follower:
    """What is appended to a log's file from now on; a rotated one is followed under its name."""

    def __init__(self, path: Path, *, is_new: bool = False) -> None:
        self._path = path
        # A file that came while others were followed is read from its beginning.
        self._position, self._inode = (0, 0) if is_new else self._mark()

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
