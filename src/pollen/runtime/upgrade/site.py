"""The environment of a node: what is installed in it, and two versions that change places.

Decides: where the other version waits, how the two are exchanged, what is written down meanwhile.
Does not know: processes of nodes (``drive``).
Invariants: the package changes by one rename, so a whole version is there at any moment. Whoever
    changes the environment holds its lock. Beside the package only ``.pollen-upgrade`` is written.
Source: rename(2) on RENAME_EXCHANGE; docs/decisions/an-upgrade-exchanges-two-folders.md.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import importlib.metadata
import os
import shutil
import sys
import sysconfig
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec
from packaging import utils

from pollen import recorded
from pollen.errors import PollenError, error_from
from pollen.paths import cure, sync_folder
from pollen.runtime.upgrade.steps import Before, Which
from pollen.runtime.upgrade.wheel import DISTRIBUTION, PACKAGE, Wheel, content_of

_WORK = ".pollen-upgrade"
# What an upgrade needs beside the new files: compiled Python, a copy of ours, room. Bytes. Guess.
_ROOM = 48 << 20
_AT_FDCWD = -2 if sys.platform == "darwin" else -100
_EXCHANGE = 2


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One of the two. ``inode`` is that of its package's folder, which no rename changes."""

    version: str
    content: str
    info: str
    inode: int


class Journal(msgspec.Struct, kw_only=True):
    """Where an upgrade is, on the disk. ``started`` has the process of each version's node."""

    home: str
    old: Version
    new: Version
    before: Before
    flags: dict[str, object] = {}
    patience: float
    goal: Which = Which.NEW
    fault: str = ""
    started: dict[str, str] = {}


