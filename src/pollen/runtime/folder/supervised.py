"""A node that an init system keeps up: installed, found again, started, stopped, taken away.

Where none runs nothing of this is offered, and ``pln up -d`` does without one. A unit belongs to
the folder that it names; a unit of another folder is never touched.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pollen
from pollen.errors import Conflict, PollenError, error_from
from pollen.paths import Paths
from pollen.runtime.folder import place, service, units
from pollen.runtime.folder.config import read_config
from pollen.runtime.folder.units import Plan

_SYSTEM_UNIT = Path("/etc/systemd/system") / units.UNIT
_SYSTEM_JOB = Path("/Library/LaunchDaemons") / f"{units.LABEL}.plist"
_NO_MANAGER = "keep it up without one: pln up -d"
# So long an init system may take to answer, beside the node's end that it waits for. Seconds.
_PATIENCE = 60
# Below these a service of the system sees nothing (ProtectHome, PrivateTmp).
_HIDDEN = ("/root", "/home", "/run/user", "/tmp", "/var/tmp")


@dataclass(frozen=True)
class Service:
    """A unit of systemd, or a job of launchd, that is installed for a folder.

    ``is_apart``: the Ctrl-C of a terminal does not reach the commands of the manager. They cannot
    ask for a password there then.
    """

    path: Path
    is_user: bool
    is_apart: bool = False

    @property
    def is_launchd(self) -> bool:
        """True for a job of launchd."""
        return self.path.suffix == ".plist"

    def do(self, verb: str) -> None:
        """Start, stop or restart it. Raises ``state-unusable`` with the manager's words."""
        if not self.is_launchd:
            self._run([*self._systemctl, verb, units.UNIT], _PATIENCE + self.stop_seconds())
        elif verb == "stop" and self.state() == "inactive":
            return  # A job that is not loaded cannot be taken out.
        elif verb == "stop":
            self._run(["launchctl", "bootout", self._target], _PATIENCE + self.stop_seconds())
        else:
            with contextlib.suppress(PollenError):
                self._run(["launchctl", "bootstrap", self._domain, str(self.path)])
            force = ["-k"] if verb == "restart" else []
            line = ["launchctl", "kickstart", *force, self._target]
            self._run(line, _PATIENCE + self.stop_seconds())

    def forget_failures(self) -> None:
        """A start is not refused because there were many: whoever asks has changed something."""
        if not self.is_launchd:
            self._ask([*self._systemctl, "reset-failed", units.UNIT])

    def _run(self, line: Sequence[str], seconds: float = _PATIENCE) -> None:
        _run(line, seconds, is_apart=self.is_apart)

    def _ask(self, line: Sequence[str]) -> subprocess.CompletedProcess[str] | None:
        return _ask(line, is_apart=self.is_apart)

    def stop_seconds(self) -> int:
        """Seconds that the manager gives the node for its end before it kills it."""
        raw = _read(self.path) or b""
        if self.is_launchd:
            return units.stop_of_plist(raw)
        return units.stop_of_unit(raw.decode("utf-8", "replace"))

    def takes_grace(self, where: Paths) -> bool:
        """Whether calls get the time that the folder's settings give them: ``grace_ms`` may have
        been set after the unit was written."""
        wanted = units.stop_seconds(service.configured_grace(where))
        return self.stop_seconds() >= wanted

    def state(self) -> str:
        """In the manager's word: active, inactive, failed, …; unknown where it says nothing."""
        if self.is_launchd:
            done = self._ask(["launchctl", "print", self._target])
            return "inactive" if done is None or done.returncode else "active"
        done = self._ask([*self._systemctl, "is-active", units.UNIT])
        return "unknown" if done is None else done.stdout.strip() or "unknown"

    def enable(self) -> None:
        """From now on it is started with the machine."""
        if not self.is_launchd:
            self._run([*self._systemctl, "daemon-reload"])
            self._run([*self._systemctl, "enable", units.UNIT])

    def remove(self, where: Paths) -> None:
        """Stop the node of the folder, whoever started it, and forget the unit.

        Raises what the stop raised; the unit is there still then, and the node may run.
        """
        has_manager = runs_manager()
        if has_manager:
            self.do("stop")
        if service.running(where) is not None:
            service.stop(where)
        has_links = has_manager and not self.is_launchd
        if has_links:
            self._run([*self._systemctl, "disable", units.UNIT])
        self.path.unlink()
        if has_links:
            self._run([*self._systemctl, "daemon-reload"])

    @property
    def _systemctl(self) -> list[str]:
        return ["systemctl", "--user"] if self.is_user else ["systemctl"]

    @property
    def _domain(self) -> str:
        return f"gui/{os.getuid()}" if self.is_user else "system"

    @property
    def _target(self) -> str:
        return f"{self._domain}/{units.LABEL}"


def runs_manager() -> bool:
    """Whether an init system runs here that could keep a node up."""
    return sys.platform == "darwin" or Path("/run/systemd/system").is_dir()


def of(where: Paths, *, is_apart: bool = False) -> Service | None:
    """What is installed for this folder, when its init system runs; else None."""
    held = installed(where)
    if held is None or not runs_manager():
        return None
    return replace(held, is_apart=is_apart)


