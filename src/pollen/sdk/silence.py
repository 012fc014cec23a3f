"""A daemon that says nothing: how long that is borne, and what is said of its process.

Decides: when a wait is told to the user, and when it ends with ``daemon-not-answering``.
Does not know: what was asked. A slow answer is waited for as long as the daemon answers another
question meanwhile, so a long request is told from a frozen process.
Invariants: loaded only when a wait has lasted ``WORD_SECONDS``; the way to a daemon that answers
pays nothing for it.
Source: docs/guide/troubleshooting.md#the-node-here (``daemon-not-answering``).
"""

from __future__ import annotations

import contextlib
import select
import socket
import time
from pathlib import Path

from pollen import lock
from pollen.errors import Unreachable
from pollen.paths import Paths
from pollen.sdk import control

# After so long a terminal shows that we wait. Seconds; a guess: people wonder after one.
WORD_SECONDS = 1.0
# After so long without any answer the daemon counts as frozen. Seconds; a guess: its loop turns in
# milliseconds, and its longest known pause is a store's fsync on a slow disk.
SILENT_SECONDS = 5.0
# Whoever answers another question so fast is at work on the first one: nobody is told to wait.
_PROMPT_SECONDS = 0.25
_KNOCK = b"GET /v1/health HTTP/1.0\r\nHost: localhost\r\n\r\n"
_STATES = {
    "T": "stopped",
    "t": "stopped by a debugger",
    "D": "waiting for the disk",
    "Z": "a zombie",
    "R": "running",
    "S": "sleeping",
}
_STOPPED = ("T", "t")


def state_of(pid: int) -> str:
    """The letter of a process's state as the kernel shows it; empty where it cannot be read."""
    with contextlib.suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return ""


def is_stopped(pid: int) -> bool:
    """Whether it cannot answer: somebody sent it SIGSTOP, or a debugger holds it."""
    return state_of(pid) in _STOPPED


def process_text(paths: Paths) -> str:
    """``pid 1234, stopped``; what is known of the process of this folder."""
    if paths.host:
        return "reached by ssh"
    pid = lock.read_pid(paths)
    if pid is None:
        return "no process of it is known"
    state = _STATES.get(state_of(pid), "")
    return f"pid {pid}, {state}" if state else f"pid {pid}"


def remedy(paths: Paths) -> str:
    """What to do about the process of this folder."""
    if paths.host:
        return f"see: {paths.command('doctor')}\nor end it: {paths.command('down --force')}"
    pid = lock.read_pid(paths)
    if pid is not None and is_stopped(pid):
        return f"let it go on: kill -CONT {pid}\nor end it: pln down --force"
    return "see: pln logs\nor end it: pln down --force, then pln up -d"


def not_answering(paths: Paths, seconds: float, *, may_have_executed: bool = False) -> Unreachable:
    """The error of a daemon that is there and says nothing. What it was asked before it fell
    silent it may do once it goes on; a function runs only by a call."""
    how = f"has not answered for {seconds:.0f} s" if seconds else "cannot answer"
    reason = f"the daemon in {paths.place} ({process_text(paths)}) {how}"
    return Unreachable(
        "daemon-not-answering", reason, remedy(paths), may_have_executed=may_have_executed
    )


def say_waiting(paths: Paths) -> None:
    """Say once that we wait."""
    while control.listeners:
        control.listeners.pop()(f"waiting for the daemon ({process_text(paths)}) ...")


def wait(paths: Paths, address: str, line: socket.socket, events: int, until: float) -> None:
    """Wait on after ``WORD_SECONDS`` of silence until ``line`` is ready.

    ``until`` is of ``time.monotonic``; then it is a ``TimeoutError``. Raises
    ``daemon-not-answering`` when another question at ``address`` gets no answer either.
    """
    patience = SILENT_SECONDS - WORD_SECONDS - _PROMPT_SECONDS
    prompt = min(_PROMPT_SECONDS, until - time.monotonic())
    if not _answers_within(paths, address, line, events, prompt):
        say_waiting(paths)
    while True:
        seconds = min(patience, until - time.monotonic())
        is_alive = _answers_within(paths, address, line, events, seconds)
        if time.monotonic() >= until:
            raise TimeoutError("timed out")
        if not is_alive:
            raise not_answering(paths, SILENT_SECONDS)
        patience = SILENT_SECONDS
        if ready(line, events, min(SILENT_SECONDS, until - time.monotonic())):
            return


def ready(line: socket.socket, events: int, seconds: float) -> bool:
    """Whether a socket is ready within so long."""
    poll = select.poll()
    poll.register(line, events)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def answers(paths: Paths, address: str, seconds: float) -> bool:
    """Whether whoever listens at ``address`` answers a question within so long."""
    return _answers_within(paths, address, None, 0, seconds)


def _answers_within(
    paths: Paths, address: str, line: socket.socket | None, events: int, seconds: float
) -> bool:
    """Whether a second question is answered, or ``line`` is ready, within so long."""
    if paths.host:
        return _answers_there(paths, address, line, events, seconds)
    end = time.monotonic() + seconds
    poll = select.poll()
    if line is not None:
        poll.register(line, events)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        while True:
            try:
                probe.connect(address)
                probe.send(_KNOCK)
                break
            except BlockingIOError:
                # Its queue of connections is full.
                if time.monotonic() >= end:
                    return False
                if poll.poll(50):
                    return True
            except OSError:
                # It is gone or closes: whoever waits on the line will see that.
                return True
        poll.register(probe, select.POLLIN)
        return bool(poll.poll(max(0.0, end - time.monotonic()) * 1000))


def _answers_there(
    paths: Paths, address: str, line: socket.socket | None, events: int, seconds: float
) -> bool:
    """As ``_answers_within``, over the same ssh: a path that is cut answers nothing either."""
    from pollen.sdk import far

    end = time.monotonic() + seconds
    try:
        probe = far.opened(paths, address, seconds)
    except Unreachable:
        return line is not None and ready(line, events, end - time.monotonic())
    with probe:
        poll = select.poll()
        poll.register(probe, select.POLLIN)
        if line is not None:
            poll.register(line, events)
        with contextlib.suppress(OSError):
            probe.send(_KNOCK)
        return bool(poll.poll(max(0.0, end - time.monotonic()) * 1000))