class Site:
    """The folder of packages that holds ours."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / _WORK
        self.other = self.work / "other"
        self.driver = self.work / "driver"
        self._journal = self.work / "journal.json"

    @property
    def package(self) -> Path:
        """The package that ``import`` finds."""
        return self.folder / PACKAGE

    def infos(self) -> list[Path]:
        """The folders of metadata of ours: one, and two within a switch."""
        found = self.folder.glob("*.dist-info")
        return sorted(
            path
            for path in found
            if utils.canonicalize_name(path.name.partition("-")[0]) == DISTRIBUTION
        )

    def installed(self) -> Version:
        """What is installed. Raises ``usage`` where it did not come as a wheel."""
        infos = self.infos()
        try:
            rows = recorded.rows_of((infos[0] / "RECORD").read_text())
            inode = self.package.stat().st_ino
        except (IndexError, OSError):
            rows = {}
        if f"{PACKAGE}/__init__.py" not in rows:
            reason = f"the Pollen in {self.folder} was not installed from a wheel"
            remedy = "install it from one: python -m pip install FILE.whl"
            raise error_from("usage", reason, remedy)
        version = importlib.metadata.PathDistribution(infos[0]).version
        return Version(version=version, content=content_of(rows), info=infos[0].name, inode=inode)

    def check_writable(self) -> None:
        """Raise ``state-unusable`` when this user, or nobody, may change the environment."""
        marker = Path(sysconfig.get_path("stdlib")) / "EXTERNALLY-MANAGED"
        if sys.prefix == sys.base_prefix and marker.exists():
            reason = f"the Python in {sys.prefix} is the system's, which its package manager keeps"
            remedy = "give the node an environment of its own: python3 -m venv DIR"
            raise PollenError("state-unusable", reason, remedy)
        for path in (self.folder, self.package):
            if not os.access(path, os.W_OK | os.X_OK):
                is_fixed = os.statvfs(path).f_flag & os.ST_RDONLY
                why = "its file system is read-only" if is_fixed else "it is not yours"
                remedy = "remount it" if is_fixed else "run pln upgrade as its owner, or with sudo"
                reason = f"the environment {self.folder} cannot be changed: {why}"
                raise PollenError("state-unusable", reason, remedy)

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Hold the environment, and keep the descriptor. Raises ``already-running``."""
        with self.writing():
            self.work.mkdir(mode=0o755, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(self.work / "lock", flags, 0o600)
            self._give(self.work, self.work / "lock")
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
                reason = f"another pln upgrade (pid {pid or 'unknown'}) changes {self.folder}"
                raise error_from("already-running", reason, "wait for its end") from None
            with self.writing():
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Tell an error of the disk as one of the environment."""
        try:
            yield
        except OSError as error:
            reason = f"the environment {self.folder} cannot be written: {error.strerror or error}"
            remedy = cure(self.folder, error)
            if error.errno == errno.EXDEV:
                remedy = "it is part of an image: make an environment on a disk of this machine"
            raise PollenError("state-unusable", reason, remedy) from None

    def clear(self) -> None:
        """Take away what an upgrade left that is over, or did not begin.

        Moved aside first: what was killed may have left a process that still writes there.
        """
        for number, path in enumerate((self.other, self.driver, self.work / "driver.tmp")):
            with self.writing():
                if path.exists():
                    path.rename(self.work / f"gone-{os.getpid()}-{number}")
        for path in self.work.glob("gone-*"):
            shutil.rmtree(path, ignore_errors=True)

    def stage(self, wheel: Wheel) -> None:
        """Unpack a wheel beside the package, compiled. Raises ``state-unusable``; nothing is left.

        Others than this user can read it, as they can read the package. ``keep_driver`` puts it
        on the disk.
        """
        import compileall

        free = os.statvfs(self.folder)
        with self.writing():
            if free.f_bavail * free.f_frsize < wheel.size + _ROOM:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        try:
            with self.writing():
                self.other.mkdir()
                with zipfile.ZipFile(wheel.path) as archive:
                    archive.extractall(self.other)
                place = str(self.package)
                compileall.compile_dir(self.other / PACKAGE, ddir=place, quiet=2)
                self._sign(self.other / wheel.info)
                # After the compiler, whose files have the umask of whoever runs this.
                for path in self.other.rglob("*"):
                    path.chmod(0o755 if path.is_dir() or path.suffix == ".so" else 0o644)
                self.other.chmod(0o755)
                self._give(self.other, *self.other.rglob("*"))
        except BaseException:
            self.clear()
            raise

    def _sign(self, info: Path) -> None:
        """Say who installed it, and keep the commands in RECORD, so that pip can take it away."""
        (info / "INSTALLER").write_text("pln\n")
        held = self.infos()[0] / "RECORD"
        kept = [line for line in held.read_text().splitlines() if line.startswith("../")]
        with (info / "RECORD").open("a") as file:
            file.writelines(f"{line}\n" for line in (*kept, f"{info.name}/INSTALLER,,"))

    def staged(self, wheel: Wheel) -> Version:
        """The version that waits."""
        inode = (self.other / PACKAGE).stat().st_ino
        return Version(version=wheel.said, content=wheel.content, info=wheel.info, inode=inode)

    def keep_driver(self) -> None:
        """Copy our own Python, which goes on with the upgrade while the package changes.

        It and all that was written before is on the disk then. Raises ``state-unusable``.
        """
        temporary = self.work / "driver.tmp"
        with self.writing():
            shutil.rmtree(temporary, ignore_errors=True)
            leave = shutil.ignore_patterns("*.so", "__pycache__", "*.wasm")
            shutil.copytree(self.package, temporary / PACKAGE, ignore=leave)
            shutil.rmtree(self.driver, ignore_errors=True)
            temporary.rename(self.driver)
            self._give(self.driver, *self.driver.rglob("*"))
            os.sync()

    def _give(self, *paths: Path) -> None:
        """What root writes belongs to the owner of the environment, who can remove it then."""
        owner = self.folder.stat()
        if os.geteuid() == 0 and (owner.st_uid, owner.st_gid) != (0, 0):
            for path in paths:
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def held(self, journal: Journal) -> Which | None:
        """Which of the two is in the environment; None when somebody else put a third there.

        A folder that was removed may leave its inode to the next one, so the metadata counts too.
        """
        two = {journal.old.inode: Which.OLD, journal.new.inode: Which.NEW}
        try:
            held = two.get(self.package.stat().st_ino)
            records = [(info / "RECORD").read_text() for info in self.infos()]
        except OSError:
            return None
        known = {journal.old.content, journal.new.content}
        return held if {content_of(recorded.rows_of(text)) for text in records} <= known else None

    def switch(self, journal: Journal, wanted: Which) -> None:
        """Exchange the two, by one rename; then its metadata. Raises ``state-unusable``."""
        if self.held(journal) is not wanted:
            with self.writing():
                exchange(self.package, self.other / PACKAGE)
        self.settle(journal)

    def settle(self, journal: Journal) -> None:
        """Bring the metadata to where its package is; a switch may have been cut off between.

        Nothing is done where neither of the two is in the environment.
        """
        here, there, held = journal.old, journal.new, self.held(journal)
        if held is None:
            return
        if held is Which.NEW:
            here, there = there, here
        with self.writing():
            inside, outside = self.folder / here.info, self.other / here.info
            if here.info == there.info:
                self._settle_same(here)
            elif not inside.exists():
                outside.rename(inside)
            if here.info != there.info and (self.folder / there.info).exists():
                (self.folder / there.info).rename(self.other / there.info)
            sync_folder(self.folder)

    def _settle_same(self, here: Version) -> None:
        """Two versions of one number have metadata of one name."""
        inside, outside = self.folder / here.info, self.other / here.info
        if content_of(recorded.rows_of((inside / "RECORD").read_text())) != here.content:
            exchange(inside, outside)

    def read_journal(self) -> Journal | None:
        """The upgrade that was not finished. Raises ``state-unusable`` when it cannot be read."""
        try:
            return msgspec.json.decode(self._journal.read_bytes(), type=Journal)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            reason = f"{self._journal} cannot be read: {error}"
            again = "python -P -m pip install --force-reinstall FILE.whl"
            remedy = f"remove it, and install Pollen again: rm {self._journal} && {again}"
            raise PollenError("state-unusable", reason, remedy) from None

    def write_journal(self, journal: Journal) -> None:
        """Replace it as a whole, on the disk."""
        temporary = self._journal.with_suffix(".tmp")
        with self.writing():
            with temporary.open("wb") as file:
                file.write(msgspec.json.encode(journal))
                file.flush()
                os.fsync(file.fileno())
            self._give(temporary)
            temporary.replace(self._journal)
            sync_folder(self.work)

    def remove_journal(self) -> None:
        """The upgrade is over."""
        self._journal.unlink(missing_ok=True)


def exchange(one: Path, other: Path) -> None:
    """Two folders of one file system change places in one step. Raises ``OSError``."""
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "renameatx_np" if sys.platform == "darwin" else "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, "this system cannot exchange two folders")
    if call(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
