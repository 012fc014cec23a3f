"""The process beside a client, with a program in the place of ssh: when it starts and ends one."""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pollen
from pollen.errors import PollenError, Unreachable
from pollen.sdk import far, hosts, silence, stdio, tunnel
from pollen.sdk.mux import MAGIC, Accepted, Refused
from pollen.sdk.tunnel import Tunnel

WITHIN = 10.0
# Runs what it was told to run there, here; each start leaves a line.
SSH = """#!/bin/sh
echo started >> {folder}/starts
for line; do :; done
{first}
PYTHONPATH={source} exec {python} -c '
import sys
from pathlib import Path
from pollen.paths import Paths
from pollen.sdk import stdio
stdio.serve(Paths(Path(sys.argv[1])))
' {folder}
"""


HELLO = "printf '\\000pln-desk/1\\n\\001\\000\\000\\000\\000\\000\\000\\000\\002{}'; "


# Until the near end has asked for the first connection, and the answer.
OPENED = f"head -c 21 > {os.devnull};"
ACCEPT = b"\3\0\0\0\1\0\0\0\0"


class Place:
    """A folder with a socket that answers each line, and a tunnel to it in a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = hosts.parse("me@pi")
        self.ssh = folder / "ssh"
        self.say("")
        self.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.server.bind(str(folder / "control.sock"))
        self.server.listen()
        threading.Thread(target=self._serve, daemon=True).start()
        self.channel, theirs = socket.socketpair()
        self.tunnel = Tunnel(self.paths, theirs)
        self.thread = threading.Thread(target=self.tunnel.run, daemon=True)
        self.theirs = theirs

    def say(self, first: str) -> None:
        """What the program in ssh's place does before it is the far end."""
        source = Path(pollen.__file__).parents[1]
        text = SSH.format(folder=self.folder, first=first, source=source, python=sys.executable)
        self.ssh.write_text(text)
        self.ssh.chmod(0o755)

    def _serve(self) -> None:
        while True:
            try:
                one, _ = self.server.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(one,), daemon=True).start()

    def _echo(self, one: socket.socket) -> None:
        with one:
            while data := one.recv(65_536):
                one.sendall(data.upper())

    @property
    def starts(self) -> int:
        path = self.folder / "starts"
        return len(path.read_text().splitlines()) if path.exists() else 0

    def open(self, name: int = 0) -> socket.socket:
        """A connected socket, as ``far`` makes one; raises its errors."""
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self.channel, [bytes([name])], [theirs.fileno()])
        try:
            far._greeting(self.paths, ours, time.monotonic() + WITHIN)
        except BaseException:
            ours.close()
            raise
        ours.settimeout(WITHIN)
        return ours

    def ask(self, text: bytes = b"hi") -> bytes:
        with self.open() as line:
            line.sendall(text)
            return line.recv(100)

    def close(self) -> None:
        self.channel.close()
        self.thread.join(WITHIN)
        assert not self.thread.is_alive(), "the tunnel goes on without its client"
        self.server.close()
        self.theirs.close()


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        made = Place(Path(folder))
        monkeypatch.setenv("PLN_SSH", str(made.ssh))
        made.thread.start()
        yield made
        made.close()


