"""The packages that a Python seed wants, as files of its bundle: resolved now, never again.

Decides: which wheels are taken, which of their files, and what is kept about them.
Does not know: the seed's own files.
Invariants: pip resolves and downloads; only wheels that are pure Python, or whose native part is
    known to be dispensable, never an sdist, so nothing of a package runs here. Names, versions and
    SHA-256 of the wheels are kept. An index's address, which may carry a password, is in no
    manifest, no log and no error of ours.
Source: docs/design/python.md#requirements.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pollen.errors import PollenError, error_from

if TYPE_CHECKING:
    from packaging.version import Version

# Where packages lie in a bundle. The seed's own modules win over them.
FOLDER: Final = ".deps/"
# The Python of the runner.
PYTHON: Final = "3.14"
# How long resolving and downloading may take, seconds. Guess: a slow line and twenty packages.
_PATIENCE: Final = 300
_WHEEL: Final = re.compile(
    r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.+!]+)-(?:[^-]+-)?([^-]+)-([^-]+)-([^-]+)\.whl"
)
_ADDRESS: Final = re.compile(r"\b[a-z+]+://\S+", re.IGNORECASE)
_NO_WHEEL: Final = re.compile(r"No matching distribution found for ([^\s(]+)")
_DEPENDS: Final = re.compile(r"^\s+.* depends on ([A-Za-z0-9._-]+)", re.MULTILINE)
# What the runner has: it would never be imported from a bundle.
_PROVIDED: Final = frozenset({"tzdata"})
_NATIVE: Final = (".so", ".pyd", ".dylib")
# Packages whose wheels are native and hold the same in Python, which they take where the native
# part is not there. Each is tried: tests/e2e/test_packages.py.
_FALLBACKS: Final = frozenset({"markupsafe", "msgpack", "pyyaml"})
# Whose wheel of them is taken. The native part is dropped, so any machine's would do: this one's
# hash is the same for every publisher.
_FALLBACK_TAGS: Final = ("manylinux2014_x86_64", "manylinux_2_17_x86_64", "manylinux_2_28_x86_64")
# Of a wheel's metadata, what packages read while they run.
_METADATA: Final = ("METADATA", "entry_points.txt")


@dataclass(frozen=True)
class Locked:
    """One wheel as it was taken."""

    name: str
    version: str
    sha256: str

    def told(self) -> dict[str, str]:
        """As the manifest has it."""
        return {"name": self.name, "version": self.version, "sha256": self.sha256}


def resolve(
    wants: Sequence[str], file: Path | None, say: Callable[[str], None] = lambda text: None
) -> tuple[dict[str, bytes], list[Locked]]:
    """The files of all packages, by their path in the bundle, and what was taken.

    ``wants`` are requirements as pip takes them, ``file`` a requirements file. Raises ``usage`` for
    what cannot be resolved, and for a package that has no wheel of pure Python.
    """
    if not wants and file is None:
        return {}, []
    say(f"resolving {', '.join(wants) or file} for Python {PYTHON} ...")
    with tempfile.TemporaryDirectory(prefix="pln-wheels-") as made:
        folder, spare = Path(made) / "taken", Path(made) / "spare"
        folder.mkdir()
        spare.mkdir()
        originals = _download(wants, file, folder, spare)
        files: dict[str, bytes] = {}
        locked = []
        for wheel in sorted(folder.glob("*.whl")):
            one = _locked(wheel)
            one = originals.get(one.name, one)
            if one.name in _PROVIDED:
                continue
            locked.append(one)
            say(f"  {one.name} {one.version}")
            files |= _files_of(wheel, one)
    _check_newer(wants, locked)
    return files, locked


def _download(
    wants: Sequence[str], file: Path | None, folder: Path, spare: Path
) -> dict[str, Locked]:
    """Have pip put the wheels into a folder. What is answered are the wheels as their authors made
    them, of packages that were taken without their native part; those lie in ``spare``."""
    for want in wants:
        if want.startswith("-") or "://" in want:
            reason = f"{_hidden(want)!r} is an option or an address, not the name of a package"
            raise error_from("usage", reason, "name packages: attrs, rich>=13")
    line = ["--platform", "any", "--implementation", "py", "--abi", "none"]
    line += ["--dest", str(folder), "--find-links", str(spare), *wants]
    line += ["--requirement", str(file)] if file is not None else []
    originals: dict[str, Locked] = {}
    while True:
        done = _pip(line)
        if not done.returncode:
            return originals
        said = done.stdout + done.stderr
        missing = [
            name
            for name in sorted(_FALLBACKS - originals.keys())
            if re.search(rf"\b{name}\b", said, re.IGNORECASE)
        ]
        found = [one for name in missing if (one := _bared(name, wants, spare)) is not None]
        if not found:
            raise _unresolved(said)
        originals |= {one.name: one for one in found}


def _pip(line: Sequence[str]) -> subprocess.CompletedProcess[str]:
    begin = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check"]
    begin += ["--progress-bar", "off", "--no-input", "--only-binary=:all:"]
    begin += ["--python-version", PYTHON]
    try:
        return subprocess.run(
            [*begin, *line],
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PIP_NO_COLOR": "1"},
        )
    except subprocess.TimeoutExpired:
        reason = f"pip did not resolve the requirements within {_PATIENCE} s"
        raise error_from("usage", reason, "run it again; what came is in pip's cache") from None


def _bared(name: str, wants: Sequence[str], spare: Path) -> Locked | None:
    """A package without its native part, as a wheel that pip takes for a pure one; None when its
    index has no wheel of it either."""
    want = next((one for one in wants if re.match(rf"{name}\b", one, re.IGNORECASE)), name)
    with tempfile.TemporaryDirectory(prefix="pln-wheel-") as made:
        line = ["--no-deps", "--implementation", "cp", "--abi", f"cp{PYTHON.replace('.', '')}"]
        for tag in _FALLBACK_TAGS:
            line += ["--platform", tag]
        if _pip([*line, "--dest", made, want]).returncode:
            return None
        (wheel,) = Path(made).glob("*.whl")
        one = _locked(wheel)
        kept = spare / f"{wheel.name.partition('-')[0]}-{one.version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel) as source, zipfile.ZipFile(kept, "w") as archive:
            for entry in source.infolist():
                if not entry.filename.endswith((*_NATIVE, "/RECORD")):
                    archive.writestr(entry, source.read(entry))
            info = next(n for n in source.namelist() if n.endswith(".dist-info/METADATA"))
            archive.writestr(info.replace("METADATA", "RECORD"), "")
    return one


def _unresolved(said: str) -> PollenError:
    """What pip said, in our words where we know them; addresses never."""
    if "No module named pip" in said:
        remedy = f"install it: {sys.executable} -m ensurepip"
        return error_from("usage", "pip, which resolves requirements, is not installed", remedy)
    if found := _NO_WHEEL.search(said):
        return native(found[1])
    if (causes := sorted(set(_DEPENDS.findall(said)))) and "ResolutionImpossible" in said:
        told = f"no choice of wheels of pure Python has all of: {', '.join(causes)}"
        remedy = "one of them has native code alone; take a package that does without it"
        return error_from("usage", told, remedy)
    lines = [line for line in _hidden(said).splitlines() if line.startswith("ERROR")]
    told = "; ".join(line.removeprefix("ERROR: ") for line in lines[-2:]) or "pip failed"
    return error_from("usage", f"the requirements cannot be had: {told[:500]}")


def native(package: str) -> PollenError:
    """The error of a package that the sandbox cannot run."""
    reason = f"{package} has no wheel of pure Python: it needs native code, or is not on the index"
    remedy = (
        "take a package that is pure Python in its place, or an older version that is;\n"
        "build native code as a WASM module of its own and call that: pln seed FILE.wasm"
    )
    return error_from("usage", reason, remedy)


def _hidden(text: str) -> str:
    return _ADDRESS.sub("ADDRESS", text)


def _locked(wheel: Path) -> Locked:
    found = _WHEEL.fullmatch(wheel.name)
    if found is None:
        raise error_from("usage", f"{wheel.name} is not the name of a wheel")
    name = re.sub(r"[-_.]+", "-", found[1]).lower()
    return Locked(name, found[2], hashlib.sha256(wheel.read_bytes()).hexdigest())


def _files_of(wheel: Path, one: Locked) -> dict[str, bytes]:
    """A wheel's modules and data, as they would be installed; scripts and records stay out."""
    files = {}
    try:
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if name.endswith(_NATIVE):
                    raise native(f"{one.name} {one.version}")
                if (place := _place_of(name)) is not None:
                    files[FOLDER + place] = archive.read(name)
    except (zipfile.BadZipFile, EOFError) as error:
        raise error_from("usage", f"{wheel.name} is damaged: {error}") from None
    return files


