"""``pln service``: installed for a folder, driven by up, down and restart, fenced in, taken away.

No systemd runs here, so ``systemctl`` is a script that starts what the unit says. Commands that
need the sign of a running systemd see it in a mount of their own.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen import lock
from pollen.errors import SLUGS
from pollen.paths import Paths
from pollen.runtime.folder import units
from pollen.testing import until
from tests import seccomp
from tests.cli.conftest import EXAMPLES, Done, Host, Pln

pytestmark = pytest.mark.skipif(
    shutil.which("bwrap") is None or sys.platform == "darwin", reason="bubblewrap is not installed"
)
RUNS = Path("/run/systemd/system").is_dir()
# A process asks to be traced: no privilege is needed, and no group of the unit has it.
TRACED = """
import ctypes
library = ctypes.CDLL(None, use_errno=True)
print(ctypes.get_errno() if library.ptrace(0, 0, 0, 0) else 0)
"""


def fails(done: Done, slug: str) -> str:
    said = done.stderr.decode()
    assert done.returncode == SLUGS[slug].exit_code, said
    assert f"[{slug}]" in said and "Traceback" not in said
    return said


def test_a_service_is_installed_and_up_down_and_restart_drive_it(host: Host) -> None:
    """It is started where the folder is a member's, and one manager has it in hand from then on."""
    said = host.ok("service", "install", "--user")
    assert str(host.unit) in said and "started it" in said
    assert host.asked() == ["daemon-reload", "enable", "start"]
    assert units.home_of_unit(host.unit.read_text()) == host.home
    where = Paths(host.home)
    wait_for_pid(where)
    shown = json.loads(host.ok("service", "status", "--user", "--json"))
    assert (shown["unit"], shown["state"]) == (str(host.unit), "active")
    assert shown["pid"] == lock.read_pid(where)
    assert "already-running" in host("up", "-d").stderr.decode()
    host.asked()
    first = lock.read_pid(where)
    assert "kept up by pln.service" in host.ok("restart")
    assert host.asked() == ["restart"] and lock.read_pid(where) != first
    assert host.ok("down") == "down\n"
    assert host.asked() == ["stop"] and lock.read_pid(where) is None
    fails(host("up", "-d", "--name", "barn"), "usage")
    assert host.asked() == []
    assert "kept up by pln.service" in host.ok("up", "-d")
    assert host.asked() == ["start"]
    assert "up" in host.ok("logs", "-n", "5")
    fails(host("service", "uninstall", "--user"), "usage")
    assert host.unit.exists()
    assert "the node's folder stays" in host.ok("service", "uninstall", "--user", "--yes")
    assert host.asked() == ["stop", "disable", "daemon-reload"]
    assert not host.unit.exists() and (host.home / "node.key").exists()
    assert lock.read_pid(where) is None
    assert "no service is installed" in host.ok("service", "uninstall", "--user", "--yes")
    assert "pid" in host.ok("up", "-d"), "without a service it starts as ever"


def wait_for_pid(where: Paths) -> None:
    """Until a daemon of the folder answers."""

    async def runs() -> bool:
        return lock.read_pid(where) is not None

    asyncio.run(until(runs, 30, "the node runs"))


def test_a_node_that_ran_before_is_handed_over_and_ended_in_any_way(host: Host) -> None:
    """A restart does it. What the manager does not know it does not end; a kill is not undone."""
    host.ok("up", "-d")
    where = Paths(host.home)
    first = lock.read_pid(where)
    assert "runs already" in host.ok("service", "install", "--user")
    assert host.asked() == ["daemon-reload", "enable"]
    assert lock.read_pid(where) == first
    assert host.ok("down").endswith("down\n") and lock.read_pid(where) is None
    host.unit.rename(host.unit.with_suffix(".away"))
    host.ok("up", "-d")
    host.unit.with_suffix(".away").rename(host.unit)
    host.asked()
    assert "kept up by" in host.ok("restart")
    assert host.asked() == ["start"]
    host.ok("down", "--force")
    assert host.asked() == ["stop"] and lock.read_pid(where) is None


