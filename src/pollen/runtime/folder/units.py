"""What an init system is told about a node: a systemd unit, or a launchd job, as text.

Decides: how a node is started, kept up, and what it may not do meanwhile.
Does not know: whether such an init system runs here (``supervised``).
Invariants: a unit names its folder, by which it is found again. The node runs as a user of its own
    or as the user who installed it, never as root.
Source: systemd.exec(5), launchd.plist(5); docs/guide/as-a-service.md.
"""

from __future__ import annotations

import contextlib
import plistlib
import shlex
from dataclasses import dataclass
from pathlib import Path

UNIT = "pln.service"
LABEL = "mesh.pollen.pln"
USER = "pln"
SYSTEM_HOME = Path("/var/lib/pln")
# Seconds that an orderly end may take beside the time for calls: draining, and room. Guess.
_STOP_ROOM_SECONDS = 25
_STOP_LINE = "TimeoutStopSec="


def stop_seconds(grace_ms: int) -> int:
    """Seconds that a manager waits for the end of a node that gives calls ``grace_ms``."""
    return -(-grace_ms // 1000) + _STOP_ROOM_SECONDS


@dataclass(frozen=True)
class Plan:
    """A node to be kept up. ``user`` is empty for a unit of the user who installs it; ``grace_ms``
    is the time that the node gives calls at its end."""

    python: str
    home: Path
    user: str
    grace_ms: int = 5_000

    @property
    def line(self) -> list[str]:
        """The command of the node."""
        return [self.python, "-m", "pollen.runtime", "--dir", str(self.home)]


# What both kinds of units have.
_UNIT = """\
# Written by pln service install; pln service uninstall removes it.
[Unit]
Description=Pollen node in {home}
Wants=network-online.target
After=network-online.target
# Before pln init or pln join there is no node to start.
ConditionPathExists={home}/member

[Service]
Type=exec
ExecStart={line}
Restart=on-failure
RestartSec=2
{stop}
LimitNOFILE=65536
UMask=0077
NoNewPrivileges=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
# MemoryDenyWriteExecute stays off: WASM is compiled to machine code while the node runs.
"""

# What only the system's own manager can hold a service to.
_SYSTEM = """\
User={user}
Group={user}
StateDirectory={state}
StateDirectoryMode=0700
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
PrivateTmp=yes
PrivateDevices=yes
RemoveIPC=yes
"""

_INSTALL = """
[Install]
WantedBy={target}
"""


def systemd_unit(plan: Plan) -> str:
    """The unit of a node: of the system, with a user of its own, or of the user's own manager."""
    line = " ".join(_quoted(word) for word in plan.line)
    stop = f"{_STOP_LINE}{stop_seconds(plan.grace_ms)}"
    text = _UNIT.format(home=_percent(str(plan.home)), line=line, stop=stop)
    if not plan.user:
        return text + _INSTALL.format(target="default.target")
    state = plan.home.relative_to("/var/lib")
    return (
        text
        + _SYSTEM.format(user=plan.user, state=state)
        + _INSTALL.format(target="multi-user.target")
    )


def launchd_plist(plan: Plan) -> str:
    """The job of a node; without a user it is an agent of who installs it."""
    job: dict[str, object] = {
        "Label": LABEL,
        "ProgramArguments": plan.line,
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ExitTimeOut": stop_seconds(plan.grace_ms),
        "Umask": 0o077,
        "SoftResourceLimits": {"NumberOfFiles": 65_536},
        "ProcessType": "Background",
    }
    if plan.user:
        job["UserName"] = plan.user
    return plistlib.dumps(job, sort_keys=False).decode()


def home_of_unit(text: str) -> Path | None:
    """The folder that a unit of ours names; None for one that is not ours."""
    for line in text.splitlines():
        if line.startswith("ExecStart="):
            said = line.removeprefix("ExecStart=").replace("%%", "%").replace("$$", "$")
            with contextlib.suppress(ValueError):
                return _home_in(shlex.split(said))
    return None


def home_of_plist(raw: bytes) -> Path | None:
    """The folder that a job of ours names; None for one that is not ours."""
    try:
        words = plistlib.loads(raw)["ProgramArguments"]
    except (plistlib.InvalidFileException, ValueError, KeyError, TypeError):
        return None
    return _home_in([str(word) for word in words])


def stop_of_unit(text: str) -> int:
    """Seconds that a unit gives a node for its end; 0 where it does not say so in our way."""
    for line in text.splitlines():
        if line.startswith(_STOP_LINE) and line.removeprefix(_STOP_LINE).isdecimal():
            return int(line.removeprefix(_STOP_LINE))
    return 0


def stop_of_plist(raw: bytes) -> int:
    """Seconds that a job gives a node for its end; 0 where it does not say."""
    try:
        return int(plistlib.loads(raw)["ExitTimeOut"])
    except (plistlib.InvalidFileException, ValueError, KeyError, TypeError):
        return 0


def _home_in(words: list[str]) -> Path | None:
    is_ours = words[1:4] == ["-m", "pollen.runtime", "--dir"] and len(words) == 5
    return Path(words[4]) if is_ours else None


def _percent(text: str) -> str:
    """systemd reads a per cent sign as the beginning of a word of its own."""
    return text.replace("%", "%%")


def _quoted(word: str) -> str:
    plain = _percent(word).replace("\\", "\\\\").replace('"', '\\"').replace("$", "$$")
    return f'"{plain}"' if set(plain) & set(" \t\"'\\;") else plain
