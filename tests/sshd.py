"""A real OpenSSH server of this user on loopback, with keys and a home of its own for each login.

It needs no system account beside the one that runs the tests, and touches no file of it: the
client's side is a configuration file that ``PLN_SSH`` names.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import pollen

_SOURCE = Path(pollen.__file__).parents[1]
_PLACES = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin{os.pathsep}/usr/local/sbin"
READY_WITHIN = 20.0


def program() -> str | None:
    """The server's program, which no ordinary user has on the PATH."""
    return shutil.which("sshd", path=_PLACES)


def need() -> None:
    """Skip where there is none (``.ci/setup`` installs it)."""
    if program() is None or shutil.which("ssh") is None:
        pytest.skip("these tests need openssh-server and openssh-client")


class Sshd:
    """The server; ``ssh`` is the value of PLN_SSH for a client that may log in."""

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.user = getpass.getuser()
        self.port = _free_port()
        self.tools = folder / "bin"
        self.tools.mkdir(parents=True)
        self.known_hosts = folder / "known_hosts"
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        for name in ("host_key", "user_key", "stranger_key"):
            self.make_key(name)
        shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
        command = self.tools / "pln"
        command.write_text(
            f'#!/bin/sh\nPYTHONPATH="{_SOURCE}" exec "{sys.executable}" -m pollen.cli "$@"\n'
        )
        command.chmod(0o755)
        self.config = self.client()

    @property
    def url(self) -> str:
        """The server as a context names it."""
        return f"ssh://{self.user}@127.0.0.1:{self.port}"

    @property
    def ssh(self) -> str:
        """PLN_SSH."""
        return f"ssh -F {self.config}"

    def make_key(self, name: str) -> None:
        """A new key pair in the folder."""
        path = self.folder / name
        path.unlink(missing_ok=True)
        line = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", str(path)]
        subprocess.run(line, check=True)

    def client(self, name: str = "config", key: str = "user_key", more: str = "") -> Path:
        """A client's configuration; ``more`` stands first in it, and so counts."""
        path = self.folder / name
        path.write_text(
            f"{more}\nHost *\n IdentityFile {self.folder / key}\n IdentitiesOnly yes\n"
            f" UserKnownHostsFile {self.known_hosts}\n GlobalKnownHostsFile /dev/null\n"
        )
        return path

    def trust(self) -> None:
        """The client knows the server's key."""
        key = (self.folder / "host_key.pub").read_text()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {key}")

    def start(self, **environment: str) -> None:
        """Start it; what logs in has these variables, and our ``pln`` first on its PATH."""
        path = os.pathsep.join((str(self.tools), os.environ.get("PATH", "/usr/bin:/bin")))
        shown = {"PATH": path, **self._environment, **environment}
        settings = " ".join(f'"{name}={value}"' for name, value in shown.items())
        config = self.folder / "sshd_config"
        config.write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {self.folder / 'host_key'}\n"
            f"AuthorizedKeysFile {self.folder / 'authorized_keys'}\nPidFile none\n"
            f"UsePAM no\nStrictModes no\nPasswordAuthentication no\nPermitRootLogin yes\n"
            f"KbdInteractiveAuthentication no\nMaxStartups 100\nSetEnv {settings}\n"
        )
        if os.getuid() == 0:
            # Debian's service makes it; the server refuses to run as root without it.
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
        line = [program() or "sshd", "-D", "-e", "-f", str(config)]
        self._log = (self.folder / "sshd.log").open("ab")
        self._process = subprocess.Popen(line, stderr=self._log, stdin=subprocess.DEVNULL)
        until = time.monotonic() + READY_WITHIN
        while time.monotonic() < until:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return
            assert self._process.poll() is None, (self.folder / "sshd.log").read_text()
            time.sleep(0.02)
        raise AssertionError("sshd does not listen")

    def stop(self) -> None:
        """End it; its sessions go on until their clients leave. Idempotent."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(timeout=10)
            self._log.close()
            self._process = None


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@contextlib.contextmanager
def serving(folder: Path, **environment: str) -> Iterator[Sshd]:
    """A server whose key is known, for as long as the block lasts."""
    need()
    server = Sshd(folder, environment)
    server.trust()
    server.start()
    try:
        yield server
    finally:
        server.stop()
