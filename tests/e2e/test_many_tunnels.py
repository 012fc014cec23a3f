"""What tunnels cost: ten thousand that stand open, and a gigabyte for a slow reader."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pollen.testing import Cluster, Node, until
from tests.e2e.serving import LOOPBACK, knows, listener, serve, server
from tests.e2e.test_load import resident_mb

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

TUNNELS = 10_000
# Beside the tunnels' files this process has few.
_SERVER = """
import asyncio, sys
async def one(reader, writer):
    while said := await reader.read(100):
        writer.write(said)
    writer.close()
async def main():
    held = await asyncio.start_server(one, "127.0.0.1", 0, backlog=4096)
    print(held.sockets[0].getsockname()[1], flush=True)
    await held.serve_forever()
asyncio.run(main())
"""


@pytest.fixture
def far_server() -> Iterator[int]:
    """An echo in a process of its own: its port."""
    with subprocess.Popen([sys.executable, "-c", _SERVER], stdout=subprocess.PIPE) as held:
        assert held.stdout is not None
        try:
            yield int(held.stdout.readline())
        finally:
            held.kill()


def answered(held: socket.socket) -> socket.socket:
    """A client whose byte has come back."""
    held.sendall(b"a")
    assert held.recv(1) == b"a", "the tunnel ended"
    return held


async def test_ten_thousand_open_tunnels_cost_24_kib_each(two: Cluster, far_server: int) -> None:
    """On either side; all of them answer still, and none stays behind."""
    await serve(two[0], far_server, "many")
    await knows(two[1], "many", "a")
    port = int((await listener(two[1], "many")).rpartition(":")[2])

    def opened() -> socket.socket:
        return answered(socket.create_connection((LOOPBACK, port), timeout=30))

    opened().close()
    before = [resident_mb(node) for node in two]
    with contextlib.ExitStack() as held, ThreadPoolExecutor(16) as pool:
        many = await asyncio.to_thread(
            lambda: [
                held.enter_context(f.result())
                for f in [pool.submit(opened) for _ in range(TUNNELS)]
            ]
        )
        await asyncio.to_thread(lambda: list(pool.map(answered, many)))
        for node, base in zip(two, before, strict=True):
            each = (resident_mb(node) - base) * 1024 / TUNNELS
            print(f"{node.name}: {each:.1f} KiB a tunnel")
            assert each <= 24

    async def are_gone() -> bool:
        return all(files(node) < 200 for node in two)

    await until(are_gone, 60, "the tunnels are gone")


def files(node: Node) -> int:
    """The files that a daemon has open."""
    return len(list(Path(f"/proc/{node.pid}/fd").iterdir()))


async def test_a_gigabyte_for_a_slow_reader_takes_no_memory(two: Cluster) -> None:
    """It waits at the sender: neither node holds more than the windows."""
    total, piece = 1 << 30, os.urandom(1 << 20)

    async def give(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(total // len(piece)):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async with server(give) as target:
        await serve(two[0], target, "large")
        await knows(two[1], "large", "a")
        port = int((await listener(two[1], "large")).rpartition(":")[2])
        reader, writer = await asyncio.open_connection(LOOPBACK, port, limit=1 << 20)
        base, most, got = [resident_mb(node) for node in two], [0.0, 0.0], 0
        while said := await reader.read(len(piece)):
            assert said == (piece + piece)[got % len(piece) :][: len(said)]
            got += len(said)
            if got % (64 << 20) < len(said):
                # A pause now and then fills whatever can be filled.
                await until(pauses(0.2), 5, "a pause")
                most = [max(m, resident_mb(node)) for m, node in zip(most, two, strict=True)]
        writer.close()
    print(f"before {base} MB, at most {most} MB")
    assert got == total
    assert all(top - least < 48 for top, least in zip(most, base, strict=True))


def pauses(seconds: float) -> Callable[[], Awaitable[bool]]:
    """A condition that comes true so much later."""
    end = asyncio.get_running_loop().time() + seconds

    async def is_over() -> bool:
        return asyncio.get_running_loop().time() >= end

    return is_over
