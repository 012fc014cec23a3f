"""A bundle: the files of a Python seed in one archive, the same bytes for the same files.

Decides: the form of the archive, and how large a bundle may be.
Does not know: which files belong to it (``kinds``, ``requirements``), who runs it.
Invariants: ``pollen.json`` is the first entry and lists the others in their order. Dates, modes and
    the system of the machine leave no trace.
Source: docs/design/python.md#bundles. The muscles hold a bundle to the same caps.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from pollen.errors import error_from
from pollen.units import human_bytes

MANIFEST: Final = "pollen.json"
# The largest bundle, packed and unpacked, and its files. Raising them lets one seed take more of a
# host's memory, which keeps the packed bytes of each loaded seed. Guess: ten times the largest set
# of pure-Python packages that was tried. The muscles have the same numbers.
BUNDLE_MAX_BYTES: Final = 32 * 1024 * 1024
UNPACKED_MAX_BYTES: Final = 128 * 1024 * 1024
FILES_MAX: Final = 5_000
_DATE: Final = (1980, 1, 1, 0, 0, 0)


def pack(
    main: str, files: Mapping[str, Path | bytes], locked: Sequence[Mapping[str, Any]] = ()
) -> bytes:
    """The archive. ``locked``: the packages in it, with names, versions and hashes. Raises
    ``usage`` for a file that cannot be read, ``bundle-invalid`` for too much."""
    if len(files) > FILES_MAX:
        raise _too_much(f"the bundle has {len(files)} files; {FILES_MAX} are the most")
    names = sorted(files)
    head: dict[str, Any] = {"pollen": 1, "main": main, "files": names}
    if locked:
        head["requirements"] = [dict(sorted(one.items())) for one in locked]
    out, unpacked = io.BytesIO(), 0
    with zipfile.ZipFile(out, "w") as archive:
        text = json.dumps(head, ensure_ascii=False, separators=(",", ":"))
        _add(archive, MANIFEST, text.encode())
        for name in names:
            data = _bytes_of(files[name])
            unpacked += len(data)
            if unpacked > UNPACKED_MAX_BYTES:
                most = human_bytes(UNPACKED_MAX_BYTES)
                raise _too_much(f"the files are more than {most}, up to {name}")
            _add(archive, name, data)
    packed = out.getvalue()
    if len(packed) > BUNDLE_MAX_BYTES:
        most = human_bytes(BUNDLE_MAX_BYTES)
        raise _too_much(f"the bundle is {human_bytes(len(packed))}; {most} are the most")
    return packed


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _DATE)
    entry.create_system = 3
    entry.external_attr = 0o644 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data, compresslevel=6)


def _bytes_of(held: Path | bytes) -> bytes:
    if isinstance(held, bytes):
        return held
    try:
        return held.read_bytes()
    except OSError as error:
        raise error_from("usage", f"{held} cannot be read: {error.strerror}") from None


def _too_much(reason: str) -> Exception:
    remedy = "leave out what the seed does not read; large data is better fetched when it runs"
    return error_from("bundle-invalid", reason, remedy)