def test_a_join_starts_the_service_that_waits_for_it(host: Host, tmp_path: Path) -> None:
    """The unit was installed first, as on a new machine."""
    host.ok("up", "-d")
    token = host.ok("invite").strip()
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        (Path(home) / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
        folder = tmp_path / "garden"
        folder.mkdir()
        garden = Host(Path(home), folder)
        garden.ok("service", "install", "--user")
        garden.asked()
        try:
            assert "kept up by pln.service" in garden.ok("join", "--name", "garden", token)
            assert garden.asked() == ["start"]
        finally:
            garden("down", "--force")


def test_a_unit_of_another_folder_is_not_touched(host: Host, tmp_path: Path) -> None:
    """Neither driven nor removed, and not written over."""
    host.unit.parent.mkdir(parents=True)
    plan = units.Plan(sys.executable, tmp_path / "other", "")
    for text in (units.systemd_unit(plan), "[Service]\nExecStart=/bin/true\n"):
        host.unit.write_text(text)
        fails(host("service", "install", "--user"), "file-exists")
        assert host.unit.read_text() == text
        assert "none is installed" in host.ok("service", "status", "--user")
        host.ok("service", "uninstall", "--user", "--yes")
        assert host.unit.read_text() == text
    host.ok("up", "-d")
    assert host.asked() == []


def test_before_a_cluster_it_says_how_to_go_on(pln: Pln, tmp_path: Path) -> None:
    """Nothing is started: a node without credentials would begin a cluster of its own."""
    host = Host(pln.home, tmp_path)
    said = host.ok("service", "install", "--user")
    assert "join --no-up TOKEN" in said and "started" not in said
    assert host.asked() == ["daemon-reload", "enable"]


def test_what_a_manager_refuses_is_told_in_its_words(host: Host) -> None:
    tool = host.folder / "bin" / "systemctl"
    tool.write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    assert "no bus" in fails(host("service", "install", "--user"), "state-unusable")


def test_a_unit_that_could_not_be_enabled_is_not_left_behind(host: Host) -> None:
    """Else up and down would go through a manager that does not know it. One that was there before
    is there again as it was."""
    tool = host.folder / "bin" / "systemctl"
    works = tool.read_text()
    tool.write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    fails(host("service", "install", "--user"), "state-unusable")
    assert not host.unit.exists()
    host.ok("up", "-d")
    assert host.ok("down") == "down\n"
    tool.write_text(works)
    host.ok("service", "install", "--user")
    wait_for_pid(Paths(host.home))
    text = host.unit.read_text() + "# mine\n"
    host.unit.write_text(text)
    tool.write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    fails(host("service", "install", "--user"), "state-unusable")
    assert host.unit.read_text() == text
    tool.write_text(works)


def test_a_unit_that_waits_for_its_next_start_is_stopped(host: Host) -> None:
    """Else the node comes up seconds after a down that said that none ran."""
    host.ok("service", "install", "--user")
    host.ok("down")
    host.asked()
    tool = host.folder / "bin" / "systemctl"
    works = tool.read_text()
    tool.write_text(works.replace("echo inactive; exit 3", "echo activating; exit 3"))
    assert host.ok("down") == "down\n"
    assert host.asked() == ["stop"]
    tool.write_text(works)
    fails(host("down"), "daemon-not-running")
    assert host.asked() == ["stop"]


def test_time_for_calls_is_what_was_asked_for(host: Host) -> None:
    """A manager would give the time of its unit: with another one the node itself is asked first,
    and the manager then leaves it so."""
    host.ok("service", "install", "--user")
    where = Paths(host.home)
    ended = host.folder / "ended"
    for line, given in ((("down", "--grace", "7s"), 7_000), (("down",), 60_000)):
        wait_for_pid(where)
        host.asked()
        assert host.ok(*line) == "down\n"
        assert host.asked() == ["stop"] and lock.read_pid(where) is None
        assert not ended.exists() and grace_of_last_stop(where) == given
        host.ok("set", "grace_ms", "60s")
        host.ok("up", "-d")
    host.asked()
    assert "kept up by" in host.ok("restart")
    assert host.asked() == ["restart"]
    assert not ended.exists() and grace_of_last_stop(where) == 60_000
    host.ok("service", "install", "--user")
    host.ok("restart")
    assert ended.exists(), "the unit gives enough time now"


def grace_of_last_stop(where: Paths) -> int:
    """Milliseconds that the node gave calls when it ended last."""
    lines = [json.loads(line) for line in where.log_file.read_text().splitlines()]
    return next(int(line["grace_ms"]) for line in reversed(lines) if line["event"] == "stopping")


def test_flags_are_not_lost_when_a_service_takes_over(host: Host) -> None:
    """A restart is refused with the lines that keep them, before anything is stopped."""
    host.unit.parent.mkdir(parents=True)
    host.ok("up", "-d", "--name", "barn", "--port", "0", "--ips", "127.0.0.2")
    where = Paths(host.home)
    pid = lock.read_pid(where)
    host.ok("service", "install", "--user")
    host.asked()
    said = fails(host("restart"), "usage")
    assert "set name barn" in said and "set listen 127.0.0.2:0" in said
    assert lock.read_pid(where) == pid and host.asked() == []
    host.ok("set", "name", "barn")
    host.ok("set", "listen", "127.0.0.2:0")
    assert "node barn" in host.ok("restart")
    assert host.asked() == ["start"]


def test_options_that_a_service_does_not_take_leave_no_cluster(pln: Pln, tmp_path: Path) -> None:
    """They are refused before a cluster begins."""
    host = Host(pln.home, tmp_path)
    host.ok("service", "install", "--user")
    said = fails(host("up", "--port", "60700"), "usage")
    assert "set listen 0.0.0.0:60700,[::]:60700" in said
    assert not (host.home / "member").exists() and not (host.home / "root.key").exists()


def test_an_uninstall_ends_the_node_or_says_that_it_did_not(host: Host) -> None:
    """Also one that the manager did not start. A unit that cannot be stopped stays."""
    where = Paths(host.home)
    host.ok("up", "-d")
    host.ok("service", "install", "--user")
    tool = host.folder / "bin" / "systemctl"
    works = tool.read_text()
    tool.write_text("#!/bin/sh\necho no bus >&2; exit 1\n")
    said = host("service", "uninstall", "--user", "--yes")
    assert "no bus" in fails(said, "state-unusable") and "removed" not in said.stdout.decode()
    assert host.unit.exists()
    tool.write_text(works)
    assert lock.read_pid(where) is not None
    assert "removed" in host.ok("service", "uninstall", "--user", "--yes")
    assert lock.read_pid(where) is None and not host.unit.exists()


def test_a_unit_is_found_by_any_path_of_its_folder(host: Host, tmp_path: Path) -> None:
    """A folder reached through a link is the same folder."""
    host.ok("service", "install", "--user")
    link = tmp_path / "link"
    link.symlink_to(host.home)
    host.asked()
    assert "kept up by" in host.ok("--dir", str(link), "restart")
    assert host.asked() == ["restart"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root is refused")
def test_root_gets_no_service_of_its_own_user(host: Host) -> None:
    """The node would run as root."""
    host.who = []
    assert "as root" in fails(host("service", "install", "--user"), "usage")
    assert not host.unit.exists() and host.asked() == []


@pytest.mark.skipif(RUNS, reason="systemd runs here")
def test_without_systemd_it_is_refused_and_names_what_works(pln: Pln) -> None:
    pln.ok("init")
    assert "pln up -d" in fails(pln("service", "install", "--user"), "usage")
    (pln.home / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
    pln.ok("up", "-d")
    pln.ok("down")


def test_a_service_of_the_system_has_its_place(pln: Pln) -> None:
    """Its state is below /var/lib, and its interpreter where it can see it."""
    said = fails(pln("service", "install", "--print"), "usage")
    assert "/var/lib" in said or "sees nothing below" in said


@pytest.mark.parametrize("is_filtered", [False, True])
def test_what_a_unit_starts_runs_fenced_in(host: Host, tmp_path: Path, is_filtered: bool) -> None:
    """A disk that is read-only but for the folder, no privileges, devices and homes of its own: it
    answers, compiles a module and runs it. Also under the unit's filter of system calls, which
    refuses a call that is not among its groups."""
    if is_filtered and (why := seccomp.lacks()):
        pytest.skip(why)
    text = units.systemd_unit(units.Plan(sys.executable, host.home, ""))
    line = next(t for t in text.splitlines() if t.startswith("ExecStart="))
    command = shlex.split(line.removeprefix("ExecStart="))
    hidden = [] if str(Path(sys.executable).resolve()).startswith("/home") else ["--tmpfs", "/home"]
    own = ["--bind", str(host.home), str(host.home)]
    fence = ["bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", *hidden, *own]
    fence += ["--cap-drop", "ALL", "--unshare-ipc", "--unshare-uts", "--new-session"]
    with filter_of(text, tmp_path / "filter", is_wanted=is_filtered) as fds:
        fence += [word for descriptor in fds for word in ("--seccomp", str(descriptor))]
        traced = subprocess.run(
            [*fence, sys.executable, "-c", TRACED], pass_fds=fds, capture_output=True, check=True
        )
        assert int(traced.stdout) == (errno.EPERM if is_filtered else 0)
    with filter_of(text, tmp_path / "filter", is_wanted=is_filtered) as fds:
        process = subprocess.Popen([*fence, *command], env=host.environment, pass_fds=fds)
    try:
        wait_for_pid(Paths(host.home))
        plain = Pln(host.home)
        plain.ok("seed", str(EXAMPLES / "echo.wasm"), "echo")
        assert plain.ok("call", "echo", "echo", "hi") == "hi"
        status = Path(f"/proc/{lock.read_pid(Paths(host.home))}/status").read_text()
        assert "NoNewPrivs:\t1" in status and "CapEff:\t0000000000000000" in status
        assert f"Seccomp:\t{2 if is_filtered else 0}" in status
        plain.ok("down")
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def filter_of(unit: str, path: Path, *, is_wanted: bool) -> Iterator[list[int]]:
    """A descriptor of the unit's filter, to be read from its beginning; none when not wanted."""
    if not is_wanted:
        yield []
        return
    assert seccomp.write_program(unit, path) > 100
    with path.open("rb") as file:
        yield [file.fileno()]
