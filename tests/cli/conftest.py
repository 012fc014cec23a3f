"""``pln`` as users run it: a process of its own, its own folder, no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests import recorder

Done = subprocess.CompletedProcess[bytes]
EXAMPLES = Path(__file__).parents[2] / "examples" / "c"


class Pln:
    """Runs ``pln`` on a folder; the environment is clean of PLN_ and of colours."""

    def __init__(self, home: Path) -> None:
        self.home = home
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PLN_")}
        self.environment = {**kept, "PLN_DIR": str(home), "HOME": str(home)}
        for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES"):
            self.environment.pop(name, None)

    def __call__(
        self, *arguments: str, stdin: bytes = b"", timeout: float = 60, **environment: str
    ) -> Done:
        done = subprocess.run(
            self.line(*arguments),
            input=stdin,
            capture_output=True,
            timeout=timeout,
            env={**self.environment, **environment},
            check=False,
        )
        recorder.note_words(done.stderr)
        return done

    def line(self, *arguments: str) -> list[str]:
        """The command line itself."""
        return [sys.executable, "-m", "pollen.cli", *arguments]

    def ok(self, *arguments: str, **more: str) -> str:
        """What it prints, when it ends well; fails with its words otherwise."""
        done = self(*arguments, **more)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()


def mount_small(place: Path, mebibytes: int) -> None:
    """A disk of this size at ``place``; skips where this process may not mount one."""
    line = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "small", str(place)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")


@pytest.fixture
def pln(tmp_path: Path) -> Iterator[Pln]:
    """``pln`` on an empty folder with a short path."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        yield Pln(Path(home))


@pytest.fixture(scope="session")
def up() -> Iterator[Pln]:
    """``pln`` on a folder whose daemon runs, started and stopped as a user would."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        pln = Pln(Path(home))
        try:
            pln.ok("init", "--name", "solo")
            pln.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
            for name in ("echo", "trap", "hog"):
                pln.ok("seed", str(EXAMPLES / f"{name}.wasm"), name)
            yield pln
        finally:
            pln("down", "--force")


@pytest.fixture
def example() -> Callable[[str], str]:
    """The path of an example module."""
    return lambda name: str(EXAMPLES / f"{name}.wasm")
