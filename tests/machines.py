"""Machines that have nothing of pollen: namespaces with an sshd, a user and own folders.

Each has its own network, mounts, processes and name, its own /etc, /home, /opt, /root, /run, /tmp,
/usr/local and /var, and no route out. The first node of the network is the desk's, whose folders
are ours. Needs root, iproute2, nftables, sudo and openssh-server.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen.testing.namespaces import Network
from tests import recorder
from tests.sshd import program

Done = subprocess.CompletedProcess[bytes]
READY_WITHIN = 20.0
_OWN = ("etc", "home", "opt", "root", "run", "usr/local", "var", "tmp")
# What is not part of a system's settings, or large.
_NOT_COPIED = shutil.ignore_patterns("ssl", "java*")


def need() -> None:
    """Skip where there can be none (``.ci/setup`` installs what they need)."""
    tools = ("ssh", "sudo", "unshare", "nft", "/usr/bin/python3")
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if program() is None or missing or not Network.is_possible():
        pytest.skip(f"these need root, namespaces, openssh-server, sudo; missing: {missing}")


class Machine:
    """One machine; ``space`` is its name in the network."""

    def __init__(self, folder: Path, network: Network, space: str, authorized: str) -> None:
        self.folder, self.network, self.space = folder, network, space
        self.name, self.address = f"m{space}", network.address(space)
        self._authorized = authorized
        self._process: subprocess.Popen[bytes] | None = None
        self._build()

    def _build(self) -> None:
        self.folder.mkdir(parents=True)
        shutil.copytree(
            "/etc", self.folder / "etc", symlinks=True, ignore=_NOT_COPIED, dirs_exist_ok=True
        )
        for name in (*_OWN, "var/lib", "var/tmp", "run/sshd", "usr/local/bin", "home/user"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").chmod(0o1777)
        (self.folder / "root").chmod(0o700)
        etc = self.folder / "etc"
        for file, line in (
            ("passwd", "user:x:1077:1077::/home/user:/bin/sh"),
            ("group", "user:x:1077:"),
            ("shadow", "user:*:19000:0:99999:7:::"),
        ):
            with (etc / file).open("a") as held:
                held.write(f"{line}\n")
        sudoers = etc / "sudoers.d" / "user"
        sudoers.parent.mkdir(exist_ok=True)
        sudoers.write_text("user ALL=(ALL) NOPASSWD: ALL\n")
        sudoers.chmod(0o440)
        for home, user in ((self.folder / "root", 0), (self.folder / "home" / "user", 1077)):
            (home / ".ssh").mkdir(mode=0o700)
            (home / ".ssh" / "authorized_keys").write_text(self._authorized)
            for path in (home, home / ".ssh", home / ".ssh" / "authorized_keys"):
                os.chown(path, user, user)
        key = self.folder / "etc" / "host_key"
        line = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
        subprocess.run(line, check=True)
        (etc / "sshd_config").write_text(
            "Port 22\nHostKey /etc/host_key\nPidFile none\nUsePAM no\nPasswordAuthentication no\n"
            "KbdInteractiveAuthentication no\nPermitRootLogin yes\nMaxStartups 100\n"
        )

    @property
    def host_key(self) -> str:
        """A line of known_hosts."""
        return f"{self.address} {(self.folder / 'etc' / 'host_key.pub').read_text()}"

    def start(self) -> None:
        """Boot it, and wait until its sshd answers."""
        binds = "".join(
            f"mount --bind {shlex.quote(str(self.folder / name))} /{name}\n" for name in _OWN
        )
        script = (
            f"set -e\nmount --make-rprivate /\nhostname {self.name}\n{binds}"
            f"exec {program()} -D -e -f /etc/sshd_config\n"
        )
        alone = ["unshare", "--mount", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._log = (self.folder / "sshd.log").open("ab")
        self._process = subprocess.Popen(
            self.network.inside(self.space, [*alone, "sh", "-c", script]),
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            env={"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"},
            start_new_session=True,
        )
        probe = self.network.inside(
            self.space, [sys.executable, "-c", _PROBE, self.address, str(READY_WITHIN)]
        )
        done = subprocess.run(probe, capture_output=True, check=False)
        assert done.returncode == 0, (self.folder / "sshd.log").read_text()

    def run(self, script: str) -> str:
        """What a shell of its root prints there."""
        assert self._process is not None
        (child,) = _children(self._process.pid)
        line = ["nsenter", "--all", "--target", str(child), "sh", "-c", script]
        done = subprocess.run(line, capture_output=True, check=False, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def stop(self) -> None:
        """Switch it off: every process of it ends. Idempotent."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait(timeout=10)
            self._log.close()
            self._process = None


