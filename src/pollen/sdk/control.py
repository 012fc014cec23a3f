"""A client of the control API: one request, one connection, blocking, over the node's unix socket.

The node may be another machine's (``far``).

Used by the CLI and the SDK. The routes and shapes are those of docs/internals/control-api.md.
HTTP/1.0 by hand: the answer then ends with the connection and is never chunked. Refused:
``http.client``, whose imports (email, ssl) cost a command of ours a fifth of its time.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import select
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from pollen.errors import BadRequest, PollenError, Unreachable, error_from_dict
from pollen.paths import OWNER_REMEDY, Paths
from pollen.sizes import MODULE_MAX_BYTES

# Publishing waits for the module to be checked and the record to be on disk. A daemon that is
# silent is given up much sooner (``pollen.sdk.silence``).
_TIMEOUT = 60.0
# A connection is taken at once, unless the daemon's queue of them is full.
_WORD_SECONDS = 1.0
_CONNECT_PAUSE = 0.05
# What an answer may have, whoever gives it: a line of its head and so many of them, the bytes of a
# body, and those of a log's line. Guesses: the largest of real answers are a tenth of these.
_MAX_LINE = 64 * 1024
_HEAD_LINES = 100
_BODY_MAX = 64 << 20
_BLOB_MAX = 1 << 60
# How slowly a file may go to the node, bytes a second. Guess: a disk of a small board.
_LEAST_BYTES_S = 1 << 20
_LINE_MAX = 4 << 20
_PIECE = 64 * 1024
# Of a body, so much goes into the packet of its head.
_WITH_HEAD = 4 * 1024


# Who is told, once, that this process waits for a silent daemon: the command line's terminal.
listeners: list[Callable[[str], None]] = []


class Control:
    """The control API of the node whose folder ``paths`` names."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def get(self, path: str, timeout: float = _TIMEOUT) -> dict[str, Any]:
        """The decoded answer. Raises the typed error of a refusal, ``daemon-not-running`` when
        there is no daemon, ``daemon-not-answering`` when it is silent for five seconds."""
        return self.request("GET", path, timeout=timeout)

    def request(
        self, method: str, path: str, body: object = None, timeout: float = _TIMEOUT
    ) -> dict[str, Any]:
        """One exchange with a JSON body; the decoded answer. ``timeout`` in seconds."""
        encoded = b"" if body is None else json.dumps(body).encode()
        answer = self._decoded(self._exchange(self._control, method, path, encoded, timeout))
        if not isinstance(answer, dict):
            raise self._broken(f"it answered {type(answer).__name__}")
        return answer

    @contextlib.contextmanager
    def held(
        self, method: str, path: str, body: object
    ) -> Iterator[tuple[dict[str, Any], socket.socket]]:
        """An answer of one line whose request goes on until this is left. The socket has something
        to read when the node has ended it."""
        encoded = json.dumps(body).encode()
        with self._line(self._control, _TIMEOUT, method) as line:
            _send(line, method, path, encoded)
            with io.BufferedReader(line) as answer:
                head = _read_head(answer)
                if head.status >= 400:
                    raise error_from_dict(_problem(_rest(answer, head.length), head.status))
                yield self._decoded(answer.readline(_LINE_MAX)), line.socket

    def text(self, path: str) -> str:
        """The text of an answer that is not JSON."""
        return self._exchange(self._control, "GET", path, b"").decode()

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of an answer that may go on; closing the iterator ends the request."""
        with self._asked(self._control, "GET", path, b"", None) as (answer, _):
            while line := answer.readline(_LINE_MAX + 1):
                if len(line) > _LINE_MAX:
                    raise self._broken(f"a line has more than {_LINE_MAX} bytes")
                yield line

    def upload(self, data: bytes, *, for_anybody: bool = False) -> str:
        """Hand content to the node; its hex id. The bytes go to the muscles, not to the brain.

        ``for_anybody``: the node gives it away for the specs of all, and not for its own alone.
        """
        target = "/content?for=anybody" if for_anybody else "/content"
        raw = self._exchange(str(self._paths.call_socket), "PUT", target, data)
        content = self._decoded(raw)["content"]
        assert isinstance(content, str)
        return content

    def publish(
        self, source: str | os.PathLike[str], name: str, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Upload a module file and publish it under a name; ``options`` as ``SeedOptions``.

        What would be refused whatever the module is refused before the module is sent.
        """
        data = read_module(Path(source))
        wish = self.check(name, options)
        return self.request("POST", "/v1/seeds", {**wish, "content": self.upload(data)})

    def check(self, name: str, options: dict[str, Any]) -> dict[str, Any]:
        """What to publish as the node takes it; refused now if it would be whatever the module. Of
        what is to be sealed with the ids of its ``recipients``."""
        wish = _wish_of(name, options)
        checked = self.request("POST", "/v1/seeds/check", wish)
        # A node of an older version knows no such field.
        if recipients := checked.get("recipients"):
            wish["recipients"] = recipients
        return wish

    def reseal(self, name: str, recipients: list[str], size: int) -> str:
        """Have the node seal anew what it sealed under a name, ``size`` bytes, for these nodes; the
        hex id. Raises ``seed-not-found``, ``denied``, ``bad-request`` for what is not sealed."""
        from urllib.parse import quote

        timeout, target = (
            _TIMEOUT + size / _LEAST_BYTES_S,
            f"/content?reseal={quote(name, safe='')}",
        )
        with self._line(str(self._paths.call_socket), timeout, "PUT") as line:
            line.sendall(_head("PUT", target, 0, recipients))
            return Sending(self, line, io.BytesIO(), 0).answer()

    def left_out(self, name: str, options: dict[str, Any]) -> list[str]:
        """The flags of the version that counts which an update with these options would drop."""
        checked = self.request("POST", "/v1/seeds/check", _wish_of(name, options))
        return list(checked.get("left_out", ()))

    def wait_ready(
        self, name: str, seed: str = "", seconds: float = 10.0, rest: float = 0.0
    ) -> dict[str, Any]:
        """``SeedState`` of a name when it is ready where it is wanted, or when the time is over.

        ``seed`` is the version that is waited for, in hex; with another one the wait ends at once.
        ``rest``: seconds for the other nodes once one is ready; 0 waits for all.
        """
        from urllib.parse import quote

        wait_ms = int(seconds * 1_000)
        query = f"wait=ready&seed={quote(seed, safe='')}&timeout_ms={wait_ms}"
        # A node of before takes no such word.
        query += f"&rest_ms={int(rest * 1_000)}" if rest else ""
        return self.get(f"/v1/seeds/{quote(name, safe='')}?{query}", timeout=seconds + _TIMEOUT)

    def withdraw(self, target: str) -> dict[str, Any]:
        """Withdraw a seed by name or hash."""
        from urllib.parse import quote

        return self.request("DELETE", f"/v1/seeds/{quote(target, safe='')}")

    def versions(self, name: str) -> dict[str, Any]:
        """``VersionList`` of a name."""
        from urllib.parse import quote

        return self.get(f"/v1/versions/{quote(name, safe='')}")

    def rollback(self, name: str, version: str = "") -> dict[str, Any]:
        """Publish a former version of a name again, the one before by default; ``Seeded``."""
        return self.request("POST", "/v1/rollbacks", {"target": name, "version": version})

    def pin(self, name: str, *, is_pinned: bool = True) -> dict[str, Any]:
        """Keep a copy of what a name leads to on the node, or no more; ``Pinned``."""
        return self.request("POST", "/v1/pins", {"target": name, "is_pinned": is_pinned})

    @contextlib.contextmanager
    def sending(
        self, file: BinaryIO, size: int, recipients: Sequence[str] = ()
    ) -> Iterator[Sending]:
        """A request that hands a file to the node (``PUT /content``), which seals it for the
        ``recipients`` if there are any: its head was sent, and the body goes by ``Sending.send``,
        from the file to the socket within the kernel."""
        timeout = _TIMEOUT + size / _LEAST_BYTES_S
        with self._line(str(self._paths.call_socket), timeout) as line:
            line.sendall(_head("PUT", "/content", size, recipients))
            yield Sending(self, line, file, size)

    @contextlib.contextmanager
    def reading(self, path: str) -> Iterator[tuple[BinaryIO, int, str]]:
        """The body of a large answer of the door, to be read, its length and its media type."""
        with self._line(str(self._paths.call_socket), None) as line:
            line.sendall(_head("GET", path, 0))
            with io.BufferedReader(line, _PIECE) as answer:
                head = _read_head(answer, _BLOB_MAX)
                status, length = head.status, head.length
                if status >= 400:
                    raise error_from_dict(_problem(_rest(answer, length), status))
                line.is_watched = False
                yield answer, length, head.media

    @property
    def _control(self) -> str:
        return str(self._paths.control_socket)

    def _decoded(self, raw: bytes) -> Any:
        try:
            return json.loads(raw)
        except ValueError as error:
            raise self._broken(f"its answer is not JSON: {error}") from None

    def _exchange(
        self, path: str, method: str, target: str, body: bytes, timeout: float = _TIMEOUT
    ) -> bytes:
        with self._asked(path, method, target, body, timeout) as (answer, length):
            raw = _rest(answer, length)
        if len(raw) < length:
            raise self._broken(f"{len(raw)} of {length} bytes came")
        return raw

    @contextlib.contextmanager
    def _asked(
        self, path: str, method: str, target: str, body: bytes, timeout: float | None
    ) -> Iterator[tuple[BinaryIO, int]]:
        """The answer's body, to be read, and its length as announced; a refusal is raised."""
        with self._line(path, timeout, method) as line:
            _send(line, method, target, body)
            with io.BufferedReader(line) as answer:
                head = _read_head(answer)
                status, length = head.status, head.length
                if status >= 400:
                    raise error_from_dict(_problem(_rest(answer, length), status))
                # What goes on, as a log does, may be silent for good reasons.
                line.is_watched = timeout is not None
                yield answer, length

    @contextlib.contextmanager
    def _line(self, path: str, timeout: float | None, method: str = "GET") -> Iterator[_Line]:
        """A connection; what goes wrong on it is raised as a typed error."""
        with _socket(self._paths, path, timeout) as connection:
            line = _Line(self._paths, connection, path, timeout)
            try:
                line.connect()
                yield line
            except (FileNotFoundError, ConnectionRefusedError):
                raise self._nobody() from None
            except PermissionError:
                raise not_ours(self._paths) from None
            except (OSError, ValueError) as error:
                raise self._broken(str(error) or repr(error), method) from None

    def _nobody(self) -> PollenError:
        reason = f"no daemon answers in {self._paths.place}"
        remedy = f"start it with: {self._paths.command('up -d')}"
        return Unreachable("daemon-not-running", reason, remedy, may_have_executed=False)

    def _broken(self, why: str, method: str = "GET") -> PollenError:
        reason = f"the daemon in {self._paths.place} broke off: {why}"
        remedy = "look at: pln logs"
        if method != "GET":
            remedy = f"what was asked may have been done: pln status\n{remedy}"
        return Unreachable("unreachable", reason, remedy, may_have_executed=False)


