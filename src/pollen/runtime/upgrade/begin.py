"""Begin an upgrade: what is refused before anything changes, and what is written down then.

Decides: whether this node may be upgraded to this wheel, from here and now.
Does not know: what comes after (``drive``).
Invariants: until the journal is written, nothing has changed that anybody uses.
Source: docs/guide/upgrade.md.
"""

from __future__ import annotations

import os
import select
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
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

# Seconds that pip may take for one wheel of 40 MB. Guess.
_FETCH = 600
# Seconds without a byte on standard input after which the sender counts as gone. Guess.
_SILENT = 60
_PIECE = 1 << 20
_GIVE = "give a wheel file: pln upgrade FILE.whl"


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
    pip = [sys.executable, "-P", "-m", "pip"]
    if subprocess.run([*pip, "--version"], capture_output=True, check=False).returncode:
        reason = f"{sys.executable} has no pip, which fetches from the package index"
        raise error_from("usage", reason, _GIVE)
    more = ["download", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-input"]
    line = [*pip, *more, "--only-binary", ":all:", "--dest", str(folder), wheel.DISTRIBUTION]
    try:
        done = subprocess.run(line, capture_output=True, text=True, timeout=_FETCH, check=False)
    except subprocess.TimeoutExpired:
        raise wheel.invalid(f"pip fetched nothing within {_FETCH} s", _GIVE) from None
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        said = done.stderr.strip().splitlines() or ["it said nothing"]
        raise wheel.invalid(f"pip fetched no wheel of {wheel.DISTRIBUTION}: {said[-1]}", _GIVE)
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
    check_user(where)
    others = list(_others(pid))
    own = _python_of(pid)
    if own and not _is_ours(own):
        reason = f"the node runs from {own}, and this command from {sys.executable}"
        line = shlex.join([own, "-P", "-m", "pollen.cli", "--dir", str(where.home), "upgrade"])
        raise error_from("usage", reason, f"use the command of its environment: {line} FILE.whl")
    if others:
        told = ", ".join(f"that of {home} with pid {other}" for other, home in others)
        nodes = "another node runs" if len(others) == 1 else f"{len(others)} other nodes run"
        reason = f"{nodes} from this environment: {told}"
        ends = "; ".join(f"pln --dir {shlex.quote(home)} down" for _, home in others)
        remedy = f"end it first: {ends}\nor give each node an environment of its own"
        raise error_from("usage", reason, remedy)
    return Control(where).get("/v1/status")


def check_user(where: Paths) -> None:
    """Raise ``state-unusable`` for a folder of somebody else, unless its service starts the node.

    Else the node would be started as another user, and could not be.
    """
    if supervised.of(where) is None:
        paths.check_home(where)


def _python_of(pid: int) -> str:
    try:
        return psutil.Process(pid).cmdline()[0]
    except (psutil.Error, IndexError):
        return ""


def _is_ours(python: str) -> bool:
    """Whether an interpreter is of this environment, by whichever of its names."""
    return Path(python).parent == Path(sys.executable).parent


def _others(own: int) -> Iterator[tuple[int, str]]:
    """Pid and folder of the nodes of this environment but for one: they would meet new files with
    old ones in memory."""
    for process in psutil.process_iter():
        try:
            line = process.cmdline()
        except psutil.Error:
            continue
        is_node = service.node_of(line) is not None and _is_ours(line[0])
        if is_node and process.pid != own:
            yield process.pid, _home_of(process, line)


def _home_of(process: psutil.Process, line: Sequence[str]) -> str:
    """The folder of a node, by its command line, its environment or its user."""
    if "--dir" in line[:-1]:
        return line[line.index("--dir") + 1]
    try:
        given = process.environ()
    except psutil.Error:
        given = {}
    home = Path(given.get("HOME") or Path.home())
    return given.get("PLN_DIR") or str(home / ".pln")


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


def receive(source: str, folder: Path) -> Path:
    """A copy of the wheel in a folder of ours, where nobody changes it after it was checked.

    ``-`` is standard input. Raises ``wheel-invalid`` when it cannot be read, is silent for too
    long or too large, ``state-unusable`` when the copy cannot be written.
    """
    if source == "-":
        return _copied(0, folder / "stdin.whl")
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise wheel.unreadable(source, error) from None
    try:
        return _copied(descriptor, folder / "given.whl", source)
    finally:
        os.close(descriptor)


def _copied(descriptor: int, path: Path, source: str = "standard input") -> Path:
    size = 0
    try:
        with path.open("wb") as file:
            while piece := _piece(descriptor, source):
                size += file.write(piece)
                if size > wheel.UNPACKED_MAX:
                    raise wheel.invalid(f"{source} has more than any wheel")
    except OSError as error:
        reason = f"{path}: {error.strerror}"
        raise PollenError("state-unusable", reason, paths.cure(path, error)) from None
    return path


def _piece(descriptor: int, source: str) -> bytes:
    """The next bytes; empty at the end. Whoever sends nothing for long is not waited for."""
    try:
        if not select.select([descriptor], [], [], _SILENT)[0]:
            raise wheel.invalid(f"{source} sent nothing for {_SILENT} s", "send it again")
        return os.read(descriptor, _PIECE)
    except OSError as error:
        raise wheel.unreadable(source, error) from None
