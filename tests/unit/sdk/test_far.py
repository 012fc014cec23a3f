"""Connecting over ssh is part of a call's time; a program in ssh's place is slow or silent."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest

import pollen
from pollen.errors import Unreachable
from pollen.sdk import door, far
from tests.unit.sdk.test_client import answer

# Much more than a call's time, much less than ssh is given.
SOON = 8.0
# Seconds that a slow login takes.
LOGIN = 1.0
SSH = """#!/bin/sh
{first}
PYTHONPATH={source} exec {python} -c '
import sys
from pathlib import Path
from pollen.paths import Paths
from pollen.sdk import stdio
stdio.serve(Paths(Path(sys.argv[1])))
' {folder}
"""


class There:
    """A node that keeps the budget of each call, and a program in the place of ssh."""

    def __init__(self, folder: Path) -> None:
        self.ssh = folder / "ssh"
        self.folder = folder
        self.budgets: list[int] = []
        self.door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.door.bind(str(folder / "call.sock"))
        self.door.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def say(self, first: str) -> None:
        """What the program does before it is the far end."""
        source = Path(pollen.__file__).parents[1]
        text = SSH.format(folder=self.folder, first=first, source=source, python=sys.executable)
        self.ssh.write_text(text)
        self.ssh.chmod(0o755)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.door.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), connection, connection.makefile("rb") as source:
            source.read(len(door.PREFACE))
            while head := source.read(4):
                frame = msgspec.msgpack.decode(source.read(int.from_bytes(head, "big")))
                if frame[0] == 0:
                    self.budgets.append(frame[door_budget()])
                    connection.sendall(answer(frame[1], b"done"))


def door_budget() -> int:
    """Where the budget stands in a call's frame."""
    _, frame = door.Conversation().call(
        "s",
        None,
        b"",
        budget_ms=12_345,
        retries=0,
        idempotent=False,
        traceparent=None,
        head=b"",
        credit=0,
    )
    return int(msgspec.msgpack.decode(frame[4:]).index(12_345))


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[There]:
    with tempfile.TemporaryDirectory(prefix="pln-", dir="/tmp") as folder:
        made = There(Path(folder))
        monkeypatch.setenv("PLN_SSH", str(made.ssh))
        try:
            yield made
        finally:
            for channel in far._channels.values():
                channel.close()
            far._channels.clear()
            made.door.close()


def sync_call(timeout: float) -> str:
    with contextlib.closing(pollen.connect_sync("ssh://pi")) as mesh:
        return mesh.call("s", "f", timeout=timeout).text


def sync_stream(timeout: float) -> str:
    with contextlib.closing(pollen.connect_sync("ssh://pi")) as mesh:
        return b"".join(mesh.stream("s", "f", timeout=timeout)).decode()


@contextlib.asynccontextmanager
async def left_closed() -> AsyncIterator[pollen.Mesh]:
    """A mesh that connects with its first call."""
    mesh = pollen.connect("ssh://pi")
    try:
        yield mesh
    finally:
        await mesh.close()


def async_call(timeout: float) -> str:
    async def talk() -> str:
        async with left_closed() as mesh:
            return (await mesh.call("s", "f", timeout=timeout)).text

    return asyncio.run(talk())


def async_stream(timeout: float) -> str:
    async def talk() -> str:
        async with left_closed() as mesh, mesh.stream("s", "f", timeout=timeout) as pieces:
            return b"".join([piece async for piece in pieces]).decode()

    return asyncio.run(talk())


WAYS = [sync_call, sync_stream, async_call, async_stream]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("first", ["exec sleep 30", f"sleep {LOGIN}"])
def test_a_call_waits_for_ssh_no_longer_than_its_own_time(
    there: There, way: object, first: str
) -> None:
    """Nothing was sent, so nothing was executed."""
    assert callable(way)
    there.say(first)
    began = time.monotonic()
    with pytest.raises(Unreachable) as error:
        way(LOGIN / 2)
    assert time.monotonic() - began < SOON
    assert error.value.slug == "unreachable" and error.value.may_have_executed is False
    assert there.budgets == []


@pytest.mark.parametrize("way", WAYS)
def test_what_connecting_took_is_not_given_to_the_node_again(there: There, way: object) -> None:
    assert callable(way)
    there.say(f"sleep {LOGIN}")
    assert way(20.0) == "done"
    (budget,) = there.budgets
    assert 10_000 < budget <= 1_000 * (20 - LOGIN)


def test_a_cancelled_connect_leaves_no_thread_that_is_waited_for(there: There) -> None:
    """Such as by Ctrl-C: asyncio.run waits for the threads of its loop."""
    there.say("exec sleep 30")

    async def talk() -> None:
        call = asyncio.ensure_future(pollen.connect("ssh://pi").call("s", "f", timeout=60))
        await asyncio.wait([call], timeout=0.5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    began = time.monotonic()
    asyncio.run(talk())
    assert time.monotonic() - began < SOON
