"""``pln service`` of the system: the user, the folder and the unit that root makes."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pollen.runtime.folder import units
from tests.cli.conftest import Host

pytestmark = pytest.mark.skipif(
    sys.platform == "darwin"
    or os.geteuid() != 0
    or any(shutil.which(tool) is None for tool in ("bwrap", "useradd")),
    reason="a system user is root's to make, here in bubblewrap",
)

# On copies of /etc and /var/lib, as root, with an interpreter that a service of the system sees.
AS_ROOT = """
import sys
sys.executable, sys.prefix = "/usr/bin/python3", "/usr"
from pathlib import Path
import pollen
pollen.__file__ = "/usr/lib/python3/pollen/__init__.py"
from pollen import lock
from pollen.errors import PollenError
from pollen.paths import Paths
from pollen.runtime.folder import supervised
where = Paths(Path("/var/lib/pln"))
def refused(where):
    try:
        supervised.install(where, is_user=False)
    except PollenError as error:
        print(error.slug, error.reason, error.remedy, sep=" | ")
"""


class System:
    """A machine whose /etc and /var/lib are copies, and whose root runs a script."""

    def __init__(self, host: Host) -> None:
        self.host, self.etc, self.state = host, host.folder / "etc", host.folder / "lib"
        ignored = shutil.ignore_patterns("ssl", "alternatives")
        shutil.copytree("/etc", self.etc, symlinks=True, ignore=ignored)
        self.state.mkdir()
        tool = host.folder / "bin" / "systemctl"
        tool.write_text('#!/bin/sh\necho "$@" >> "$FAKE/asked"\n')

    def run(self, script: str) -> list[str]:
        """The lines that the script prints."""
        binds = ["--bind", str(self.etc), "/etc", "--bind", str(self.state), "/var/lib"]
        line = [*self.host.fence, *binds, sys.executable, "-c", AS_ROOT + script]
        done = subprocess.run(
            line, env=self.host.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    @property
    def unit(self) -> Path:
        return self.etc / "systemd" / "system" / units.UNIT

    def user(self) -> int:
        """The user id of pln there."""
        lines = (self.etc / "passwd").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("pln:")).split(":")[2])


@pytest.fixture
def system(host: Host) -> System:
    return System(host)


def test_a_service_of_the_system_gets_a_user_a_folder_and_a_unit(system: System) -> None:
    """Twice changes nothing, and it goes without a trace."""
    first, *unit = system.run("""
for _ in range(2):
    supervised.install(where, is_user=False)
held = supervised.installed(where)
print(held.path, where.home.owner(), where.home.group(), oct(where.home.stat().st_mode & 0o777))
print(held.path.read_text())
held.remove(where)
print(supervised.installed(where))
""")
    assert first == "/etc/systemd/system/pln.service pln pln 0o700"
    assert "User=pln" in unit and unit[-1] == "None"
    asked = ["daemon-reload", "enable"] * 2 + ["stop", "disable", "daemon-reload"]
    assert system.host.asked() == asked
    assert system.user() > 0


def test_a_folder_that_a_node_of_root_used_is_handed_over_whole(system: System) -> None:
    """Else the service could not read its own keys. What a link points to stays whose it was."""
    home, elsewhere = system.state / "pln", system.state / "elsewhere"
    (home / "content" / "ab").mkdir(parents=True)
    for path in (home / "node.key", home / "content" / "ab" / "blob", elsewhere):
        path.write_text("x")
    (home / "link").symlink_to("../elsewhere")
    system.run("supervised.install(where, is_user=False)")
    owners = {path.lstat().st_uid for path in (home, *home.rglob("*"))}
    assert owners == {system.user()}
    assert elsewhere.stat().st_uid == 0


def test_a_folder_does_not_change_hands_while_a_node_runs_in_it(system: System) -> None:
    """It is refused with the line that ends the node, and nothing is written."""
    home = system.state / "pln"
    home.mkdir()
    (home / "node.key").write_text("x")
    (said,) = system.run("lock.write_pid(where)\nrefused(where)")
    assert said.startswith("already-running |") and "sudo pln --dir /var/lib/pln down" in said
    assert home.stat().st_uid == (home / "node.key").stat().st_uid == 0
    assert not system.unit.exists()


@pytest.mark.parametrize("name", ["", "base", "link", "file", "others", "hard"])
def test_a_folder_of_something_else_is_never_taken(system: System, name: str) -> None:
    """Not /var/lib itself, not another service's, not what a link points to."""
    base = system.state / "base"
    base.mkdir()
    (base / "table").write_text("x")
    (system.state / "empty").mkdir()
    (system.state / "link").symlink_to("empty")
    (system.state / "file").write_text("x")
    (system.state / "others").mkdir()
    os.chown(system.state / "others", 7, 7)
    (system.state / "hard").mkdir()
    (system.state / "hard" / "node.key").hardlink_to(base / "table")
    before = {path: path.lstat().st_uid for path in system.state.rglob("*")}
    place = f"/var/lib/{name}" if name else "/var/lib"
    (said,) = system.run(f"refused(Paths(Path({place!r})))")
    assert said.split(" | ")[0] == ("state-unusable" if name == "hard" else "usage")
    assert place in said
    assert {path: path.lstat().st_uid for path in system.state.rglob("*")} == before
    assert system.state.stat().st_uid == 0 and not system.unit.exists()
