"""A folder that cannot be used: a full disk, a read-only one, somebody else's. Nothing is lost."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen import connect_sync, lock
from pollen.errors import PollenError
from pollen.paths import Paths
from pollen.runtime.loop.store import Store, refusal
from tests import others
from tests.cli.conftest import EXAMPLES, Done, Pln, mount_small
from tests.cli.test_doctor import found

needs_others = pytest.mark.skipif(not others.can_become(), reason="other users need root")


@pytest.fixture
def small(pln: Pln) -> Iterator[Pln]:
    """``pln`` with a cluster on a small disk of its own."""
    mount_small(pln.home, 8)
    try:
        pln.home.chmod(0o700)
        pln.ok("init")
        yield pln
    finally:
        subprocess.run(["umount", "-l", pln.home], check=True)


def refused(done: Done, slug: str = "state-unusable") -> str:
    """Its words, which speak of no removal; told as an error, with no traceback."""
    said = done.stderr.decode()
    assert done.returncode == 1 and f"[{slug}]" in said
    assert "purge" not in said and "Traceback" not in said
    return said


def test_a_full_disk_wants_room(small: Pln) -> None:
    with pytest.raises(OSError, match="No space"), (small.home / "film").open("wb") as film:
        for _ in range(20):
            film.write(bytes(1 << 20))
            film.flush()
    for line in (["up", "-d"], ["set", "name", "attic"]):
        assert "make room on the disk: 0 MiB free at" in refused(small(*line))
    assert "make room on the disk" in found(small, "store", "failure")
    assert not (small.home / "config.tmp").exists()


def test_a_read_only_disk_wants_a_mount(small: Pln) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small.home], check=True)
    for line in (["up", "-d"], ["init"], ["purge", "--yes"], ["set", "name", "attic"]):
        assert "mounted read-only: remount it" in refused(small(*line))
    for name in ("folder", "store"):
        assert "remount it" in found(small, name, "failure")


def as_nobody(pln: Pln, *line: str) -> Done:
    return subprocess.run(
        others.line("pln", *line),
        cwd=others.ROOT,
        env=pln.environment,
        capture_output=True,
        check=False,
    )


@needs_others
def test_another_user_is_told_whose_folder_it_is(up: Pln) -> None:
    for line in (["up"], ["up", "-d"], ["purge", "--yes"], ["id"], ["down"], ["init"]):
        done = as_nobody(up, *line)
        assert "it belongs to user id 0\n  run as its owner" in refused(done)
        assert not done.stdout
    told = as_nobody(up, "doctor")
    assert told.returncode == 1 and not told.stderr
    assert b"belongs to user id 0, you are 65534\n" in told.stdout


@needs_others
def test_a_call_of_another_user_ends_as_their_status_does(up: Pln) -> None:
    status, call = as_nobody(up, "status"), as_nobody(up, "call", "echo", "echo")
    assert call.returncode == status.returncode == 6
    assert call.stderr == status.stderr and b"belongs to somebody else" in call.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
@pytest.mark.parametrize("line", [["status"], ["status", "--json"], ["call", "echo", "echo", "x"]])
def test_an_output_that_is_full_is_told_in_words(up: Pln, line: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            up.line(*line), env=up.environment, stdout=full, stderr=subprocess.PIPE, check=False
        )
    assert b"the output cannot be written: No space left" in done.stderr
    assert b"Traceback" not in done.stderr and done.returncode == 2


def test_of_a_full_disk_a_damaged_store_is_damaged_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = os.statvfs_result((4096, 4096, 0, 0, 0, 9, 9, 9, 0, 255))
    monkeypatch.setattr("os.statvfs", lambda path: usage)
    path = tmp_path / "state.db"
    path.write_bytes(os.urandom(9_999))
    with pytest.raises(PollenError) as damaged:
        Store(path)
    assert "pln purge --yes" in damaged.value.remedy
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    assert "make room" in refusal(path, error).remedy


def fill(home: Path) -> Path:
    """A file that takes what room the disk has."""
    film = home / "film"
    with contextlib.suppress(OSError), film.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(bytes(size)):
                    pass
    return film


def module(tmp_path: Path, number: int) -> str:
    """A small module whose bytes are its own: with a custom section of this number."""
    path = tmp_path / f"m{number}.wasm"
    section = b"\x04pad" + number.to_bytes(8, "big") * 1000
    size = len(section)
    length = bytes([size & 0x7F | 0x80, size >> 7])
    path.write_bytes((EXAMPLES / "echo.wasm").read_bytes() + b"\0" + length + section)
    return str(path)


@pytest.mark.timeout(120)
def test_a_full_disk_refuses_seeds_in_words_and_heals_without_a_restart(
    small: Pln, tmp_path: Path
) -> None:
    """Calls go on all the time; what was refused is taken as soon as there is room."""
    small.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
    pid = lock.read_pid(Paths(small.home))
    done = threading.Event()
    failed: list[Exception] = []

    def call() -> None:
        with connect_sync(small.home) as mesh:
            while not done.is_set():
                try:
                    assert mesh.call("echo", "echo", b"x").data == b"x"
                except Exception as error:
                    failed.append(error)

    try:
        small.ok("seed", module(tmp_path, 0), "echo")
        caller = threading.Thread(target=call)
        caller.start()
        for number in range(1, 4):
            film = fill(small.home)
            for _ in range(3):
                done_so = small("seed", module(tmp_path, number), f"s{number}")
                said = refused(done_so, "storage-full")
                assert "the disk has no room" in said and "make room on the disk" in said
            film.unlink()
            small.ok("seed", module(tmp_path, number), f"s{number}")
            assert small.ok("call", f"s{number}", "echo", "y") == "y"
        done.set()
        caller.join()
        assert not failed
        assert lock.read_pid(Paths(small.home)) == pid
    finally:
        done.set()
        small("down", "--force")


@pytest.mark.timeout(120)
def test_a_full_disk_refuses_at_once_what_it_could_not_keep(small: Pln) -> None:
    """Each verb that changes something is refused, and changed nothing; the status says why."""
    small.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
    echo = str(EXAMPLES / "echo.wasm")
    verbs = [
        ["unseed", "echo"],
        ["grant", small.ok("id").strip(), "--prop", "zone=attic"],
        ["invite"],
        ["serve", "9", "web"],
        ["connect", "web"],
        ["seed", echo, "echo", "--min-replicas", "1"],
    ]
    try:
        small.ok("seed", echo, "echo")
        film = fill(small.home)
        for verb in verbs:
            began = time.monotonic()
            said = refused(small(*verb), "storage-full")
            assert "the disk has no room" in said and "make room on the disk" in said, said
            assert time.monotonic() - began < 10, verb
        held = json.loads(small.ok("status", "--json"))
        assert not held["healthy"] and "the disk has no room" in held["warnings"][0]
        assert small.ok("call", "echo", "echo", "x") == "x"
        os.kill(lock.read_pid(Paths(small.home)) or 0, signal.SIGKILL)
        film.unlink()
        small.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
        assert small.ok("call", "echo", "echo", "x") == "x"
        assert json.loads(small.ok("status", "--json"))["healthy"]
        film = fill(small.home)
        refused(small("unseed", "echo"), "storage-full")
        film.unlink()
        small.ok("unseed", "echo")
        os.kill(lock.read_pid(Paths(small.home)) or 0, signal.SIGKILL)
        small.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
        assert small("call", "echo", "echo", "x").returncode == 3
        film = fill(small.home)
        began = time.monotonic()
        small.ok("down")
        assert time.monotonic() - began < 10
    finally:
        small("down", "--force")


@pytest.mark.parametrize("how", ["missing", "empty"])
def test_a_lost_store_founds_no_second_cluster(pln: Pln, how: str) -> None:
    """It is told with what to do; nothing is written, and the way back is open."""
    pln.ok("init", "--name", "attic")
    node = pln.ok("id")
    store = pln.home / "state.db"
    for path in pln.home.glob("state.db-*"):
        path.unlink()
    store.unlink() if how == "missing" else store.write_bytes(b"")
    for line in (["up", "-d"], ["up"], ["init"]):
        done = pln(*line)
        said = done.stderr.decode()
        assert done.returncode == 1 and "[state-unusable]" in said and "NEW cluster" not in said
        assert "put a copy of it back; with none: pln purge --yes, then pln join TOKEN" in said
    assert "put a copy of it back" in found(pln, "store", "failure")
    assert store.exists() == (how == "empty") and not (store.exists() and store.stat().st_size)
    pln.ok("purge", "--yes")
    assert "made cluster" in pln.ok("init") and pln.ok("id") == node


def test_a_first_start_that_was_cut_off_begins_again(pln: Pln) -> None:
    """Keys and an empty store are what a crash between them leaves: no membership was lost."""
    pln.ok("init")
    for name in ("member", "state.db"):
        (pln.home / name).unlink()
    (pln.home / "state.db").touch()
    assert "made cluster" in pln.ok("init")


def test_a_key_that_is_gone_is_not_made_again(pln: Pln) -> None:
    """Another key beside this membership would be a node that nobody lets in."""
    pln.ok("init")
    (pln.home / "node.key").unlink()
    for line in (["up", "-d"], ["id"]):
        done = pln(*line)
        assert done.returncode == 1 and b"put a copy of it back" in done.stderr
    assert not (pln.home / "node.key").exists()
