"""A process beside a client: its connections to another machine's node, over one ssh.

Decides: when ssh is started, started again and ended.
Does not know: what the connections carry; contexts; how errors are shown.
Invariants: it lives as long as a client's end of fd 0 is open, and has at most one ssh. It makes no
file, so whoever is killed leaves none. ssh ends with its stdin, and the far end with its own.
Each client's socket hears ``OPENED``, or ``FAILED`` and a problem object, before anything else.
Source: docs/internals/desk.md#the-near-end.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shlex
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from pollen.paths import Paths
from pollen.plain import escaped
from pollen.sdk import diagnosis
from pollen.sdk.mux import MAGIC, Accepted, Broken, Event, Hello, Mux, Refused
from pollen.sdk.pump import Poll, Pump
from pollen.sdk.stdio import NAMES, PING, SILENT

OPENED: Final = b"+"
FAILED: Final = b"-"
# Seconds until the far end has said hello. Guess: a jump host, a slow key and a cold Python.
HELLO: Final = 30.0
# Seconds without a connection until ssh ends; the next one starts it again. Guess.
IDLE: Final = 300.0
# Seconds that what was written last may take, once the client is gone. Guess.
LAST: Final = 2.0
# Bytes of stderr, and of what a login shell prints, that are kept to explain a failure. Guess.
_SAID: Final = 16 * 1024
_NOISE: Final = 64 * 1024
# Seconds until ssh has connected: less than ``HELLO``, so that its own words come first. Guess.
CONNECT: Final = 25
# ServerAlive: a path that is cut ends ssh after 40 s; without it TCP takes hours. Guess.
_OPTIONS: Final = (
    *("-T", "-e", "none"),
    *("-o", "BatchMode=yes", "-o", "ClearAllForwardings=yes"),
    *("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=4"),
)


def ssh_line(paths: Paths, command: str, start: str = "pln", more: Sequence[str] = ()) -> list[str]:
    """The ssh that runs ``pln COMMAND`` on the node's machine. ``PLN_SSH`` names another ssh.

    ``start``: what stands for ``pln`` in the line of the shell there. ``more``: options of ssh.
    """
    program = shlex.split(os.environ.get("PLN_SSH") or "ssh")
    *options, target = paths.ssh_words
    folder = f"--dir {shlex.quote(str(paths.home))} " if paths.is_given else ""
    wait = "-o", f"ConnectTimeout={CONNECT}"
    there = f"{start} {folder}{command}"
    return [*program, *_OPTIONS, *wait, *more, *options, "--", target, there]


class _Wish:
    """A client's socket that waits for its connection."""

    def __init__(self, opened: socket.socket, name: bytes, tries: int = 0) -> None:
        self.socket, self.name, self.tries = opened, name, tries

    def fail(self, problem: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            self.socket.sendall(FAILED + json.dumps(problem).encode())
        self.socket.close()


class _Ssh:
    """One ssh, and what it said so far."""

    def __init__(self, paths: Paths) -> None:
        self.process = subprocess.Popen(
            ssh_line(paths, "_stdio"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self.process.stdin and self.process.stdout and self.process.stderr
        self.pipes = self.process.stdout.fileno(), self.process.stdin.fileno()
        self.errors = self.process.stderr.fileno()
        os.set_blocking(self.errors, False)
        self.until = time.monotonic() + HELLO
        self.said = self.noise = b""

    def hear(self, _: int = 0) -> bool:
        """Read what it says on stderr; whether there may be more."""
        with contextlib.suppress(BlockingIOError):
            data = os.read(self.errors, _SAID)
            self.said = (self.said + data)[-_SAID:]
            return bool(data)
        return False

    def end(self) -> int | None:
        """End it; its code, None when it had to be killed."""
        assert self.process.stdin and self.process.stdout
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):
                pipe.close()
        code = None
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self.process.wait(timeout=LAST / 2)
        if code is None:
            self.process.kill()
            self.process.wait()
        while self.hear():
            pass
        assert self.process.stderr
        self.process.stderr.close()
        return code


class Tunnel:
    """The loop. ``channel`` brings sockets, each with the number of the name that it wants."""

    def __init__(self, paths: Paths, channel: socket.socket) -> None:
        self._paths, self._channel = paths, channel
        self._poll = Poll()
        self._waiting: deque[_Wish] = deque()
        self._opening: dict[int, _Wish] = {}
        self._ssh: _Ssh | None = None
        self._mux = Mux(is_caller=True)
        self._pump: Pump | None = None
        self._is_ready = self._is_leaving = False
        self._machine = ""
        self._used = self._pinged = time.monotonic()

    def run(self) -> None:
        """Serve until the clients are gone."""
        self._poll.watch(self._channel.fileno(), select.POLLIN, self._asked)
        try:
            while not self._is_leaving:
                self._step()
            end = time.monotonic() + LAST
            while self._ssh and self._is_ready and self._has_more() and time.monotonic() < end:
                self._step(0.1)
        finally:
            self._drop()

    def _has_more(self) -> bool:
        """Whether something of the clients' has not gone out, such as that they closed."""
        assert self._pump is not None
        return bool(self._mux.out) or not self._pump.is_idle

    def _step(self, seconds: float | None = None) -> None:
        now = time.monotonic()
        if self._waiting and self._ssh is None:
            self._start()
        if self._is_ready:
            self._open_all()
        if self._pump is not None:
            self._look_after(now)
        if self._pump is not None:
            self._pump.settle()
        is_starting = self._ssh is not None and not self._is_ready
        if seconds is None:
            seconds = min(PING, 1.0) if is_starting else PING
        try:
            self._poll.turn(seconds)
        except Broken:
            assert self._pump is not None
            self._pump.is_over = True
        if self._pump is not None and self._pump.is_over:
            self._broke("it ended")

    def _look_after(self, now: float) -> None:
        """Ask for signs of life, and end what gives none, or is not needed."""
        assert self._pump is not None and self._ssh is not None
        if not self._is_ready:
            if now > self._ssh.until:
                self._broke(f"it said nothing for {HELLO:.0f} s")
            return
        if not self._pump.is_idle or self._opening:
            self._used = now
        if now - self._used > IDLE:
            self._drop()
        elif now - self._pump.heard > SILENT:
            self._broke(f"nothing came for {SILENT:.0f} s")
        elif now - self._pinged >= PING:
            self._pinged = now
            self._mux.ping()

    def _asked(self, mask: int) -> None:
        """A socket came from a client; or the last client is gone."""
        try:
            data, sockets, _, _ = socket.recv_fds(self._channel, 1, 1)
        except OSError:
            data, sockets = b"", []
        if not data:
            self._is_leaving = True
            self._poll.drop(self._channel.fileno())
        for descriptor in sockets:
            opened = socket.socket(fileno=descriptor)
            self._waiting.append(_Wish(opened, NAMES[data[0] % len(NAMES)]))

    def _start(self) -> None:
        try:
            self._ssh = ssh = _Ssh(self._paths)
        except (OSError, ValueError) as error:
            title = f"ssh cannot be started: {error}"
            self._fail_all(
                diagnosis.problem("unreachable", title, "install OpenSSH, or set PLN_SSH")
            )
            return
        self._mux = Mux(is_caller=True)
        self._is_ready = False
        self._pump = Pump(self._poll, self._mux, ssh.pipes, self._told)
        # Until the magic has come its bytes are not frames.
        self._poll.watch(ssh.pipes[0], select.POLLIN, self._noise)
        self._poll.watch(ssh.errors, select.POLLIN, self._complaint)

    def _complaint(self, mask: int) -> None:
        assert self._ssh is not None
        if not self._ssh.hear(mask):
            self._poll.drop(self._ssh.errors)

    def _noise(self, mask: int) -> None:
        assert self._ssh is not None and self._pump is not None
        ssh, data = self._ssh, b""
        with contextlib.suppress(OSError):
            data = os.read(ssh.pipes[0], _NOISE)
        ssh.noise += data
        before, magic, frames = ssh.noise.partition(MAGIC)
        if magic:
            ssh.noise = before
            self._pump.listen()
            self._pump.feed(frames)
        elif not data or len(ssh.noise) > _NOISE:
            self._pump.is_over = True
            self._poll.drop(ssh.pipes[0])

    def _open_all(self) -> None:
        while self._waiting:
            wish = self._waiting[0]
            try:
                stream = self._mux.open(wish.name)
            except OverflowError as error:
                title = f"too many connections to {self._paths.place}: {error}"
                self._fail_all(diagnosis.problem("overloaded", title, "close some of them"))
                return
            self._opening[stream] = self._waiting.popleft()

    def _told(self, event: Event) -> None:
        if isinstance(event, Hello):
            self._is_ready, self._used = True, time.monotonic()
            with contextlib.suppress(ValueError, AttributeError):
                self._machine = escaped(str(json.loads(event.text).get("machine", "")))
        elif isinstance(event, Accepted):
            wish = self._opening.pop(event.stream)
            machine = self._machine.encode()[:255]
            wish.socket.setblocking(False)
            with contextlib.suppress(OSError):
                wish.socket.send(OPENED + bytes([len(machine)]) + machine)
            assert self._pump is not None
            self._pump.attach(event.stream, wish.socket)
        elif isinstance(event, Refused):
            try:
                held = json.loads(event.why or b'{"why": "busy"}')
                why, text = str(held.get("why")), str(held.get("text"))
            except (ValueError, AttributeError):
                why, text = "other", "no reason came"
            self._opening.pop(event.stream).fail(diagnosis.of_socket(self._paths, why, text))

    def _broke(self, how: str) -> None:
        """ssh is of no more use. What was not answered yet is asked once more, over the next."""
        ssh, was_ready = self._ssh, self._is_ready
        assert ssh is not None
        again = [wish for wish in self._opening.values() if wish.tries == 0 and was_ready]
        for wish in again:
            wish.tries = 1
        lost = [wish for wish in self._opening.values() if wish not in again]
        self._opening.clear()
        code = self._drop_ssh()
        noise = ssh.noise.decode(errors="replace") or how
        said = ssh.said.decode(errors="replace")
        problem = diagnosis.of_ssh(self._paths, code, said, noise)
        for wish in lost:
            wish.fail(problem)
        if not was_ready:
            self._fail_all(problem)
        self._waiting.extendleft(reversed(again))

    def _drop(self) -> None:
        self._drop_ssh()
        for wish in (*self._waiting, *self._opening.values()):
            wish.socket.close()
        self._waiting.clear()
        self._opening.clear()

    def _drop_ssh(self) -> int | None:
        if self._pump is not None:
            self._pump.close()
        ssh, self._ssh, self._pump, self._is_ready = self._ssh, None, None, False
        if ssh is None:
            return None
        self._poll.drop(ssh.errors)
        return ssh.end()

    def _fail_all(self, problem: dict[str, object]) -> None:
        while self._waiting:
            self._waiting.popleft().fail(problem)


def main() -> None:
    """``HOST FOLDER``, an empty folder for the machine's own; fd 0 is the channel."""
    host, folder = sys.argv[-2:]
    paths = Paths(Path(folder or "~/.pln"), host=host, is_given=bool(folder))
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    Tunnel(paths, channel).run()


if __name__ == "__main__":
    main()
