"""Which wheels run where, how an installation is packed again, and what a machine's shell says."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import zipfile
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

import pollen
from pollen.cli.verbs.bootstrap import targets_of
from pollen.errors import PollenError
from pollen.sdk.bootstrap import bundle, remote, wheels
from pollen.sdk.bootstrap.facts import answer_in, facts_of
from pollen.sdk.bootstrap.steps import Step

OURS = "pollen_mesh-0.1.0-cp311-abi3-manylinux_2_28_x86_64.whl"
RUNS = [
    (OURS, "x86_64", "glibc 2.28", (3, 11), True),
    (OURS, "x86_64", "glibc 2.36", (3, 14), True),
    (OURS, "x86_64", "glibc 2.27", (3, 11), False),
    (OURS, "aarch64", "glibc 2.36", (3, 11), False),
    (OURS, "x86_64", "musl 1.2", (3, 11), False),
    (OURS, "x86_64", "", (3, 11), False),
    ("a-1-cp312-abi3-manylinux_2_17_x86_64.whl", "x86_64", "glibc 2.36", (3, 11), False),
    ("a-1-cp311-cp311-manylinux2014_x86_64.whl", "x86_64", "glibc 2.17", (3, 11), True),
    ("a-1-cp311-cp311-manylinux2014_x86_64.whl", "x86_64", "glibc 2.36", (3, 12), False),
    ("a-1-cp311-cp311-musllinux_1_1_aarch64.whl", "aarch64", "musl 1.2", (3, 11), True),
    ("a-1-py2.py3-none-any.whl", "riscv64", "", (3, 11), True),
    ("a.zip", "x86_64", "glibc 2.36", (3, 11), False),
]


@pytest.mark.parametrize(("name", "machine", "libc", "python", "runs"), RUNS)
def test_a_wheel_runs_where_its_tags_say(
    name: str, machine: str, libc: str, python: tuple[int, int], runs: bool
) -> None:
    assert (wheels.misfit(name, machine, libc, python) == "") == runs


def test_what_is_not_a_wheel_of_pollen_is_refused(tmp_path: Path) -> None:
    for name in ("click-8-py3-none-any.whl", "pollen.whl", OURS):
        (tmp_path / name).write_bytes(b"no archive")
        with pytest.raises(PollenError) as caught:
            wheels.check_file(tmp_path / name)
        assert caught.value.slug == "usage" and "make wheel" in caught.value.remedy


def make_wheel(path: Path, text: str = "x = 1") -> None:
    """One of a module, whose RECORD says ``x = 1``."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.py", text)
        listed = f"x.py,{wheels.hash_of(b'x = 1')},5\nx.dist-info/RECORD,,\n"
        archive.writestr("x.dist-info/RECORD", listed)


def test_a_wheel_that_is_damaged_is_refused(tmp_path: Path) -> None:
    make_wheel(tmp_path / OURS)
    assert wheels.check_file(tmp_path / OURS) == "0.1.0"
    make_wheel(tmp_path / OURS, "x = 2")
    with pytest.raises(PollenError, match=r"x\.py has another hash than its RECORD") as caught:
        wheels.check_file(tmp_path / OURS)
    assert caught.value.slug == "usage" and caught.value.remedy
    with zipfile.ZipFile(tmp_path / OURS, "w") as archive:
        archive.writestr("x.py", "")
    with pytest.raises(PollenError, match="its RECORD does not lead"):
        wheels.check_file(tmp_path / OURS)


