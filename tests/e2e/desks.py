"""A desk of another machine for the end-to-end tests: a user who reaches a node by ssh alone."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from pollen.testing import Node, until
from tests import recorder
from tests.sshd import Sshd, serving

Done = subprocess.CompletedProcess[bytes]
# How long processes take to end, or a fault to show. Seconds.
SOON = 20.0


class Desk:
    """Runs commands and programs with a folder of their own and no node here."""

    def __init__(self, folder: Path, server: Sshd, node: Node) -> None:
        self.folder, self.server, self.node = folder, server, node
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PLN_", "XDG_"))}
        self.environment = {**kept, "HOME": str(folder), "PLN_SSH": server.ssh}

    def line(self, *arguments: str, host: str | None = None) -> list[str]:
        """The command line of ``pln -H``."""
        host = self.server.url if host is None else host
        return [sys.executable, "-m", "pollen.cli", f"-H{host}", *arguments]

    def __call__(self, *arguments: str, host: str | None = None, **environment: str) -> Done:
        done = subprocess.run(
            self.line(*arguments, host=host),
            env={**self.environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SOON * 3,
            check=False,
        )
        recorder.note_words(done.stderr)
        return done

    def ok(self, *arguments: str, **environment: str) -> str:
        """What it prints, when it ends well."""
        done = self(*arguments, **environment)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def python(self, script: str, **environment: str) -> Done:
        """Run a program of the SDK; warnings are errors."""
        return subprocess.run(
            [sys.executable, "-W", "error", "-c", script],
            env={**self.environment, **environment},
            cwd=self.folder,
            capture_output=True,
            timeout=SOON * 3,
            check=False,
        )

    def processes(self, *words: str) -> list[psutil.Process]:
        """Processes of this desk whose command line has one of these words: of ours, ``tunnel``
        (beside a client), ``ssh`` and ``_stdio`` (the far end)."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                line = process.cmdline()
                if self._kind(process, line) in words:
                    found.append(process)
        return found

    def _kind(self, process: psutil.Process, line: list[str]) -> str:
        if str(self.server.config) in line and Path(line[0]).name == "ssh":
            return "ssh"
        if any("pollen.sdk.tunnel" in word for word in line) and self.server.url in line:
            return "tunnel"
        if line[-1:] == ["_stdio"] and "pollen.cli" in line:
            is_ours = process.environ().get("PLN_DIR") == str(self.node.home)
            return "_stdio" if is_ours else ""
        return ""

    def everything(self) -> list[psutil.Process]:
        """All that a desk may leave behind."""
        return self.processes("tunnel", "ssh", "_stdio")


def soon(is_so: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""

    async def asked() -> bool:
        return is_so()

    asyncio.run(until(asked, SOON, what))


@contextlib.contextmanager
def desk_of(folder: Path, node: Node) -> Iterator[Desk]:
    """A desk with a server that lets it in to this node's machine; nothing is left at its end."""
    (folder / "desk").mkdir()
    with serving(folder / "ssh", PLN_DIR=str(node.home)) as server:
        desk = Desk(folder / "desk", server, node)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PLN_SSH", server.ssh)
            yield desk


@contextlib.contextmanager
def astray(folder: Path, desk: Desk) -> Iterator[Desk]:
    """The desk again; over there its user has no PLN_DIR, and a context in use that leads on."""
    home = folder / "home"
    (home / ".config" / "pollen").mkdir(parents=True)
    (home / ".pln").symlink_to(desk.node.home)
    contexts = home / ".config" / "pollen" / "contexts.toml"
    # Nobody listens there: what goes on to it is an error, and no circle.
    contexts.write_text('use = "attic"\n[hosts]\nattic = "ssh://127.0.0.1:1"\n')
    config = str(home / ".config")
    (folder / "desk").mkdir()
    with serving(folder / "ssh", HOME=str(home), XDG_CONFIG_HOME=config) as server:
        yield Desk(folder / "desk", server, desk.node)
