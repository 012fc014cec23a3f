"""What a node keeps of an upgrade that came over the mesh: what was signed, and how it went.

Decides: where these files lie, and whether an upgrade that has no end yet is still under way.
Does not know: whether a release is good (``core.admission.releases``), how a version is put in
    place (``drive``).
Invariants: the release that was taken last is on the disk before anything is done for it. Each
    file is replaced as a whole. A process that was killed is seen to have ended.
Source: docs/decisions/an-upgrade-over-the-mesh.md.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TypeVar

import msgspec

from pollen import lock
from pollen.errors import PollenError
from pollen.paths import Paths, cure, sync_folder

# The name under which the wheel of an upgrade is served: of one at a time in a cluster.
SERVICE = "pln-upgrade"
# How far an upgrade is.
NONE, FETCHING, WORKING, DONE, FAILED = "none", "fetching", "working", "done", "failed"
UNDER_WAY = (FETCHING, WORKING)
# Seconds within which the process must have said that it runs. Guess: a slow import, twice.
_STARTS_WITHIN = 60
_NEVER_BEGUN = "the process that was to upgrade did not begin"
_CUT_OFF = "the upgrade was cut off: its process ended"

T = TypeVar("T")


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """What the root signed, and how long the node may take to be healthy, in seconds."""

    wheel: str
    size: int
    version: str
    allow_older: bool
    patience: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How the last upgrade over the mesh went. ``process`` is who is at it, ``began`` when it was
    asked for, seconds since 1970; ``slug`` and the rest say why it failed."""

    step: str = NONE
    wheel: str = ""
    version: str = ""
    said: str = ""
    slug: str = ""
    reason: str = ""
    remedy: str = ""
    process: str = ""
    began: float = 0.0


class Box:
    """The files, in a folder of their own within the node's."""

    def __init__(self, where: Paths) -> None:
        self._where = where
        self.folder = where.upgrade_folder
        self.wheel = self.folder / "wheel.whl"
        self.output = self.folder / "output"

    def last(self) -> str:
        """The release that was taken last, as base64; empty for none."""
        try:
            return (self.folder / "last").read_text().strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            raise self._unusable(error) from None

    def begin(self, release: str, wish: Wish) -> None:
        """Write down what is to be done. Raises ``state-unusable``; then nothing is."""
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None
        self._write("last", release.encode())
        self._write("wish.json", msgspec.json.encode(wish))
        report = Report(step=FETCHING, wheel=wish.wheel, version=wish.version, began=time.time())
        self._write("report.json", msgspec.json.encode(report))

    def wish(self) -> Wish:
        """What is to be done. Raises ``state-unusable`` where nothing is written down."""
        return self._read("wish.json", Wish)

    def report(self) -> Report:
        """How it went, or goes. One whose process is gone has failed."""
        try:
            held = self._read("report.json", Report)
        except PollenError:
            return Report()
        if held.step not in UNDER_WAY or self._is_alive(held):
            return held
        reason = _CUT_OFF if held.process else _NEVER_BEGUN
        remedy = f"run it again; what it printed is in {self.output}"
        return msgspec.structs.replace(
            held, step=FAILED, slug="upgrade-failed", reason=reason, remedy=remedy
        )

    @staticmethod
    def _is_alive(held: Report) -> bool:
        if not held.process:
            return time.time() < held.began + _STARTS_WITHIN
        return held.process == process_of(int(held.process.partition(":")[0]))

    def note(self, **fields: str) -> None:
        """Change some of the report. What cannot be written is left: the work goes on."""
        try:
            held = self._read("report.json", Report)
            self._write("report.json", msgspec.json.encode(msgspec.structs.replace(held, **fields)))
        except PollenError:
            return

    def fail(self, error: PollenError) -> None:
        """It ended so."""
        self.note(step=FAILED, slug=error.slug, reason=error.reason, remedy=error.remedy)

    def _read(self, name: str, kind: type[T]) -> T:
        path = self.folder / name
        try:
            return msgspec.json.decode(path.read_bytes(), type=kind)
        except OSError as error:
            raise self._unusable(error) from None
        except (msgspec.MsgspecError, ValueError) as error:
            reason = f"{path} cannot be read: {error}"
            raise PollenError("state-unusable", reason, f"remove it: rm {path}") from None

    def _write(self, name: str, data: bytes) -> None:
        temporary = self.folder / f"{name}.tmp"
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(self.folder / name)
            sync_folder(self.folder)
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> PollenError:
        reason = f"{self.folder} cannot be used: {error.strerror or error}"
        return PollenError("state-unusable", reason, cure(Path(self._where.home), error))


def process_of(pid: int) -> str:
    """A process as text to compare, so that one with a number that is used again is another."""
    return f"{pid}:{lock.start_time(pid)}"
