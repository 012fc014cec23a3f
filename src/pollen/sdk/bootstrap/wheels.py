"""Which wheels fit a machine, and the wheel of the pollen that runs here; reads installed files.

Decides: whether a wheel's tags fit, which tags to ask pip for, how an installation is packed again.
Does not know: the network; ``bundle`` fetches and keeps.
Invariants: a wheel that is packed again has the very bytes that were installed: each file is held
against the hash of its RECORD. The same files give the same bytes by the same zlib, and the same
``content_of`` by any.
Source: docs/internals/bootstrap.md#the-archive; the tags are those of PEP 425, 600 and 656.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import re
import tempfile
import zipfile
import zlib
from importlib import metadata
from pathlib import Path
from typing import Final

from pollen import recorded
from pollen.errors import PollenError, error_from

DISTRIBUTION: Final = "pollen-mesh"
_NAME: Final = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.+!]+)-([\w.]+)-([\w.]+)-([\w.]+)\.whl")
_GLIBC: Final = re.compile(r"glibc (\d+)\.(\d+)")
_LEGACY: Final = {"manylinux1": 5, "manylinux2010": 12, "manylinux2014": 17}
# The oldest glibc for which wheels of the dependencies are looked for: 2.5, manylinux1.
_GLIBC_LEAST: Final = 5
_MUSL_NEWEST: Final = 2
# What ``zipfile`` raises for an archive that is damaged, encrypted or of a strange sort.
_DAMAGES: Final = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)
_GIVE: Final = "make a wheel that fits: make wheel, then: pln bootstrap ssh --wheel dist/FILE.whl"


def platforms(machine: str, libc: str) -> list[str]:
    """The platform tags that a machine runs, the newest first; empty for a libc unknown to us."""
    if found := _GLIBC.fullmatch(libc):
        if found[1] != "2":
            return []
        least = _GLIBC_LEAST if machine in ("x86_64", "i686") else 17
        minor = range(int(found[2]), least - 1, -1)
        tags = [f"manylinux_2_{number}_{machine}" for number in minor]
        old = [f"{name}_{machine}" for name, needs in _LEGACY.items() if least <= needs in minor]
        return [*tags, *old]
    if libc.startswith("musl 1."):
        return [f"musllinux_1_{number}_{machine}" for number in range(_MUSL_NEWEST, -1, -1)]
    return []


def misfit(name: str, machine: str, libc: str, python: tuple[int, int]) -> str:
    """Why a wheel of this file name does not run there; empty when it does."""
    found = _NAME.fullmatch(name)
    if found is None:
        return "its name is not that of a wheel"
    pythons, abis, wanted = (found[number].split(".") for number in (3, 4, 5))
    runs = {*platforms(machine, libc), "any"}
    if not runs & set(wanted):
        return (
            f"it is for {', '.join(wanted)}, and the machine is {machine} with {libc or 'no libc'}"
        )
    if any(_takes_python(tag, abi, python) for tag in pythons for abi in abis):
        return ""
    return f"it is for {', '.join(pythons)}, and the machine has Python {python[0]}.{python[1]}"


def _takes_python(tag: str, abi: str, python: tuple[int, int]) -> bool:
    if tag in ("py3", f"py3{python[1]}"):
        return True
    found = re.fullmatch(r"cp3(\d+)", tag)
    if found is None:
        return False
    least = int(found[1])
    return least <= python[1] if abi == "abi3" else least == python[1]


def check_file(path: Path) -> str:
    """The version in the name of a wheel of pollen. Raises ``usage`` for anything else, and for one
    that holds other files or other bytes than its RECORD says."""
    found = _NAME.fullmatch(path.name)
    if found is None or found[1].replace("_", "-") != DISTRIBUTION:
        raise _unusable(f"{path} is not a wheel of pollen (pollen_mesh-….whl)")
    if not zipfile.is_zipfile(path):
        raise _unusable(f"{path} is not a wheel: it cannot be read as an archive")
    try:
        with zipfile.ZipFile(path) as archive:
            (record,) = (name for name in archive.namelist() if name.endswith(".dist-info/RECORD"))
            rows = recorded.rows_of(archive.read(record).decode())
            recorded.hold_against(archive, record, rows)
    except recorded.NotAsRecordedError as error:
        raise _unusable(f"{path} is damaged: {error}") from None
    except _DAMAGES:
        raise _unusable(f"{path} is damaged: its RECORD does not lead to its files") from None
    return found[2]


def running_wheel(cache: Path | None = None) -> tuple[str, bytes]:
    """File name and bytes of a wheel of the pollen that runs here.

    Packing takes seconds, so it is done once for the same files when there is a ``cache``. Raises
    ``usage`` when it was not installed from a wheel, or was changed since.
    """
    import pollen

    place = Path(pollen.__file__).parent
    try:
        held = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        raise _unusable("this pollen was not installed from a wheel") from None
    files = held.files or []
    if Path(str(held.locate_file("pollen"))).resolve() != place.resolve() or not files:
        raise _unusable(f"the pollen in {place} was not installed from a wheel")
    kept: list[tuple[str, bytes]] = []
    for file in files:
        name = file.as_posix()
        if not _belongs(name):
            continue
        try:
            data = Path(str(file.locate())).read_bytes()
        except OSError as error:
            raise _unusable(f"{file.locate()} cannot be read: {error.strerror}") from None
        if file.hash is None or hash_of(data) != f"{file.hash.mode}={file.hash.value}":
            raise _unusable(f"{file.locate()} was changed since it was installed")
        kept.append((name, data))
    kept.sort()
    name, record = _label(held, kept)
    kept_at = cache and cache / hashlib.sha256(record).hexdigest() / name
    if kept_at is not None and kept_at.is_file():
        return name, kept_at.read_bytes()
    data = _packed([*kept, (f"{_folder(kept)}/RECORD", record)])
    if kept_at is not None:
        with contextlib.suppress(OSError):  # What is not kept is packed again.
            _keep(kept_at, data)
    return name, data


def _keep(path: Path, data: bytes) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, made = tempfile.mkstemp(dir=path.parent)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    Path(made).replace(path)


def _belongs(name: str) -> bool:
    """Whether a file came with the wheel; the others were written by who installed it."""
    if name.startswith(("..", "/")) or "/__pycache__/" in name:
        return False
    made = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
    return not (name.split("/")[0].endswith(".dist-info") and name.split("/")[-1] in made)


def hash_of(data: bytes) -> str:
    """A hash as RECORD has it."""
    return recorded.hash_of([data])[0]


def content_of(data: bytes) -> str:
    """A hash of what a wheel holds, however it was compressed; of its bytes when it is no zip."""
    seen = hashlib.sha256()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in sorted(archive.namelist()):
                made = hashlib.sha256()
                for piece in recorded.pieces_of(archive, name):
                    made.update(piece)
                seen.update(f"{made.hexdigest()} {name}\n".encode())
    except (zipfile.BadZipFile, zlib.error, EOFError):
        return hashlib.sha256(data).hexdigest()
    return seen.hexdigest()


def _folder(files: list[tuple[str, bytes]]) -> str:
    return next(name.split("/")[0] for name, _ in files if ".dist-info/" in name)


def _label(held: metadata.Distribution, files: list[tuple[str, bytes]]) -> tuple[str, bytes]:
    """The file name of the wheel of these files, and its RECORD."""
    tags = re.findall(r"^Tag: (\S+)$", held.read_text("WHEEL") or "", re.MULTILINE)
    if not tags:
        raise _unusable("the installed pollen does not say what it runs on")
    record = "".join(f"{name},{hash_of(data)},{len(data)}\n" for name, data in files)
    record += f"{_folder(files)}/RECORD,,\n"
    return f"{_folder(files).removesuffix('.dist-info')}-{tags[0]}.whl", record.encode()


def _packed(files: list[tuple[str, bytes]]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _unusable(reason: str) -> PollenError:
    return error_from("usage", reason, _GIVE)
