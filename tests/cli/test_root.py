"""``pln root`` where no daemon runs: the key is sealed, opened and brought back, none is lost."""

from __future__ import annotations

import contextlib
import errno
import os
import pty
import select
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pollen.cli import paper
from pollen.cli.verbs.root import displaced_lines, root_command, without_lines
from pollen.core.codec import Refusal
from pollen.core.trust.papers import RootRequest
from pollen.errors import SLUGS, PollenError
from pollen.paths import Paths
from pollen.runtime.folder import identity, rootkey
from pollen.runtime.loop.native import Key, RealNative, make_verify
from tests.cli.conftest import Done, Pln, mount_small

WORDS = "seven plain words that make no sense"


@pytest.fixture
def made(pln: Pln, tmp_path: Path) -> Pln:
    """A folder with a cluster and its root key, and no daemon."""
    pln.ok("init", "--name", "attic")
    (tmp_path / "words").write_text(f"{WORDS}\n")
    return pln


@pytest.fixture
def other() -> Iterator[Pln]:
    """Another cluster."""
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        held = Pln(Path(home))
        held.ok("init", "--name", "barn")
        yield held


def words(tmp_path: Path) -> list[str]:
    return ["--passphrase-file", str(tmp_path / "words")]


def sealed(pln: Pln, tmp_path: Path) -> Path:
    path = tmp_path / "root.age"
    pln.ok("root", "export", str(path), *words(tmp_path))
    return path


def fails(done: Done, slug: str) -> str:
    """Its words: this slug with its exit code, a remedy, no traceback, and not the passphrase."""
    said = done.stderr.decode()
    assert done.returncode == SLUGS[slug].exit_code, said
    assert f"[{slug}]" in said
    assert len(said.splitlines()) >= 3, "a remedy stands between reason and slug"
    assert "Traceback" not in said and WORDS not in said
    return said


def test_a_sealed_key_comes_back_to_the_byte_for_its_owner_only(made: Pln, tmp_path: Path) -> None:
    """It is text that can be printed, and says in words whose it is."""
    before = (made.home / "root.key").read_bytes()
    path = sealed(made, tmp_path)
    text = path.read_text(encoding="ascii")
    assert all(line.isprintable() and len(line) <= 76 for line in text.splitlines())
    held = identity.read(Paths(made.home))
    assert held is not None
    assert held.cluster.hex() in text and held.root.hex() in text and "pln root import" in text
    assert before.split()[-1].decode() not in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (made.home / "root.key").unlink()
    said = made.ok("root", "import", str(path), *words(tmp_path))
    assert "brought the root key" in said and "the node is not running" in said
    assert (made.home / "root.key").read_bytes() == before
    assert stat.S_IMODE((made.home / "root.key").stat().st_mode) == 0o600
    assert "has already" in made.ok("root", "import", str(path), *words(tmp_path))


def test_a_plain_copy_of_the_key_comes_back_without_a_passphrase(made: Pln, tmp_path: Path) -> None:
    copy = tmp_path / "copy.key"
    (made.home / "root.key").rename(copy)
    made.ok("root", "import", str(copy))
    assert (made.home / "root.key").read_bytes() == copy.read_bytes()


def test_it_is_removed_only_after_it_was_read_back(made: Pln, tmp_path: Path) -> None:
    """And only when somebody agrees: without a terminal that is --yes."""
    path = tmp_path / "one.age"
    line = ["root", "export", str(path), "--remove", *words(tmp_path)]
    assert "takes something away" in fails(made(*line), "usage")
    assert (made.home / "root.key").exists()
    fails(made("root", "export", "--remove", "--yes", *words(tmp_path)), "usage")
    done = made.ok(
        "root", "export", str(tmp_path / "two.age"), "--remove", "--yes", *words(tmp_path)
    )
    assert "opened it again" in done and "removed" in done
    assert not (made.home / "root.key").exists()


