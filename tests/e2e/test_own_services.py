"""Programs that are services themselves: ``mesh.serve(name, handler)``."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import pollen
from pollen.errors import PollenError
from pollen.testing import Cluster, until
from tests.e2e.conftest import running
from tests.e2e.serving import echo, knows, named, serve, server

pytestmark = pytest.mark.timeout(120)

PROGRAM = """
import asyncio, sys, pollen
async def handler(reader, writer):
    writer.write(b"program")
    writer.close()
async def main():
    async with pollen.connect(sys.argv[1]) as mesh, mesh.serve(sys.argv[2], handler):
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


@pytest.fixture(scope="module")
def two() -> Iterator[Cluster]:
    """Two linked nodes; each test serves names of its own."""
    with running(Cluster(2)) as cluster:
        yield cluster


def sockets(cluster: Cluster) -> list[Path]:
    """What programs left in the folder of the first node."""
    return list(Path(cluster[0].home).glob("s[0-9]*-*.sock"))


async def refusal(cluster: Cluster, service: str) -> str:
    """The slug that a client of the second node meets."""
    async with cluster[1].connect() as mesh:
        with pytest.raises(PollenError) as refused:
            async with mesh.open(service):
                pass
    return refused.value.slug


async def test_a_program_is_a_service_as_long_as_its_block_runs(two: Cluster) -> None:
    """Reached by name from another node; afterwards nobody is led there."""
    async with two[0].connect() as mesh, two[1].connect() as far:
        async with mesh.serve("own", echo) as told, contextlib.AsyncExitStack() as held:
            assert (told["name"], told["target"].startswith("unix:")) == ("own", True)
            await knows(two[1], "own", "a")
            for number in range(20):
                reader, writer = await held.enter_async_context(far.open("own"))
                writer.write(f"hello {number}".encode())
                writer.write_eof()
                assert await asyncio.wait_for(reader.read(-1), 10) == f"hello {number}".encode()
        await knows(two[1], "own")
    assert await refusal(two, "own") == "service-not-found"
    assert sockets(two) == []


async def test_a_gate_holds_for_a_program_too(two: Cluster) -> None:
    """Who is not let in reaches no handler."""
    gate = 'caller.tier == "leaf"'
    async with two[0].connect() as mesh, mesh.serve("shut", named("in"), allow_if=gate):
        await knows(two[1], "shut", "a")
        assert await refusal(two, "shut") == "denied"


async def test_a_program_that_is_killed_is_served_no_more(two: Cluster) -> None:
    """Without a word of it; the next program removes its socket."""
    line = (sys.executable, "-c", PROGRAM, str(two[0].home), "killed")
    program = await asyncio.create_subprocess_exec(*line)
    try:
        await knows(two[1], "killed", "a")
        async with two[1].connect() as mesh, mesh.open("killed") as (reader, _):
            assert await reader.read(-1) == b"program"
    finally:
        program.kill()
        await program.wait()
    await knows(two[1], "killed")
    assert len(sockets(two)) == 1
    async with two[0].connect() as mesh, mesh.serve("next", echo):
        assert [path.name.startswith(f"s{program.pid}-") for path in sockets(two)] == [False]


async def test_a_program_is_served_again_by_a_node_that_was_killed() -> None:
    """It needs to do nothing for that."""
    async with Cluster(2) as cluster, cluster[0].connect() as mesh, cluster[1].connect() as far:

        async def answers() -> bool:
            try:
                async with far.open("stays") as (reader, _):
                    return await asyncio.wait_for(reader.read(-1), 10) == b"here"
            except PollenError:
                return False

        async with mesh.serve("stays", named("here")):
            await until(answers, 20, "it is served")
            await cluster[0].kill()
            await cluster[0].start()
            await until(answers, 20, "it is served after a kill of its node")
            # A stop in order does not wait for the program.
            await cluster[0].stop()
            await cluster[0].start()
            await until(answers, 20, "it is served after a stop of its node")
        await knows(cluster[1], "stays")


async def test_blocking_code_serves_its_clients_one_after_another(two: Cluster) -> None:
    """A client that breaks off ends nothing; a handler's own error is raised."""

    class Enough(Exception):
        pass

    def handler(held: socket.socket) -> None:
        word = held.recv(64)
        if word == b"enough":
            raise Enough
        if word == b"break":
            raise ConnectionResetError
        held.sendall(word.upper())

    ended: list[type[BaseException]] = []

    def program() -> None:
        with pollen.connect_sync(two[0].home) as mesh:
            try:
                with mesh.serve("sync", handler) as serving:
                    assert serving.answer["name"] == "sync"
                    serving.forever()
            except Enough:
                ended.append(Enough)

    thread = threading.Thread(target=program)
    thread.start()
    try:
        await knows(two[1], "sync", "a")
        async with two[1].connect() as mesh:
            for word, said in ((b"one", b"ONE"), (b"break", b""), (b"two", b"TWO")):
                async with mesh.open("sync") as (reader, writer):
                    writer.write(word)
                    assert await asyncio.wait_for(reader.read(-1), 10) == said
            async with mesh.open("sync") as (_, writer):
                writer.write(b"enough")
    finally:
        await asyncio.to_thread(thread.join, 30)
    assert ended == [Enough]
    await knows(two[1], "sync")


async def test_a_name_that_the_node_serves_is_not_taken(two: Cluster) -> None:
    """And what is refused leaves no socket."""
    async with server(echo) as port, two[0].connect() as mesh:
        await serve(two[0], port, "kept")
        with pytest.raises(PollenError) as refused:
            async with mesh.serve("kept", echo):
                pass
        assert refused.value.slug == "name-taken" and "pln unserve kept" in refused.value.remedy
        assert sockets(two) == []
        await mesh.unserve("kept")
