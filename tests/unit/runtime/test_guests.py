"""What guests log: no seed pushes out the node's lines or those of another seed.

Source: docs/guide/observe.md#logs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pollen.runtime.watch import guests, logs


def size_of(folder: Path) -> int:
    """Bytes of all files in it."""
    return sum(path.stat().st_size for path in folder.iterdir())


def seeds_of(lines: list[str]) -> list[str]:
    """The seed that each line is of, or the node's event."""
    read = [json.loads(line) for line in lines]
    return [fields.get("seed", fields["event"]) for fields in read]


def test_a_seed_that_talks_much_pushes_out_nothing_but_its_own_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the node's nor those of a seed that said one thing before."""
    small = {"budget": 9_000, "segment": 2_000}
    monkeypatch.setattr(guests.GuestFiles.__init__, "__kwdefaults__", small)
    path = tmp_path / "pollen.log"
    with logs.opened(path) as log:
        log.info("begun")
        log.info("log", source="guest", seed="quiet", text="once")
        for n in range(400):
            log.info("log", source="guest", seed="chatty", text=f"{n} \u2028")
        log.info("ended")
    lines = logs.tail(path, 1_000)
    told = seeds_of(lines)
    assert [told.count(one) for one in ("begun", "quiet", "ended")] == [1, 1, 1]
    assert 10 < told.count("chatty") < 100
    assert any(json.loads(line).get("text", "").startswith("399") for line in lines[-2:])
    assert [line[:33] for line in lines] == sorted(line[:33] for line in lines)
    assert logs.tail(path, 20) == lines[-20:]
    assert size_of(tmp_path / logs.GUESTS) <= 9_000 + 2_000


def test_of_many_seeds_the_one_that_was_silent_longest_goes_first(tmp_path: Path) -> None:
    """When no seed has more than one segment; the files stay within their budget and a line."""
    files = guests.GuestFiles(tmp_path / "g", budget=1_000, segment=500)
    for n in range(30):
        files.write_line(f"s{n}", "x" * 99)
        os.utime(tmp_path / "g" / f"s{n}.log", (n, n))
    files.close()
    kept = [path.name for path in guests.files_of(tmp_path / "g")]
    assert kept == sorted(f"s{n}.log" for n in range(19, 30))
    assert size_of(tmp_path / "g") <= 1_000 + 100


def test_more_seeds_than_open_files_all_keep_their_lines(tmp_path: Path) -> None:
    """A file that was closed for another is opened again."""
    files = guests.GuestFiles(tmp_path)
    for turn in range(2):
        for n in range(2 * guests.OPEN_MAX):
            files.write_line(f"s{n}", f"turn {turn}")
    files.close()
    texts = {path.read_text() for path in guests.files_of(tmp_path)}
    assert (texts, len(guests.files_of(tmp_path))) == ({"turn 0\nturn 1\n"}, 2 * guests.OPEN_MAX)


def test_who_follows_sees_a_seed_that_logs_for_the_first_time(tmp_path: Path) -> None:
    """Its file came after the following began."""
    path = tmp_path / "pollen.log"
    with logs.opened(path) as log:
        log.info("begun")
        followers = logs.Followers(path)
        log.info("log", source="guest", seed="new", text="first")
        assert seeds_of(followers.read()) == ["new"]
        log.info("log", source="guest", seed="new", text="second")
        assert [json.loads(line)["text"] for line in followers.read("new")] == ["second"]
        assert followers.read() == []
