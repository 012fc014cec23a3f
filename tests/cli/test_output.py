"""What the screen shows: 80 columns, colours on a terminal only, JSON that is JSON."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import termios
from pathlib import Path

import pytest

from pollen.cli import proposals, remote
from pollen.cli.status import status_lines
from pollen.errors import BadRequest, Unreachable
from pollen.paths import resolve
from pollen.sdk import hosts
from pollen.sdk.control import Control
from tests.cli.conftest import EXAMPLES, Pln
from tests.native.muscle import wait_for

ESCAPE = re.compile(rb"\x1b\[[0-9;]*[A-Za-z]")


def on_a_terminal(
    pln: Pln,
    *arguments: str,
    columns: int = 80,
    rows: int = 24,
    typed: bytes = b"",
    screens: int = 0,
    awaited: bytes = b"healthy",
    **environment: str,
) -> bytes:
    """What a command writes to a terminal of this size; ``typed`` is what its user types, who ends
    it with Ctrl-C after so many ``screens``, which are counted by a word that each has."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
    env = {**pln.environment, "TERM": "xterm", **environment}
    process = subprocess.Popen(
        pln.line(*arguments), env=env, stdin=slave, stdout=slave, stderr=slave
    )
    os.close(slave)
    os.write(master, typed)
    heard = b""
    while True:
        try:
            chunk = os.read(master, 65_536)
        except OSError:
            break  # the terminal is gone when its last writer is
        if not chunk:
            break
        heard += chunk
        if screens and heard.count(awaited) >= screens:
            process.send_signal(signal.SIGINT)
            screens = 0
    os.close(master)
    process.wait(timeout=30)
    return heard


@pytest.mark.parametrize("columns", [40, 60, 80])
def test_status_fits_the_terminal(up: Pln, columns: int) -> None:
    text = ESCAPE.sub(b"", on_a_terminal(up, "status", columns=columns)).decode()
    lines = text.replace("\r\n", "\n").splitlines()
    # The health line and hints are sentences; the tables are what is fitted.
    tables = [line for line in lines if line and not line.startswith(("hint:", "warning:"))]
    assert max(map(len, tables[1:])) <= columns
    assert lines[0].startswith("healthy: 1 of 1 node, ")


def test_status_in_a_pipe_fits_80_columns(up: Pln) -> None:
    assert max(map(len, up.ok("status").splitlines())) <= 80


def test_wide_status_shows_every_column(up: Pln) -> None:
    text = up.ok("status", "--wide")
    assert all(head in text for head in ("ADDRESS", "MEMORY", "RTT", "FUNCTIONS", "BY"))


def test_hints_come_last_and_health_first(up: Pln) -> None:
    lines = up.ok("status").splitlines()
    hints = [number for number, line in enumerate(lines) if line.startswith("hint:")]
    assert lines[0].startswith("healthy:")
    assert hints == list(range(len(lines) - len(hints), len(lines)))


@pytest.mark.parametrize(("columns", "rows"), [(80, 24), (40, 8)])
def test_a_watched_status_is_drawn_over_the_one_before(up: Pln, columns: int, rows: int) -> None:
    """From the top, each line to its end and what is below cleared; nothing scrolls away."""
    heard = on_a_terminal(
        up, "status", "--watch", columns=columns, rows=rows, screens=3, NO_COLOR="1"
    )
    before, *screens = heard.split(b"\x1b[H")
    assert before == b"" and len(screens) == 3
    for screen in screens:
        *lines, last = screen.partition(b"\x1b[J")[0].decode().split("\r\n")
        assert last == "" and all(line.endswith("\x1b[K") for line in lines)
        assert len(lines) <= rows - 2
        assert max(len(line.removesuffix("\x1b[K")) for line in lines[1:]) <= columns
    assert set(ESCAPE.findall(heard)) == {b"\x1b[H", b"\x1b[K", b"\x1b[J"}


