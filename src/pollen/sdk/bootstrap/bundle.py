"""The one archive that a machine gets: pollen's wheel, its dependencies', and pip's.

Decides: what goes in, and where archives are kept between runs.
Does not know: machines beyond their platform.
Invariants: the dependencies are those of ``locked.txt``, held against its hashes by pip. The same
wheels give the same bytes, and an archive is named by its content. What the cache holds is held
against the hashes each time it is read.
Source: docs/internals/bootstrap.md#the-archive.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from pollen import recorded
from pollen.errors import PollenError, error_from
from pollen.paths import cure
from pollen.sdk.bootstrap import wheels

LOCK: Final = Path(__file__).with_name("locked.txt")
# Hex digits of an archive's SHA-256 in names of folders. 64 bits: names, and no proof of origin.
DIGEST_DIGITS: Final = 16
# Seconds that pip may take for all dependencies. Guess: 5 MB on a slow line.
_FETCH: Final = 300


@dataclass(frozen=True)
class Bundle:
    """An archive; ``digest`` is how it is named here and there: by what its wheels hold, for their
    bytes depend on the zlib that packed them. ``checksum`` is the SHA-256 of ``data``."""

    digest: str
    data: bytes

    @cached_property
    def checksum(self) -> str:
        """In hex."""
        return hashlib.sha256(self.data).hexdigest()


class Bundles:
    """Makes each archive once, for any number of threads."""

    def __init__(self, wheel: Path | None, given: Path | None) -> None:
        self._wheel, self._given = wheel, given
        self._pollen: tuple[str, bytes] | None = None
        self._made: dict[tuple[str, str, tuple[int, int]], Bundle | PollenError] = {}
        self._making = threading.Lock()

    def prepare(self) -> str:
        """Have pollen's own wheel at hand; its name. Raises ``usage``."""
        if self._pollen is None:
            if self._wheel is None:
                self._pollen = wheels.running_wheel(cache() / "pollen")
            else:
                self._pollen = _read_wheel(self._wheel)
        return self._pollen[0]

    @property
    def version(self) -> str:
        """That of pollen's own wheel."""
        return self.prepare().split("-")[1]

    @property
    def is_given(self) -> bool:
        """Whether the user named a wheel."""
        return self._wheel is not None

    def of(self, machine: str, libc: str, python: tuple[int, int]) -> Bundle:
        """The archive for a platform. Raises ``host-unfit`` where pollen's wheel does not run, and
        ``unreachable`` when the dependencies cannot be fetched."""
        key = machine, libc, python
        with self._making:
            if key not in self._made:
                try:
                    self._made[key] = self._make(machine, libc, python)
                except PollenError as error:
                    self._made[key] = error
            found = self._made[key]
        if isinstance(found, PollenError):
            raise error_from(found.slug, found.reason, found.remedy)
        return found

    def _make(self, machine: str, libc: str, python: tuple[int, int]) -> Bundle:
        name = self.prepare()
        assert self._pollen is not None
        if why := wheels.misfit(name, machine, libc, python):
            remedy = "make a wheel there: make wheel; then give it: --wheel FILE"
            raise error_from("host-unfit", f"{name} does not run there: {why}", remedy)
        return packed([self._pollen, *self._dependencies(machine, libc, python)])

    def _dependencies(
        self, machine: str, libc: str, python: tuple[int, int]
    ) -> list[tuple[str, bytes]]:
        """Name and bytes of the locked wheels for a platform."""
        lock = LOCK.read_bytes()
        words = f"{machine} {libc} {python}".encode()
        key = hashlib.sha256(lock + words).hexdigest()[:DIGEST_DIGITS]
        folder = cache() / "wheels" / key
        if kept := held_by_lock(folder):
            return kept
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            made = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
            try:
                fetch(made, self._given, wheels.platforms(machine, libc), python)
                found = held_by_lock(made)
                shutil.rmtree(folder, ignore_errors=True)
                with contextlib.suppress(OSError):  # Another run was first: ours are the same.
                    made.rename(folder)
            finally:
                shutil.rmtree(made, ignore_errors=True)
        except OSError as error:
            reason = f"{folder} cannot be written: {error.strerror}"
            raise error_from("state-unusable", reason, cure(folder.parent, error)) from None
        if not found:
            reason = f"what pip fetched is not what {LOCK} lists"
            raise error_from("unreachable", reason, f"empty {folder.parent}, and run it again")
        return found