def not_ours(paths: Paths) -> Unreachable:
    """The error of a socket that this user may not open."""
    reason = f"the daemon in {paths.place} belongs to somebody else"
    return Unreachable("unreachable", reason, OWNER_REMEDY, may_have_executed=False)


def _socket(paths: Paths, address: str, timeout: float | None) -> socket.socket:
    """A socket for ``address``, connected already when that is another machine's."""
    if paths.host:
        from pollen.sdk import far

        return far.opened(paths, address, min(far.PATIENCE, timeout or math.inf))
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)


class Sending:
    """A file on its way to the node."""

    def __init__(self, control: Control, line: _Line, file: BinaryIO, size: int) -> None:
        self._control, self._line, self._file, self._size = control, line, file, size
        self.sent = 0

    def send(self, most: int) -> int:
        """Send up to so many bytes more; 0 when all was sent, the file is shorter than it was, or
        the node answered before the end."""
        most = min(most, self._size - self.sent)
        if not most:
            return 0
        try:
            sent = self._line.send_file(self._file.fileno(), self.sent, most)
        except (BrokenPipeError, ConnectionResetError):
            return 0
        self.sent += sent
        return sent

    def answer(self) -> str:
        """The id of what was sent, in hex. Raises the typed error of a refusal."""
        with io.BufferedReader(self._line) as answer:
            head = _read_head(answer)
            status, length = head.status, head.length
            raw = _rest(answer, length)
        if status >= 400:
            raise error_from_dict(_problem(raw, status))
        return str(self._control._decoded(raw)["content"])


