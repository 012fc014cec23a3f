"""Checks of services by real daemons: a program that fails is tried last, and comes back."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from pollen.sdk.control import Control
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import running
from tests.e2e.serving import LOOPBACK, echo, knows, serve
from tests.e2e.talk import check_error

pytestmark = pytest.mark.timeout(120)

EVERY = {"check": "http:/up", "check_every_ms": 1_000}


class Program:
    """A web server that says how it is at ``/up``, its name to others, and echoes who holds on.
    Without a ``status`` it does not answer a check at all."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.status = 200
        self.checks = 0
        self._clients: set[asyncio.StreamWriter] = set()

    async def end(self) -> None:
        """Hang up, within the loop of the test."""
        for writer in self._clients:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._clients.add(writer)
        with contextlib.suppress(ConnectionError):
            line = await reader.readline()
            if line.startswith(b"GET /up"):
                self.checks += 1
                await self._check(reader, writer)
            elif line == b"hold\n":
                await echo(reader, writer)
            elif line:
                writer.write(self.name.encode())
        writer.close()

    async def _check(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self.status:
            await reader.read(-1)
            return
        writer.write(f"HTTP/1.1 {self.status} so\r\ncontent-length: 2\r\n\r\nok".encode())
        await writer.drain()


@contextlib.asynccontextmanager
async def programs(*names: str) -> AsyncIterator[list[tuple[Program, int]]]:
    """A web server for each of them, with its port."""
    async with contextlib.AsyncExitStack() as stack:
        made = []
        for name in names:
            program = Program(name)
            held = await asyncio.start_server(program.handle, LOOPBACK, 0)
            stack.push_async_callback(program.end)
            stack.callback(held.close)
            made.append((program, held.sockets[0].getsockname()[1]))
        yield made


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """Three linked nodes; each test serves names of its own."""
    with running(Cluster(3)) as cluster:
        yield cluster


async def led_to(node: Node, name: str) -> str:
    """Who takes a new client of a node."""
    async with node.connect() as mesh, mesh.open(name) as (reader, writer):
        writer.write(b"who\n")
        return (await asyncio.wait_for(reader.read(-1), 10)).decode()


async def provider_of(node: Node, name: str, provider: str) -> dict[str, Any]:
    """A provider as a node shows it."""
    for held in (await node.get("/v1/services"))["services"]:
        if held["name"] == name:
            return next((dict(p) for p in held["providers"] if p["name"] == provider), {})
    return {}


async def shows(node: Node, name: str, provider: str, health: str, timeout: float = 20) -> None:
    """Wait until a node shows the health of a provider."""

    async def is_so() -> bool:
        held = await provider_of(node, name, provider)
        return bool(held.get("state") == "online" and held["health"] == health)

    await until(is_so, timeout, f"{node.name} shows {name} at {provider} as {health!r}")


async def test_new_clients_leave_a_program_that_fails_within_three_checks(trio: Cluster) -> None:
    """The nearest one first; what is open stays; once it works again it is as good as before."""
    a, b, c = trio
    async with programs("b", "c") as made, a.connect() as mesh:
        (_, far_port), (sick, near_port) = made
        await serve(b, far_port, "pick", **EVERY)
        await knows(c, "pick", "b")
        await serve(c, near_port, "pick", beside=True, **EVERY)
        for node in (a, b):
            await shows(node, "pick", "c", "healthy")
        await shows(a, "pick", "b", "healthy")
        # A node's own provider is the nearest of all, whatever the links cost.
        assert {await led_to(c, "pick") for _ in range(5)} == {"c"}
        async with mesh.open("pick@c") as (reader, writer):
            writer.write(b"hold\n")
            before, sick.status = sick.checks, 500

            async def is_passed_over() -> bool:
                return await led_to(c, "pick") == "b"

            await until(is_passed_over, 20, "new clients are led to b", 0.02)
            assert sick.checks - before <= 3
            await shows(a, "pick", "c", "failing")
            for node in (a, c):
                assert {await led_to(node, "pick") for _ in range(10)} == {"b"}
            writer.write(b"still here")
            assert await asyncio.wait_for(reader.readexactly(10), 10) == b"still here"
            await is_told(a, c)
            assert await led_to(a, "pick@c") == "c"
            sick.status = 204

            async def is_back() -> bool:
                return await led_to(c, "pick") == "c"

            await until(is_back, 20, "new clients are led to c again")
            await shows(a, "pick", "c", "healthy")
            writer.write(b"and here")
            assert await asyncio.wait_for(reader.readexactly(8), 10) == b"and here"


async def is_told(other: Node, sick: Node) -> None:
    """By the commands, the doctor, the log and the metrics, in words."""
    shown = (await other.pln("status", "services", "--wide")).stdout.decode()
    assert "b (healthy), c (failing)" in shown
    assert "pick at c fails its check for" in shown and "it answered HTTP 500" in shown
    why = (await other.pln("why", "service", "pick")).stdout.decode()
    assert "the service at c fails its check: it answered HTTP 500" in why
    assert "online, failing" in why and "online, healthy" in why
    doctor = json.loads((await sick.pln("doctor", "--json")).stdout)
    texts = [found["text"] for found in doctor if found["level"] == "warning"]
    assert "pick, served here, fails its check (http:/up): it answered HTTP 500" in texts
    page = await asyncio.to_thread(Control(sick.paths).text, "/v1/metrics")
    assert 'pollen_service_healthy{service="pick"} 0.0' in page
    log = (await sick.pln("logs", "--json")).stdout.decode()
    assert log.count('"service-failing"') == 1


async def test_where_every_program_fails_all_are_tried(trio: Cluster) -> None:
    """A check that is wrong closes no service."""
    async with programs("a", "b") as made:
        wrong = EVERY | {"check": "http:/renamed"}
        for node, (program, port) in zip(trio, made, strict=False):
            # What is asked for is no path of it: it says its name, which is not HTTP.
            assert program.status == 200
            await serve(node, port, "wrong", beside=node is trio[1], **wrong)
            await knows(trio[1], "wrong", *"ab"[: 1 + (node is trio[1])])
        for provider in "ab":
            await shows(trio[2], "wrong", provider, "failing")
        held = await provider_of(trio[2], "wrong", "a")
        assert held["health_reason"] == "its answer is not HTTP"
        assert await led_to(trio[2], "wrong") in "ab"


async def test_a_check_outlives_a_kill_and_judges_by_its_first_result() -> None:
    """The mark of the run before is void, and a program that hangs fails in bounded time."""
    async with Cluster(2) as cluster, programs("a") as ((program, port),):
        more = EVERY | {"check_timeout_ms": 300}
        await serve(cluster[0], port, "lasts", **more)
        await shows(cluster[1], "lasts", "a", "healthy")
        program.status = 0
        await shows(cluster[1], "lasts", "a", "failing")
        held = await provider_of(cluster[1], "lasts", "a")
        assert held["health_reason"] == "no answer within 300 ms"
        await cluster[0].kill()
        program.status = 200
        await cluster[0].start()
        await shows(cluster[1], "lasts", "a", "healthy", 40)
        await cluster[0].kill()
        program.status = 503
        await cluster[0].start()
        await shows(cluster[1], "lasts", "a", "failing", 40)
        (service,) = (await cluster[0].get("/v1/services"))["services"]
        check = service["check"]
        assert (check["check"], check["every_ms"], check["timeout_ms"]) == ("http:/up", 1_000, 300)
        assert (check["state"], check["error"]) == ("failing", "it answered HTTP 503")
        assert (await cluster[0].pln("unserve", "lasts")).returncode == 0
        before = program.checks
        await knows(cluster[1], "lasts")
        assert program.checks == before


async def test_a_program_of_its_own_is_checked_like_any_other(trio: Cluster) -> None:
    """``mesh.serve`` takes the check; its handler gets the connection."""
    program = Program("own")
    async with (
        trio[0].connect() as mesh,
        mesh.serve("own", program.handle, check="http:/up", check_every=1.0, check_timeout=0.5),
    ):
        await shows(trio[1], "own", "a", "healthy")
        program.status = 500
        await shows(trio[1], "own", "a", "failing")
        assert await led_to(trio[1], "own") == "own"
    await program.end()


@pytest.mark.parametrize(
    ("line", "slug"),
    [
        (["udp:53", "n", "--check", "tcp"], "usage"),
        (["80", "n", "--check", "http:up"], "usage"),
        (["80", "n", "--check", "http://elsewhere/up"], "usage"),
        (["80", "n", "--check-every", "5s"], "usage"),
        (["80", "n", "--check", "tcp", "--check-every", "10ms"], "config-invalid"),
        (["80", "n", "--check", "tcp", "--check-timeout", "11s"], "config-invalid"),
    ],
)
async def test_a_check_that_makes_no_sense_has_an_error_with_a_remedy(
    trio: Cluster, line: list[str], slug: str
) -> None:
    """And nothing is served."""
    check_error(await trio[1].pln("serve", *line, "--json"), slug)
    held = await trio[1].get("/v1/services")
    assert [view for view in held["services"] if view["name"] == "n"] == []
