"""``pln`` as users run it: a process of its own, its own folder, no terminal."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pollen.runtime.folder import units
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


# Reads the unit, as systemd does, and starts what it says in a session of its own.
SYSTEMCTL = """#!/bin/sh
[ "$1" = --user ] && shift
echo "$@" >> "$FAKE/asked"
unit="$XDG_CONFIG_HOME/systemd/user/pln.service"
begin() { setsid sh -c "exec $(sed -n 's/^ExecStart=//p' "$unit")" >"$FAKE/out" 2>&1 </dev/null &
    echo $! > "$FAKE/pid"; }
finish() { touch "$FAKE/ended"; kill "$(cat "$FAKE/pid")"; while alive; do sleep .05; done; }
alive() { [ -f "$FAKE/pid" ] &&
    grep -q "^State:.[^Z]" "/proc/$(cat "$FAKE/pid")/status" 2>/dev/null; }
case "$1" in
    start) alive || begin ;;
    stop) ! alive || finish ;;
    restart) ! alive || finish; begin ;;
    is-active) alive && echo active || { echo inactive; exit 3; } ;;
esac
"""


class Host(Pln):
    """A machine on which systemd runs: ``pln`` sees its sign, and its ``systemctl``."""

    def __init__(self, home: Path, folder: Path) -> None:
        super().__init__(home)
        self.folder = folder
        fence = ["bwrap", "--dev-bind", "/", "/", "--tmpfs", "/run/systemd"]
        self.fence = [*fence, "--dir", "/run/systemd/system"]
        # Root is refused a service of its own: whoever runs this is an ordinary user there.
        self.who = ["--unshare-user", "--uid", "1000", "--gid", "1000"]
        tools = folder / "bin"
        tools.mkdir()
        (tools / "systemctl").write_text(SYSTEMCTL)
        (tools / "systemctl").chmod(0o755)
        self.environment |= {
            "PATH": f"{tools}:{os.environ['PATH']}",
            "FAKE": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
        }

    def line(self, *arguments: str) -> list[str]:
        return [*self.fence, *self.who, *super().line(*arguments)]

    @property
    def unit(self) -> Path:
        return self.folder / "config" / "systemd" / "user" / units.UNIT

    def asked(self) -> list[str]:
        """What ``systemctl`` was asked since the last look, but for its questions."""
        path = self.folder / "asked"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [line.removesuffix(" pln.service") for line in lines if "is-active" not in line]


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


@pytest.fixture
def host(pln: Pln, tmp_path: Path) -> Iterator[Host]:
    """A folder with a cluster on such a machine."""
    (pln.home / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
    held = Host(pln.home, tmp_path)
    held.ok("init", "--name", "attic")
    try:
        yield held
    finally:
        pln("down", "--force")


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