class Installed(metadata.Distribution):
    """A distribution in a folder, as an installer leaves it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read_text(self, filename: str) -> str | None:
        path = self.folder / "pollen_mesh-9.dist-info" / filename
        return path.read_text() if path.exists() else None

    def locate_file(self, path: object) -> Path:  # type: ignore[override]
        return self.folder / str(path)


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    info = tmp_path / "pollen_mesh-9.dist-info"
    files = {
        "pollen/__init__.py": "x = 1\n",
        "pollen_mesh-9.dist-info/METADATA": "Metadata-Version: 2.1\nName: pollen-mesh\n",
        "pollen_mesh-9.dist-info/WHEEL": "Wheel-Version: 1.0\nTag: cp311-abi3-linux_x86_64\n",
    }
    record = "../../bin/pln,,\npollen/__pycache__/a.pyc,,\npollen_mesh-9.dist-info/RECORD,,\n"
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
        record += f"{name},{wheels.hash_of(text.encode())},{len(text)}\n"
    (info / "RECORD").write_text(record)
    monkeypatch.setattr(pollen, "__file__", str(tmp_path / "pollen" / "__init__.py"))
    monkeypatch.setattr(metadata, "distribution", lambda _: Installed(tmp_path))
    return tmp_path


def test_an_installation_is_packed_again_with_the_same_bytes(installed: Path) -> None:
    """Without what the installer wrote; twice the same, with a cache as well."""
    name, data = wheels.running_wheel(installed / "cache")
    assert name == "pollen_mesh-9-cp311-abi3-linux_x86_64.whl"
    assert wheels.running_wheel() == wheels.running_wheel(installed / "cache") == (name, data)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.read("pollen/__init__.py") == b"x = 1\n"
        inside = "pollen_mesh-9.dist-info"
        wanted = {"pollen/__init__.py", *(f"{inside}/{n}" for n in ("METADATA", "WHEEL", "RECORD"))}
        assert set(archive.namelist()) == wanted
        listed = archive.read(f"{inside}/RECORD").decode()
        assert all(f"{held}," in listed for held in wanted) and ".." not in listed


def test_a_changed_installation_is_not_packed(installed: Path) -> None:
    """Nobody could say what would run on the machines."""
    wheels.running_wheel(installed / "cache")
    (installed / "pollen" / "__init__.py").write_text("x = 2\n")
    with pytest.raises(PollenError, match="was changed") as caught:
        wheels.running_wheel(installed / "cache")
    assert caught.value.slug == "usage" and "--wheel" in caught.value.remedy


def test_a_checkout_is_not_packed(installed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pollen, "__file__", "/srv/checkout/src/pollen/__init__.py")
    with pytest.raises(PollenError, match="was not installed from a wheel"):
        wheels.running_wheel()


def test_the_same_wheels_are_the_same_archive() -> None:
    """Its name is its content, in whatever order the wheels came."""
    files = [("b.whl", b"2"), ("a.whl", b"1")]
    made, again = bundle.packed(files), bundle.packed(reversed(files))
    assert made == again and bundle.packed([("a.whl", b"1"), ("b.whl", b"3")]).digest != made.digest
    with tarfile.open(fileobj=io.BytesIO(made.data)) as archive:
        assert archive.getnames() == ["a.whl", "b.whl"]


def test_an_archive_is_named_by_what_its_wheels_hold() -> None:
    """Not by how they were compressed: another zlib makes other bytes of the same files."""

    def wheel(level: int, text: str = "x" * 9999) -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=level) as archive:
            archive.writestr(zipfile.ZipInfo("a.py"), text, compress_type=zipfile.ZIP_DEFLATED)
        return out.getvalue()

    def stored() -> bytes:
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr(zipfile.ZipInfo("a.py"), "x" * 9999)
        return out.getvalue()

    made, other = bundle.packed([("a.whl", wheel(9))]), bundle.packed([("a.whl", stored())])
    assert made.data != other.data and made.digest == other.digest
    assert made.checksum != other.checksum
    assert bundle.packed([("a.whl", wheel(9, "y"))]).digest != made.digest


def test_what_the_cache_holds_is_checked_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that lost power may keep a name and no bytes; what differs is fetched again."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    wheel = b"one wheel"
    lock = tmp_path / "locked.txt"
    lock.write_text(f"click==8 --hash=sha256:{hashlib.sha256(wheel).hexdigest()}\n")
    monkeypatch.setattr(bundle, "LOCK", lock)
    fetched: list[Path] = []

    def fetch(folder: Path, *_: object) -> None:
        fetched.append(folder)
        (folder / "click-8-py3-none-any.whl").write_bytes(wheel)

    monkeypatch.setattr(bundle, "fetch", fetch)
    own = tmp_path / OURS
    make_wheel(own)
    platform = "x86_64", "glibc 2.36", (3, 11)
    first = bundle.Bundles(own, None).of(*platform)
    assert bundle.Bundles(own, None).of(*platform) == first and len(fetched) == 1
    (held,) = (tmp_path / "cache").rglob("*.whl")
    for damage in (lambda: held.write_bytes(b""), held.unlink):
        damage()
        assert bundle.Bundles(own, None).of(*platform) == first
        assert held.read_bytes() == wheel
    assert len(fetched) == 3


def test_a_desk_without_pip_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(PollenError, match="has no pip") as caught:
        bundle.fetch(tmp_path, None, [], (3, 11))
    assert caught.value.slug == "usage" and "ensurepip" in caught.value.remedy


def test_pip_is_not_that_of_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.py").write_text("open('ran', 'w')")
    (tmp_path / "none").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with pytest.raises(PollenError, match="cannot be fetched"):
        bundle.fetch(tmp_path / "none", tmp_path / "none", ["any"], (3, 11))
    assert not (tmp_path / "ran").exists()


def test_wheels_that_cannot_be_had_are_told_with_the_way_around(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "none").mkdir()
    wheel = tmp_path / OURS
    make_wheel(wheel)
    held = bundle.Bundles(wheel, tmp_path / "none")
    for _ in range(2):
        with pytest.raises(PollenError, match="cannot be fetched") as caught:
            held.of("x86_64", "glibc 2.36", (3, 11))
        assert caught.value.slug == "unreachable" and "--wheels" in caught.value.remedy
    assert list((tmp_path / "cache" / "pollen" / "bootstrap" / "wheels").iterdir()) == []
    with pytest.raises(PollenError, match="does not run there") as caught:
        held.of("aarch64", "glibc 2.36", (3, 11))
    assert caught.value.slug == "host-unfit"


def shell(program: str, home: Path, rest: bytes = b"") -> bytes:
    """What a program prints that the machine's shell reads as ssh hands it over."""
    line = ["sh", "-c", remote.command(program)]
    environment = {"PATH": os.environ["PATH"], "HOME": str(home)}
    done = subprocess.run(
        line, input=program.encode() + rest, env=environment, capture_output=True, check=True
    )
    return done.stdout


