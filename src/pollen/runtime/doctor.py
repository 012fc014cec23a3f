"""What ``pln doctor`` looks at: this machine, this folder, the node that runs here.

Each check returns findings; none changes anything, and a check that cannot be made says so instead
of failing. A finding that is not ``ok`` says what to do about it.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import resource
import shutil
import sqlite3
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from pollen import lock
from pollen.core.ids import MILLISECOND
from pollen.core.limits import CLOCK_TOLERANCE_NS
from pollen.errors import PollenError
from pollen.paths import (
    NETWORK_FILE_SYSTEMS,
    OWNER_REMEDY,
    Paths,
    cure,
    file_system_of,
    trouble_at,
)
from pollen.runtime import starting
from pollen.runtime.finding import Finding
from pollen.runtime.folder import identity, ports
from pollen.runtime.folder.config import Config
from pollen.runtime.loop.store import REMEDY as STORE_REMEDY
from pollen.runtime.served import check_services
from pollen.runtime.upgrade import begin
from pollen.sdk import silence
from pollen.sdk.control import Control
from pollen.units import human_bytes

# Below the first a store soon fails, below the second it is time to look. Bytes.
DISK_LEAST = 100 << 20
DISK_LOW = 1 << 30
# Sockets, store, logs, and a descriptor a client; the daemon raises its own soft limit to the hard.
FILES_LEAST = 1_024
# The kernel's default; a suspended call takes up to two mappings.
MAPS_LEAST = 65_530
CLOCKS_APART_MS = CLOCK_TOLERANCE_NS // MILLISECOND
MEMBER_DAY_MS = 86_400_000
# Nobody has a clock before this project's first commit: 2026-01-01.
EPOCH_FLOOR = 1_767_225_600


def examine(where: Paths) -> list[Finding]:
    """All checks, in the order in which they are printed."""
    checks: Sequence[Callable[[], Iterator[Finding]]] = (
        lambda: check_folder(where),
        lambda: check_keys(where),
        lambda: check_disk(where),
        lambda: check_clock(time.time()),
        lambda: check_limits(lock.read_pid(where)),
        lambda: check_settings(where),
        check_upgrade,
        lambda: check_store(where),
    )
    if not _can_enter(where):
        # Nothing else could be looked at.
        machine = (check_disk(where), check_clock(time.time()), check_limits(None))
        return [*check_folder(where), *(finding for held in machine for finding in held)]
    found = [finding for check in checks for finding in check()]
    if any(finding.name == "store" and finding.level == "failure" for finding in found):
        return found  # nothing can start on it: what else to say of the daemon would mislead
    return [*found, *check_daemon(where)]


def _can_enter(where: Paths) -> bool:
    try:
        where.home.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return os.access(where.home, os.R_OK | os.X_OK)


def check_folder(where: Paths) -> Iterator[Finding]:
    """Ours, closed to others, on a local disk."""
    try:
        held = where.home.stat()
    except FileNotFoundError:
        yield Finding("folder", "ok", f"{where.home} is not there yet; pln up makes it")
        return
    except OSError as error:
        yield Finding("folder", "failure", f"{where.home}: {error.strerror}", "another one: --dir")
        return
    is_open = os.access(where.home, os.W_OK | os.X_OK)
    trouble = trouble_at(where.home)
    if held.st_uid not in (os.getuid(), 0) or (held.st_uid != os.getuid() and not is_open):
        text = f"{where.home} belongs to user id {held.st_uid}, you are {os.getuid()}"
        yield Finding("folder", "failure", text, OWNER_REMEDY)
    elif trouble is not None and trouble.errno == errno.EROFS:
        text = f"{where.home} is on a read-only file system"
        yield Finding("folder", "failure", text, cure(where.home, trouble))
    elif not is_open:
        text = f"{where.home} is not writable"
        yield Finding("folder", "failure", text, f"chmod u+rwx {where.home}")
    elif stat.S_IMODE(held.st_mode) & 0o077:
        text = f"{where.home} is open to other users"
        yield Finding("folder", "warning", text, f"chmod 700 {where.home}")
    else:
        yield Finding("folder", "ok", f"{where.home} is yours alone")
    kind = file_system_of(where.home)
    if kind in NETWORK_FILE_SYSTEMS:
        text = f"{where.home} is on a network file system ({kind}); locks there cannot be trusted"
        yield Finding("folder", "failure", text, "keep it on a local disk: --dir or PLN_DIR")


def check_keys(where: Paths) -> Iterator[Finding]:
    """Whoever reads a key can be this node, or make admins."""
    for key in (where.node_key, where.root_key):
        with contextlib.suppress(OSError):
            if stat.S_IMODE(key.stat().st_mode) & 0o077:
                yield Finding(
                    "keys", "failure", f"{key} is open to other users", f"chmod 600 {key}"
                )


def check_disk(where: Paths) -> Iterator[Finding]:
    """Room for records, modules, compiled code and logs."""
    place = next((path for path in (where.home, *where.home.parents) if path.exists()), None)
    if place is None:
        return
    free = shutil.disk_usage(place).free
    text = f"{human_bytes(free)} free at {place}"
    what = f"what takes it: du -xk {_mount_of(place)} | sort -n | tail"
    if free < DISK_LEAST:
        remedy = f"make room: at least {human_bytes(DISK_LEAST)}; {what}"
        yield Finding("disk", "failure", text, remedy)
    elif free < DISK_LOW:
        remedy = f"make room: {human_bytes(DISK_LOW)} is comfortable; {what}"
        yield Finding("disk", "warning", text, remedy)
    else:
        yield Finding("disk", "ok", text)


def _mount_of(path: Path) -> Path:
    return next(held for held in (path, *path.parents) if held.is_mount())


def check_clock(wall: float) -> Iterator[Finding]:
    """Certificates have dates: a clock that is years off makes all of them invalid."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall))
    if wall < EPOCH_FLOOR:
        yield Finding("clock", "failure", f"it is {shown} here", "set the clock; use NTP")
    else:
        yield Finding("clock", "ok", f"it is {shown} here")


