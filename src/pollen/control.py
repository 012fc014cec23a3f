"""A client of the control API: one request, one connection, blocking, over the node's unix socket.

Used by the CLI and the SDK. The routes and shapes are those of docs/internals/control-api.md.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from pollen.errors import BadRequest, Unreachable, error_from_dict
from pollen.runtime.paths import Paths

# Publishing waits for the module to be checked and the record to be on disk.
_TIMEOUT = 60.0
_MAX_MODULE = 32 * 1024 * 1024


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class Control:
    """The control API of the node whose folder ``paths`` names."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths

    def get(self, path: str) -> dict[str, Any]:
        """The decoded answer. Raises the typed error of a refusal, ``daemon-not-running``."""
        return self.request("GET", path)

    def request(
        self, method: str, path: str, body: object = None, timeout: float = _TIMEOUT
    ) -> dict[str, Any]:
        """One exchange with a JSON body; the decoded answer. ``timeout`` in seconds."""
        encoded = None if body is None else msgspec.json.encode(body)
        raw = self._exchange(str(self._paths.control_socket), method, path, encoded, timeout)
        answer = msgspec.json.decode(raw)
        assert isinstance(answer, dict)
        return answer

    def text(self, path: str) -> str:
        """The text of an answer that is not JSON."""
        return self._exchange(str(self._paths.control_socket), "GET", path, None).decode()

    def lines(self, path: str) -> Iterator[bytes]:
        """The lines of an answer that may go on; closing the iterator ends the request."""
        connection = _UnixConnection(str(self._paths.control_socket), None)
        try:
            response = self._send(connection, "GET", path, None)
            while line := response.readline():
                yield line
        finally:
            connection.close()

    def upload(self, data: bytes) -> str:
        """Hand content to the node; its hex id. The bytes go to the muscles, not to the brain."""
        raw = self._exchange(str(self._paths.call_socket), "PUT", "/content", data)
        content = msgspec.json.decode(raw)["content"]
        assert isinstance(content, str)
        return content

    def publish(
        self, source: str | os.PathLike[str], name: str, options: dict[str, Any]
    ) -> dict[str, Any]:
        """Upload a module file and publish it under a name; ``options`` as ``SeedOptions``."""
        data = read_module(Path(source))
        take_over = bool(options.pop("take_over", False))
        body = {
            "name": name,
            "content": self.upload(data),
            "take_over": take_over,
            "options": options,
        }
        return self.request("POST", "/v1/seeds", body)

    def withdraw(self, target: str) -> dict[str, Any]:
        """Withdraw a seed by name or hash."""
        return self.request("DELETE", f"/v1/seeds/{quote(target, safe='')}")

    def _exchange(
        self, path: str, method: str, url: str, body: bytes | None, timeout: float = _TIMEOUT
    ) -> bytes:
        connection = _UnixConnection(path, timeout)
        try:
            return self._send(connection, method, url, body).read()
        finally:
            connection.close()

    def _send(
        self, connection: _UnixConnection, method: str, url: str, body: bytes | None
    ) -> http.client.HTTPResponse:
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            connection.request(method, url, body, headers)
            response = connection.getresponse()
        except (FileNotFoundError, ConnectionRefusedError):
            reason = f"no daemon answers in {self._paths.home}"
            raise Unreachable(
                "daemon-not-running", reason, "start it with: pln up -d", may_have_executed=False
            ) from None
        except PermissionError:
            reason = f"the daemon in {self._paths.home} belongs to somebody else"
            remedy = "run as its owner, or name your own folder with --dir"
            raise Unreachable("unreachable", reason, remedy, may_have_executed=False) from None
        except (OSError, http.client.HTTPException) as error:
            reason = f"the daemon in {self._paths.home} broke off: {error!r}"
            raise Unreachable(
                "unreachable", reason, "look at: pln logs", may_have_executed=True
            ) from None
        if response.status >= 400:
            raise error_from_dict(_problem(response.read(), response.status))
        return response


def _problem(raw: bytes, status: int) -> dict[str, object]:
    try:
        body = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        body = None
    if isinstance(body, dict):
        return body
    return {"slug": "internal", "title": f"the daemon answered {status} without saying why"}


def read_module(path: Path) -> bytes:
    """A module file's bytes. Raises ``bad-request`` when there is none or it is too large."""
    try:
        size = path.stat().st_size
        if size > _MAX_MODULE:
            reason = f"{path} is {size} bytes; a module may have {_MAX_MODULE}"
            raise BadRequest("module-invalid", reason, "build it with -Os, strip debug sections")
        return path.read_bytes()
    except OSError as error:
        reason = f"{path} cannot be read: {error.strerror}"
        raise BadRequest("bad-request", reason, "name a .wasm file") from None