class _Line(io.RawIOBase):
    """One connection to the daemon, which notices when nobody is at the other end."""

    def __init__(
        self, paths: Paths, connection: socket.socket, address: str, timeout: float | None
    ) -> None:
        self._paths = paths
        self._socket = connection
        self._address = address
        self._until = time.monotonic() + (math.inf if timeout is None else timeout)
        self.is_watched = True
        connection.setblocking(False)

    def connect(self) -> None:
        """Connect, unless it is. Raises ``OSError``, ``daemon-not-answering``."""
        if self._paths.host:
            return
        began = time.monotonic()
        while (code := self._socket.connect_ex(self._address)) == errno.EAGAIN:
            from pollen.sdk import silence

            waited = time.monotonic() - began
            if waited > silence.SILENT_SECONDS or time.monotonic() > self._until:
                raise silence.not_answering(self._paths, waited)
            if waited > silence.WORD_SECONDS:
                silence.say_waiting(self._paths)
            time.sleep(_CONNECT_PAUSE)
        if code:
            raise OSError(code, os.strerror(code))

    @property
    def socket(self) -> socket.socket:
        """The connection's."""
        return self._socket

    def sendall(self, data: bytes | memoryview) -> None:
        """Send all of it. Raises ``OSError``, ``daemon-not-answering``."""
        held = memoryview(data)
        while held:
            try:
                held = held[self._socket.send(held) :]
            except BlockingIOError:
                self._await(select.POLLOUT)

    def send_file(self, file: int, offset: int, most: int) -> int:
        """Send some bytes of a file, within the kernel; how many went, 0 at its end. Raises
        ``OSError``, ``daemon-not-answering``."""
        while True:
            try:
                return os.sendfile(self._socket.fileno(), file, offset, most)
            except BlockingIOError:
                self._await(select.POLLOUT)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while True:
            if time.monotonic() >= self._until:
                # Also while the next piece is always there: nothing would be waited for.
                raise TimeoutError("timed out")
            try:
                return self._socket.recv_into(buffer)
            except BlockingIOError:
                self._await(select.POLLIN)

    def _await(self, events: int) -> None:
        left = self._until - time.monotonic()
        poll = select.poll()
        poll.register(self._socket, events)
        if not self.is_watched:
            poll.poll()
        elif not poll.poll(max(0.0, min(left, _WORD_SECONDS)) * 1000):
            from pollen.sdk import silence

            silence.wait(self._paths, self._address, self._socket, events, self._until)