def test_a_written_file_is_on_the_disk_with_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its folder goes to the disk after it, else a power cut takes the sealed key away."""
    synced, real = [], os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    paper.write_new(str(tmp_path / "x.age"), "text")
    assert synced == [str(tmp_path / "x.age"), str(tmp_path)]


def test_a_file_whose_folder_does_not_reach_the_disk_is_not_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is removed for a file that a power cut would take away."""
    real = os.fsync

    def fail(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(PollenError) as refused:
        paper.write_new(str(tmp_path / "x.age"), "text")
    assert (refused.value.slug, bool(refused.value.remedy)) == ("state-unusable", True)
    assert list(tmp_path.iterdir()) == []


def test_a_passphrase_is_in_no_list_of_processes(made: Pln, tmp_path: Path) -> None:
    """There is no option for it, and the running command shows it to nobody."""
    for command in root_command.commands.values():
        named = {p.name for p in command.params if p.name and "passphrase" in p.name}
        assert named <= {"passphrase_file", "passphrase_fd"}
    reader, writer = os.pipe()
    os.write(writer, f"{WORDS}\n".encode())
    os.close(writer)
    line = made.line("root", "export", str(tmp_path / "x.age"), "--passphrase-fd", str(reader))
    process = subprocess.Popen(
        line,
        env=made.environment,
        pass_fds=[reader],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    os.close(reader)
    looked = 0
    while process.poll() is None:
        with contextlib.suppress(OSError):
            for name in ("cmdline", "environ"):
                assert WORDS.encode() not in Path(f"/proc/{process.pid}/{name}").read_bytes()
            looked += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.02)
    said = process.communicate()
    assert process.returncode == 0, said
    assert looked > 5


def on_a_terminal(pln: Pln, line: list[str], typed: list[str]) -> tuple[int, str]:
    """How a command ends that asks on a terminal, and what a person sees."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(line[0], line, pln.environment)
    shown, deadline = "", time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([terminal], [], [], 0.2)[0]:
            continue
        try:
            shown += os.read(terminal, 4096).decode(errors="replace")
        except OSError:
            break
        if typed and shown.rstrip(" ").endswith((":", "]:")):
            os.write(terminal, f"{typed.pop(0)}\n".encode())
            shown += "|"
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_it_is_asked_twice_on_a_terminal_and_not_shown(made: Pln, tmp_path: Path) -> None:
    """Two that differ are asked for again."""
    line = made.line("root", "export", str(tmp_path / "x.age"))
    code, shown = on_a_terminal(made, line, [WORDS, "another one of them", WORDS, WORDS])
    assert code == 0, shown
    assert "do not match" in shown and WORDS not in shown
    line = made.line("root", "export", str(tmp_path / "y.age"))
    code, shown = on_a_terminal(made, line, ["short", "short"])
    assert code == 2 and "5 characters" in shown
    assert not (tmp_path / "y.age").exists()


def test_what_cannot_be_sealed_is_refused(made: Pln, tmp_path: Path) -> None:
    fails(made("root", "export", str(tmp_path / "x.age")), "usage")
    fails(made("root", "export", "x", "--passphrase-file", str(tmp_path / "none")), "usage")
    fails(made("root", "export", "x", "--passphrase-fd", "77"), "usage")
    path = sealed(made, tmp_path)
    before = path.read_bytes()
    fails(made("root", "export", str(path), *words(tmp_path)), "file-exists")
    assert path.read_bytes() == before
    (made.home / "root.key").unlink()
    fails(made("root", "export", str(tmp_path / "y.age"), *words(tmp_path)), "root-not-here")


def test_what_cannot_be_opened_is_refused_and_changes_nothing(
    made: Pln, other: Pln, tmp_path: Path
) -> None:
    """A wrong passphrase, a damaged file, one of another kind, a key of another cluster."""
    path = sealed(made, tmp_path)
    before = (made.home / "root.key").read_bytes()
    text = path.read_text()
    (made.home / "root.key").unlink()
    (tmp_path / "guess").write_text("not these words at all\n")
    guess = ["--passphrase-file", str(tmp_path / "guess")]
    fails(made("root", "import", str(path), *guess), "passphrase-wrong")
    for name, damaged, slug in (
        ("cut", text[: len(text) // 2], "root-file-invalid"),
        ("line", text.replace("YWdl", "YWdm", 1), "root-file-invalid"),
        ("empty", "", "root-file-invalid"),
        ("key", "pollen-key-1 zz\n", "root-file-invalid"),
    ):
        (tmp_path / name).write_text(damaged)
        fails(made("root", "import", str(tmp_path / name), *words(tmp_path)), slug)
    fails(made("root", "import", str(tmp_path / "nowhere")), "usage")
    fails(other("root", "import", str(path), *words(tmp_path)), "root-file-foreign")
    plain = tmp_path / "plain.key"
    plain.write_bytes(before)
    fails(other("root", "import", str(plain)), "root-file-foreign")
    assert not (made.home / "root.key").exists()
    made.ok("root", "import", str(path), *words(tmp_path))


def test_a_strange_key_that_lies_there_is_kept(made: Pln, other: Pln, tmp_path: Path) -> None:
    path = sealed(made, tmp_path)
    shutil.copy(other.home / "root.key", made.home / "root.key")
    said = fails(made("root", "import", str(path), *words(tmp_path)), "file-exists")
    assert "move it away" in said
    assert (made.home / "root.key").read_bytes() == (other.home / "root.key").read_bytes()


def test_a_folder_without_a_cluster_is_brought_no_key(made: Pln, tmp_path: Path) -> None:
    path = sealed(made, tmp_path)
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        said = fails(Pln(Path(home))("root", "import", str(path)), "root-file-foreign")
    assert "pln root sign REQUEST --key FILE" in said


def test_a_full_disk_leaves_nothing_half_written(made: Pln, tmp_path: Path) -> None:
    """Neither of a sealed key nor of one that comes back."""
    small = tmp_path / "small"
    small.mkdir()
    mount_small(small, 1)
    try:
        with pytest.raises(OSError, match="No space"), (small / "film").open("wb") as film:
            while True:
                film.write(bytes(4096))
                film.flush()
        said = fails(
            made("root", "export", str(small / "x.age"), *words(tmp_path)), "state-unusable"
        )
        assert "make room on the disk" in said
        with pytest.raises(PollenError) as full:
            rootkey.save(RealNative().generate_key(), small / "root.key")
        assert (full.value.slug, "make room" in full.value.remedy) == ("state-unusable", True)
        assert [path.name for path in small.iterdir()] == ["film"]
    finally:
        subprocess.run(["umount", "-l", small], check=True)


class Cut:
    """A key whose file is on the disk when the process is killed."""

    def __init__(self, key: Key) -> None:
        self.public = key.public
        self.sign = key.sign
        self._key = key

    def save(self, path: str) -> None:
        self._key.save(path)
        raise SystemExit


def line_of_roots(home: Path) -> tuple[Paths, rootkey.Held, rootkey.Held, list[bytes]]:
    """A folder with the key of a root, and the key of its successor in memory."""
    native, where = RealNative(), Paths(home)
    old, new = (rootkey.Held(native.generate_key(), None) for _ in range(2))
    rootkey.save(old.key, where.root_key)
    return where, old, new, [old.root, new.root]


def test_the_key_of_an_older_root_is_kept_beside_the_one_that_comes(tmp_path: Path) -> None:
    where, old, new, roots = line_of_roots(tmp_path)
    before = where.root_key.read_bytes()
    kept = where.former_root_key(old.root.hex()[:8])
    assert rootkey.bring(where, new, roots, RealNative()) == (True, kept)
    assert kept.read_bytes() == before
    assert RealNative().load_key(str(where.root_key)).public == new.root
    assert rootkey.bring(where, new, roots, RealNative()) == (False, None)


def test_a_full_disk_leaves_the_older_key_in_its_place(tmp_path: Path) -> None:
    """The key that does not come takes no other one away."""
    mount_small(tmp_path, 1)
    try:
        where, _, new, roots = line_of_roots(tmp_path)
        before = where.root_key.read_bytes()
        with pytest.raises(OSError, match="No space"), (tmp_path / "film").open("wb") as film:
            while True:
                film.write(bytes(4096))
                film.flush()
        with pytest.raises(PollenError, match="cannot be written") as full:
            rootkey.bring(where, new, roots, RealNative())
        assert full.value.slug == "state-unusable"
        assert where.root_key.read_bytes() == before
        assert {path.name for path in tmp_path.iterdir()} == {"film", "root.key"}
    finally:
        subprocess.run(["umount", "-l", tmp_path], check=True)


def test_a_key_that_cannot_be_written_leaves_no_copy_of_the_older_one(tmp_path: Path) -> None:
    """The disk took the copy, and then not the new key."""
    where, _, new, roots = line_of_roots(tmp_path)
    before = where.root_key.read_bytes()
    broken = Cut(new.key)
    broken.save = lambda path: (_ for _ in ()).throw(OSError("no room"))  # type: ignore[method-assign]
    with pytest.raises(PollenError, match="no room"):
        rootkey.bring(where, rootkey.Held(broken, None), roots, RealNative())
    assert where.root_key.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["root.key"]


def test_a_kill_at_any_moment_leaves_a_root_key_and_a_purge_takes_what_was_begun(
    tmp_path: Path,
) -> None:
    """What a cut-off write left is a private key as well."""
    where, _, new, roots = line_of_roots(tmp_path)
    before = where.root_key.read_bytes()
    with pytest.raises(SystemExit):
        rootkey.bring(where, rootkey.Held(Cut(new.key), None), roots, RealNative())
    assert where.root_key.read_bytes() == before
    with pytest.raises(SystemExit):
        rootkey.save(Cut(new.key), where.next_root_key)
    left = {path.name for path in tmp_path.iterdir()}
    assert {"root.tmp", "root-next.tmp"} <= left
    identity.purge(where, include_keys=False)
    assert {"root.tmp", "root-next.tmp"} <= {path.name for path in tmp_path.iterdir()}
    identity.purge(where, include_keys=True)
    assert not tmp_path.exists()


def test_the_next_key_takes_its_place_in_one_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kill before it leaves the old key there, and the attempt is made again."""
    where, old, _, _ = line_of_roots(tmp_path)
    before, native = where.root_key.read_bytes(), RealNative()
    fresh = rootkey.begin_successor(where, native)
    kept = where.former_root_key(old.root.hex()[:8])
    for name in ("rename", "replace"):
        real = getattr(Path, name)

        def cut(self: Path, target: Path, real: Any = real) -> None:
            if self == where.next_root_key:
                raise SystemExit
            real(self, target)

        monkeypatch.setattr(Path, name, cut)
    with pytest.raises(SystemExit):
        rootkey.end_successor(where, native)
    assert where.root_key.read_bytes() == before
    monkeypatch.undo()
    assert rootkey.begin_successor(where, native).public == fresh.public
    assert rootkey.end_successor(where, native) == kept
    assert native.load_key(str(where.root_key)).public == fresh.public
    assert kept.read_bytes() == before and not where.next_root_key.exists()


def test_a_key_that_is_taken_off_leaves_no_half_written_copy(made: Pln, tmp_path: Path) -> None:
    """A kill left one beside it once."""
    shutil.copy(made.home / "root.key", made.home / "root.tmp")
    line = ["root", "export", str(tmp_path / "x.age"), "--remove", "--yes", *words(tmp_path)]
    assert "root.tmp" in made.ok(*line)
    assert not list(made.home.glob("root*"))


def test_who_brings_a_key_is_told_where_the_older_one_is(made: Pln, tmp_path: Path) -> None:
    """The two are not mixed up: the newest one is in its place."""
    place, copy = made.home / "root.key", tmp_path / "copy.key"
    before = place.read_bytes()
    try:
        made.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
        made.ok("root", "succeed", "--yes")
        [kept] = made.home.glob("root-*.key")
        place.rename(copy)
        kept.rename(place)
        said = made.ok("root", "import", str(copy))
    finally:
        made("down", "--force")
    assert f"the key of the root before is {kept}" in said
    assert (kept.read_bytes(), place.read_bytes()) == (before, copy.read_bytes())


def test_a_request_of_another_cluster_is_not_signed(up: Pln, made: Pln, tmp_path: Path) -> None:
    """By its cluster when the key is sealed, by its root when it is plain."""
    request = tmp_path / "request.txt"
    up.ok("grant", "solo", "--prop", "zone=x", "--request", str(request))
    before = up.ok("props", "solo")
    line = ["root", "sign", str(request), "--yes"]
    said = fails(made(*line), "root-file-foreign")
    assert "the request is" in said
    path = sealed(made, tmp_path)
    fails(made(*line, "--key", str(path), *words(tmp_path)), "root-file-foreign")
    fails(up("grant", "solo", "--prop", "zone=x", "--request", str(request)), "file-exists")
    fails(up("root", "sign", str(request)), "usage")
    out = tmp_path / "answer.txt"
    up.ok("root", "sign", str(request), "--yes", "--out", str(out))
    fails(made("root", "sign", str(out), "--yes"), "root-file-invalid")
    fails(up("root", "apply", str(request)), "root-file-invalid")
    damaged = out.read_text().replace("ANSWER-----\nk", "ANSWER-----\nl")
    (tmp_path / "damaged.txt").write_text(damaged)
    assert damaged != out.read_text()
    fails(up("root", "apply", str(tmp_path / "damaged.txt")), "root-file-invalid")
    assert up.ok("props", "solo") == before
    fails(made("root", "apply", str(out)), "daemon-not-running")


def test_a_successor_made_away_from_any_node_is_sealed_with_the_same_passphrase(
    made: Pln, tmp_path: Path
) -> None:
    """The file that is there is not written over, a plain key names no cluster."""
    path, fresh, out = sealed(made, tmp_path), tmp_path / "new.age", tmp_path / "answer.txt"
    line = ["root", "succeed", "--key", str(path), "--export", str(fresh), "--out", str(out)]
    fails(made(*line, *words(tmp_path)), "usage")
    made.ok(*line, "--yes", *words(tmp_path))
    native = RealNative()
    text = fresh.read_text()
    block = text[text.index("-----BEGIN AGE") :]
    held = rootkey.read(block, text, lambda: WORDS, native)
    old = rootkey.read(None, (made.home / "root.key").read_text(), lambda: "", native)
    assert held.root != old.root and held.root.hex() in text
    raw = paper.bytes_of(out.read_text(), paper.ANSWER)
    read = RootRequest.read_answer(raw, make_verify(native))
    assert not isinstance(read, Refusal)
    assert (read[0].root, read[0].papers[0].subject()) == (old.root, held.root)
    fails(made(*line, "--yes", *words(tmp_path)), "file-exists")
    fails(made("root", "succeed", "--key", str(path)), "usage")
    line[3] = str(made.home / "root.key")
    line[5], line[7] = str(tmp_path / "b.age"), str(tmp_path / "b.txt")
    fails(made(*line, "--yes", *words(tmp_path)), "root-file-invalid")
    fails(made("root", "succeed", "--yes"), "daemon-not-running")


def test_a_purge_of_keys_takes_those_of_other_roots_as_well(made: Pln) -> None:
    """Of the roots before, and of one not told of yet; a purge that keeps keys keeps them."""
    names = ["root.key", "root-68618f45.key", "root-next.key"]
    for name in names[1:]:
        rootkey.save(RealNative().generate_key(), made.home / name)
    made.ok("purge", "--yes")
    assert all((made.home / name).exists() for name in names)
    made.ok("purge", "--include-keys", "--yes")
    assert not any((made.home / name).exists() for name in names)


def test_a_successor_that_does_not_count_is_shown_with_whom_it_denied() -> None:
    """And the command that keeps that member out."""
    root = {"root": "9f" * 32, "before": "68" * 32, "since_unix_ms": 1_700_000_000_000}
    lines = displaced_lines({"displaced": [{**root, "denied": ["shed"], "ids": ["55" * 32]}]})
    assert lines[0].startswith("void     9f9f9f9f, signed by 68686868 on 2023-11-1")
    assert lines[1:] == [
        "void     its deny of shed, which is a member; to keep it out:",
        "         pln deny 55555555",
    ]
    assert displaced_lines({"displaced": []}) == displaced_lines({}) == []


def test_without_any_admin_the_way_back_is_told() -> None:
    """Where the root key is one command makes one; elsewhere it is asked for."""
    view: dict[str, Any] = {"admins": [], "held": True, "here": "attic"}
    assert without_lines(view)[1] == "hint: pln grant attic --admin"
    assert "--request FILE" in without_lines({**view, "held": False})[1]
    assert "nobody is an admin" in without_lines(view)[0]
