"""The far end of a desk: ``pln _stdio`` on the machine of the node, started there by ssh.

Decides: which sockets of the node's folder may be asked for: the two of a client.
Does not know: who is at the other end; ssh has asked for their key. The node sees this user.
Invariants: nothing but frames goes to stdout. It ends with its stdin, and after ``SILENT`` seconds
without a frame, so a desk that vanished leaves nothing here.
Source: docs/internals/desk.md#the-far-end.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import time
from typing import Final

from pollen.paths import Paths
from pollen.sdk.mux import Broken, Event, Mux, Wanted
from pollen.sdk.pump import Poll, Pump

NAMES: Final = (b"control.sock", b"call.sock")
# Seconds between two signs of life of a desk, and without any until it counts as gone. Guesses:
# a path that is silent for this long loses no more than that, and a suspended laptop reconnects.
PING: Final = 10.0
SILENT: Final = 45.0
# Seconds between two tries of a socket whose queue of connections is full. As a client here.
_PAUSE: Final = 0.05


def serve(paths: Paths, reader: int = 0, writer: int = 1) -> None:
    """Speak on stdin and stdout until stdin ends."""
    _Far(paths, reader, writer).run()


class _Far:
    def __init__(self, paths: Paths, reader: int, writer: int) -> None:
        self._paths = paths
        self._poll = Poll()
        self._mux = Mux(is_caller=False)
        # Those that found the queue full, each with since when.
        self._queued: list[tuple[Wanted, float]] = []
        self._pump = Pump(self._poll, self._mux, (reader, writer), self._told)

    def run(self) -> None:
        about = {"machine": os.uname().nodename, "folder": str(self._paths.home)}
        self._mux.hello(json.dumps(about).encode())
        try:
            while not self._pump.is_over and time.monotonic() - self._pump.heard < SILENT:
                self._pump.settle()
                self._poll.turn(_PAUSE if self._queued else PING)
                queued, self._queued = self._queued, []
                for event, since in queued:
                    self._open(event, since)
        except Broken:
            pass
        finally:
            self._pump.close()

    def _told(self, event: Event) -> None:
        if isinstance(event, Wanted):
            self._open(event, time.monotonic())

    def _open(self, event: Wanted, since: float) -> None:
        opened = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        opened.setblocking(False)
        try:
            if event.name not in NAMES:
                raise OSError(errno.EINVAL, "no socket of a node")
            opened.connect(os.fsencode(self._paths.home / os.fsdecode(event.name)))
        except OSError as error:
            opened.close()
            if isinstance(error, BlockingIOError):
                from pollen.sdk import silence

                # As long as a client on this machine waits for it.
                if time.monotonic() - since <= silence.SILENT_SECONDS:
                    self._queued.append((event, since))
                    return
            self._mux.refuse(event.stream, json.dumps(self._why(error)).encode())
            return
        self._mux.accept(event.stream)
        self._pump.attach(event.stream, opened)

    def _why(self, error: OSError) -> dict[str, str]:
        """What the desk makes an error of: a word, and the system's text."""
        word = "other"
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            word = "no-daemon" if self._is_folder() else "no-folder"
        elif isinstance(error, PermissionError):
            word = "not-ours"
        elif isinstance(error, BlockingIOError):
            word = "busy"
        return {"why": word, "text": error.strerror or str(error)}

    def _is_folder(self) -> bool:
        with contextlib.suppress(OSError):
            return self._paths.home.is_dir()
        return True
