"""The RECORD of a wheel: the hash of each file that it installs, and whether the files have it.

Decides: whether an archive holds the files that its RECORD names, each with its hash, and no more.
Does not know: whose wheel it is, whether it fits, what an error of it is called.
Invariants: a file is read in pieces, so memory does not follow its size. RECORD itself is the only
    file that no hash vouches for.
Source: https://packaging.python.org/en/latest/specifications/recording-installed-packages/
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping

# Bytes that are read at once. Guess: few reads, and little memory.
_PIECE = 1 << 20


class NotAsRecordedError(Exception):
    """An archive is not what its RECORD says: ``str`` of it names the file and what is wrong."""


def unread(path: object, error: OSError) -> str:
    """The reason of the error for a wheel, or a folder of wheels, that the disk does not give."""
    return f"{path} cannot be read: {error.strerror or error}"


def rows_of(text: str) -> dict[str, str]:
    """The hash of each file that a RECORD names; empty where it has none."""
    return {row[0]: row[1] for row in csv.reader(io.StringIO(text)) if len(row) == 3}


def hash_of(pieces: Iterable[bytes]) -> tuple[str, int]:
    """A hash as RECORD writes it, and how many bytes there were."""
    made, size = hashlib.sha256(), 0
    for piece in pieces:
        made.update(piece)
        size += len(piece)
    return f"sha256={base64.urlsafe_b64encode(made.digest()).rstrip(b'=').decode()}", size


def pieces_of(archive: zipfile.ZipFile, name: str) -> Iterator[bytes]:
    """A file of an archive, piece by piece. Raises what ``zipfile`` does for a damaged one."""
    with archive.open(name) as file:
        while piece := file.read(_PIECE):
            yield piece


def hold_against(archive: zipfile.ZipFile, record: str, rows: Mapping[str, str]) -> int:
    """Read every file of a wheel but its RECORD, ``record``; bytes in all.

    Raises ``NotAsRecordedError`` for the first file that is missing, strange or another one.
    """
    size = 0
    files = {held.filename for held in archive.infolist() if not held.is_dir()}
    if missing := sorted(set(rows) - files):
        raise NotAsRecordedError(f"it lacks {missing[0]}, which its RECORD names")
    for name in sorted(files - {record}):
        found, length = hash_of(pieces_of(archive, name))
        size += length
        if not rows.get(name):
            raise NotAsRecordedError(f"{name} is not named in its RECORD")
        if rows[name] != found:
            raise NotAsRecordedError(f"{name} has another hash than its RECORD")
    return size