def _limits(pid: int | None, kind: int) -> tuple[int, int]:
    """The soft and the hard limit of the daemon when one runs, else those that it would have."""
    with contextlib.suppress(AttributeError, OSError, ValueError):
        if pid is not None:
            return resource.prlimit(pid, kind)
    return resource.getrlimit(kind)


def check_limits(pid: int | None) -> Iterator[Finding]:
    """Open files, address space, memory mappings: the daemon's own when it runs."""
    _, hard = _limits(pid, resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FILES_LEAST:
        text = f"at most {hard} open files"
        yield Finding("files", "failure", text, f"ulimit -Hn {FILES_LEAST} as root, then pln up -d")
    else:
        yield Finding("files", "ok", f"{'any number of' if hard < 0 else hard} open files")
    space, _ = _limits(pid, resource.RLIMIT_AS)
    if space == resource.RLIM_INFINITY:
        yield Finding("space", "ok", "address space is not limited")
    else:
        text = f"address space is limited to {human_bytes(space)}: guests start slower, fewer fit"
        yield Finding("space", "warning", text, "lift it: ulimit -v unlimited")
    with contextlib.suppress(OSError, ValueError):
        maps = int(Path("/proc/sys/vm/max_map_count").read_text())
        if maps < MAPS_LEAST:
            remedy = f"sysctl vm.max_map_count={MAPS_LEAST}"
            yield Finding("maps", "warning", f"at most {maps} memory mappings", remedy)
        else:
            yield Finding("maps", "ok", f"{maps} memory mappings")


def check_settings(where: Paths) -> Iterator[Finding]:
    """config.toml is readable; the ports are free, unless a daemon of ours has them."""
    try:
        config = starting.settings(where, {})
        starting.check(config)
    except PollenError as error:
        yield Finding("settings", "failure", error.reason, error.remedy)
        return
    yield Finding("settings", "ok", f"{where.config_file} is fine")
    if lock.read_pid(where) is None:
        yield from check_ports(config)


def check_upgrade() -> Iterator[Finding]:
    """Whether an upgrade was cut off; nothing when none was."""
    try:
        journal = begin.site_of_ours().read_journal()
    except PollenError as error:
        yield Finding("upgrade", "failure", error.reason, error.remedy)
        return
    if journal is not None:
        versions = f"from {journal.old.version} to {journal.new.version}"
        text = f"an upgrade {versions} is under way, or was cut off"
        yield Finding("upgrade", "warning", text, "pln upgrade; it goes on from there")


def check_ports(config: Config) -> Iterator[Finding]:
    """Whether the addresses to listen on can be bound now."""
    for address in config.listen:
        try:
            ports.bind(address)
        except OSError as error:
            text = f"udp {address} cannot be bound: {error.strerror}"
            remedy = "another port: pln set listen IP:PORT"
            if error.errno == errno.EADDRINUSE:
                remedy = f"pln set listen {','.join(ports.next_free(config.listen))}"
            yield Finding("ports", "failure", text, remedy)
        else:
            yield Finding("ports", "ok", f"udp {address} is free")


def check_store(where: Paths) -> Iterator[Finding]:
    """Whether a node could start on its store. A copy is looked at: the file stays as it is.

    A daemon that runs looked at it when it started, and is the one to say what it cannot write.
    """
    error = identity.lost(where)
    if error is not None:
        yield Finding("store", "failure", error.reason, error.remedy)
        return
    if not where.store.exists() or lock.read_pid(where) is not None:
        return
    try:
        with tempfile.TemporaryDirectory(prefix="pln-") as folder:
            copy = Path(folder) / where.store.name
            for suffix in ("", "-wal"):
                held = where.store.with_name(where.store.name + suffix)
                if held.exists():
                    shutil.copyfile(held, copy.with_name(copy.name + suffix))
            with contextlib.closing(sqlite3.connect(copy)) as database:
                (verdict,) = database.execute("PRAGMA quick_check(1)").fetchone()
                database.execute("SELECT count(*) FROM row").fetchone()
    except sqlite3.Error as error:
        verdict = str(error)
    except OSError as error:
        text = f"{where.store} could not be copied to look at it: {error.strerror}"
        yield Finding("store", "warning", text, "room in the folder of TMPDIR")
        return
    trouble = trouble_at(where.home)
    if verdict == "ok" and trouble is not None:
        text = f"{where.store} is sound, but cannot be written: {trouble.strerror}"
        yield Finding("store", "failure", text, cure(where.home, trouble))
    elif verdict == "ok":
        yield Finding("store", "ok", f"{where.store} is sound")
    else:
        text = f"{where.store} is damaged: {verdict}"
        yield Finding("store", "failure", text, STORE_REMEDY)


def check_daemon(where: Paths) -> Iterator[Finding]:
    """The node that runs here, by its own words; a stale pid file; a node that does not run."""
    pid = lock.read_pid(where)
    if pid is None:
        if where.pid_file.exists():
            text = "the last daemon did not end in order"
            yield Finding("daemon", "warning", text, "pln up -d; it goes on from its state")
        elif where.store.exists():
            yield Finding("daemon", "warning", "the node is down", "pln up -d")
        else:
            yield Finding("daemon", "ok", "there is no node here yet: pln up, or pln join TOKEN")
        return
    if silence.is_stopped(pid):
        text = f"the daemon ({silence.process_text(where)}) cannot answer"
        yield Finding("daemon", "failure", text, f"kill -CONT {pid}; or: pln down --force")
        return
    try:
        status = Control(where).get("/v1/status")
        services = Control(where).get("/v1/services")
    except PollenError as error:
        text = f"the daemon (pid {pid}) does not answer: {error.reason}"
        if error.slug == "daemon-not-answering":
            text = error.reason
        yield Finding("daemon", "failure", text, "pln logs; then pln down --force, pln up -d")
        return
    yield Finding("daemon", "ok", f"pid {pid}; {status['summary']}")
    for warning in status["warnings"]:
        yield Finding("cluster", "warning", *text_and_cure(warning))
    yield from check_clocks(status["clock"], time.time() * 1000)
    yield from check_membership(status, time.time() * 1000)
    yield from check_reach(status)
    yield from check_services(services)


def text_and_cure(warning: str) -> tuple[str, str]:
    """A warning of the status without the command that it ends with, and that command."""
    held = re.fullmatch(r"(.*); (see|there|on an admin's machine): (.*)", warning)
    if held is None:
        return warning, "pln logs; pln status"
    return held[1], held[3] if held[2] == "see" else f"{held[2]}: {held[3]}"


def check_clocks(clock: dict[str, Any], now_ms: float) -> Iterator[Finding]:
    """The clocks of this command, of the daemon and of the members, compared.

    ``clock`` is the ``clock`` of the status; ``now_ms`` what this command's own clock shows.
    """
    apart = clock["raw_unix_ms"] - now_ms
    if abs(apart) > CLOCKS_APART_MS:
        text = f"the daemon's clock is {_hours(apart)} this command's"
        yield Finding("clocks", "failure", text, "set the clock on both; use NTP")
    ahead = clock["members_ahead_ms"]
    if clock["in_doubt"]:
        late = clock["wall_unix_ms"] - clock["raw_unix_ms"]
        text = f"this node works with a time {_hours(late)} its machine's clock"
        remedy = "set the clock; a node that was wrong heals when two members agree with its clock"
        yield Finding("clocks", "warning", text, remedy)
    if not ahead:
        return
    middle = ahead[len(ahead) // 2]
    if abs(middle) > CLOCKS_APART_MS:
        text = f"the members' clocks are {_hours(middle)} this machine's ({len(ahead)} heard)"
        yield Finding("clocks", "failure", text, "set this machine's clock; use NTP")
    elif not clock["in_doubt"]:
        yield Finding("clocks", "ok", f"{_members(len(ahead))} within {_most(ahead)} ms")


def _hours(milliseconds: float) -> str:
    """A distance for a reader: hours with one digit, or days."""
    hours = abs(milliseconds) / 3_600_000
    side = "behind" if milliseconds < 0 else "ahead of"
    return f"{hours / 24:.1f} days {side}" if hours >= 48 else f"{hours:.1f} hours {side}"


def _members(count: int) -> str:
    return "1 member agrees" if count == 1 else f"{count} members agree"


def _most(ahead: Sequence[int]) -> int:
    return max(abs(each) for each in ahead)


def check_membership(status: dict[str, Any], now_ms: float) -> Iterator[Finding]:
    """Leases are renewed at half their life: one that has a day left is not being renewed."""
    left = status["member_until_unix_ms"] - now_ms
    days = f"{left / MEMBER_DAY_MS:.1f} days"
    if status.get("denied_by"):
        text = f"this node was denied by {status['denied_by']}"
        remedy = f"on an admin's node: pln undeny {status['node'][:8]}; this one then comes back"
        yield Finding("membership", "failure", text, remedy)
    elif left <= 0:
        text = "this node's membership has ended"
        remedy = "on an admin's node: pln invite; then here: pln down, pln join TOKEN"
        yield Finding("membership", "failure", text, remedy)
    elif status.get("shut_out"):
        text = f"{', '.join(status['shut_out'][:3])} let this node in no more"
        remedy = f"on an admin's node, why: pln members; {status['node'][:8]} is this node"
        yield Finding("membership", "failure", text, remedy)
    elif left < MEMBER_DAY_MS:
        text = f"this node's membership ends in {days}"
        yield Finding("membership", "warning", text, "let an admin be online: it renews by itself")
    else:
        yield Finding("membership", "ok", f"a member for {days} more; renewed by itself")


def check_reach(status: dict[str, Any]) -> Iterator[Finding]:
    """Two homes behind routers cannot meet without a node that both can reach."""

    def is_public(address: str) -> bool:
        with contextlib.suppress(ValueError):
            return ipaddress.ip_address(address.rpartition(":")[0].strip("[]")).is_global
        return False

    seen = {n["name"] for n in status["nodes"] if any(is_public(a) for a in n["addresses"])}
    if seen:
        yield Finding("reach", "ok", f"with a public address: {', '.join(sorted(seen))}")
    elif len(status["nodes"]) > 1:
        text = "no node has a public address: nodes of other networks cannot reach this cluster"
        remedy = "run one node where others can reach it, or forward its UDP port"
        yield Finding("reach", "ok", text, remedy)