def held_by_lock(folder: Path) -> list[tuple[str, bytes]]:
    """Name and bytes of the wheels in a folder; none unless it holds each that is locked, each
    with a hash of the lock. A disk that lost power may have kept names, and no bytes."""
    lock = LOCK.read_text()
    hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", lock))
    names = set(re.findall(r"^([^\s=]+)==", lock, re.MULTILINE))
    found: list[tuple[str, bytes]] = []
    with contextlib.suppress(OSError):
        for path in sorted(folder.glob("*.whl")):
            data = path.read_bytes()
            if hashlib.sha256(data).hexdigest() not in hashes:
                return []
            names.discard(re.sub(r"[-_.]+", "-", path.name.partition("-")[0]).lower())
            found.append((path.name, data))
    return [] if names else found


def cache() -> Path:
    """Where wheels are kept between runs."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "pollen" / "bootstrap"


def _read_wheel(path: Path) -> tuple[str, bytes]:
    try:
        data = path.read_bytes()
    except OSError as error:
        remedy = "name a wheel of pollen; one is made by: make wheel"
        raise error_from("usage", recorded.unread(path, error), remedy) from None
    wheels.check_file(path)
    return path.name, data


def fetch(folder: Path, given: Path | None, tags: list[str], python: tuple[int, int]) -> None:
    """Have pip put the locked wheels of a platform into a folder.

    Raises ``usage`` where this Python has no pip, and ``unreachable`` when pip does not succeed.
    """
    if importlib.util.find_spec("pip") is None:
        reason = f"the Python of this pollen, {sys.executable}, has no pip to fetch wheels with"
        remedy = (
            f"give it one: {sys.executable} -m ensurepip (Debian: apt-get install python3-venv)"
        )
        raise error_from("usage", reason, remedy)
    version = f"{python[0]}.{python[1]}"
    line = [sys.executable, "-P", "-m", "pip", "download", "--quiet", "--no-deps", "--no-input"]
    line += ["--disable-pip-version-check", "--only-binary", ":all:", "--require-hashes"]
    line += ["--python-version", version, "--implementation", "cp"]
    for abi in (f"cp{version.replace('.', '')}", "abi3", "none"):
        line += ["--abi", abi]
    for tag in tags:
        line += ["--platform", tag]
    line += ["--no-index", "--find-links", str(given)] if given else []
    line += ["--dest", str(folder), "--requirement", str(LOCK)]
    try:
        done = subprocess.run(
            line, stdin=subprocess.DEVNULL, capture_output=True, timeout=_FETCH, check=False
        )
        words = done.stderr.decode(errors="replace").strip()
        said = (words or f"pip ended with {done.returncode}") if done.returncode else ""
    except subprocess.TimeoutExpired:
        said = f"pip did not end within {_FETCH} s"
    if said:
        lines = [text for text in said.splitlines() if "rror" in text] or said.splitlines()
        remedy = f"fetch what {LOCK} lists where there is a network, then: --wheels FOLDER"
        reason = f"the wheels that pollen needs cannot be fetched: {lines[-1].strip()}"
        raise error_from("unreachable", reason, remedy)


def packed(files: Iterable[tuple[str, bytes]]) -> Bundle:
    """The archive of these files."""
    files = list(files)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    listed = "".join(f"{wheels.content_of(data)} {name}\n" for name, data in sorted(files))
    return Bundle(hashlib.sha256(listed.encode()).hexdigest()[:DIGEST_DIGITS], out.getvalue())
