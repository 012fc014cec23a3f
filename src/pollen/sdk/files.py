"""Files to the node and from it: what ``pln seed FILE`` and ``pln fetch`` do with bytes.

Decides: when a file counts as changed while it was read, and how what comes takes its place.
Does not know: the node's store; how bytes travel between nodes.
Invariants: a file that is fetched appears under its name whole or not at all, and never replaces
    another one unasked. Neither way holds more of a file in memory than one piece.
Source: docs/internals/content.md#reading; POSIX rename.
"""

from __future__ import annotations

import contextlib
import os
import stat
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, Final
from urllib.parse import quote

from pollen.errors import PollenError, error_from
from pollen.sdk.control import Control

# Told of the bytes that went or came, and of all of them.
Progress = Callable[[int, int], None]
# Bytes between two words of progress.
_PIECE: Final = 1 << 20
STDIN: Final = Path("-")


class _Enough(Exception):
    """Whoever read standard output has enough: that is no fault of the connection to the node."""


def upload(control: Control, path: Path, progress: Progress) -> str:
    """Hand a file to the node, or what comes from standard input (``-``); its hex id.

    Raises ``bad-request`` for what is no file or changes meanwhile, ``storage-full``.
    """
    if path == STDIN:
        with tempfile.TemporaryFile() as file:
            while piece := sys.stdin.buffer.read(_PIECE):
                file.write(piece)
            file.flush()
            return _upload(control, file, "standard input", progress)
    try:
        with path.open("rb") as file:
            return _upload(control, file, str(path), progress)
    except OSError as error:
        raise error_from("bad-request", f"{path}: {error.strerror}", "name a file") from None


def _upload(control: Control, file: BinaryIO, name: str, progress: Progress) -> str:
    before = os.fstat(file.fileno())
    if not stat.S_ISREG(before.st_mode):
        raise error_from("bad-request", f"{name} is not a file", "name a file, or - for stdin")
    with control.sending(file, before.st_size) as sending:
        while sending.send(_PIECE):
            progress(sending.sent, before.st_size)
        if sending.sent < before.st_size == os.fstat(file.fileno()).st_size:
            # The node answered before it had all of it.
            return sending.answer()
        after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
            raise error_from("bad-request", f"{name} changed while it was read", "ask again")
        return sending.answer()


def fetch(
    control: Control, name: str, place: Path | None, progress: Progress, *, force: bool = False
) -> int:
    """Fetch a blob into the file ``place``, or to standard output (None); its size.

    Raises ``seed-not-found``, ``denied``, ``unreachable`` when no holder has all of it,
    ``file-exists``, ``bad-request`` for a place that cannot be written, and ``BrokenPipeError``.
    """
    if place is not None and not force and place.exists():
        raise error_from("file-exists", f"{place} is there already", "to replace it: --force")
    try:
        with control.reading(f"/blob/{quote(name, safe='')}") as (answer, size):
            if place is None:
                return _copy(answer, sys.stdout.buffer, "standard output", size, progress)
            with _beside(place) as file:
                return _copy(answer, file, str(place), size, progress)
    except _Enough:
        raise BrokenPipeError from None


def _copy(answer: BinaryIO, file: BinaryIO, name: str, size: int, progress: Progress) -> int:
    done = 0
    while done < size and (piece := answer.read(min(_PIECE, size - done))):
        try:
            file.write(piece)
        except BrokenPipeError:
            raise _Enough from None
        except OSError as error:
            raise _not_written(name, error) from None
        done += len(piece)
        progress(done, size)
    if done < size:
        reason = f"{done} of {size} bytes came, and then no more"
        raise error_from("unreachable", reason, "ask again: what came is not fetched again")
    return done


@contextlib.contextmanager
def _beside(place: Path) -> Iterator[BinaryIO]:
    """A new file that takes its place when the block ends well, synced."""
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    try:
        file = part.open("xb", buffering=0)
    except OSError as error:
        raise _not_written(str(place), error) from None
    try:
        with file:
            yield file
            with _written(place):
                os.fsync(file.fileno())
        with _written(place):
            part.replace(place)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def _written(place: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _not_written(str(place), error) from None


def _not_written(name: str, error: OSError) -> PollenError:
    return error_from(
        "bad-request", f"{name}: {error.strerror}", "name another place, or make room"
    )
