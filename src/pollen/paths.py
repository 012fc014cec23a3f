"""Where a node keeps its files: one folder, fixed names; here or on a machine that ssh reaches.

Errors: ``path-too-long`` when a unix socket could not be bound there, with a shorter folder to use;
``state-unusable`` when the folder cannot be made, is somebody else's, or not on a local disk.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pollen.errors import PollenError

# Locks and memory maps there cannot be trusted, and the store needs both.
NETWORK_FILE_SYSTEMS = frozenset(
    ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "fuse.sshfs")
)
# Whoever writes a store needs some pages; below this the disk is full. Bytes. Guess.
ROOM_LEAST = 256 << 10
OWNER_REMEDY = "run as its owner, or name your own folder with --dir"
# The longest path a unix socket can be bound to: sun_path less its terminating zero.
SOCKET_PATH_MAX = 103 if sys.platform == "darwin" else 107


_STATE = (
    "member",
    "state.db*",
    "content",
    "code",
    "*.sock",
    "pollen.log*",
    "seed-logs",
    "upgrade",
    "daemon.err*",
    "pollen.pid",
    "lock",
)


@dataclass(frozen=True)
class Paths:
    """The files of one node, all in ``home``.

    ``host`` is the machine, as ``ssh://user@host:port``; empty is this one. Of another machine only
    the two sockets are within reach (``pollen.sdk.far``). ``is_given``: somebody named the folder;
    without that the machine itself says which it is.
    """

    home: Path
    host: str = ""
    is_given: bool = True

    @property
    def place(self) -> str:
        """The folder as an error names it, with the machine when that is another one."""
        return f"{self.home} on {self.host.removeprefix('ssh://')}" if self.host else str(self.home)

    @property
    def ssh_words(self) -> list[str]:
        """The host as ssh takes it: perhaps a port, then the target."""
        user, at, place = self.host.removeprefix("ssh://").rpartition("@")
        bare, port = place, ""
        # A user may hold a colon, and so does an address in brackets.
        if ":" in place and not place.endswith("]"):
            bare, _, port = place.rpartition(":")
        target = f"{user}{at}{bare.removeprefix('[').removesuffix(']')}"
        return [*(["-p", port] if port else []), target]

    def command(self, line: str) -> str:
        """What to type here so that ``pln LINE`` runs on the node's machine.

        ``line`` is quoted for one shell. No context in use over there leads on from it.
        """
        if not self.host:
            return f"pln {line}"
        import shlex

        place = ["--dir", str(self.home)] if self.is_given else ["-H", "local"]
        # Without a line it is the start of one.
        return self.ssh("pln", *place, *shlex.split(line)) + ("" if line else " ")

    def ssh(self, *words: str, options: Sequence[str] = ()) -> str:
        """What to type here so that these words run on the node's machine; a shell without any.

        Each word passes the shell here and the one there. ``options`` are those of ssh.
        """
        import shlex

        line = [shlex.join(["ssh", *options, *self.ssh_words]), *map(_for_two_shells, words)]
        return " ".join(line)

    @property
    def control_socket(self) -> Path:
        return self.home / "control.sock"

    @property
    def call_socket(self) -> Path:
        return self.home / "call.sock"

    @property
    def last_words(self) -> Path:
        """Where a detached daemon's stderr goes."""
        return self.home / "daemon.err"

    @property
    def store(self) -> Path:
        return self.home / "state.db"

    @property
    def member_file(self) -> Path:
        return self.home / "member"

    @property
    def node_key(self) -> Path:
        return self.home / "node.key"

    @property
    def root_key(self) -> Path:
        return self.home / "root.key"

    @property
    def next_root_key(self) -> Path:
        """A successor's key, until all nodes were told of it."""
        return self.home / "root-next.key"

    def former_root_key(self, digits: str) -> Path:
        """Where the key of a root goes that is not the newest any more, by its first digits."""
        return self.home / f"root-{digits}.key"

    def former_root_keys(self) -> list[Path]:
        """Keys of other roots that lie here: of those before, of one to come, of a cluster left."""
        return sorted(self.home.glob("root-*.key"))

    @property
    def pid_file(self) -> Path:
        return self.home / "pollen.pid"

    @property
    def lock_file(self) -> Path:
        return self.home / "lock"

    @property
    def log_file(self) -> Path:
        return self.home / "pollen.log"

    @property
    def config_file(self) -> Path:
        return self.home / "config.toml"

    @property
    def upgrade_folder(self) -> Path:
        """What an upgrade over the mesh keeps: the release, the wheel, how it went."""
        return self.home / "upgrade"

    @property
    def wheel_socket(self) -> Path:
        """Where other nodes fetch a wheel from this one."""
        return self.home / "wheel.sock"

    def state(self) -> list[Path]:
        """What a node made here that is neither a key nor a setting; whatever else lies in the
        folder is not ours."""
        return sorted(path for name in _STATE for path in self.home.glob(name))


def _for_two_shells(word: str) -> str:
    """The word so that it passes the shell here and the one to which ssh hands its line."""
    import shlex

    once = shlex.quote(word)
    if once == word:
        return word
    return shlex.quote(once) if set(once) & set('"$`\\!') else f'"{once}"'


