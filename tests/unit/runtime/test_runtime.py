"""The impure parts alone: errors, paths, lock, store, log, settings."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pollen import lock, paths
from pollen.core.ids import Token
from pollen.errors import SLUGS, PollenError, error_from, error_from_dict
from pollen.runtime.control.server import bind_control
from pollen.runtime.folder.config import Config, read_config
from pollen.runtime.loop.store import Store
from pollen.runtime.watch import logs
from pollen.runtime.watch.files import RotatingFile

# -- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("slug", list(SLUGS))
def test_every_slug_makes_its_class_and_comes_back_from_its_body(slug: str) -> None:
    """One table for CLI, HTTP and SDK."""
    error = error_from(slug, "what", "then", node="ab", attempts=2, retry_after=1.5)
    again = error_from_dict({**error.to_dict(), "retry_after": 1.5})
    assert type(error) is SLUGS[slug].error
    assert (again.slug, again.reason, again.remedy) == (slug, "what", "then")
    assert (again.node, again.attempts, again.retry_after) == ("ab", 2, 1.5)
    assert again.exit_code == error.exit_code


def test_an_unknown_slug_is_internal_and_named() -> None:
    """A newer daemon may say what this client does not know."""
    error = error_from("brand-new", "what")
    assert (error.slug, "brand-new" in error.reason) == ("internal", True)


# -- paths and lock -------------------------------------------------------------------------------


def test_a_socket_path_over_107_bytes_is_refused_with_a_shorter_folder() -> None:
    """The limit is the kernel's; the remedy is one to paste."""
    with pytest.raises(PollenError) as caught:
        paths.resolve("/tmp/" + "x" * 100)
    assert (caught.value.slug, "PLN_DIR=" in caught.value.remedy) == ("path-too-long", True)
    room = paths.SOCKET_PATH_MAX - len("/control.sock")
    assert paths.resolve("/" + "x" * (room - 1))


def test_the_folder_is_closed_to_others(folder: Path) -> None:
    """0700, also when it stood open before."""
    where = paths.resolve(str(folder / "n"))
    where.home.mkdir(mode=0o755)
    paths.make_home(where)
    assert stat.S_IMODE(where.home.stat().st_mode) == 0o700


def test_the_control_socket_is_for_its_owner(folder: Path) -> None:
    """0600, whatever the umask and uvicorn would give."""
    where = paths.resolve(str(folder))
    with bind_control(where.control_socket):
        assert stat.S_IMODE(where.control_socket.stat().st_mode) == 0o600


def test_a_folder_that_cannot_be_made_is_unusable() -> None:
    """With the reason and another way."""
    with pytest.raises(PollenError) as caught:
        paths.make_home(paths.resolve("/proc/none"))
    assert caught.value.slug == "state-unusable"


def test_a_folder_on_a_network_file_system_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store there would lose records; nothing is made."""
    monkeypatch.setattr(paths, "file_system_of", lambda path: "nfs4")
    with pytest.raises(PollenError) as caught:
        paths.make_home(paths.resolve(str(folder / "n")))
    assert (caught.value.slug, "local disk" in caught.value.remedy) == ("state-unusable", True)
    assert not (folder / "n").exists()


def test_sudo_makes_no_folder_in_the_home_of_another_user(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who called sudo could not enter it afterwards."""
    if os.getuid() == 0:
        os.chown(folder, 12_345, -1)
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("PLN_DIR", raising=False)
    with pytest.raises(PollenError) as caught:
        paths.make_home(paths.resolve())
    assert (caught.value.slug, "sudo" in caught.value.remedy) == ("state-unusable", True)


def test_a_second_process_finds_the_lock_and_its_holder(folder: Path) -> None:
    """The kernel gives it back when the holder dies."""
    where = paths.resolve(str(folder))
    script = (
        "from pollen import paths\nfrom pollen import lock\n"
        f"try:\n    lock.hold(paths.resolve({str(folder)!r})).__enter__()\n"
        "except Exception as e: print(e.slug, e.reason)\nelse: print('free')"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(paths.__file__).parents[1])}
    line = [sys.executable, "-c", script]
    with lock.hold(where):
        held = subprocess.run(line, env=env, capture_output=True, text=True, check=True).stdout
    free = subprocess.run(line, env=env, capture_output=True, text=True, check=True).stdout
    assert held.startswith("already-running")
    assert str(os.getpid()) in held
    assert free == "free\n"


def test_a_recycled_pid_is_not_the_daemon(folder: Path) -> None:
    """The pid file carries the start time of its process."""
    where = paths.resolve(str(folder))
    lock.write_pid(where)
    assert lock.read_pid(where) == os.getpid()
    where.pid_file.write_text(json.dumps({"pid": os.getpid(), "started": "1"}))
    assert lock.read_pid(where) is None
    where.pid_file.write_text("garbage")
    assert lock.read_pid(where) is None


# -- store ----------------------------------------------------------------------------------------


