"""What is small and was wrong: inputs, limits, completion, streams that share a file."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import EXAMPLES, Pln
from tests.cli.test_doctor import findings
from tests.cli.test_machine import completed


def test_one_rule_says_where_an_argument_is_an_input(up: Pln, tmp_path: Path) -> None:
    """``@file`` and ``-`` are inputs in the function's place, for a library as for a program."""
    (tmp_path / "in").write_text("from a file")
    assert up.ok("call", "echo", "echo", f"@{tmp_path / 'in'}") == "from a file"
    for word in (f"@{tmp_path / 'in'}", "-"):
        done = up("call", "trap", word)
        assert b"name one of: " in done.stderr and b'no function "@' not in done.stderr
        done = up("call", "echo", word, stdin=b"from a file")
        assert done.stdout == b"from a file" or b"name one of: " in done.stderr


def test_an_input_file_that_is_not_there_is_named_as_one(up: Pln) -> None:
    done = up("call", "echo", "echo", "@nothing.here")
    assert done.returncode == 2
    assert b"the input file nothing.here cannot be read: No such file" in done.stderr


def test_an_error_begins_on_a_line_of_its_own(up: Pln, tmp_path: Path) -> None:
    """Where both streams go to one file; the bytes of stdout stay exact."""
    with (tmp_path / "both").open("wb") as file:
        line = up.line("call", "-v", "echo", "echo", "no end of line")
        subprocess.run(line, env=up.environment, stdout=file, stderr=file, check=True)
    assert (tmp_path / "both").read_text().startswith("no end of line\nran on ")
    done = up("call", "-v", "echo", "echo", "x")
    assert done.stdout == b"x" and done.stderr.startswith(b"ran on ")


def test_an_option_without_a_word_of_help_is_none(pln: Pln) -> None:
    for verb, option in (
        ("seed", "--act-as"),
        ("seed", "--min-replicas"),
        ("call", "--timeout"),
        ("call", "--retries"),
    ):
        text = " ".join(pln.ok(verb, "--help", COLUMNS="100").partition(option)[2].split())
        assert text.partition("[default")[0].partition(" --")[0].count(" ") > 4, (verb, option)


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("inspect", "s"), "solo"),
        (("inspect", "e"), "echo"),
        (("set", "log"), "log_level"),
        (("set", "log_level", "w"), "warning"),
        (("unset", "grace"), "grace_ms"),
        (("call", "echo", "e"), "echo"),
        (("why", "call", "echo", "e"), "echo"),
        (("why", "place", "echo", "s"), "solo"),
        (("logs", "--seed", "e"), "echo"),
    ],
)
def test_completion_offers_what_may_stand_there(
    up: Pln, words: tuple[str, ...], offered: str
) -> None:
    assert offered in completed(up, *words)


def test_the_doctor_tells_the_limits_of_the_daemon(up: Pln) -> None:
    """Not those of the command that asks."""
    few = ("sh", "-c", 'ulimit -n 64; ulimit -v 8000000; exec "$@"', "sh")
    told = {f["name"]: f["level"] for f in findings(up, *few) if f["name"] in ("files", "space")}
    assert told == {"files": "ok", "space": "ok"}


def test_a_start_in_too_small_a_space_names_the_limit(pln: Pln) -> None:
    """Not the last line of a crash dump. Starts went well with 156 MiB, and with 127 none did."""
    line = pln.line("up", "-d", "--ips", "127.0.0.1", "--port", "0")
    small = ["sh", "-c", 'ulimit -v 130000; exec "$@"', "sh", *line]
    done = subprocess.run(small, env=pln.environment, capture_output=True, check=False)
    assert done.returncode == 1
    assert b"in an address space of 126 MiB" in done.stderr, done.stderr
    assert b"ulimit -v unlimited" in done.stderr


def test_a_damaged_content_store_names_the_ways_on(pln: Pln) -> None:
    """Its peers hold the bytes: the first way is tried here."""
    flags = ("--ips", "127.0.0.1", "--port", "0")
    pln.ok("up", "-d", *flags)
    pln.ok("seed", str(EXAMPLES / "echo.wasm"))
    pln.ok("down")
    (pln.home / "content" / "blobs.db").write_bytes(b"noise" * 9_999)
    done = pln("up", "-d", *flags)
    assert done.returncode == 1 and b"[state-unusable]" in done.stderr
    assert b"move its folder away" in done.stderr and b"pln purge --yes" in done.stderr
    (pln.home / "content").rename(pln.home / "content.broken")
    try:
        pln.ok("up", "-d", *flags)
        pln.ok("seed", str(EXAMPLES / "echo.wasm"))
        assert pln.ok("call", "echo", "echo", "x") == "x"
    finally:
        pln("down", "--force")


def test_a_log_without_a_line_of_a_seed_says_so(up: Pln) -> None:
    """Nothing at all looked like a seed that never spoke; a pipe still gets nothing."""
    done = up("logs", "--seed", "nosuch")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"hint: no line is about nosuch; see: pln status seeds\n"
    assert not up("logs", "--seed", "echo").stderr
