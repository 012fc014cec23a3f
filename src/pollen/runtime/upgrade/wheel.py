"""A wheel file, looked at before anything is changed.

Decides: whether a file is a wheel of Pollen that this environment can run.
Does not know: what is installed here already (``site``), who wants it.
Invariants: each byte that is unpacked was held against the wheel's own RECORD
    (``pollen.recorded``). A wheel that writes
    outside its two folders is refused.
Source: https://packaging.python.org/en/latest/specifications/binary-distribution-format/ and its
    pages on tags and on RECORD.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import shlex
import sys
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath

from packaging import metadata, specifiers, tags, utils
from packaging.requirements import InvalidRequirement, Requirement
from packaging.version import InvalidVersion, Version

from pollen import recorded
from pollen.errors import PollenError, error_from

DISTRIBUTION = "pollen-mesh"
PACKAGE = "pollen"
# Bytes that a wheel may unpack to. Guess: today's has 40 MB.
UNPACKED_MAX = 1 << 30
# Of a file in a zip: its general purpose bit flag, APPNOTE.TXT 4.4.4.
_ENCRYPTED = 1
_REMEDY = "fetch or build it again, and compare its hash with the one that was published"


@dataclass(frozen=True)
class Wheel:
    """A wheel that was checked. ``content`` is the hash of what it installs, whatever its file.

    ``said`` is its version as its metadata has it.
    """

    path: Path
    version: Version
    said: str
    tags: str
    info: str
    content: str
    size: int


def invalid(reason: str, remedy: str = _REMEDY) -> PollenError:
    """The error of a file that is not a wheel for this node."""
    return error_from("wheel-invalid", reason, remedy)


def unreadable(path: str | Path, error: OSError) -> PollenError:
    """The error of a wheel that the disk does not give."""
    return invalid(recorded.unread(path, error), "name a file that ends with .whl")


def check(path: Path, shown: Path | None = None, *, is_ours: bool = True) -> Wheel:
    """Look at a wheel file. Raises ``wheel-invalid`` with the first thing that is wrong.

    ``shown`` is how errors name it, when that is another name. Without ``is_ours`` it may be for
    another machine, which then looks itself whether it fits.
    """
    name = shown or path
    try:
        with zipfile.ZipFile(path) as archive:
            return replace(_checked(name, archive, is_ours), path=path)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise invalid(f"{name} is not a whole zip file, so it is not a wheel: {error}") from None
    except OSError as error:
        raise unreadable(name, error) from None


def _checked(path: Path, archive: zipfile.ZipFile, is_ours: bool) -> Wheel:
    info = _info_of(path, archive)
    raw, _ = metadata.parse_email(_text(path, archive, f"{info}/METADATA"))
    name, said = raw.get("name", ""), raw.get("version", "")
    if utils.canonicalize_name(name) != DISTRIBUTION:
        raise invalid(f"{path} is a wheel of {name or 'nobody'}, not of {DISTRIBUTION}")
    try:
        version = Version(said)
        python = specifiers.SpecifierSet(raw.get("requires_python", ""))
    except (InvalidVersion, specifiers.InvalidSpecifier) as error:
        raise invalid(f"{path} has metadata that cannot be read: {error}") from None
    # Not platform.python_version(): a build of a checkout is "3.12.0+", which is not a version.
    ours = ".".join(map(str, sys.version_info[:3]))
    if is_ours and not python.contains(ours, prereleases=True):
        reason = f"{path} needs Python {python}, and this is {ours}"
        raise invalid(reason, "make an environment with such a Python, and install the wheel there")
    shown = _tags_of(_text(path, archive, f"{info}/WHEEL"))
    if is_ours and (why := unfit(shown)):
        raise invalid(f"{path} is {why}")
    rows = recorded.rows_of(_text(path, archive, f"{info}/RECORD"))
    try:
        size = recorded.hold_against(archive, f"{info}/RECORD", rows)
    except recorded.NotAsRecordedError as error:
        raise invalid(f"{path}: {error}") from None
    if is_ours:
        _have(path, raw.get("requires_dist", []))
    return Wheel(path, version, said, shown, info, content_of(rows), size)


def _info_of(path: Path, archive: zipfile.ZipFile) -> str:
    """The wheel's folder of metadata; every name of it is a plain one of ours."""
    names = archive.namelist()
    found = {name.partition("/")[0] for name in names}
    infos = sorted(name for name in found if name.endswith(".dist-info"))
    if len(infos) != 1:
        raise invalid(f"{path} has {len(infos)} folders of metadata (.dist-info) instead of one")
    for held in archive.infolist():
        parts = PurePosixPath(held.filename).parts
        is_link = held.external_attr >> 28 == 0o12
        if held.flag_bits & _ENCRYPTED:
            raise invalid(f"{path} holds {held.filename!r} encrypted, and no wheel is that")
        if held.filename.startswith("/") or ".." in parts or is_link or "\\" in held.filename:
            raise invalid(f"{path} holds {held.filename!r}, which leads out of its folder")
    if sum(held.file_size for held in archive.infolist()) > UNPACKED_MAX:
        raise invalid(f"{path} unpacks to more than {UNPACKED_MAX >> 20} MiB")
    name = infos[0].partition("-")[0]
    if utils.canonicalize_name(name) != DISTRIBUTION:
        raise invalid(f"{path} is a wheel of {name}, not of {DISTRIBUTION}")
    if strange := sorted(found - {PACKAGE, infos[0]}):
        raise invalid(f"{path} also installs {strange[0]!r}, which pln upgrade does not know")
    return infos[0]


