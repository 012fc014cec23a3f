"""One daemon a folder: a lock that the kernel gives back when its holder dies, and a pid file.

The pid file names the process and its start time, so that a recycled pid is never taken for ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil

from pollen.errors import PollenError
from pollen.paths import Paths, cure


@contextlib.contextmanager
def hold(paths: Paths) -> Iterator[None]:
    """Hold the folder's lock. Raises ``already-running`` with the pid of the holder."""
    try:
        descriptor = os.open(paths.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise PollenError(
            "state-unusable",
            f"the lock {paths.lock_file} cannot be opened: {error.strerror}",
            cure(paths.lock_file, error),
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(descriptor, 32).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        raise PollenError(
            "already-running",
            f"a process with pid {holder} uses {paths.home}",
            "stop it first: pln down",
        ) from None
    try:
        _sign(descriptor, paths)
        yield
    finally:
        os.close(descriptor)


def _sign(descriptor: int, paths: Paths) -> None:
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        raise PollenError(
            "state-unusable",
            f"the lock {paths.lock_file} cannot be written: {error.strerror}",
            cure(paths.lock_file, error),
        ) from error


def write_pid(paths: Paths, flags: Mapping[str, Any] | None = None) -> None:
    """Say who runs here, and with which flags it was started, in one atomic step."""
    pid = os.getpid()
    body = json.dumps({"pid": pid, "started": start_time(pid), "flags": dict(flags or {})})
    temporary = paths.pid_file.with_suffix(".tmp")
    temporary.write_text(body)
    temporary.replace(paths.pid_file)


def remove_pid(paths: Paths) -> None:
    """Take the pid file away if it is ours."""
    if read_pid(paths) == os.getpid():
        paths.pid_file.unlink(missing_ok=True)


def read_pid(paths: Paths) -> int | None:
    """The pid of the live daemon of this folder, or None."""
    try:
        held = json.loads(paths.pid_file.read_text())
        pid, started = int(held["pid"]), str(held["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if start_time(pid) == started else None


def read_flags(paths: Paths) -> dict[str, Any]:
    """The flags of the daemon that runs here or did not end in order; empty when none did."""
    try:
        held = json.loads(paths.pid_file.read_text()).get("flags", {})
    except (OSError, ValueError, AttributeError):
        return {}
    return held if isinstance(held, dict) else {}


def start_time(pid: int) -> str:
    """When a process started, as text to compare; empty when there is none or it is a zombie."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        # The command may hold spaces and parentheses; the fields begin after the last one.
        fields = stat.read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
    try:
        return str(psutil.Process(pid).create_time())
    except psutil.Error:
        return ""
