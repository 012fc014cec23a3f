"""What an init system is told of a node: verified by systemd itself, and read back."""

from __future__ import annotations

import os
import plistlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pollen.errors import PollenError
from pollen.paths import Paths
from pollen.runtime.folder import service, supervised, units
from pollen.runtime.folder.units import Plan

SYSTEM = Plan(python=sys.executable, home=units.SYSTEM_HOME, user=units.USER)
ODD = [
    "/home/you/.pln",
    "/srv/my nodes/one",
    '/srv/a"b',
    "/srv/50%/x",
    "/srv/it's",
    "/srv/a\\b",
    "/srv/$HOME",
]

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def analyze(tmp_path: Path, text: str, *line: str) -> subprocess.CompletedProcess[str]:
    unit = tmp_path / units.UNIT
    unit.write_text(text)
    command = ["systemd-analyze", *line, str(unit)]
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@needs_systemd
@pytest.mark.parametrize("plan", [SYSTEM, Plan(sys.executable, Path("/srv/my nodes/one"), "")])
def test_systemd_finds_no_fault_in_a_unit(tmp_path: Path, plan: Plan) -> None:
    user = [] if plan.user else ["--user"]
    done = analyze(tmp_path, units.systemd_unit(plan), *user, "verify")
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_a_service_of_the_system_is_little_exposed(tmp_path: Path) -> None:
    """At most 3.0 by systemd's own count; without its limits it would be over 9."""
    text = units.systemd_unit(SYSTEM)
    done = analyze(tmp_path, text, "security", "--offline=true")
    level = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert level and float(level[1]) <= 3.0, done.stdout
    bare = re.sub(r"^(Protect|Private|Restrict|Capab|System|NoNew|User).*\n", "", text, flags=re.M)
    done = analyze(tmp_path, bare, "security", "--offline=true")
    level = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert level and float(level[1]) > 3.0


def test_a_unit_says_why_memory_may_be_written_and_run() -> None:
    """The compiler of WASM needs it: the setting is not there, its reason is."""
    for plan in (SYSTEM, Plan("/usr/bin/python3", Path("/srv/pln"), "")):
        text = units.systemd_unit(plan)
        assert not re.search(r"^MemoryDenyWriteExecute=", text, re.MULTILINE)
        assert "# MemoryDenyWriteExecute stays off: WASM is compiled" in text
        assert "NoNewPrivileges=yes" in text
    assert "User=pln\n" in units.systemd_unit(SYSTEM)
    assert "StateDirectory=pln\n" in units.systemd_unit(SYSTEM)


@pytest.mark.parametrize("home", ODD)
def test_the_folder_is_found_again_in_what_was_written(home: str) -> None:
    plan = Plan("/opt/py thon/bin/python", Path(home), "")
    assert units.home_of_unit(units.systemd_unit(plan)) == Path(home)
    assert units.home_of_plist(units.launchd_plist(plan).encode()) == Path(home)


@pytest.mark.parametrize(
    "text", ["", "ExecStart=/usr/bin/pln up", "ExecStart=", "[Service]\nType=exec", "ExecStart='a"]
)
def test_a_unit_of_somebody_else_names_no_folder_of_ours(text: str) -> None:
    assert units.home_of_unit(text) is None
    assert units.home_of_plist(text.encode()) is None


@pytest.mark.parametrize("user", ["", "pln"])
def test_a_job_of_launchd_keeps_the_node_up(user: str) -> None:
    """As an agent of a user it names none."""
    job = plistlib.loads(units.launchd_plist(Plan("/opt/python", Path("/x"), user)).encode())
    assert job["ProgramArguments"] == ["/opt/python", "-m", "pollen.runtime", "--dir", "/x"]
    assert (job["RunAtLoad"], job["KeepAlive"]) == (True, {"SuccessfulExit": False})
    assert job.get("UserName", "") == user
    assert job["Umask"] == 0o077


def test_a_manager_waits_longer_than_the_calls_may_take(tmp_path: Path) -> None:
    """Else it kills the node that ends its calls in order."""
    (tmp_path / "config.toml").write_text("grace_ms = 90_500\n")
    plan = supervised.plan(Paths(tmp_path), is_user=True)
    assert "\nTimeoutStopSec=116\n" in units.systemd_unit(plan)
    assert plistlib.loads(units.launchd_plist(plan).encode())["ExitTimeOut"] == 116
    assert units.stop_of_unit(units.systemd_unit(plan)) == 116
    assert units.stop_of_plist(units.launchd_plist(plan).encode()) == 116
    assert "\nTimeoutStopSec=30\n" in units.systemd_unit(SYSTEM)


def test_a_stop_waits_for_the_time_that_the_settings_give_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It kills what is there after that, and not before."""
    (tmp_path / "config.toml").write_text("grace_ms = 90_000\n")
    waited: list[float] = []
    monkeypatch.setattr(service, "running", lambda where: 1)
    monkeypatch.setattr(service, "_ask_to_stop", lambda *given: None)

    def gone(where: Paths, pid: int, seconds: float) -> bool:
        waited.append(seconds)
        return True

    monkeypatch.setattr(service, "_gone_within", gone)
    service.stop(Paths(tmp_path))
    assert waited == [90 + service.STOP_MARGIN_SECONDS]


@pytest.mark.skipif(sys.platform == "darwin", reason="launchd hides no folders")
@pytest.mark.parametrize("what", ["executable", "prefix", "package", "nothing"])
def test_a_service_of_the_system_sees_all_that_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The interpreter of a venv is a link to one that is seen; the link and the venv are not."""
    hidden, python = tmp_path / "home", tmp_path / "python"
    hidden.mkdir()
    python.write_text("")
    (hidden / "python").symlink_to(python)
    monkeypatch.setattr(supervised, "_HIDDEN", (str(hidden),))
    executable = hidden / "python" if what == "executable" else python
    monkeypatch.setattr(sys, "executable", str(executable))
    monkeypatch.setattr(sys, "prefix", str(hidden / "venv" if what == "prefix" else tmp_path))
    package = (hidden if what == "package" else tmp_path) / "pollen" / "__init__.py"
    monkeypatch.setattr("pollen.__file__", str(package))
    where = Paths(units.SYSTEM_HOME)
    if what == "nothing":
        assert supervised.plan(where, is_user=False).home == units.SYSTEM_HOME
        return
    with pytest.raises(PollenError) as caught:
        supervised.plan(where, is_user=False)
    assert caught.value.slug == "usage" and str(hidden) in caught.value.reason
