"""The way to another machine's node, for a client: a connected socket, as if the node were here.

Decides: when the process beside this one is started, and again; how long to wait for it.
Does not know: ssh and frames (``tunnel``), what a socket carries.
Invariants: one such process a machine and client, with one ssh; it ends with this process, however
that ends. A socket that is returned is connected to the node there. Loaded for other machines only.
Source: docs/internals/desk.md#the-near-end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pollen.errors import PollenError, Unreachable, error_from_dict
from pollen.paths import Paths
from pollen.sdk import control
from pollen.sdk.stdio import NAMES

# Seconds for a connection: ssh has less (``tunnel.HELLO``), so that its own words come first.
PATIENCE: Final = 40.0
# After so long a terminal shows that we wait. Seconds; a guess: people wonder after one.
_WORD: Final = 1.0
# Seconds between two looks whether whoever wants the connection still waits. Guess.
_LOOK: Final = 0.1
_ROOT: Final = str(Path(__file__).parents[2])
_CODE: Final = (
    "import sys; sys.path.insert(0, sys.argv[1]); from pollen.sdk.tunnel import main; main()"
)

# Who is told, once, which machine answered: the command line.
arrivals: list[Callable[[Paths, str], None]] = []

_channels: dict[tuple[str, str, str], socket.socket] = {}
_children: list[int] = []
_starting = threading.Lock()


def _fresh_lock() -> None:
    global _starting  # noqa: PLW0603 - a thread of the parent may have held it at the fork
    _starting = threading.Lock()


os.register_at_fork(after_in_child=_fresh_lock)


async def opened_aside(paths: Paths, address: str, seconds: float) -> socket.socket:
    """As ``opened``, for asyncio. When it is cancelled its thread ends within ``_LOOK``."""
    import asyncio

    left = threading.Event()
    patience = min(PATIENCE, seconds)
    try:
        return await asyncio.to_thread(opened, paths, address, patience, left)
    except asyncio.CancelledError:
        left.set()
        raise


def opened(
    paths: Paths, address: str, seconds: float = PATIENCE, left: threading.Event | None = None
) -> socket.socket:
    """A socket to what ``address``, a socket of ``paths``, is there.

    Raises the error that ssh or the far end gives, ``unreachable`` after ``seconds``, and once
    ``left`` is set: nobody waits any more.
    """
    number = NAMES.index(os.fsencode(Path(address).name))
    end = time.monotonic() + seconds
    for is_last in (False, True):
        channel, key = _channel(paths)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with theirs:
                socket.send_fds(channel, [bytes([number])], [theirs.fileno()])
            machine = _greeting(paths, ours, end, left)
        except BaseException as error:
            ours.close()
            if not isinstance(error, OSError):
                raise
            # The process beside us was killed: another one takes its place.
            _forget(key, channel)
            if is_last:
                why = f"the process that runs ssh to {paths.host} ended: {error}"
                raise _unreachable(why, "the next call starts it again") from None
            continue
        while arrivals:
            arrivals.pop()(paths, machine)
        ours.settimeout(None)
        return ours
    raise AssertionError("the loop returns or raises")


def _greeting(
    paths: Paths, ours: socket.socket, end: float, left: threading.Event | None = None
) -> str:
    """The machine's name for itself, once the connection stands."""
    kind = _read(paths, ours, 1, end, left)
    if kind == b"+":
        length = _read(paths, ours, 1, end, left)[0]
        return _read(paths, ours, length, end, left).decode(errors="replace")
    raw = b""
    with contextlib.suppress(OSError):
        while data := ours.recv(4096):
            raw += data
    raise _typed(raw)


def _typed(raw: bytes) -> PollenError:
    try:
        return error_from_dict(json.loads(raw))
    except ValueError:
        return _unreachable("the process that runs ssh broke off", "try again")


def _read(
    paths: Paths, ours: socket.socket, count: int, end: float, left: threading.Event | None
) -> bytes:
    data = b""
    word = time.monotonic() + _WORD
    while len(data) < count:
        while not _ready(ours, min(_LOOK, end - time.monotonic())):
            if left is not None and left.is_set():
                raise _unreachable("nobody waits for the connection any more", "call again")
            now = time.monotonic()
            while control.listeners and now >= min(word, end):
                control.listeners.pop()(f"connecting to {paths.host} by ssh ...")
            if now >= end:
                why = f"{paths.place} gave no connection in time"
                raise _unreachable(why, f"see: {paths.command('doctor')}")
        more = ours.recv(count - len(data))
        if not more:
            raise ConnectionResetError("it closed the connection")
        data += more
    return data


def _ready(ours: socket.socket, seconds: float) -> bool:
    poll = select.poll()
    poll.register(ours, select.POLLIN)
    return bool(poll.poll(max(0.0, seconds) * 1000))


def _unreachable(why: str, remedy: str) -> Unreachable:
    return Unreachable("unreachable", why, remedy, may_have_executed=False)


def _channel(paths: Paths) -> tuple[socket.socket, tuple[str, str, str]]:
    folder = str(paths.home) if paths.is_given else ""
    key = paths.host, folder, os.environ.get("PLN_SSH", "")
    with _starting:
        if key not in _channels:
            _channels[key] = _started(paths.host, folder)
        return _channels[key], key


def _forget(key: tuple[str, str, str], channel: socket.socket) -> None:
    with _starting:
        if _channels.get(key) is channel:
            del _channels[key]
    channel.close()


def _started(host: str, folder: str) -> socket.socket:
    """The channel to a new process. A session of its own: Ctrl-C is for this process, which may
    have something to say to the node before it ends."""
    _reap()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    errors = (
        [] if os.environ.get("PLN_DEBUG") == "1" else [(os.POSIX_SPAWN_OPEN, 2, os.devnull, 1, 0)]
    )
    with theirs:
        line = [sys.executable, "-P", "-c", _CODE, _ROOT, host, folder]
        pid = os.posix_spawn(
            sys.executable,
            line,
            os.environ,
            file_actions=[
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                *errors,
            ],
            setsid=True,
        )
    _children.append(pid)
    return ours


def _reap() -> None:
    """Those that ended leave no zombie behind."""
    for pid in list(_children):
        with contextlib.suppress(ChildProcessError):
            if os.waitpid(pid, os.WNOHANG)[0] == 0:
                continue
        _children.remove(pid)