_PROBE = """
import socket, sys, time
end = time.monotonic() + float(sys.argv[2])
while True:
    try:
        socket.create_connection((sys.argv[1], 22), 1).close()
        break
    except OSError:
        if time.monotonic() > end:
            sys.exit("no sshd answers")
        time.sleep(0.02)
"""


def _children(pid: int) -> list[int]:
    """The first process of a machine: unshare's one child."""
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        if text:
            # ``ip netns exec`` becomes unshare; its child is the machine's init.
            return [int(text[0])]
    raise AssertionError("the machine does not start")


class Park:
    """A desk with a node, and machines that it reaches by ssh."""

    def __init__(self, folder: Path, size: int, wheels: Path) -> None:
        self.folder = folder
        self.network = Network(size + 1)
        self.desk = folder / "desk"
        self.wheels = wheels
        self.machines: list[Machine] = []
        self._size = size

    def make(self) -> None:
        """Build it all; ``remove`` then, also when this fails."""
        self.network.make()
        self.desk.mkdir(parents=True)
        key = self.desk / "key"
        line = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(key)]
        subprocess.run(line, check=True)
        authorized = key.with_suffix(".pub").read_text()
        for index in range(self._size):
            space = chr(ord("b") + index)
            machine = Machine(self.folder / space, self.network, space, authorized)
            self.machines.append(machine)
            machine.start()
        self.configure("")
        self.known = self.desk / "known_hosts"
        self.known.write_text("".join(machine.host_key for machine in self.machines))
        self.ok("init", "--name", "desk")
        self.ok("up", "-d", "--ips", self.network.address("a"))

    def configure(self, more: str) -> None:
        """Write the user's ~/.ssh/config; ``more`` stands first in it, and so counts."""
        (self.desk / "config").write_text(
            f"{more}\nHost *\n IdentityFile {self.desk / 'key'}\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {self.desk / 'known_hosts'}\n GlobalKnownHostsFile /dev/null\n"
        )

    def line(self, *arguments: str) -> list[str]:
        """The command line of pln at the desk."""
        return self.network.inside("a", [sys.executable, "-m", "pollen.cli", *arguments])

    @property
    def environment(self) -> dict[str, str]:
        """That of the desk's user."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PLN_", "XDG_"))}
        return {**kept, "HOME": str(self.desk), "PLN_SSH": f"ssh -F {self.desk / 'config'}"}

    def pln(self, *arguments: str, seconds: float = 120, stdin: str = "") -> Done:
        """Run pln at the desk."""
        done = subprocess.run(
            self.line(*arguments),
            env=self.environment,
            cwd=self.desk,
            input=stdin.encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
        recorder.note_words(done.stderr)
        return done

    def ok(self, *arguments: str) -> str:
        """What it prints, when it ends well."""
        done = self.pln(*arguments)
        assert done.returncode == 0, done.stderr.decode() + done.stdout.decode()
        return done.stdout.decode()

    def bootstrap(self, *arguments: str) -> tuple[int, list[dict[str, object]], str]:
        """``pln bootstrap ssh --json`` with the wheels of this park; code, objects and errors."""
        done = self.pln("bootstrap", "ssh", *arguments, "--json", "--wheels", str(self.wheels))
        recorder.note_words(done.stdout)
        objects = [json.loads(line) for line in done.stdout.splitlines()]
        return done.returncode, objects, done.stderr.decode()

    def members(self) -> dict[str, str]:
        """Name and state of each member that the desk sees."""
        nodes = json.loads(self.ok("status", "--json"))["nodes"]
        return {node["name"]: node["state"] for node in nodes}

    def remove(self) -> None:
        """Take it all away."""
        for machine in self.machines:
            machine.stop()
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.ok("down", "--force")
        self.network.remove()


def fetch_wheels(folder: Path) -> None:
    """Put what a machine of this system needs into a folder, once, from the package index."""
    from pollen.sdk.bootstrap import bundle, wheels

    libc = os.confstr("CS_GNU_LIBC_VERSION") or ""
    tags = wheels.platforms(os.uname().machine, libc)
    said = subprocess.run(
        ["/usr/bin/python3", "-c", "import sys; print(sys.version_info[1])"],
        capture_output=True,
        check=True,
    )
    folder.mkdir()
    bundle.fetch(folder, None, tags, (3, int(said.stdout)))


@contextlib.contextmanager
def park(folder: Path, size: int, wheels: Path) -> Iterator[Park]:
    """A desk and so many machines, for as long as the block lasts; ``wheels`` is a folder."""
    need()
    made = Park(folder, size, wheels)
    try:
        made.make()
        yield made
    finally:
        made.remove()