def contexts_file() -> Path:
    """The file of contexts, other machines by name; it need not be there."""
    base = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(base).expanduser() / "pollen" / "contexts.toml"


def has_contexts() -> bool:
    """Whether there may be such a file. Where that cannot be told, reading it has the error."""
    try:
        contexts_file().stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        pass
    return True


def resolve(directory: str | None = None) -> Paths:
    """The paths of ``directory``, else of PLN_DIR, else of ``~/.pln``. Nothing is created."""
    given = directory or os.environ.get("PLN_DIR") or "~/.pln"
    paths = Paths(Path(os.path.abspath(Path(given).expanduser())))  # noqa: PTH100 keeps symlinks
    check_socket_path(paths.control_socket)
    return paths


def check_socket_path(path: Path) -> None:
    """Raise ``path-too-long`` when no socket can be bound at ``path``."""
    length = len(os.fsencode(path))
    if length <= SOCKET_PATH_MAX:
        return
    raise PollenError(
        "path-too-long",
        f"the socket path {path} has {length} bytes, over {SOCKET_PATH_MAX}",
        f"use a shorter folder: PLN_DIR={_shorter()}",
    )


def _shorter() -> str:
    home = Path("~/.pln").expanduser()
    if len(os.fsencode(home / "control.sock")) <= SOCKET_PATH_MAX:
        return str(home)
    return f"/var/tmp/pln-{os.getuid()}"


def make_home(paths: Paths) -> None:
    """Make the folder, closed to others; refuse one that is not ours, writable and local."""
    _check_user(paths)
    kind = file_system_of(paths.home)
    if kind in NETWORK_FILE_SYSTEMS:
        why = f"it is on a network file system ({kind}), whose locks cannot be trusted"
        raise _unusable(paths, why, "keep it on a local disk: --dir or PLN_DIR")
    try:
        paths.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        held = paths.home.stat()
    except OSError as error:
        raise _unusable(paths, error.strerror or str(error), cure(paths.home, error)) from error
    check_home(paths)
    if stat.S_IMODE(held.st_mode) & 0o077:
        paths.home.chmod(0o700)


def check_home(paths: Paths) -> None:
    """Raise ``state-unusable`` when the folder is there and not ours, or not writable."""
    try:
        held = paths.home.stat()
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(paths, error.strerror or str(error), cure(paths.home, error)) from error
    is_open = os.access(paths.home, os.W_OK | os.X_OK)
    if held.st_uid not in (os.getuid(), 0) or (held.st_uid != os.getuid() and not is_open):
        raise _unusable(paths, f"it belongs to user id {held.st_uid}", OWNER_REMEDY)
    if is_open:
        return
    if (trouble := trouble_at(paths.home)) and trouble.errno == errno.EROFS:
        raise _unusable(paths, "its file system is read-only", cure(paths.home, trouble))
    raise _unusable(paths, "it is not writable", f"chmod u+rwx {paths.home}")


def sync_folder(path: Path) -> None:
    """Put the names in a folder on the disk; until then a power cut takes a new file away whole.

    Raises ``OSError``.
    """
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def trouble_at(path: Path) -> OSError | None:
    """What a write at ``path`` would fail of now: a full or a read-only disk."""
    try:
        held = os.statvfs(path)
    except OSError as error:
        return error
    code = errno.EROFS if held.f_flag & os.ST_RDONLY else 0
    if not code and held.f_bavail * held.f_frsize < ROOM_LEAST:
        code = errno.ENOSPC
    return OSError(code, os.strerror(code)) if code else None


def cure(path: Path, error: OSError) -> str:
    """What to do about an error of the disk at ``path``, by its number."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        with contextlib.suppress(OSError):
            place = path if path.is_dir() else path.parent
            held = os.statvfs(place)
            return (
                f"make room on the disk: {held.f_bavail * held.f_frsize >> 20} MiB free at {place}"
            )
        return "make room on the disk"
    if error.errno == errno.EROFS:
        return "it is mounted read-only: remount it, or choose a folder: --dir"
    if error.errno in (errno.EACCES, errno.EPERM):
        return OWNER_REMEDY
    return "give another folder: --dir or PLN_DIR"


def _check_user(paths: Paths) -> None:
    """With sudo the home may be that of whoever called it, who could not enter the folder then."""
    user = Path("~").expanduser()
    if paths.home.exists() or not paths.home.is_relative_to(user) or not user.exists():
        return
    owner = user.stat().st_uid
    if owner not in (os.getuid(), 0):
        why = f"{user} belongs to user id {owner}, and you are {os.getuid()}"
        raise _unusable(paths, why, "leave out sudo, or give another folder: --dir or PLN_DIR")


def file_system_of(path: Path) -> str:
    """The type of the file system that a path is on; empty where that cannot be told."""
    import psutil

    best, kind = "", ""
    with contextlib.suppress(OSError):
        for held in psutil.disk_partitions(all=True):
            inside = os.path.commonpath([held.mountpoint, path]) == held.mountpoint
            if inside and len(held.mountpoint) >= len(best):
                best, kind = held.mountpoint, held.fstype
    return kind


def _unusable(
    paths: Paths, why: str, remedy: str = "give another one: --dir or PLN_DIR"
) -> PollenError:
    reason = f"the state folder {paths.home} cannot be used: {why}"
    return PollenError("state-unusable", reason, remedy)