def test_a_watched_status_on_a_dumb_terminal_is_one_screen_after_another(up: Pln) -> None:
    heard = on_a_terminal(up, "status", "--watch", screens=2, TERM="dumb")
    assert heard.count(b"healthy: ") == 2 and not ESCAPE.search(heard)


def test_a_terminal_gets_colour(up: Pln) -> None:
    assert ESCAPE.search(on_a_terminal(up, "status"))
    assert ESCAPE.search(on_a_terminal(up, "call", "ehco"))


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_terminal_that_wants_none_gets_no_colour(up: Pln, environment: dict[str, str]) -> None:
    assert not ESCAPE.search(on_a_terminal(up, "status", **environment))
    assert not ESCAPE.search(on_a_terminal(up, "call", "ehco", **environment))


def test_what_is_no_terminal_gets_no_colour(up: Pln) -> None:
    for line in (["status"], ["call", "ehco"], ["logs"], ["--help"]):
        done = up(*line)
        assert not ESCAPE.search(done.stdout + done.stderr)


@pytest.mark.parametrize(
    "line", [["status"], ["status", "nodes"], ["version"], ["id"], ["call", "echo", "echo", "hi"]]
)
def test_json_is_one_document(up: Pln, line: list[str]) -> None:
    assert json.loads(up.ok(*line, "--json"))


def test_logs_as_json_are_one_object_a_line(up: Pln) -> None:
    lines = [json.loads(line) for line in up.ok("logs", "--json", "-n", "20").splitlines()]
    assert lines and all({"at", "level", "event"} <= line.keys() for line in lines)


def test_verbose_says_on_stderr_where_it_ran(up: Pln) -> None:
    done = up("call", "echo", "echo", "hi", "-v")
    assert done.stdout == b"hi"
    assert re.search(rb"ran on [0-9a-f]{8} \(here\): queued .* ms, ran .* ms", done.stderr)


def test_on_a_terminal_an_error_begins_on_a_line_of_its_own(up: Pln) -> None:
    shown = ESCAPE.sub(b"", on_a_terminal(up, "call", "trap", "status")).decode()
    assert shown.replace("\r\n", "\n").startswith("seven\nerror: ")
    assert up("call", "trap", "status").stdout == b"seven"


def test_load_prints_rates_and_latencies(up: Pln) -> None:
    text = up.ok("load", "echo/echo", "--duration", "200ms", "--concurrency", "2", "--input", "x")
    assert re.search(r"^\d+ calls in [\d.]+ s: \d+ a second\np50 .*p999 .*max ", text)
    for line in ([], ["--json"]):
        assert up("load", "trap/error", "--duration", "100ms", *line).returncode == 1


def test_a_load_on_a_terminal_does_not_say_that_it_waits(up: Pln) -> None:
    """The daemon answers others meanwhile: it is at work, and not silent."""
    said = on_a_terminal(up, "load", "echo/echo", "--duration", "2s", "--input", "x")
    assert b"a second" in said and b"waiting for the daemon" not in said


def test_a_group_of_verbs_without_one_of_them_is_explained(up: Pln) -> None:
    for group in ("root", "context", "service", "bootstrap"):
        assert up.ok(group).startswith(f"Usage: pln {group} ")


def test_a_load_of_nothing_but_failures_says_what_failed(up: Pln) -> None:
    done = up("load", "trap/error", "--duration", "100ms")
    assert re.fullmatch(rb"0 ok in [\d.]+ s; every call failed: \d+ x guest-failed\n", done.stdout)


def test_ctrl_c_ends_a_load_and_prints_what_there_is(up: Pln) -> None:
    line = ("load", "echo/echo", "--rate", "50", "--duration", "10m")
    heard = ESCAPE.sub(b"", on_a_terminal(up, *line, screens=1, awaited=b"a second here"))
    words = heard.replace(b"\r\n", b"\n").rpartition(b"\r")[2].decode()
    told = re.fullmatch(r"(\d+) calls in ([\d.]+) s: \d+ a second\np50 .* max \S+ \S+\n", words)
    assert told is not None, words
    assert 0 < int(told[1]) < 1_500 and float(told[2]) < 30


