"""A frozen daemon: a word after a second on a terminal, an error after five, and a way out."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen import lock
from pollen.paths import Paths
from tests.cli.conftest import EXAMPLES, Pln
from tests.cli.test_doctor import found
from tests.cli.test_machine import completed
from tests.cli.test_output import on_a_terminal

# Five seconds of silence, and what a loaded machine adds.
PATIENCE = 12.0
ASKING = [
    ["status"],
    ["inspect", "echo"],
    ["why", "place", "echo"],
    ["why", "call", "echo"],
    ["seed", str(EXAMPLES / "echo.wasm"), "again"],
    ["unseed", "echo"],
    ["invite"],
    ["load", "echo/echo", "--duration", "1s"],
    ["call", "echo", "echo", "x"],
    ["logs"],
    ["logs", "-f"],
    ["down"],
    ["restart"],
]


def pid_of(pln: Pln) -> int:
    pid = lock.read_pid(Paths(pln.home))
    assert pid is not None
    return pid


@pytest.fixture(scope="module")
def frozen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pln]:
    """A node of one seed whose process was stopped."""
    from tempfile import TemporaryDirectory

    with TemporaryDirectory(prefix="pln-", dir="/tmp") as home:
        pln = Pln(Path(home))
        pln.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0", "--name", "attic")
        pln.ok("seed", str(EXAMPLES / "echo.wasm"))
        pid = pid_of(pln)
        os.kill(pid, signal.SIGSTOP)
        try:
            yield pln
        finally:
            if lock.read_pid(Paths(pln.home)) == pid:
                os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("line", ASKING, ids=" ".join)
def test_a_silent_daemon_is_named_within_seconds(frozen: Pln, line: list[str]) -> None:
    """Its pid, its state, and how to get on; it is left as it is."""
    pid, began = pid_of(frozen), time.monotonic()
    done = frozen(*line, timeout=PATIENCE)
    said = done.stderr.decode()
    assert time.monotonic() - began < PATIENCE
    assert done.returncode == 6 and "[daemon-not-answering]" in said, said
    assert f"(pid {pid}, stopped)" in said
    assert f"kill -CONT {pid}" in said and "pln down --force" in said
    assert pid_of(frozen) == pid


def test_a_terminal_shows_that_it_waits(frozen: Pln) -> None:
    """One word, once."""
    for line in (["status"], ["call", "echo", "echo", "x"]):
        shown = on_a_terminal(frozen, *line)
        assert (
            shown.decode().count(f"waiting for the daemon (pid {pid_of(frozen)}, stopped) ...") == 1
        )


def test_the_log_is_shown_all_the_same(frozen: Pln) -> None:
    """The file is there to be read."""
    assert b"  up  " in frozen("logs", timeout=PATIENCE).stdout


def test_the_doctor_needs_no_answer(frozen: Pln) -> None:
    """The kernel says that the process stands still."""
    began = time.monotonic()
    told = found(frozen, "daemon", "failure")
    assert "stopped" in told and f"kill -CONT {pid_of(frozen)}" in told
    assert time.monotonic() - began < PATIENCE / 2


def test_a_short_time_out_is_short(frozen: Pln) -> None:
    """Two seconds were waited past any."""
    began = time.monotonic()
    done = frozen("call", "echo", "echo", "x", "--timeout", "1ms")
    assert b"[deadline]" in done.stderr
    assert time.monotonic() - began < 2.0


def test_a_completion_does_not_wait(frozen: Pln) -> None:
    began = time.monotonic()
    assert completed(frozen, "call", "e") == []
    assert time.monotonic() - began < PATIENCE / 2


def test_a_forced_down_ends_a_frozen_daemon(pln: Pln) -> None:
    """By a kill; the next start goes on from its state."""
    pln.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
    os.kill(pid_of(pln), signal.SIGSTOP)
    began = time.monotonic()
    assert pln.ok("down", "--force") == "down\n"
    assert time.monotonic() - began < PATIENCE
    assert lock.read_pid(Paths(pln.home)) is None
    pln.ok("up", "-d", "--ips", "127.0.0.1", "--port", "0")
    pln.ok("down")


def test_a_slow_answer_is_waited_for(up: Pln) -> None:
    """A load of eight seconds says nothing meanwhile, and the daemon is alive."""
    done = up("load", "echo/echo", "--duration", "8s", "--rate", "5")
    assert done.returncode == 0, done.stderr
    assert b"40 calls in" in done.stdout


def test_a_full_queue_of_connections_is_silence_too(frozen: Pln) -> None:
    """Each client that gave up is still in it."""
    waiting = [
        subprocess.Popen(frozen.line("status"), env=frozen.environment, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    for process in waiting:
        _, said = process.communicate(timeout=PATIENCE)
        assert b"[daemon-not-answering]" in said