def _text(path: Path, archive: zipfile.ZipFile, name: str) -> str:
    try:
        return archive.read(name).decode()
    except (KeyError, UnicodeDecodeError):
        raise invalid(f"{path} has no readable {name}") from None


def _tags_of(text: str) -> str:
    """The tags in a wheel's WHEEL file, with commas between."""
    lines = [line for line in text.splitlines() if line[:4] == "Tag:"]
    return ",".join(line.partition(":")[2].strip() for line in lines)


def unfit(said: str) -> str:
    """Why a wheel of these tags does not run on this Python and machine; empty where it does."""
    try:
        own = {tag for held in said.split(",") if held for tag in tags.parse_tag(held)}
    except ValueError:
        own = set()
    here = list(tags.sys_tags())
    if own & set(here):
        return ""
    if not {tag.platform for tag in own} & {tag.platform for tag in here}:
        what, ours = "for another machine", here[0].platform
    else:
        what, ours = "for another Python", f"{here[0].interpreter}-{here[0].abi}"
    return f"{what}: {said or 'it has no tag'}, and this is {ours}"


def content_of(rows: dict[str, str]) -> str:
    """What a RECORD installs, as one hash: the package and the metadata, not what pip adds."""
    kept = sorted(
        f"{name},{found}"
        for name, found in rows.items()
        if found
        and not name.endswith(".pyc")
        and (name.startswith(f"{PACKAGE}/") or name.endswith(".dist-info/METADATA"))
    )
    return hashlib.sha256("\n".join(kept).encode()).hexdigest()


def _have(path: Path, wanted: list[str]) -> None:
    """Raise when a package that the wheel needs is missing here, or too old."""
    lacking = list(_lacking(path, wanted))
    if lacking:
        reason = f"{path} needs {lacking[0]}, which is not in this environment"
        line = shlex.join([sys.executable, "-P", "-m", "pip", "install", *lacking])
        raise invalid(reason, f"install what it needs first: {line}")


def _lacking(path: Path, wanted: list[str]) -> Iterator[str]:
    for text in wanted:
        try:
            need = Requirement(text)
        except InvalidRequirement as error:
            raise invalid(f"{path} has metadata that cannot be read: {error}") from None
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        held = ""
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            held = importlib.metadata.version(need.name)
        if not held or not need.specifier.contains(held, prereleases=True):
            yield f"{need.name}{need.specifier}"