def test_rows_are_kept_replaced_and_deleted(folder: Path) -> None:
    """What was reported is there after a reopening; the file is ours alone."""
    path = folder / "state.db"
    store = Store(path)
    seen: list[Token] = []
    store.start(seen.extend, lambda reason: None)
    store.submit(Token("1"), [("t", b"a", b"1"), ("t", b"b", b"1")])
    store.submit(Token("2"), [("t", b"a", b"2"), ("t", b"b", None)])
    store.close()
    again = Store(path)
    assert again.load() == {"t": [(b"a", b"2")]}
    again.close()
    assert sorted(seen) == ["1", "2"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_waiting_batches_share_a_commit(folder: Path) -> None:
    """Group commit: the tokens come in far fewer reports than batches."""
    store = Store(folder / "state.db")
    reports: list[list[Token]] = []
    for n in range(100):
        store.submit(Token(str(n)), [("t", str(n).encode(), b"x")])
    store.start(reports.append, lambda reason: None)
    store.close()
    assert sum(len(tokens) for tokens in reports) == 100
    assert len(reports) <= 2


@pytest.mark.parametrize("damage", ["text", "truncated", "newer", "foreign", "folder"])
def test_a_store_that_is_no_store_is_unusable_and_left_alone(folder: Path, damage: str) -> None:
    """Damaged, newer or somebody else's: a slug, a remedy, and the bytes as they were."""
    path = folder / "state.db"
    if damage == "text":
        path.write_bytes(b"this is no database, but it is long enough to be looked at" * 20)
    elif damage == "folder":
        path.mkdir()
    else:
        _make_store(path, damage)
    before = b"" if path.is_dir() else path.read_bytes()
    with pytest.raises(PollenError) as caught:
        store = Store(path)
        store.load()
    assert caught.value.slug == "state-unusable"
    assert caught.value.remedy
    assert before == (b"" if path.is_dir() else path.read_bytes())


def _make_store(path: Path, damage: str) -> None:
    if damage == "foreign":
        with sqlite3.connect(path) as db:
            db.execute("CREATE TABLE other (x)")
        db.close()
        return
    store = Store(path)
    store.write_now([("t", str(n).encode(), b"x" * 500) for n in range(200)])
    store.close()
    if damage == "newer":
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 99")
        db.close()
    else:
        whole = path.read_bytes()
        path.write_bytes(whole[:8192] + b"\xff" * 8192 + whole[16384:-4096])


# -- log and settings -----------------------------------------------------------------------------


def test_a_log_line_is_json_with_time_level_and_event(folder: Path) -> None:
    """And the tail finds the lines of one seed."""
    path = folder / "pollen.log"
    with logs.opened(path) as log:
        log.info("one", seed="echo")
        log.warning("two", n=2)
        log.debug("not at this level")
    lines = [json.loads(line) for line in logs.tail(path, 10)]
    assert [(line["event"], line["level"]) for line in lines] == [
        ("one", "info"),
        ("two", "warning"),
    ]
    assert lines[0]["at"].endswith("Z")
    assert len(list(logs.tail(path, 10, "echo"))) == 1


def test_the_tail_of_a_log_goes_back_through_all_that_is_kept(tmp_path: Path) -> None:
    """Oldest first, and no file is read that is not needed."""
    path = tmp_path / "pollen.log"
    for n, name in enumerate(("pollen.log.3", "pollen.log.2", "pollen.log.1", "pollen.log")):
        (tmp_path / name).write_text(f"{n}a\n{n}b\n")
    assert list(logs.tail(path, 100)) == ["0a", "0b", "1a", "1b", "2a", "2b", "3a", "3b"]
    assert list(logs.tail(path, 3)) == ["2b", "3a", "3b"]
    (tmp_path / "pollen.log.1").unlink()
    assert list(logs.tail(path, 3)) == ["1b", "3a", "3b"]
    assert list(logs.tail(path, 0)) == []


def test_a_follower_reads_whole_lines_also_over_a_rotation(tmp_path: Path) -> None:
    """A line may hold whatever JSON leaves as it is; half a line is read when it is whole."""
    path = tmp_path / "p.log"
    file = RotatingFile(path, limit=200, kept=3)
    file.write_line('{"event":"before"}')
    follower = logs.Follower(path)
    assert follower.read() == []
    file.write_line('{"event":"one \u2028 \x85"}')
    with path.open("a") as other:
        other.write('{"event":')
    assert follower.read() == ['{"event":"one \u2028 \x85"}']
    with path.open("a") as other:
        other.write('"two"}\n')
    assert follower.read() == ['{"event":"two"}']
    file.write_line('{"event":"' + "x" * 150 + '"}')
    assert [len(line) for line in follower.read()] == [162]
    file.close()


def test_a_full_log_rotates_and_keeps_three(folder: Path) -> None:
    """The disk does not fill."""
    file = RotatingFile(folder / "p.log", limit=1_000, kept=3)
    for n in range(200):
        file.write_line(f"{n:04d} " + "x" * 60)
    file.close()
    kept = sorted(path.name for path in folder.iterdir())
    assert kept == ["p.log", "p.log.1", "p.log.2", "p.log.3"]
    assert all(path.stat().st_size <= 1_000 for path in folder.iterdir())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lisen = []", "did you mean: listen"),
        ("listen = 7", "listen"),
        ("listen = [", "config.toml"),
        ('name = "Küche"', "begin with a letter or digit"),
    ],
)
def test_a_wrong_setting_is_named(folder: Path, text: str, words: str) -> None:
    """``config-invalid`` with the key and what was meant."""
    path = folder / "config.toml"
    path.write_text(text)
    with pytest.raises(PollenError) as caught:
        read_config(path)
    assert caught.value.slug == "config-invalid"
    assert words in caught.value.reason + caught.value.remedy


def test_settings_are_read_and_default(folder: Path) -> None:
    """A missing file is not an error."""
    path = folder / "config.toml"
    assert read_config(path) == Config()
    path.write_text('name = "pi"\ngrace_ms = 10\n')
    assert (read_config(path).name, read_config(path).grace_ms) == ("pi", 10)
