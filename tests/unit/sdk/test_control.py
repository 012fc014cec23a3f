"""A control API that answers out of all bounds: nothing of it stays in memory, and nobody waits."""

from __future__ import annotations

import contextlib
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pollen.errors import PollenError, Unreachable
from pollen.paths import Paths
from pollen.sdk import control
from pollen.sdk.control import Control

HEAD = b"HTTP/1.0 200 OK\r\n"
# Far more than the limit that a test sets.
MUCH = 64
LIMIT = 1 << 20
# Seconds that a piece after the other comes for, at most.
STOPS = 3.0


class Hostile:
    """A node's control socket that answers each question with the same pieces."""

    def __init__(self, home: Path) -> None:
        self.paths = Paths(home)
        self.pieces: Iterator[bytes] = iter(())
        self.sent = 0
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.bind(str(self.paths.control_socket))
        self.socket.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.socket.accept()
                with contextlib.suppress(OSError), connection:
                    connection.recv(65_536)
                    for piece in self.pieces:
                        connection.sendall(piece)
                        self.sent += len(piece)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    for name in ("_BODY_MAX", "_LINE_MAX"):
        monkeypatch.setattr(control, name, LIMIT, raising=False)
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        made = Hostile(Path(folder))
        yield made
        made.socket.shutdown(socket.SHUT_RDWR)
        made.socket.close()


def test_an_answer_that_never_pauses_ends_with_the_time_of_the_question(node: Hostile) -> None:
    """The next piece is always there already, so that nothing is ever waited for."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"x" * 10)
        line = control._Line(node.paths, ours, "", timeout=0.2)
        end = time.monotonic() + STOPS
        with pytest.raises(TimeoutError):
            while time.monotonic() < end:
                theirs.sendall(b"x")
                line.readinto(bytearray(1))


@pytest.mark.parametrize(
    "start",
    [HEAD + b"\r\n", b"HTTP/1.0 500 No\r\n\r\n"],
    ids=["an answer", "a refusal"],
)
def test_a_body_without_a_length_has_a_limit(node: Hostile, start: bytes) -> None:
    node.pieces = iter([start, *[b"x" * LIMIT] * MUCH])
    with pytest.raises(PollenError, match="more than") as error:
        Control(node.paths).get("/v1/status")
    assert error.value.slug == "unreachable" and node.sent < MUCH * LIMIT // 2


@pytest.mark.parametrize("length", [LIMIT + 1, 1 << 50, 1 << 80, -1])
def test_a_length_that_cannot_be_is_refused_before_it_is_read(node: Hostile, length: int) -> None:
    node.pieces = iter([HEAD + f"Content-Length: {length}\r\n\r\n".encode()])
    with pytest.raises(Unreachable, match="Content-Length"):
        Control(node.paths).get("/v1/status")


def test_head_lines_have_an_end(node: Hostile) -> None:
    node.pieces = iter([HEAD, *[b"X: y\r\n" * 1_000] * 1_000, b"\r\n{}"])
    with pytest.raises(Unreachable, match="head"):
        Control(node.paths).get("/v1/status")


def test_a_line_of_a_log_has_a_limit(node: Hostile) -> None:
    node.pieces = iter([HEAD + b"\r\nfirst\n", *[b"x" * LIMIT] * MUCH])
    lines = Control(node.paths).lines("/v1/logs")
    assert next(lines) == b"first\n"
    with pytest.raises(Unreachable, match="line"):
        next(lines)
    assert node.sent < MUCH * LIMIT // 2


@pytest.mark.parametrize("head", [b"", f"Content-Length: {LIMIT}\r\n".encode()])
def test_a_body_at_the_limit_comes_whole(node: Hostile, head: bytes) -> None:
    body = b'{"x": "' + b"y" * (LIMIT - 9) + b'"}'
    node.pieces = iter([HEAD + head + b"\r\n", body])
    assert len(Control(node.paths).get("/v1/status")["x"]) == LIMIT - 9
