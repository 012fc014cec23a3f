"""Begin an upgrade: what is refused before anything changes, and what is written down then.

Decides: whether this node may be upgraded to this wheel, from here and now.
Does not know: what comes after (``drive``).
Invariants: until the journal is written, nothing has changed that anybody uses.
Source: docs/guide/upgrade.md.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
from packaging.version import InvalidVersion
from packaging.version import Version as Number

from pollen import paths
from pollen.errors import PollenError, Unreachable, error_from
from pollen.paths import Paths
from pollen.runtime.folder import service, supervised
from pollen.runtime.upgrade import drive, steps, wheel
from pollen.runtime.upgrade.site import Journal, Site, Version
from pollen.sdk.control import Control


@dataclass(frozen=True)
class Wish:
    """What was asked for. ``patience`` is how long the node may take to be healthy, in seconds."""

    patience: float
    allow_downgrade: bool = False


def site_of_ours() -> Site:
    """The environment that this process runs from."""
    import pollen

    return Site(Path(pollen.__file__).resolve().parents[1])


def fetch(folder: Path) -> Path:
    """The newest wheel of the package index, by pip. Raises ``usage`` without pip, else
    ``wheel-invalid`` with pip's words."""
    pip = [sys.executable, "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
        reason = f"{sys.executable} has no pip, which fetches from the package index"
        remedy = "give a wheel file: pln upgrade FILE.whl"
        raise error_from("usage", reason, remedy)
    more = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-input"]
    line = [*pip, *more, "--only-binary", ":all:", "--dest", str(folder), wheel.DISTRIBUTION]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        remedy = "give a wheel file: pln upgrade FILE.whl"
        raise wheel.invalid(f"pip fetched no wheel of {wheel.DISTRIBUTION}: {said[-1]}", remedy)
    return found[0]


def look(where: Paths, site: Site) -> dict[str, Any]:
    """The status of the node that is to be upgraded. Raises what forbids it.

    ``daemon-not-running``: only a running node shows that the new version does what the old did.
    """
    site.check_writable()
    pid = service.running(where)
    if pid is None:
        paths.check_home(where)
        reason = f"no node runs in {where.home}, so nothing would show whether a new version works"
        raise Unreachable("daemon-not-running", reason, "pln up -d")
    if pid == 1:
        reason = "the node is the first process of a container, which ends with it"
        raise error_from("usage", reason, "make an image with the new version, and start that")
    if supervised.of(where) is None:
        # Else the node would be started as another user.
        paths.check_home(where)
    others = list(_others(pid))
    own = _python_of(pid)
    if own and not _is_ours(own):
        reason = f"the node runs from {own}, and this command from {sys.executable}"
        line = shlex.join([own, "-m", "pollen.cli", "--dir", str(where.home), "upgrade"])
        raise error_from("usage", reason, f"use the command of its environment: {line} FILE.whl")
    if others:
        reason = f"another node runs from this environment, with pid {others[0]}"
        remedy = "end it first, or give each node an environment of its own"
        raise error_from("usage", reason, remedy)
    return Control(where).get("/v1/status")


def _python_of(pid: int) -> str:
    try:
        return psutil.Process(pid).cmdline()[0]
    except (psutil.Error, IndexError):
        return ""


def _is_ours(python: str) -> bool:
    """Whether an interpreter is of this environment, by whichever of its names."""
    return Path(python).parent == Path(sys.executable).parent


def _others(own: int) -> Iterator[int]:
    """Nodes of this environment but for one: they would meet new files with old ones in memory."""
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        is_node = line[1:3] == ["-m", "pollen.runtime"] and _is_ours(line[0])
        if is_node and process.pid != own:
            yield process.pid


def compare(old: Version, new: wheel.Wheel, wish: Wish) -> None:
    """Raise ``usage`` for an older version, unless that is wished."""
    try:
        is_older = new.version < Number(old.version)
    except InvalidVersion:
        is_older = False
    if is_older and not wish.allow_downgrade:
        reason = f"{new.said} is older than {old.version}, which is installed"
        remedy = "if that is meant: pln upgrade --allow-downgrade FILE.whl"
        raise error_from("usage", reason, remedy)


def is_done(status: dict[str, Any], old: Version, new: wheel.Wheel) -> bool:
    """Whether this wheel is installed and runs. Raises ``usage`` when it waits for a restart."""
    if (old.version, old.content) != (new.said, new.content):
        return False
    if status["version"] != old.version:
        reason = f"{old.version} is installed already, and the node runs {status['version']} still"
        raise error_from("usage", reason, "pln restart")
    return True


def prepare(site: Site, where: Paths, new: wheel.Wheel, status: dict[str, Any], wish: Wish) -> None:
    """Unpack and try the new version, and write down what is to be done. Raises
    ``wheel-invalid``, ``state-unusable``; then nothing is left."""
    site.clear()
    try:
        site.stage(new)
        drive.try_import(site.other, new.said)
        site.keep_driver()
        flags = service.options_of(where).settings()
        journal = Journal(
            home=str(where.home),
            old=site.installed(),
            new=site.staged(new),
            before=steps.before_of(status),
            flags=flags,
            patience=wish.patience,
            started={steps.Which.OLD.value: drive.process_of(where)},
        )
        site.write_journal(journal)
    except BaseException:
        site.clear()
        raise


def rehearse(site: Site, new: wheel.Wheel) -> None:
    """What ``prepare`` looks at, and nothing stays."""
    site.clear()
    try:
        site.stage(new)
        drive.try_import(site.other, new.said)
    finally:
        site.clear()


def from_input(folder: Path) -> Path:
    """A wheel that comes on standard input. Raises ``wheel-invalid`` when there is none."""
    path, size = folder / "stdin.whl", 0
    try:
        with path.open("wb") as file:
            while piece := os.read(0, 1 << 20):
                size += file.write(piece)
                if size > wheel.UNPACKED_MAX:
                    raise wheel.invalid("standard input has more than any wheel")
    except OSError as error:
        raise PollenError(
            "state-unusable", f"{path}: {error.strerror}", paths.cure(path, error)
        ) from None
    return path
