"""The accept loop of the control socket and the metrics page: no files, and too many clients."""

from __future__ import annotations

import asyncio
import errno
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from pollen.runtime.control import accept
from pollen.runtime.control.accept import Acceptor
from pollen.runtime.control.server import bind_control
from pollen.testing import until


class Greeter(asyncio.Protocol):
    """Says hello, and is counted while it lasts."""

    inside = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        Greeter.inside += 1
        transport.write(b"hello")

    def connection_lost(self, exc: Exception | None) -> None:
        Greeter.inside -= 1


class Scarce:
    """A listener of a process that has no files for a while."""

    def __init__(self, listener: socket.socket, failures: int) -> None:
        self._listener = listener
        self.failures = failures
        self.tries = 0

    def fileno(self) -> int:
        """Of the real one."""
        return self._listener.fileno()

    def accept(self) -> Any:
        """Fails so often, then accepts."""
        self.tries += 1
        if self.tries <= self.failures:
            raise OSError(errno.EMFILE, "Too many open files")
        return self._listener.accept()


async def said(path: Path) -> bytes:
    reader, writer = await asyncio.open_unix_connection(path)
    answer = await reader.read(5)
    if answer != b"hello":
        answer += await reader.read()
    writer.close()
    return answer


async def test_without_files_the_loop_waits_between_two_tries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """asyncio tries 2,048 times in a row and tells each; here a try is one line to ``warn``."""
    monkeypatch.setattr(accept, "PAUSE", 0.05)
    path, told = tmp_path / "s", list[str]()
    with bind_control(path) as listener:
        scarce: Any = Scarce(listener, 3)
        acceptor = Acceptor(scarce, Greeter, lambda: 0, 10, lambda event, _: told.append(event))
        acceptor.start()
        assert await said(path) == b"hello"
        acceptor.stop()
    assert told == ["accept-failed"] * 3
    assert scarce.tries <= 6


async def test_over_its_number_a_connection_is_told_so_and_closed(tmp_path: Path) -> None:
    """503 with problem+json; when one leaves there is room again."""
    path, told = tmp_path / "s", list[str]()
    with bind_control(path) as listener:
        acceptor = Acceptor(
            listener, Greeter, lambda: Greeter.inside, 1, lambda event, _: told.append(event)
        )
        acceptor.start()
        reader, writer = await asyncio.open_unix_connection(path)
        assert await reader.read(5) == b"hello"
        head, _, body = (await said(path)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert json.loads(body)["slug"] == "overloaded"
        assert told == ["control-full"]
        writer.close()

        async def has_room() -> bool:
            return await said(path) == b"hello"

        await until(has_room, 5, "there is room again")
        acceptor.stop()
