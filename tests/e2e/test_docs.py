"""What the documents show is what happens: their commands run, on daemons of their own.

A fenced ``sh`` or ``python`` block runs as it stands, in the order of its document. A block that
begins with ``# on NAME`` runs on that machine, which here is a folder with a daemon on loopback;
``# on NAME, exit 3`` must end with that code, ``# on NAME, with go`` needs that program. ``faulty``
is a machine whose node has planted bugs. The page on upgrades has machines with a Pollen of their
own each, and wheels of three versions. ``desk`` is a user without a node here, whose ssh reaches
the machine ``lab`` through a real server. Blocks of ``make`` are not run, but name targets. A ``c``
block whose comment names a file is that file. A ``text`` block after another one is its output:
each line must come, in that order, whatever the numbers and ids in it. What only looks
(``status``, ``why``, …) is run again until it comes.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen import lock
from pollen.paths import Paths
from tests import sshd, wheels
from tests.sshd import Sshd
from tests.style.documents import Block, blocks_of
from tests.style.tree import ROOT

pytestmark = pytest.mark.timeout(180)

GUIDE = sorted((ROOT / "docs" / "guide").glob("*.md"))
DOCUMENTS = [ROOT / "README.md", *GUIDE]
# What a target does once everything is built; its output is shown in a document.
MAKES = {"make demo": "pln demo"}
MACHINE = re.compile(r"# on ([a-z]+)(?:, exit (\d+))?(?:, with ([a-z]+))?$", re.MULTILINE)
FILE = re.compile(r"(?://|/\*) ([a-z-]+\.[a-z]+):")
# What a terminal is told: to go somewhere, to clear.
CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
FAULTY = "faulty"
# The page whose machines are environments, not only folders, with the wheels that it names.
UPGRADE, OWN = "upgrade.md", ("rack", "lab", "shed", "barn")
DESK, LAB = "desk", "lab"
LOOKS = (
    "pln status",
    "pln inspect",
    "pln why",
    "pln doctor",
    "pln logs",
    "pln members",
    "pln props",
)
# How long what is shown may take to become true: a suspicion, a spread, a load.
SETTLED_WITHIN = 30.0
NUMBER = re.compile(r"\d+(?:\.\d+)?(?:e-?\d+)?(?: (?:us|ms|s|B|KiB|MiB|GiB)\b)?")


class Stage:
    """Machines for one document: a folder each, a shared working directory, ``pln`` on PATH."""

    def __init__(self, folder: Path, own: tuple[str, ...] = ()) -> None:
        self.folder, self.own = folder, own
        self.homes: dict[str, Path] = {}
        self.planted: list[subprocess.Popen[bytes]] = []
        self.server: Sshd | None = None
        tools, self.here = folder / "bin", folder / "here"
        tools.mkdir()
        self.here.mkdir()
        (self.here / "examples").symlink_to(ROOT / "examples")
        command = tools / "pln"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pollen.cli "$@"\n')
        command.chmod(0o755)
        interpreter = tools / "python"
        interpreter.write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
        interpreter.chmod(0o755)
        unwanted = ("PLN_", "XDG_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(unwanted)}
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**kept, "PATH": path, "HOME": str(folder), "COLUMNS": "80"}
        self.environment["NO_COLOR"] = "1"
        # Else each run would compile Go's library again.
        self.environment.setdefault("GOCACHE", str(Path.home() / ".cache" / "go-build"))

    def run(self, block: Block) -> str:
        """Run a block and return what it prints; fails with it when it ends otherwise than said."""
        script = MAKES.get(block.text.strip(), block.text)
        machine = MACHINE.match(script)
        if (
            machine
            and machine[3]
            and shutil.which(machine[3], path=self.environment["PATH"]) is None
        ):
            pytest.skip(f"{block}: there is no {machine[3]} here")
        home = str(self._home(machine))
        environment = {**self.environment, "PLN_DIR": home}
        if machine and machine[1] == DESK:
            del environment["PLN_DIR"]
            self._serve()
        if machine and machine[1] in self.own:
            place = self.folder / f"env-{machine[1]}" / "bin"
            environment["PATH"] = f"{place}{os.pathsep}{environment['PATH']}"
        if block.language == "python":
            line = [sys.executable, "-W", "error", "-c", script]
        else:
            line = ["bash", "-euo", "pipefail", "-c", script]
        code, printed = on_a_terminal(line, self.here, environment)
        wanted = int(machine[2] or 0) if machine else 0
        assert code == wanted, f"{block}: exit {code}\n{printed}"
        named = printed.replace(f"on {LAB} ({os.uname().nodename})", f"on {LAB} (pi)")
        return named.replace(home, "~/.pln").replace(str(self.folder), "~")

    def write(self, block: Block) -> None:
        """Write the file that a block of source is, if it names one."""
        if file := FILE.match(block.text):
            (self.here / file[1]).write_text(block.text)

    def _home(self, machine: re.Match[str] | None) -> Path:
        """The machine's folder; a block that names none runs on the one named first."""
        if machine is None:
            return next(iter(self.homes.values()), self.folder / "nobody")
        name = machine[1]
        if name not in self.homes:
            home = self.homes[name] = self.folder / name
            home.mkdir(mode=0o700)
            # Machines of their own would all have the usual port.
            (home / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
            if name == FAULTY:
                self._plant(home)
            if name in self.own:
                self._equip(name)
        return self.homes[name]

    def _serve(self) -> None:
        """Start the server of the machine that the desk reaches, unless it runs."""
        if self.server is not None:
            return
        sshd.need()
        self.server = server = sshd.Sshd(self.folder / "ssh", {"PLN_DIR": str(self.folder / LAB)})
        if LAB in self.own:
            (server.tools / "pln").unlink()
            (server.tools / "pln").symlink_to(self.folder / f"env-{LAB}" / "bin" / "pln")
        server.trust()
        server.start()
        place = f"Host {LAB}\n HostName 127.0.0.1\n Port {server.port}\n User {server.user}\n"
        config = server.client("desk", more=place)
        command = self.folder / "bin" / "ssh"
        command.write_text(f'#!/bin/sh\nexec "{shutil.which("ssh")}" -F "{config}" "$@"\n')
        command.chmod(0o755)

    def _equip(self, name: str) -> None:
        """Give a machine a Pollen of its own; the wheels are made with the first."""
        store = self.folder / "wheels"
        if not store.exists():
            store.mkdir()
            for file, version, patch in (
                ("old", "9.1.0", {}),
                ("new", "9.2.0", {}),
                ("crash", "9.3.0", wheels.CRASH),
            ):
                wheels.repacked(store, version, patch=patch).rename(self.here / f"{file}.whl")
        wheels.Environment(self.folder / f"env-{name}", self.here / "old.whl", self.homes[name])

    def _plant(self, home: Path) -> None:
        """Start the broken node there."""
        line = [sys.executable, "-m", "tests.e2e.broken_node", "--dir", str(home)]
        self.planted.append(
            subprocess.Popen(line, cwd=ROOT, env=self.environment, stderr=subprocess.DEVNULL)
        )
        until = time.monotonic() + SETTLED_WITHIN
        while lock.read_pid(Paths(home)) is None:
            assert time.monotonic() < until, "the broken node does not start"

    def close(self) -> None:
        """End what still runs."""
        for home in self.homes.values():
            line = [sys.executable, "-m", "pollen.cli", "--dir", str(home), "down", "--force"]
            subprocess.run(line, env=self.environment, capture_output=True, check=False)
        for process in self.planted:
            process.wait(timeout=30)
        if self.server is not None:
            self.server.stop()


def on_a_terminal(line: list[str], here: Path, environment: dict[str, str]) -> tuple[int, str]:
    """How a command ends and what a person sees of it."""
    reader, writer = pty.openpty()
    with os.fdopen(reader, "rb", buffering=0) as screen:
        process = subprocess.Popen(
            line, cwd=here, env=environment, stdin=subprocess.DEVNULL, stdout=writer, stderr=writer
        )
        os.close(writer)
        heard = b""
        try:
            # Linux says EIO when the last writer is gone.
            with contextlib.suppress(OSError):
                while chunk := screen.read(65_536):
                    heard += chunk
            printed = CONTROL.sub("", heard.decode()).replace("\r\n", "\n")
            return process.wait(timeout=30), printed
        finally:
            process.kill()


@contextlib.contextmanager
def stage(own: tuple[str, ...] = ()) -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        made = Stage(Path(folder), own)
        try:
            yield made
        finally:
            made.close()


def pattern(line: str) -> str:
    """A line without what differs from run to run; ids are words of 8, 16, 32 or 64 digits."""
    line = re.sub(r"\b(?:[0-9a-f]{8}|[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-f]{64})\b", "ID", line)
    return " ".join(NUMBER.sub("N", line).split())


def missing(shown: str, printed: str) -> list[str]:
    """The lines shown that are not printed, or not in that order."""
    rest = iter([pattern(line) for line in printed.splitlines()])
    wanted = [line for line in shown.splitlines() if line.strip() not in ("", "…")]
    return [line for line in wanted if not any(pattern(line) == came for came in rest)]


def is_for_make(block: Block) -> bool:
    lines = [line for line in block.text.splitlines() if line and not line.startswith("#")]
    return all(line.startswith("make ") for line in lines)


def only_looks(block: Block) -> bool:
    lines = [line for line in block.text.splitlines() if line and not line.startswith("#")]
    return block.language == "sh" and all(line.startswith(LOOKS) for line in lines)


def check_shown(machines: Stage, done: Block, shown: Block, printed: str) -> None:
    """What is shown came, or comes when one looks again."""
    until = time.monotonic() + SETTLED_WITHIN
    while missing(shown.text, printed) and only_looks(done) and time.monotonic() < until:
        printed = machines.run(done)
    assert missing(shown.text, printed) == [], f"{shown}; it printed:\n{printed}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document_run_and_print_what_it_shows(path: Path) -> None:
    with stage(OWN if path.name == UPGRADE else ()) as machines:
        printed, done = "", None
        for block in blocks_of(path):
            if block.language == "text":
                assert done is not None, f"{block}: the output of what?"
                check_shown(machines, done, block, printed)
            elif block.language == "c":
                machines.write(block)
            elif block.language in ("sh", "python"):
                is_built = is_for_make(block) and block.text.strip() not in MAKES
                printed, done = "" if is_built else machines.run(block), block


def test_a_line_that_is_not_printed_is_missed() -> None:
    printed = "healthy: 2 of 2 nodes\n\nran on 0a1b2c3d in 1.2 ms\n"
    assert missing("healthy: 3 of 3 nodes\n…\nran on ffffffff in 40 us", printed) == []
    assert missing("ran on 0a1b2c3d in 7 us\nhealthy: 2 of 2 nodes", printed) != []
    assert missing("ran at 0a1b2c3d in 7 us", printed) == ["ran at 0a1b2c3d in 7 us"]