def test_a_load_whose_client_goes_away_ends(up: Pln) -> None:
    """A second one of its name is refused as long as the first is under way."""
    control = Control(resolve(str(up.home)))
    plan = {"name": "mine", "seed": "echo", "function": "echo", "rate": 50}
    with pytest.raises(Unreachable, match="timed out"):
        control.request("POST", "/v1/load", {**plan, "duration_ms": 600_000}, timeout=0.5)
    control.request("DELETE", "/v1/load/another")

    def has_ended() -> bool:
        try:
            return bool(control.request("POST", "/v1/load", {**plan, "duration_ms": 1}))
        except BadRequest as error:
            assert "is under way" in error.reason
            return False

    wait_for(has_ended, "the first has ended")


def test_a_load_of_what_is_not_there_is_refused_before_it_begins(up: Pln) -> None:
    for target, said in (
        ("nope", b'no seed named "nope"'),
        ("trap", b"has 3 functions"),
        ("trap/nope", b'no function "nope"'),
    ):
        done = up("load", target, "--duration", "1m", timeout=30)
        assert done.returncode == 3 and said in done.stderr and not done.stdout


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("start it with: pln up -d", "start it with: {} up -d"),
        ("pln down, then pln purge", "{} down, then {} purge"),
        (
            "on an admin's node: pln invite; here: pln up",
            "on an admin's node: pln invite; here: {} up",
        ),
        ("pln invite, then pln join TOKEN there", "{} invite, then pln join TOKEN there"),
        ("pln invite a=b, then there: pln join TOKEN", "{} invite a=b, then there: pln join TOKEN"),
        ("see pln logs on the node that ran it", "see pln logs on the node that ran it"),
        ("see: pln why place --help", "see: pln why place --help"),
        ("a token is pln1 and more", "a token is pln1 and more"),
    ],
)
def test_a_command_for_this_machine_names_the_folder_that_was_given(
    monkeypatch: pytest.MonkeyPatch, said: str, shown: str
) -> None:
    assert proposals.here(said) == said
    monkeypatch.setattr(proposals, "_given", [])
    proposals.remember_directory("my node")
    assert proposals.here(said) == shown.format("pln --dir 'my node'", "pln --dir 'my node'")


@pytest.mark.parametrize(
    ("said", "flagged", "unflagged"),
    [
        ("see: pln logs", "see: pln -H lab --dir /x logs", "see: pln logs"),
        ("pln up -d", "ssh me@pi pln --dir /x up -d", "ssh me@pi pln --dir /x up -d"),
        ("ssh me@pi pln up -d", "ssh me@pi pln up -d", "ssh me@pi pln up -d"),
        ("pln context list", "pln context list", "pln context list"),
        ("pln invite, then pln join TOKEN there", *["{} invite, then pln join TOKEN there"] * 2),
    ],
)
def test_a_command_for_another_machine_goes_there(
    monkeypatch: pytest.MonkeyPatch, said: str, flagged: str, unflagged: str
) -> None:
    """By ``-H`` when that was given, as a line of ssh where the verb goes by hand."""
    monkeypatch.setattr(proposals, "_given", [])
    there = hosts.parse("me@pi", "/x")
    proposals.remember_host("lab", "/x", there, remote.way_of)
    assert proposals.here(said) == flagged.format("pln -H lab --dir /x")
    proposals.remember_host(None, None, there, remote.way_of)
    assert proposals.here(said) == unflagged.format("pln")