def until(is_so: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + WITHIN
    while not is_so():
        assert time.monotonic() < end, what
        time.sleep(0.02)


def test_the_first_connection_starts_ssh_and_the_second_one_shares_it(place: Place) -> None:
    assert place.starts == 0
    assert place.ask() == b"HI" and place.ask(b"again") == b"AGAIN"
    assert place.starts == 1


def test_an_ssh_that_nobody_uses_ends_and_the_next_connection_starts_one(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "IDLE", 0.2)
    monkeypatch.setattr(tunnel, "PING", 0.05)
    line, end = place.open(), time.monotonic() + 3 * tunnel.IDLE
    while time.monotonic() < end:
        assert place.tunnel._ssh is not None, "an ssh with a connection ended"
    line.sendall(b"held")
    assert line.recv(10) == b"HELD"
    line.close()
    until(lambda: place.tunnel._ssh is None, "the ssh of nobody goes on")
    assert place.ask() == b"HI" and place.starts == 2


def test_an_ssh_that_never_speaks_is_an_error_with_what_it_said(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "HELLO", 0.3)
    monkeypatch.setattr(tunnel, "LAST", 0.2)
    place.say("echo 'a banner' >&2; exec sleep 60")
    with pytest.raises(Unreachable, match="a banner"):
        place.open()
    place.say("")
    assert place.ask() == b"HI"


def test_an_ssh_that_falls_silent_is_replaced(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its connections end; what was asked for and not answered goes over the next one."""
    monkeypatch.setattr(tunnel, "SILENT", 0.4)
    monkeypatch.setattr(tunnel, "LAST", 0.2)
    monkeypatch.setattr(tunnel, "PING", 0.05)
    place.say(f"[ $(wc -l < {place.folder}/starts) = 1 ] && {{ {HELLO} exec sleep 60; }}")
    assert place.ask() == b"HI"
    assert place.starts == 2


def test_nonsense_in_place_of_frames_is_an_error(place: Place) -> None:
    place.say("printf '\\000pln-desk/1\\n\\377\\000\\000\\000\\001\\000\\000\\000\\000'; sleep 60")
    with pytest.raises(Unreachable):
        place.open()


def test_nonsense_after_a_good_start_ends_the_connections_and_not_the_tunnel(place: Place) -> None:
    (place.folder / "nonsense").write_bytes(b"\xff\0\0\0\1\0\0\0\0")
    (place.folder / "accept").write_bytes(ACCEPT)
    steps = f"{HELLO} {OPENED} cat {place.folder}/accept; head -c 10 > {os.devnull};"
    steps += f" cat {place.folder}/nonsense; exec sleep 60"
    place.say(f"if [ $(wc -l < {place.folder}/starts) = 1 ]; then {steps}; fi")
    with place.open() as line:
        line.sendall(b"x")
        assert line.recv(10) == b""
    assert place.ask() == b"HI" and place.starts == 2


@pytest.mark.parametrize("about", [json.dumps({"machine": "é" * 300}), "[]", "nonsense"])
def test_whatever_a_machine_says_of_itself_the_connection_begins_behind_it(
    place: Place, about: str
) -> None:
    end = tunnel.Mux(is_caller=False)
    end.hello(about.replace("\\u00e9", "é").encode())
    (place.folder / "hello").write_bytes(end.out)
    (place.folder / "accept").write_bytes(ACCEPT + b"\5\0\0\0\1\0\0\0\5first")
    said = f"cat {place.folder}/hello; {OPENED} cat {place.folder}/accept"
    place.say(f"{said}; exec sleep 60")
    with place.open() as line:
        assert line.recv(10) == b"first"


def test_a_shell_that_prints_without_end_is_an_error(place: Place) -> None:
    place.say("exec yes login")
    with pytest.raises(Unreachable, match="failed: login"):
        place.open()


def test_a_socket_that_is_not_there_is_told_by_the_far_end(place: Place) -> None:
    with pytest.raises(PollenError) as error:
        place.open(1)
    assert error.value.slug == "daemon-not-running"


def test_what_was_written_last_goes_out_after_the_client_is_gone(place: Place) -> None:
    """Such as the end of a load, by a command that ends with it."""
    heard: list[bytes] = []
    place.server.close()
    (place.folder / "control.sock").unlink()
    place.server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    place.server.bind(str(place.folder / "control.sock"))
    place.server.listen()
    line = place.open()
    one, _ = place.server.accept()
    line.sendall(b"x" * 100_000)
    line.close()
    place.channel.close()
    with one:
        one.settimeout(WITHIN)
        while data := one.recv(65_536):
            heard.append(data)
    assert b"".join(heard) == b"x" * 100_000


def test_the_far_end_opens_the_two_sockets_of_a_client_and_no_other(place: Place) -> None:
    """Not the store, the keys, or a path that leaves the folder."""
    assert stdio.NAMES == (b"control.sock", b"call.sock")
    there, back = os.pipe(), os.pipe()
    (place.folder / "other.sock").symlink_to(place.folder / "control.sock")
    threading.Thread(
        target=stdio.serve, args=(hosts.resolve(str(place.folder)), there[0], back[1]), daemon=True
    ).start()
    ask = tunnel.Mux(is_caller=True)
    for name in (b"other.sock", b"../x/control.sock", b"", b"\0"):
        ask.open(name)
    os.write(there[1], bytes(ask.out))
    heard = b""
    while heard.count(b'"why"') < 4:
        heard += os.read(back[0], 65_536)
    assert heard.count(json.dumps({"why": "other", "text": "no socket of a node"}).encode()) == 4
    os.close(there[1])
    for descriptor in (there[0], *back):
        os.close(descriptor)


def test_a_full_queue_of_connections_is_waited_for_as_it_is_here(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """First it is emptied in time, then it is not: ``busy`` is the answer of the second alone."""
    monkeypatch.setattr(silence, "SILENT_SECONDS", 1.0)
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(f"{folder}/control.sock")
        server.listen(0)
        there, back = os.pipe(), os.pipe()
        far_end = hosts.resolve(folder), there[0], back[1]
        threading.Thread(target=stdio.serve, args=far_end, daemon=True).start()
        ask, told = tunnel.Mux(is_caller=True), list[object]()
        held = list[socket.socket]()
        for is_emptied in (True, False):
            held.extend(filled(server))
            ask.open(b"control.sock")
            os.write(there[1], bytes(ask.out))
            ask.out.clear()
            if is_emptied:
                threading.Timer(0.3, lambda: held.append(server.accept()[0])).start()
            wanted = len(told) + 1
            while len(told) < wanted:
                told += events_of(ask, os.read(back[0], 65_536))
        assert isinstance(told[0], Accepted), told
        assert isinstance(told[1], Refused) and b'"busy"' in (told[1].why or b""), told
        os.close(there[1])
        for descriptor in (there[0], *back):
            os.close(descriptor)
        for line in (*held, server):
            line.close()


def filled(server: socket.socket) -> list[socket.socket]:
    """Connections that fill the queue of a server."""
    held = []
    while True:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        one.setblocking(False)
        if one.connect_ex(server.getsockname()):
            one.close()
            return held
        held.append(one)


def events_of(ask: tunnel.Mux, heard: bytes) -> list[object]:
    """What the far end answered, without its hello."""
    heard = heard.split(MAGIC, 1)[-1]
    return [event for event in ask.receive(heard) if isinstance(event, Accepted | Refused)]
