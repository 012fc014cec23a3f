"""Wheels of other versions, repacked from the installed one, and environments that hold one each.

An environment sees this one's packages through a ``.pth`` file and has a Pollen of its own, so that
it is made in a moment. What is installed here is never touched.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sysconfig
import venv
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from pollen.paths import Paths
from pollen.runtime.folder import service
from pollen.sdk.control import Control
from pollen.testing import until
from tests import recorder

Done = subprocess.CompletedProcess[bytes]
# pip and the installation add these; no wheel has them.
_ADDED = ("INSTALLER", "REQUESTED", "direct_url.json", "RECORD")
NEW = "9.1.0"
# A version that can be imported, and whose daemon ends at once.
_ENDS = b"if __name__ == '__main__':\n    raise SystemExit('this version is broken')\n"
CRASH = {"pollen/runtime/__main__.py": _ENDS}


def files_of_ours() -> dict[str, bytes]:
    """What the wheel that is installed here had in it, by name."""
    found = {}
    for held in importlib.metadata.distribution("pollen-mesh").files or []:
        name = held.as_posix()
        is_ours = not name.startswith("..") and held.suffix != ".pyc" and held.name not in _ADDED
        if is_ours:
            found[name] = Path(str(held.locate())).read_bytes()
    return found


def repacked(
    folder: Path,
    version: str = NEW,
    *,
    patch: Mapping[str, bytes] | None = None,
    metadata: Mapping[str, str] | None = None,
    tag: str = "",
) -> Path:
    """The installed wheel with another version.

    ``patch`` replaces or adds files of it; ``metadata`` replaces lines of METADATA, by key.
    """
    files, told = {}, {"Version": version, **(metadata or {})}
    if tag:
        told["Tag"] = tag
    for name, data in files_of_ours().items():
        text = data
        if name.endswith(("/METADATA", "/WHEEL")):
            for key, value in told.items():
                line = f"{key}: {value}".encode()
                text = re.sub(rb"(?m)^%s: .*$" % key.encode(), line, text, count=1)
        files[re.sub(r"^[^/]+\.dist-info", f"pollen_mesh-{version}.dist-info", name)] = text
    files |= patch or {}
    path = folder / f"pollen_mesh-{version}-{len(list(folder.iterdir()))}.whl"
    write(path, files, f"pollen_mesh-{version}.dist-info")
    return path


def write(path: Path, files: Mapping[str, bytes], info: str) -> None:
    """A wheel with these files and their RECORD."""
    rows = []
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(data)}\n")
        archive.writestr(f"{info}/RECORD", "".join([*rows, f"{info}/RECORD,,\n"]))


def tag_of(wheel: Path) -> str:
    """The tag that the wheel's own file of metadata says."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".dist-info/WHEEL")]
        found = re.search(r"(?m)^Tag: (.*)$", archive.read(name).decode())
    assert found is not None
    return found[1].strip()


class Environment:
    """A virtual environment with a Pollen of its own, and a node's folder that it runs."""

    def __init__(self, folder: Path, wheel: Path, home: Path) -> None:
        self.folder, self.home = folder, home
        venv.create(folder, symlinks=True, with_pip=False)
        # Not resolved: a link leads out of the environment.
        self.python = folder / "bin" / "python"
        self.site = Path(next(folder.glob("lib/python*/site-packages")))
        (self.site / "shared.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(self.site)
        command = folder / "bin" / "pln"
        command.write_text(f'#!/bin/sh\nexec "{self.python}" -m pollen.cli "$@"\n')
        command.chmod(0o755)
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PLN_", "PYTHON"))}
        self.environment = {**kept, "PLN_DIR": str(home), "HOME": str(home.parent)}
        self.environment["NO_COLOR"] = "1"

    @property
    def version(self) -> str:
        """What is installed there."""
        (info,) = self.site.glob("pollen_mesh-*.dist-info")
        return info.name.removesuffix(".dist-info").removeprefix("pollen_mesh-")

    def line(self, *arguments: str) -> list[str]:
        """The command line of its ``pln``."""
        return [str(self.python), "-m", "pollen.cli", *arguments]

    def __call__(self, *arguments: str, stdin: bytes = b"", **environment: str) -> Done:
        done = subprocess.run(
            self.line(*arguments),
            input=stdin,
            capture_output=True,
            timeout=150,
            env={**self.environment, **environment},
            check=False,
        )
        recorder.note_words(done.stderr)
        return done

    def ok(self, *arguments: str, **environment: str) -> str:
        """What it prints, when it ends well."""
        done = self(*arguments, **environment)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
        return done.stdout.decode()

    def leftovers(self) -> list[str]:
        """What an upgrade left in the environment, but its lock."""
        work = self.site / ".pollen-upgrade"
        return sorted(path.name for path in work.glob("*") if path.name != "lock")

    def end(self) -> None:
        """End its node."""
        with contextlib.suppress(Exception):
            service.stop(Paths(self.home), 0, drain=False, is_forced=True)


@contextlib.contextmanager
def environment(
    folder: Path, wheel: Path, name: str = "attic", token: str = ""
) -> Iterator[Environment]:
    """An environment whose node runs, in a cluster of its own or in that of a token; it ends with
    the block."""
    home = folder / name
    home.mkdir(mode=0o700)
    (home / "config.toml").write_text('listen = ["127.0.0.1:0"]\n')
    made = Environment(folder / f"env-{name}", wheel, home)
    try:
        joins = ["join", "--no-up", "--name", name, token]
        made.ok(*(joins if token else ["init", "--name", name]))
        made.ok("up", "-d")
        yield made
    finally:
        made.end()
        shutil.rmtree(made.folder, ignore_errors=True)


def runs(held: Environment) -> str:
    """The version that the node says, after it answered a call."""
    assert held.ok("call", "echo", "echo", "still here") == "still here"
    version = Control(Paths(held.home)).get("/v1/health")["version"]
    assert version == held.version, "what is installed is what runs"
    assert held.leftovers() == []
    return str(version)


@contextlib.contextmanager
def mesh(
    folder: Path, wheel: Path, names: tuple[str, ...], seed: str
) -> Iterator[list[Environment]]:
    """A cluster of nodes that each have an environment; the first one has ``seed`` as ``echo``."""
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(environment(folder, wheel, names[0]))
        made = [first]
        for name in names[1:]:
            token = first.ok("invite", "--publisher").strip()
            made.append(stack.enter_context(environment(folder, wheel, name, token)))
        see_each_other(*made)
        first.ok("seed", seed, "echo", "--idempotent")
        yield made


def see_each_other(*nodes: Environment) -> None:
    """Wait until all of them are online for each of them."""

    async def do_all() -> bool:
        for held in nodes:
            status = Control(Paths(held.home)).get("/v1/status")
            live = [node for node in status["nodes"] if node["state"] in ("self", "online")]
            if len(live) < len(nodes):
                return False
        return True

    asyncio.run(until(do_all, 60, "all see each other"))
