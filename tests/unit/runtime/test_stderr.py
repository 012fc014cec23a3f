"""What a daemon writes where nobody reads: the loop's faults, and ``daemon.err``."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pollen
from pollen.runtime.watch import stderr

# A process whose stderr is a file that it fills, in the way of a detached daemon.
# The checkout, not what is installed.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(pollen.__file__).parents[1])}

_FILL = """
import os, pathlib, sys, time
from pollen.runtime.watch import stderr
path, kept = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[1] + ".1")
with stderr.kept(path):
    line = b"x" * 99 + b"\\n"
    os.write(2, line * (stderr.FILE_BYTES // 100 + 1))
    until = time.monotonic() + 20
    while not kept.exists() and time.monotonic() < until:
        os.write(2, line)
    while os.fstat(2).st_size > stderr.FILE_BYTES and time.monotonic() < until:
        time.sleep(0.01)
    os.write(2, b"the last word\\n")
"""


def test_a_full_file_is_moved_aside_and_the_next_word_is_in_a_new_one(tmp_path: Path) -> None:
    """Whoever writes to file descriptor 2 goes on in ``daemon.err``; one older file is kept."""
    path = tmp_path / "daemon.err"
    with path.open("ab") as file:
        line = [sys.executable, "-c", _FILL, str(path)]
        subprocess.run(line, env=ENVIRONMENT, stderr=file, check=True)
    assert path.read_text().endswith("the last word\n")
    assert path.stat().st_size < stderr.FILE_BYTES
    assert path.with_name("daemon.err.1").stat().st_size > stderr.FILE_BYTES


def test_a_stderr_that_is_another_file_stays_what_it_is(tmp_path: Path) -> None:
    """A daemon in the foreground writes to its terminal, or to its supervisor."""
    path = tmp_path / "daemon.err"
    path.write_bytes(b"x" * (stderr.FILE_BYTES + 1))
    with stderr.kept(path):
        stderr.rotate(path)
    assert [file.name for file in tmp_path.iterdir()] == ["daemon.err"]


def test_a_fault_is_told_once_in_ten_seconds_with_the_number_of_those_left_out() -> None:
    """Each kind by itself; kinds without number count as one."""
    now = 0.0
    quiet = stderr.Quiet(lambda: now)
    assert [quiet.speak("a"), quiet.speak("b"), quiet.speak("a"), quiet.speak("a")] == [
        0,
        0,
        None,
        None,
    ]
    now = stderr.QUIET
    assert [quiet.speak("a"), quiet.speak("b")] == [2, 0]
    told = [quiet.speak(f"kind {number}") for number in range(1000)]
    assert sum(left_out is not None for left_out in told) < 100


class Log:
    """Takes the lines of a log."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def error(self, event: str, **fields: Any) -> None:
        """A line."""
        self.lines.append({"event": event, **fields})


async def test_faults_of_the_loop_go_to_the_nodes_log() -> None:
    """Not to stderr, and a thousand alike are one line."""
    log = Log()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(stderr.loop_handler(log))
    for _ in range(1000):
        loop.call_exception_handler({"message": "accept failed", "exception": OSError("no files")})
    assert [(line["event"], line["what"]) for line in log.lines] == [
        ("loop-fault", "accept failed")
    ]