def _wish_of(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """What ``check`` and ``publish`` send."""
    return {
        "name": name,
        "take_over": bool(options.get("take_over", False)),
        "options": {key: value for key, value in options.items() if key != "take_over"},
    }


def _head(method: str, target: str, length: int, recipients: Sequence[str] = ()) -> bytes:
    head = f"{method} {target} HTTP/1.0\r\nHost: localhost\r\n"
    if recipients:
        head += f"Pollen-Recipients: {','.join(recipients)}\r\n"
    if length or method in ("POST", "PUT"):
        head += f"Content-Type: application/json\r\nContent-Length: {length}\r\n"
    return head.encode() + b"\r\n"


def _send(connection: _Line, method: str, target: str, body: bytes) -> None:
    # Whoever refuses a body may answer and close before it read all of it: the answer counts.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.sendall(_head(method, target, len(body)) + body[:_WITH_HEAD])
        # A large body is sent as it is: joined to the head it would be in memory twice.
        connection.sendall(memoryview(body)[_WITH_HEAD:])


class _Head(NamedTuple):
    """What an answer begins with; a length of 0 is one to the end."""

    status: int
    length: int
    media: str


def _read_head(answer: BinaryIO, most: int = 0) -> _Head:
    """Raises ``ValueError`` when it is not HTTP, or out of bounds: over ``most``, or over what any
    answer but a file may have."""
    most = most or _BODY_MAX
    version, _, rest = answer.readline(_MAX_LINE).partition(b" ")
    if not version.startswith(b"HTTP/1."):
        raise ValueError("it closed the connection without an answer")
    length, media = 0, ""
    for _ in range(_HEAD_LINES):
        if (line := answer.readline(_MAX_LINE).strip()) == b"":
            return _Head(int(rest[:3]), length, media)
        name, _, value = line.partition(b":")
        if name.lower() == b"content-type":
            media = value.strip().decode("ascii", "replace")
        if name.lower() == b"content-length":
            length = int(value)
            if not 0 <= length <= most:
                raise ValueError(f"its Content-Length is {length}, and {most} is the most")
    raise ValueError(f"the head of its answer has more than {_HEAD_LINES} lines")


def _rest(answer: BinaryIO, length: int) -> bytes:
    """The body, and no byte more: behind the answer to a request that was refused before it was
    read there is a reset. Raises ``ValueError`` when it is out of bounds."""
    if not length:
        raw = _some(answer, _BODY_MAX + 1)
        if len(raw) > _BODY_MAX:
            raise ValueError(f"its answer has more than {_BODY_MAX} bytes")
        return raw
    return _some(answer, length)


def _some(answer: BinaryIO, most: int) -> bytes:
    """So many bytes, or those until the end; room is made only for what comes."""
    raw = bytearray()
    while data := answer.read(min(_PIECE, most - len(raw))):
        raw += data
    return bytes(raw)


def _problem(raw: bytes, status: int) -> dict[str, object]:
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    if isinstance(body, dict):
        return body
    return {"slug": "internal", "title": f"the daemon answered {status} without saying why"}


def read_module(path: Path) -> bytes:
    """A module file's bytes. Raises ``bad-request`` when there is none or it is too large."""
    try:
        size = path.stat().st_size
        if size > MODULE_MAX_BYTES:
            most = f"{MODULE_MAX_BYTES >> 20} MiB"
            reason = f"{path} is {size} bytes; a module may have {most}"
            raise BadRequest("module-invalid", reason, "build it with -Os, strip debug sections")
        return path.read_bytes()
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}"
        raise BadRequest("bad-request", reason, "name a .wasm file") from None
