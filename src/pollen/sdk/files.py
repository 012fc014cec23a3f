"""Files to the node and from it: what ``pln seed FILE`` and ``pln fetch`` do with bytes.

Decides: when a file counts as changed while it was read, and how what comes takes its place: as a
    file, and a site as a folder.
Does not know: the node's store; how bytes travel between nodes.
Invariants: what is fetched appears under its name whole or not at all, and never replaces
    another one unasked. Neither way holds more of a file in memory than one piece.
Source: docs/internals/content.md#reading; POSIX rename.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple
from urllib.parse import quote

from pollen.errors import PollenError, error_from
from pollen.sdk import sites
from pollen.sdk.control import Control

# Told of the bytes that went or came, and of all of them.
Progress = Callable[[int, int], None]
# Bytes between two words of progress.
_PIECE: Final = 1 << 20
STDIN: Final = Path("-")
# How the door calls the archive of a site.
_ARCHIVE: Final = "application/x-tar"


class Fetched(NamedTuple):
    """What came: its bytes, and where it is (None: standard output). ``files`` is how many files a
    site has, None for a file."""

    size: int
    place: Path | None
    files: int | None = None


class _Enough(Exception):
    """Whoever read standard output has enough: that is no fault of the connection to the node."""


def upload(control: Control, path: Path, progress: Progress, recipients: Sequence[str] = ()) -> str:
    """Hand a file to the node, or what comes from standard input (``-``); its hex id. The node
    seals it for the ``recipients``, if there are any.

    Raises ``bad-request`` for what is no file or changes meanwhile, ``storage-full``.
    """
    if path == STDIN:
        with tempfile.TemporaryFile() as file:
            while piece := sys.stdin.buffer.read(_PIECE):
                file.write(piece)
            file.flush()
            return _upload(control, file, "standard input", progress, recipients)
    try:
        with path.open("rb") as file:
            return _upload(control, file, str(path), progress, recipients)
    except OSError as error:
        raise error_from("bad-request", f"{path}: {error.strerror}", "name a file") from None


def upload_site(control: Control, folder: Path, progress: Progress, manner: sites.Manner) -> str:
    """Hand the files of a folder to the node as one archive; its hex id.

    Raises ``bad-request`` for a folder that is no site or changes meanwhile, ``storage-full``.
    """
    with sites.packed(folder, manner) as archive:
        return _upload(control, archive, str(folder), progress)


def _upload(
    control: Control,
    file: BinaryIO,
    name: str,
    progress: Progress,
    recipients: Sequence[str] = (),
) -> str:
    before = os.fstat(file.fileno())
    if not stat.S_ISREG(before.st_mode):
        raise error_from("bad-request", f"{name} is not a file", "name a file, or - for stdin")
    with control.sending(file, before.st_size, recipients) as sending:
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
    control: Control,
    name: str,
    place: Path | None,
    progress: Progress,
    *,
    force: bool = False,
    bytes_per_s: int = 0,
) -> Fetched:
    """Fetch a blob into the file ``place``, or into that folder, or to standard output (None). A
    site becomes the folder ``place``. ``bytes_per_s``: how fast it may come from other nodes; 0 is
    no limit.

    Raises ``seed-not-found``, ``denied``, ``unreachable`` when no holder has all of it,
    ``file-exists``, ``bad-request`` for a place that cannot be written, ``bundle-invalid`` for a
    site that is none, and ``BrokenPipeError``.
    """
    try:
        with control.reading(_path_of(name, bytes_per_s)) as (answer, size, media):
            if place is None:
                return Fetched(
                    _copy(answer, sys.stdout.buffer, "standard output", size, progress), None
                )
            is_site = media == _ARCHIVE
            if not is_site and place.is_dir():
                place /= name
            if not force and place.exists():
                whole = " with all that is in it" if place.is_dir() else ""
                remedy = f"to replace it{whole}: --force"
                raise error_from("file-exists", f"{place} is there already", remedy)
            if is_site:
                coming, folder_at = _Coming(answer, size, progress), _folder_of(place)
                with _written(place), _folder_beside(folder_at) as folder:
                    count = sites.unpack(coming, folder)
                    coming.drain()
                return Fetched(size, place, count)
            with _beside(place) as file:
                return Fetched(_copy(answer, file, str(place), size, progress), place)
    except _Enough:
        raise BrokenPipeError from None


def pieces(control: Control, name: str, *, bytes_per_s: int = 0) -> Generator[bytes, None, None]:
    """The bytes of a blob as they come, at most 1 MiB at a time, each checked against the hash. A
    site is a tar archive. The connection is closed with the iterator.

    Raises ``seed-not-found``, ``denied``, and ``unreachable`` when no holder has the rest.
    """
    with control.reading(_path_of(name, bytes_per_s)) as (answer, size, _):
        coming = _Coming(answer, size, lambda done, whole: None)
        while piece := coming.read(_PIECE):
            yield piece


def _path_of(name: str, bytes_per_s: int) -> str:
    return f"/blob/{quote(name, safe='')}" + f"?bwlimit={bytes_per_s}" * (bytes_per_s > 0)


def _folder_of(place: Path) -> Path:
    """Where the folder of a site is to be, links followed. Raises ``bad-request`` for a place that
    cannot be replaced whole: one that this process stands in, or the root of everything."""
    place = place.resolve()
    if place == Path.cwd() or place in Path.cwd().parents:
        remedy = "name a folder of its own, which is replaced whole"
        raise error_from("bad-request", f"{place} holds the folder where this runs", remedy)
    return place


class _Coming:
    """The bytes of an answer as a file that is read once; ``unreachable`` when they end early."""

    def __init__(self, answer: BinaryIO, size: int, progress: Progress) -> None:
        self._answer, self._size, self._progress = answer, size, progress
        self._done = 0

    def read(self, size: int = -1) -> bytes:
        """Up to ``size`` bytes; fewer at the end only."""
        left = self._size - self._done
        wanted = left if size < 0 else min(size, left)
        piece = self._answer.read(wanted)
        self._done += len(piece)
        if len(piece) < wanted:
            raise _broke_off(self._done, self._size)
        self._progress(self._done, self._size)
        return piece

    def drain(self) -> None:
        """Read what is left, behind the end of the archive."""
        while self.read(_PIECE):
            pass


def _broke_off(done: int, size: int) -> PollenError:
    reason = f"{done} of {size} bytes came, and then no more"
    return error_from("unreachable", reason, "ask again: what came is not fetched again")


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
        raise _broke_off(done, size)
    return done


@contextlib.contextmanager
def _folder_beside(place: Path) -> Iterator[Path]:
    """A new folder that takes its place when the block ends well. One that was there is kept aside
    until then, and removed."""
    part = place.with_name(f".{place.name}.{os.getpid()}.part")
    aside = place.with_name(f".{place.name}.{os.getpid()}.old")
    part.mkdir()
    try:
        yield part
        if place.exists():
            place.replace(aside)
        part.replace(place)
    finally:
        for folder in (part, aside):
            if folder.is_file():
                folder.unlink()
            elif folder.exists():
                shutil.rmtree(folder)


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