def test_a_machine_says_what_it_is(tmp_path: Path) -> None:
    """This one, of which nothing is changed."""
    printed = shell(remote.program(None, is_own=True, is_home=False), tmp_path)
    answer = answer_in(printed.decode())
    assert answer is not None
    facts = facts_of(answer)
    assert (facts.system, facts.machine) == (os.uname().sysname, os.uname().machine)
    assert facts.python >= (3, 11) and facts.has_venv and facts.free_bytes > 0
    assert facts.software == facts.node == facts.running == facts.home_member == ""
    assert list(tmp_path.iterdir()) == []


def test_the_pln_of_a_node_is_the_one_beside_its_interpreter(tmp_path: Path) -> None:
    """A venv of somebody else is on nobody's PATH."""
    theirs = tmp_path / "their" / "bin"
    theirs.mkdir(parents=True)
    (theirs / "pln").write_text(f"#!/bin/sh\n[ $3 = id ] && echo {'ab' * 32}\n")
    (theirs / "pln").chmod(0o755)
    folder = tmp_path / ".pln"
    folder.mkdir()
    (folder / "node.key").write_text("key")
    wait = "import sys; sys.stdin.read()"
    line = [str(theirs / "python"), "-c", wait, "-m", "pollen.runtime", "--dir", str(folder)]
    with subprocess.Popen(line, executable=sys.executable, stdin=subprocess.PIPE) as node:
        try:
            (folder / "pollen.pid").write_text(json.dumps({"pid": node.pid}))
            printed = shell(remote.program(None, is_own=True, is_home=False), tmp_path)
        finally:
            node.kill()
    answer = answer_in(printed.decode())
    assert answer is not None
    facts = facts_of(answer)
    assert facts.running == line[0] and facts.node == "ab" * 32
    assert facts.command == str(theirs / "pln")