def _place_of(name: str) -> str | None:
    top, _, rest = name.partition("/")
    if name.endswith(("/", ".pyc")) or ".." in name.split("/") or name.startswith("/"):
        return None
    if top.endswith(".dist-info"):
        return name if rest in _METADATA else None
    if top.endswith(".data"):
        part, _, below = rest.partition("/")
        return below if part in ("purelib", "platlib") else None
    return name


def _check_newer(wants: Sequence[str], locked: Sequence[Locked]) -> None:
    """Raises for a package of which only an old major version is pure: pip takes that one without
    a word. A requirement that rules the newest out wants it so."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import Version

    held = {one.name: one for one in locked}
    for want in wants:
        try:
            requirement = Requirement(want)
        except InvalidRequirement as error:
            raise error_from("usage", f"{want!r} is not a requirement: {error}") from None
        one = held.get(re.sub(r"[-_.]+", "-", requirement.name).lower())
        if one is None or any(spec.operator == "==" for spec in requirement.specifier):
            continue
        newest = _newest(requirement.name)
        if newest is None or not requirement.specifier.contains(newest):
            continue
        if newest.major > Version(one.version).major:
            reason = f"{one.name} {newest} needs native code; {one.version} is the newest without"
            remedy = f"take the old one on purpose: {one.name}<{newest.major}"
            raise error_from("usage", reason, remedy)


def _newest(package: str) -> Version | None:
    """The newest version that there is, pure or not; None when the index does not say."""
    from packaging.version import InvalidVersion, Version

    line = [sys.executable, "-m", "pip", "index", "versions", package]
    line += ["--disable-pip-version-check", "--no-input", "--python-version", PYTHON]
    try:
        done = subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        found = re.match(r"\S+ \(([^)]+)\)", done.stdout)
        return Version(found[1]) if found else None
    except (subprocess.TimeoutExpired, InvalidVersion):
        return None
