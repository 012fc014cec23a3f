"""What passes between a client and a service: bytes, ends, resets, datagrams; who is let in."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from pollen import connect_sync
from pollen.errors import PollenError
from pollen.testing import Cluster
from tests.e2e.conftest import running
from tests.e2e.serving import (
    LOOPBACK,
    dial,
    hang_up,
    knows,
    listener,
    named,
    serve,
    server,
    until_end,
)

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """Three linked nodes; each test serves names of its own."""
    with running(Cluster(3)) as cluster:
        yield cluster


async def test_what_is_said_arrives_whole_and_a_half_close_is_told(trio: Cluster) -> None:
    """The server answers only after the end of input: both directions end by themselves."""
    data = os.urandom(8 << 20)
    async with server(until_end) as port:
        await serve(trio[0], port, "whole")
        for node in trio:
            await knows(node, "whole", "a")
            reader, writer = await dial(await listener(node, "whole"))
            writer.write(data)
            writer.write_eof()
            said = await reader.read(-1)
            assert said.decode().split() == [str(len(data)), hashlib.sha256(data).hexdigest()]
            writer.close()


async def test_a_client_that_resets_resets_the_server(trio: Cluster) -> None:
    """Not an end of input: a server must know that the rest will never come."""
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(await reader.readexactly(5))
            await reader.read(-1)
            ended.set_result("end")
        except ConnectionResetError:
            ended.set_result("reset")
        writer.close()

    async with server(handler) as port:
        await serve(trio[0], port, "resets")
        await knows(trio[1], "resets", "a")
        host, _, number = (await listener(trio[1], "resets")).rpartition(":")
        held = socket.create_connection((host, int(number)))
        await asyncio.to_thread(held.sendall, b"hello")
        assert await asyncio.to_thread(held.recv, 5) == b"hello"
        held.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        held.close()
        assert await asyncio.wait_for(ended, 5) == "reset"


async def test_a_server_that_resets_resets_the_client(trio: Cluster) -> None:
    """The other way round."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        raw = writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with server(handler) as port:
        await serve(trio[0], port, "aborts")
        await knows(trio[1], "aborts", "a")
        reader, writer = await dial(await listener(trio[1], "aborts"))
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(-1), 5)


