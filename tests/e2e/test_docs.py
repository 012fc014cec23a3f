"""What the documents show is what happens: their commands run, on daemons of their own.

A fenced ``sh`` or ``python`` block runs as it stands, in the order of its document. A block that
begins with ``# on NAME`` runs on that machine, which here is a folder with a daemon on loopback.
Blocks of ``make`` are not run, but name targets. A ``text`` block after another one is its
output: each line must come, in that order, whatever the numbers and ids in it.
"""

from __future__ import annotations

import contextlib
import os
import pty
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.style.documents import Block, blocks_of
from tests.style.tree import ROOT

pytestmark = pytest.mark.timeout(180)

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs" / "guide").glob("*.md"))]
# What a target does once everything is built; its output is shown in a document.
MAKES = {"make demo": "pln demo"}
MACHINE = re.compile(r"# on ([a-z]+)\b")
NUMBER = re.compile(r"\d+(?:\.\d+)?(?: (?:us|ms|s|B|KiB|MiB|GiB)\b)?")


class Stage:
    """Machines for one document: a folder each, a shared working directory, ``pln`` on PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.homes: dict[str, Path] = {}
        tools, self.here = folder / "bin", folder / "here"
        tools.mkdir()
        self.here.mkdir()
        (self.here / "examples").symlink_to(ROOT / "examples")
        command = tools / "pln"
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pollen.cli "$@"\n')
        command.chmod(0o755)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("PLN_")}
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        self.environment = {**kept, "PATH": path, "HOME": str(folder), "COLUMNS": "80"}
        self.environment["NO_COLOR"] = "1"

    def run(self, block: Block) -> str:
        """Run a block and return what it prints; fails with it when it ends badly."""
        script = MAKES.get(block.text.strip(), block.text)
        machine = MACHINE.match(script)
        environment = {**self.environment, "PLN_DIR": str(self._home(machine))}
        if block.language == "python":
            line = [sys.executable, "-W", "error", "-c", script]
        else:
            line = ["bash", "-euo", "pipefail", "-c", script]
        code, printed = on_a_terminal(line, self.here, environment)
        assert code == 0, f"{block}:\n{printed}"
        return printed

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
        return self.homes[name]

    def close(self) -> None:
        """End what still runs."""
        for home in self.homes.values():
            line = [sys.executable, "-m", "pollen.cli", "--dir", str(home), "down", "--force"]
            subprocess.run(line, env=self.environment, capture_output=True, check=False)


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
            return process.wait(timeout=30), heard.decode().replace("\r\n", "\n")
        finally:
            process.kill()


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        made = Stage(Path(folder))
        try:
            yield made
        finally:
            made.close()


def pattern(line: str) -> str:
    """A line without what differs from run to run; ids are words of 8 digits."""
    line = re.sub(r"\b[0-9a-f]{8}\b", "ID", line)
    return " ".join(NUMBER.sub("N", line).split())


def missing(shown: str, printed: str) -> list[str]:
    """The lines shown that are not printed, or not in that order."""
    rest = iter([pattern(line) for line in printed.splitlines()])
    wanted = [line for line in shown.splitlines() if line.strip() not in ("", "…")]
    return [line for line in wanted if not any(pattern(line) == came for came in rest)]


def is_for_make(block: Block) -> bool:
    lines = [line for line in block.text.splitlines() if line and not line.startswith("#")]
    return all(line.startswith("make ") for line in lines)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_the_commands_of_a_document_run_and_print_what_it_shows(path: Path) -> None:
    with stage() as machines:
        printed = ""
        for block in blocks_of(path):
            if block.language == "text":
                assert missing(block.text, printed) == [], f"{block}; it printed:\n{printed}"
            elif block.language not in ("sh", "python"):
                continue
            elif is_for_make(block) and block.text.strip() not in MAKES:
                printed = ""
            else:
                printed = machines.run(block)


def test_a_line_that_is_not_printed_is_missed() -> None:
    printed = "healthy: 2 of 2 nodes\n\nran on 0a1b2c3d in 1.2 ms\n"
    assert missing("healthy: 3 of 3 nodes\n…\nran on ffffffff in 40 us", printed) == []
    assert missing("ran on 0a1b2c3d in 7 us\nhealthy: 2 of 2 nodes", printed) != []
    assert missing("ran at 0a1b2c3d in 7 us", printed) == ["ran at 0a1b2c3d in 7 us"]