def installed(where: Paths) -> Service | None:
    """What is installed for this folder, whatever runs."""
    for is_user in (True, False):
        unit = Service(_path(is_user), is_user)
        if _is_for(unit, where):
            return unit
    return None


def _is_for(unit: Service, where: Paths) -> bool:
    """Whether it names this folder, by whatever path."""
    home = _home(unit)
    return home is not None and os.path.realpath(home) == os.path.realpath(where.home)


def _path(is_user: bool) -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library/LaunchAgents" / _SYSTEM_JOB.name if is_user else _SYSTEM_JOB
    if not is_user:
        return _SYSTEM_UNIT
    config = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(config) / "systemd" / "user" / units.UNIT


def _home(unit: Service) -> Path | None:
    raw = _read(unit.path)
    if raw is None:
        return None
    if unit.is_launchd:
        return units.home_of_plist(raw)
    return units.home_of_unit(raw.decode("utf-8", "replace"))


def _read(path: Path) -> bytes | None:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return None


def plan(where: Paths, *, is_user: bool) -> Plan:
    """What would be installed. Raises ``usage`` for what a system's service could not run."""
    grace_ms = read_config(where.config_file).grace_ms
    planned = Plan(sys.executable, where.home, "" if is_user else units.USER, grace_ms)
    if is_user:
        return planned
    if sys.platform != "darwin" and (hidden := _hidden(where)):
        reason = f"a service of the system sees nothing below {hidden}"
        remedy = "install pollen elsewhere, as in /opt/pln, or: pln service install --user"
        raise error_from("usage", reason, remedy)
    place.check(where.home)
    return planned


def _hidden(where: Paths) -> str:
    """Below which folder lies something of what the node needs that it would not see; or empty.

    The interpreter of a venv is a link: both ends count, the venv, and where pollen itself lies.
    """
    parts = (sys.executable, sys.prefix, pollen.__file__, where.home)
    needed = [Path(end(part)) for part in parts for end in (os.path.abspath, os.path.realpath)]
    for hidden in _HIDDEN:
        folders = {Path(hidden), Path(os.path.realpath(hidden))}
        if any(folders & {path, *path.parents} for path in needed):
            return hidden
    return ""


def text_of(planned: Plan) -> str:
    """The unit or the job of a plan."""
    make = units.launchd_plist if sys.platform == "darwin" else units.systemd_unit
    return make(planned)


def install(where: Paths, *, is_user: bool) -> Service:
    """Write the unit, make the user and the folder, and have the init system know it.

    Raises ``usage`` where no init system runs or the rights are missing, ``file-exists`` for a unit
    of another folder, ``state-unusable`` when something cannot be written.
    """
    planned = plan(where, is_user=is_user)
    if not runs_manager():
        raise error_from("usage", "no systemd runs on this machine", _NO_MANAGER)
    if not is_user and os.geteuid() != 0:
        remedy = "run it with sudo, or for your own user: pln service install --user"
        raise error_from("usage", "a service of the system needs root", remedy)
    if is_user and os.geteuid() == 0:
        remedy = "a node with a user of its own: pln service install, or run it as that user"
        raise error_from("usage", "with --user the node would run as root", remedy)
    unit = Service(_path(is_user), is_user)
    if unit.path.exists() and not _is_for(unit, where):
        held = _home(unit)
        whose = f"is for {held}" if held else "is not ours"
        reason = f"{unit.path} exists, and {whose}"
        raise Conflict("file-exists", reason, "remove that one first, or use its folder: --dir")
    if not is_user:
        place.look(where)
        owner = _user(where.home)
        place.give(where, owner.pw_uid, owner.pw_gid)
    former = _read(unit.path)
    _write(unit.path, text_of(planned))
    try:
        unit.enable()
    except PollenError:
        # A unit that its manager does not know would be in the way of up, down and restart.
        with contextlib.suppress(OSError, PollenError):
            unit.path.unlink() if former is None else _write(unit.path, former.decode())
        raise
    return unit


def _user(home: Path) -> pwd.struct_passwd:
    """The user that the node runs as; made when there is none."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(units.USER)
    if sys.platform == "darwin" or shutil.which("useradd") is None:
        reason = f"there is no user {units.USER}, and no useradd to make one"
        raise error_from("usage", reason, f"make a system user named {units.USER}")
    line = ["useradd", "--system", "--user-group", "--no-create-home"]
    _run([*line, "--home-dir", str(home), "--shell", "/usr/sbin/nologin", units.USER])
    return pwd.getpwnam(units.USER)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise place.unwritten(path, error) from None


def _ask(
    line: Sequence[str], seconds: float = _PATIENCE, *, is_apart: bool = False
) -> subprocess.CompletedProcess[str] | None:
    """How a command of the manager ended; None where it cannot be run, or does not end."""
    try:
        return subprocess.run(
            line,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            start_new_session=is_apart,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None


def _run(line: Sequence[str], seconds: float = _PATIENCE, *, is_apart: bool = False) -> None:
    done = _ask(line, seconds, is_apart=is_apart)
    if done is None:
        reason = f"{' '.join(line)} cannot be run, or does not end"
        raise PollenError("state-unusable", reason, _NO_MANAGER)
    if done.returncode:
        said = done.stderr.strip() or f"it ended with {done.returncode}"
        reason = f"{' '.join(line)} failed: {said}"
        raise PollenError("state-unusable", reason, "see: pln service status")