class Datagrams(asyncio.DatagramProtocol):
    """A UDP server that says again what comes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)


@contextlib.asynccontextmanager
async def datagrams() -> AsyncIterator[int]:
    """Its port."""
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=(LOOPBACK, 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()


def asked_and_answered(bound: str, word: str, rounds: int) -> list[bytes]:
    """What one UDP client was wrongly answered; at last what nobody answered in ten tries."""
    host, _, port = bound.rpartition(":")
    wrong = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
        held.connect((host, int(port)))
        held.settimeout(1.0)
        for number in range(rounds):
            wanted = f"{word} {number}".encode()
            for _ in range(10):
                held.send(wanted)
                try:
                    said = held.recv(65_536)
                except (TimeoutError, ConnectionRefusedError):
                    continue
                if said == wanted:
                    break
                if not said.startswith(word.encode()):
                    wrong.append(said)
            else:
                return [*wrong, wanted]
    return wrong


async def test_answers_of_two_udp_clients_never_cross(trio: Cluster) -> None:
    """A thousand questions each, at the same time, through one listener."""
    async with datagrams() as port:
        await serve(trio[0], f"udp:{port}", "dgrams")
        await knows(trio[1], "dgrams", "a")
        bound = await listener(trio[1], "dgrams")
        found = await asyncio.gather(
            *(asyncio.to_thread(asked_and_answered, bound, word, 1_000) for word in ("one", "two"))
        )
        assert found == [[], []]


async def test_small_and_large_datagrams_pass_whole(trio: Cluster) -> None:
    """What no packet of the link takes goes another way."""
    async with datagrams() as port:
        await serve(trio[0], f"udp:{port}", "sizes")
        await knows(trio[1], "sizes", "a")
        host, _, number = (await listener(trio[1], "sizes")).rpartition(":")

        def ask(size: int) -> bytes:
            data = os.urandom(size)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as held:
                held.connect((host, int(number)))
                held.settimeout(1.0)
                for _ in range(10):
                    held.send(data)
                    with contextlib.suppress(TimeoutError):
                        return b"" if held.recv(65_536) == data else b"wrong"
            return b"nothing"

        for size in (1, 1_200, 1_472, 8_000, 60_000):
            assert await asyncio.to_thread(ask, size) == b"", size


async def test_unix_sockets_stand_at_both_ends(trio: Cluster) -> None:
    """The listener's socket is the user's own."""
    place = Path(f"/tmp/pln-{os.getpid()}.sock")
    near = Path(f"/tmp/pln-{os.getpid()}-near.sock")
    held = await asyncio.start_unix_server(named("unix"), str(place))
    try:
        await serve(trio[0], f"unix:{place}", "unixes")
        await knows(trio[1], "unixes", "a")
        assert await listener(trio[1], "unixes", local=f"unix:{near}") == f"unix:{near}"
        assert near.stat().st_mode & 0o777 == 0o600
        reader, _ = await dial(f"unix:{near}")
        assert await asyncio.wait_for(reader.read(-1), 5) == b"unix"
        done = await trio[1].pln("disconnect", "unixes")
        assert done.returncode == 0 and not near.exists()
    finally:
        await hang_up()
        held.close()
        for path in (place, near):
            path.unlink(missing_ok=True)


@pytest.mark.skipif(os.geteuid() != 0, reason="becoming another user needs root")
async def test_another_user_of_the_machine_is_not_let_in(trio: Cluster) -> None:
    """Whoever comes through a listener comes as this node; --any-user opens it."""
    script = (
        "import os, socket, sys\n"
        "os.setuid(65534)\n"
        "s = socket.socket()\n"
        "s.settimeout(5)\n"
        "try:\n"
        "    s.connect(('127.0.0.1', int(sys.argv[1])))\n"
        "    print(s.recv(9).decode())\n"
        "except ConnectionError: print('reset')\n"
    )

    async def other(bound: str) -> str:
        line = [sys.executable, "-c", script, bound.rpartition(":")[2]]
        done = await asyncio.to_thread(subprocess.run, line, capture_output=True, check=True)
        return done.stdout.decode().strip()

    async with server(named("mine")) as port:
        await serve(trio[0], port, "mine")
        await knows(trio[1], "mine", "a")
        bound = await listener(trio[1], "mine")
        assert await other(bound) in ("reset", "")
        reader, _ = await dial(bound)
        assert await reader.read(-1) == b"mine"
        assert await other(await listener(trio[1], "mine", any_user=True)) == "mine"


async def test_a_tunnel_on_standard_input_and_output(trio: Cluster) -> None:
    """For ProxyCommand: what comes in goes out, its end is told, and the answer is read."""
    data = os.urandom(3 << 20)
    async with server(until_end) as port:
        await serve(trio[0], port, "stdio")
        await knows(trio[1], "stdio", "a")
        done = await trio[1].pln("connect", "--stdio", "stdio", stdin=data)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode().split()[1] == hashlib.sha256(data).hexdigest()
    done = await trio[1].pln("connect", "--stdio", "stdio")
    assert (done.returncode, b"[provider-refused]" in done.stderr) == (6, True)
    done = await trio[1].pln("connect", "--stdio", "nobody")
    assert (done.returncode, b"[service-not-found]" in done.stderr) == (3, True)


@contextlib.asynccontextmanager
async def halves() -> AsyncIterator[tuple[int, asyncio.Queue[None]]]:
    """The port of a server that says a half and never the rest, and an item for each client."""
    came: asyncio.Queue[None] = asyncio.Queue()
    over = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"half")
        await writer.drain()
        came.put_nowait(None)
        await over.wait()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    async with server(handler) as port:
        try:
            yield port, came
        finally:
            over.set()


async def test_a_tunnel_that_is_cut_is_no_end(trio: Cluster) -> None:
    """A download that broke off must not look whole: both SDKs and --stdio say unreachable."""

    async def aside() -> None:
        async with trio[1].connect() as mesh, mesh.open("cut") as (reader, _):
            await reader.read(-1)

    def blocking() -> None:
        with connect_sync(trio[1].home) as mesh, mesh.open("cut") as held:
            held.shutdown(socket.SHUT_WR)
            while held.recv(64):
                pass

    async with halves() as (port, came):
        for kind in (aside, lambda: asyncio.to_thread(blocking)):
            await serve(trio[0], port, "cut")
            await knows(trio[1], "cut", "a")
            reading = asyncio.ensure_future(kind())
            await came.get()
            await trio[0].pln("unserve", "cut")
            with pytest.raises(PollenError) as caught:
                await asyncio.wait_for(reading, 10)
            assert caught.value.slug == "unreachable"
            await knows(trio[1], "cut")
        await serve(trio[0], port, "cut")
        await knows(trio[1], "cut", "a")
        joined = asyncio.ensure_future(trio[1].pln("connect", "--stdio", "cut"))
        await came.get()
        await trio[0].pln("unserve", "cut")
        done = await asyncio.wait_for(joined, 10)
        assert (done.returncode, done.stdout) == (6, b"half")
        assert b"[unreachable]" in done.stderr


async def test_a_service_is_told_who_comes(trio: Cluster) -> None:
    """PROXY protocol, version 2, with the node's id in a field of type 0xE0."""

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.read(-1))
        writer.close()

    async with server(handler) as port:
        await serve(trio[0], port, "whose", proxy_header=True)
        await knows(trio[1], "whose", "a")
        node = (await trio[1].status())["node"]
        async with trio[1].connect() as mesh, mesh.open("whose") as (reader, writer):
            writer.write(b"hi")
            writer.write_eof()
            said = await reader.read(-1)
        assert said.startswith(b"\r\n\r\n\0\r\nQUIT\n\x21")
        assert said.endswith(b"hi")
        assert b"\xe0\0\x40" + node.encode() in said


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
async def test_an_ordinary_program_reaches_an_ordinary_server(
    trio: Cluster, tmp_path: Path
) -> None:
    """A folder served by Python's own server, fetched by curl."""
    (tmp_path / "page.txt").write_text("as it stands\n" * 10_000)
    web = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", LOOPBACK],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert web.stdout is not None
        line = (await asyncio.to_thread(web.stdout.readline)).decode()
        port = line.split("port ")[1].split()[0]
        await serve(trio[0], port, "web")
        await knows(trio[2], "web", "a")
        bound = await listener(trio[2], "web")
        fetch = ["curl", "-sSf", "--max-time", "20", f"http://{bound}/page.txt"]
        done = await asyncio.to_thread(subprocess.run, fetch, capture_output=True, check=True)
        assert done.stdout == (tmp_path / "page.txt").read_bytes()
    finally:
        await hang_up()
        web.kill()
        web.communicate()