def test_a_command_for_this_machine_says_so_when_the_flag_did(pln: Pln, tmp_path: Path) -> None:
    """A context is in use, and without the flag the command would go there."""
    del pln.environment["PLN_DIR"]
    pln.environment["XDG_CONFIG_HOME"] = str(tmp_path)
    pln.ok("context", "add", "lab", "ssh://127.0.0.1:1")
    pln.ok("context", "use", "lab")
    for line in (["-H", "local", "down"], ["status", "-H", "local"]):
        done = pln(*line)
        assert done.returncode == 6 and b": pln -H local up -d\n" in done.stderr, done.stderr
    other = f"{pln.home}/a b"
    said = pln("-H", "local", "--dir", other, "status").stderr
    assert f": pln -H local --dir '{other}' up -d\n".encode() in said


def test_a_verb_does_not_act_here_when_the_contexts_cannot_be_looked_for(
    pln: Pln, tmp_path: Path
) -> None:
    """It may be meant for another machine. What is about no node goes on."""
    loop = tmp_path / "config"
    loop.symlink_to(loop)
    del pln.environment["PLN_DIR"]
    pln.environment["XDG_CONFIG_HOME"] = str(loop)
    done = pln("init")
    assert done.returncode == 1 and b"[state-unusable]" in done.stderr, done.stderr
    assert not (pln.home / ".pln").exists()
    pln.ok("version")
    pln.ok("-H", "local", "init")


def test_removing_the_context_in_use_says_where_verbs_go_from_now_on(
    pln: Pln, tmp_path: Path
) -> None:
    pln.environment["XDG_CONFIG_HOME"] = str(tmp_path)
    for name in ("lab", "attic"):
        pln.ok("context", "add", name, "ssh://127.0.0.1:1")
    pln.ok("context", "use", "lab")
    assert pln.ok("context", "remove", "attic") == "removed attic\n"
    assert pln.ok("context", "remove", "lab") == "removed lab\nin use: local (this machine)\n"


def test_what_is_proposed_can_be_pasted_when_the_folder_was_given(pln: Pln) -> None:
    """By --dir, before the verb or after it; PLN_DIR is set for the next command, too."""
    other = str(pln.home / "other")
    ours = f"pln --dir {other}"
    assert f"next: {ours} up -d\n" in pln.ok("--dir", other, "init")
    for line in (["--dir", other, "status"], ["status", "--dir", other]):
        assert f"  start it with: {ours} up -d\n".encode() in pln(*line).stderr
    assert f"  try: {ours} purge --yes\n".encode() in pln("--dir", other, "purge").stderr
    pln.ok("--dir", other, "set", "listen", "127.0.0.1:0")
    assert f" {ours} up -d\n" in pln.ok("--dir", other, "doctor")
    assert "next: pln up -d\n" in pln.ok("init")


def test_a_status_of_a_folder_that_was_given_names_it_in_its_hints(up: Pln) -> None:
    hints = [line for line in up.ok("--dir", str(up.home), "status").splitlines() if "hint" in line]
    assert hints and all(f"pln --dir {up.home} " in line for line in hints)
    told = up.ok("seed", "--dir", str(up.home), str(EXAMPLES / "echo.wasm"), "echo")
    assert f"call it:   pln --dir {up.home} call echo echo\n" in told


def test_a_status_counts_each_kind_of_absent_node() -> None:
    """Shown with --include-offline, they are not counted."""
    node = {
        "name": "a",
        "node": "00",
        "tier": "leaf",
        "rtt_us": 0,
        "path": "",
        "ready": 0,
        "addresses": [],
    }
    nodes = [{**node, "memory_bytes": 1, "state": state} for state in ("left", "offline", "left")]
    status = {"nodes": nodes, "summary": "x: y", "healthy": True, "warnings": [], "hints": []}
    assert status_lines(status, ("nodes",), 80, include_offline=False)[-1] == (
        "1 offline, 2 left; see them with --include-offline"
    )
    assert len(status_lines(status, ("nodes",), 80, include_offline=True)) == 6