def test_a_machine_says_whether_its_software_is_used(tmp_path: Path) -> None:
    """By whichever node: that of another login runs from it too."""
    program = remote.program(None, is_own=True, is_home=False)
    base = tmp_path / ".local" / "share" / "pollen"
    line = [f"{base}/{'c' * 16}/venv/bin/python", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(line, executable=sys.executable, stdin=subprocess.PIPE) as node:
        try:
            used = answer_in(shell(program, tmp_path).decode())
        finally:
            node.kill()
    unused = answer_in(shell(program, tmp_path).decode())
    assert used is not None and facts_of(used).is_used
    assert unused is not None and not facts_of(unused).is_used


def install(base: Path, digest: str, data: bytes, given: bytes) -> subprocess.CompletedProcess[str]:
    """Run the installation as a machine does, with some of the archive on its standard input."""
    text = remote.program(Step.INSTALL, is_own=True, is_home=False)
    (script,) = re.findall(r"^install='\n(.*?)'$", text.replace("'\"'\"'", "\0"), re.M | re.S)
    script = script.replace("\0", "'")
    line = [sys.executable, "-I", "-c", script, str(base), digest]
    line += [hashlib.sha256(data).hexdigest(), str(base / "bin" / "pln")]
    done = subprocess.run(line, input=given, capture_output=True, check=False)
    return subprocess.CompletedProcess(line, done.returncode, "", done.stderr.decode())


def test_software_that_a_node_runs_from_is_not_removed(tmp_path: Path) -> None:
    """Whoever started it, and whatever is installed; what nobody uses goes, as do links that a
    killed run left."""
    new, former, used, unused = (letter * 16 for letter in "abcd")
    for digest in (new, former, used, unused):
        (tmp_path / digest).mkdir()
    (tmp_path / new / "ready").write_text("1\n")
    (tmp_path / "current").symlink_to(former)
    target = str(tmp_path / "current" / "venv" / "bin" / "pln")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "pln.123").symlink_to(target)
    (tmp_path / "bin" / "pln.old").write_text("somebody's")
    (tmp_path / "current.9").symlink_to(unused)
    line = [f"{tmp_path}/{used}/venv/bin/python", "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(line, executable=sys.executable, stdin=subprocess.PIPE) as node:
        try:
            done = install(tmp_path, new, b"", b"")
        finally:
            node.kill()
    assert done.returncode == 0, done.stderr
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {new, former, used, "current", "bin", "lock"}
    assert (tmp_path / "current").readlink() == Path(new)
    assert {path.name for path in (tmp_path / "bin").iterdir()} == {"pln", "pln.old"}


def test_an_archive_that_stalls_holds_up_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is taken when all of it came; one of which nothing comes is given up. Of neither
    anything stays."""
    monkeypatch.setattr(remote, "_PIECE_WITHIN", 1)
    short = install(tmp_path, "a" * 16, b"all of it", b"all")
    assert short.returncode == 1 and "did not come whole" in short.stderr
    reader, writer = os.pipe()
    try:
        os.write(writer, b"all")
        monkeypatch.setattr(subprocess, "run", partial(_run_with, reader, subprocess.run))
        stalled = install(tmp_path, "a" * 16, b"all of it", b"")
    finally:
        os.close(reader)
        os.close(writer)
    assert stalled.returncode == 1 and "nothing came for 1 s" in stalled.stderr
    assert list(tmp_path.iterdir()) == []


def _run_with(reader: int, run: Any, line: list[str], **options: Any) -> Any:
    del options["input"]
    return run(line, stdin=reader, **options)


def test_a_program_leaves_what_stands_behind_it(tmp_path: Path) -> None:
    """To the byte: a shell that reads ahead would swallow a token."""
    rest = b"token\n" + bytes(range(256)) * 64
    assert shell("cat", tmp_path, rest) == rest


def test_of_a_program_that_was_cut_off_nothing_happens(tmp_path: Path) -> None:
    """The desk is killed while it sends: whatever came of it is no command."""
    text = remote.program(Step.KEY, is_own=True, is_home=False)
    for part in (len(text) // 3, len(text) // 2, len(text) - 8):
        line = ["sh", "-c", remote.command(text)]
        environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
        done = subprocess.run(
            line, input=text[:part].encode(), env=environment, capture_output=True, check=False
        )
        assert done.stdout == b"" and list(tmp_path.iterdir()) == []


def test_no_command_line_grows_with_what_is_sent() -> None:
    """The program and what it gets come on standard input; a list of processes shows a length."""
    for step in (None, *Step):
        if step in (Step.WAIT, Step.DONE):
            continue
        text = remote.program(step, is_own=False, is_home=False, name="x" * 63)
        line = remote.command(text)
        assert str(len(text.encode())) in line and len(line) < 100


@pytest.mark.parametrize(
    ("words", "slug"),
    [
        (("-oProxyCommand=x",), "usage"),
        (("me@-x",), "usage"),
        (("a b",), "usage"),
        (("a\x01",), "usage"),
        (("local",), "usage"),
        (("ssh://pi@there/srv/pln",), "usage"),
        (("pi@there", "ssh://pi@there"), "usage"),
        (("a=pi@one", "a=pi@two"), "usage"),
        (("No Name=pi@one",), "name-invalid"),
        (("=pi@one",), "name-invalid"),
        (("@/nonexistent/machines",), "usage"),
        (("@/dev/null",), "usage"),
    ],
)
def test_what_is_not_a_machine_is_refused(words: tuple[str, ...], slug: str) -> None:
    with pytest.raises(PollenError) as caught:
        targets_of(words)
    assert caught.value.slug == slug and caught.value.remedy


def test_machines_come_from_a_file_one_a_line(tmp_path: Path) -> None:
    """With names and remarks."""
    listed = tmp_path / "machines"
    listed.write_text(
        "# the garden\nattic=root@192.0.2.1\n\n  pi@192.0.2.2:  # remark\n".replace(":", "")
    )
    found = targets_of((f"@{listed}", "cellar"))
    assert [(target.name, target.host) for target in found] == [
        ("attic", "root@192.0.2.1"),
        ("", "pi@192.0.2.2"),
        ("", "cellar"),
    ]
