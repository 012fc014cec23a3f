"""Services of real daemons: who serves a name, who may come, and what is shown of it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator

import pytest

from pollen.errors import PollenError
from pollen.testing import Cluster, until
from tests.e2e.conftest import running
from tests.e2e.serving import (
    LOOPBACK,
    dial,
    echo,
    knows,
    listener,
    named,
    serve,
    server,
)
from tests.e2e.talk import check_error

pytestmark = pytest.mark.timeout(120)

# A cut is seen within a second of the change's arrival; the rest is the time of the looking.
CUT = 2.0


@pytest.fixture(scope="module")
def trio() -> Iterator[Cluster]:
    """Three linked nodes; each test serves names of its own."""
    with running(Cluster(3)) as cluster:
        yield cluster


async def test_the_next_provider_is_tried_when_one_refuses(trio: Cluster) -> None:
    """Nothing was said to a service that does not listen; with none left the client is cut."""
    async with server(named("b")) as port:
        with socket.socket() as free:
            free.bind((LOOPBACK, 0))
            await serve(trio[0], free.getsockname()[1], "pick")
            await knows(trio[1], "pick", "a")
            await serve(trio[1], port, "pick", beside=True)
            await knows(trio[2], "pick", "a", "b")
            bound = await listener(trio[2], "pick")
            for _ in range(5):
                reader, _ = await dial(bound)
                assert await asyncio.wait_for(reader.read(-1), 5) == b"b"
            async with trio[2].connect() as mesh:
                with pytest.raises(PollenError) as refused:
                    async with mesh.open("pick@a"):
                        pass
                assert refused.value.slug == "provider-refused"
                async with mesh.open("pick@b") as (reader, _):
                    assert await reader.read(-1) == b"b"
                with pytest.raises(PollenError) as unknown:
                    async with mesh.open("pikc"):
                        pass
                assert unknown.value.slug == "service-not-found"


async def test_why_says_what_each_provider_answered_last(trio: Cluster) -> None:
    """The one that was tried last in words; before any client nothing."""
    async with server(named("b")) as port:
        with socket.socket() as free:
            free.bind((LOOPBACK, 0))
            await serve(trio[0], free.getsockname()[1], "told")
            await serve(trio[1], port, "told", beside=True)
            await knows(trio[2], "told", "a", "b")
            before = await trio[2].get("/v1/why/service/told")
            assert [way["answered"] for way in before["providers"]] == [None, None]
            async with trio[2].connect() as mesh:
                with pytest.raises(PollenError):
                    async with mesh.open("told@a"):
                        pass
                async with mesh.open("told@b"):
                    pass
            told = await trio[2].get("/v1/why/service/told")
            said = {way["name"]: way["answered"] for way in told["providers"]}
            assert (said["a"]["slug"], said["b"]["slug"]) == ("provider-refused", "")
            assert "Connection refused" in said["a"]["reason"]
            assert "the last client of this node was led to b, which took it" in told["why"]
            done = await trio[2].pln("why", "service", "told@a")
            assert done.returncode == 0, done.stderr
            assert b"service told (tcp): this node may reach it" in done.stdout
            assert b"provider-refused, " in done.stdout


async def test_a_killed_provider_is_followed_by_the_next() -> None:
    """New connections find the other one at once; those that were open end."""
    async with Cluster(3) as cluster, server(echo) as port, server(named("a")) as other:
        await serve(cluster[1], port, "live")
        await knows(cluster[2], "live", "b")
        bound = await listener(cluster[2], "live")
        reader, writer = await dial(bound)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        await cluster[0].post(
            "/v1/services", {"target": str(other), "name": "live", "beside": True}
        )
        await knows(cluster[2], "live", "a", "b")
        await cluster[1].kill()
        with contextlib.suppress(ConnectionResetError):
            assert await asyncio.wait_for(reader.read(-1), 15) == b""
        before = time.monotonic()
        reader, _ = await dial(bound)
        assert await asyncio.wait_for(reader.read(-1), 15) == b"a"
        assert time.monotonic() - before < 6


async def test_a_gate_opens_and_cuts_while_tunnels_are_open() -> None:
    """A grant lets a node in, and taking it back cuts what is open, without a reconnect."""
    async with Cluster(2) as cluster, server(echo) as port:
        await serve(cluster[0], port, "gated", allow=[["team", "red"]])
        await knows(cluster[1], "gated", "a")
        done = await cluster[1].pln("connect", "gated", "--json")
        check_error(done, "denied")
        await cluster[0].post("/v1/grants", {"target": "b", "properties": '{"team":"red"}'})

        async def is_let_in() -> bool:
            return (await cluster[1].pln("connect", "gated", "0")).returncode == 0

        await until(is_let_in, 20, "b may connect")
        (held,) = (await cluster[1].get("/v1/services"))["listeners"]
        reader, writer = await dial(held["bound"])
        writer.write(b"hello")
        assert await asyncio.wait_for(reader.readexactly(5), 10) == b"hello"
        await cluster[0].post("/v1/grants", {"target": "b", "drops": ["team"]})
        before = time.monotonic()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(-1), 10)
        assert time.monotonic() - before < CUT
        # The reset may come before the client hears that it is connected.
        with contextlib.suppress(ConnectionResetError):
            reader, _ = await dial(held["bound"])
            assert await asyncio.wait_for(reader.read(-1), 10) == b""

        async def is_counted() -> bool:
            (view,) = (await cluster[0].get("/v1/services"))["services"]
            return bool(view["refused"] >= 1)

        await until(is_counted, 10, "the refusal is counted where it was made")


async def test_a_denied_member_is_cut_and_unserving_cuts() -> None:
    """Both within a second of their arrival."""
    async with Cluster(2) as cluster, server(echo) as port:
        for name in ("one", "two"):
            await serve(cluster[0], port, name)
            await knows(cluster[1], name, "a")
        ends = []
        for name in ("one", "two"):
            reader, writer = await dial(await listener(cluster[1], name))
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            ends.append((reader, writer))
        done = await cluster[0].pln("unserve", "one")
        assert done.returncode == 0, done.stderr
        before = time.monotonic()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(ends[0][0].read(-1), 10)
        assert time.monotonic() - before < CUT
        ends[1][1].write(b"y")
        assert await ends[1][0].readexactly(1) == b"y"
        await cluster[0].post("/v1/denies", {"targets": ["b"]})
        before = time.monotonic()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(ends[1][0].read(-1), 10)
        assert time.monotonic() - before < CUT


async def test_services_and_listeners_stand_again_after_a_restart() -> None:
    """At the same place, for the same service; a port that was taken meanwhile is shown."""
    async with Cluster(2) as cluster, server(echo) as port:
        await serve(cluster[0], port, "lasting")
        await knows(cluster[1], "lasting", "a")
        bound = await listener(cluster[1], "lasting")
        for node in cluster:
            await node.restart()
        await cluster.linked()
        await knows(cluster[1], "lasting", "a")
        reader, writer = await dial(bound)
        writer.write(b"again")
        assert await asyncio.wait_for(reader.readexactly(5), 10) == b"again"
        writer.close()
        await cluster[1].stop()
        number = int(bound.rpartition(":")[2])
        with socket.socket() as taker:
            taker.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            taker.bind((LOOPBACK, number))
            taker.listen()
            await cluster[1].start()

            async def is_shown() -> bool:
                (held,) = (await cluster[1].get("/v1/services"))["listeners"]
                return held["state"] == "failed" and "in use" in held["reason"]

            await until(is_shown, 10, "the listener is shown as failed")

        async def is_open() -> bool:
            (held,) = (await cluster[1].get("/v1/services"))["listeners"]
            return bool(held["state"] == "open")

        await until(is_open, 15, "the listener is open again")


async def test_the_blocking_sdk_reaches_a_service(trio: Cluster) -> None:
    """A socket that is the service."""
    from pollen import connect_sync

    def talk() -> bytes:
        with connect_sync(trio[1].home) as mesh, mesh.open("blocking") as held:
            held.sendall(b"hello")
            held.shutdown(socket.SHUT_WR)
            return b"".join(iter(lambda: held.recv(9), b""))

    async with server(echo) as port:
        await serve(trio[0], port, "blocking")
        await knows(trio[1], "blocking", "a")
        assert await asyncio.to_thread(talk) == b"hello"


async def test_what_is_served_is_shown(trio: Cluster) -> None:
    """Names, who serves them, what listens; the counters are those of the node that is asked."""
    async with server(named("x" * 1_000)) as port:
        await serve(trio[0], port, "shown")
        await knows(trio[1], "shown", "a")
        bound = await listener(trio[1], "shown")
        for _ in range(3):
            reader, _ = await dial(bound)
            assert len(await reader.read(-1)) == 1_000

        async def is_counted() -> bool:
            held = {s["name"]: s for s in (await trio[1].get("/v1/services"))["services"]}
            shown = held["shown"]
            return (shown["opened"], shown["bytes_out"]) == (3, 3_000)

        await until(is_counted, 10, "three tunnels are counted")
        done = await trio[1].pln("status", "services", "--wide")
        text = done.stdout.decode()
        assert f"127.0.0.1:{port}" not in text
        assert bound in text
        done = await trio[0].pln("status", "services", "--wide")
        assert f"127.0.0.1:{port}" in done.stdout.decode()


@pytest.mark.parametrize(
    ("line", "slug", "code"),
    [
        (["serve", "http://x", "n"], "usage", 2),
        (["serve", "80", "Name!"], "name-invalid", 2),
        (["serve", "80", "n", "--allow", "caller.tier =="], "bad-policy", 2),
        (["unserve", "nobody"], "service-not-found", 3),
        (["connect", "nobody"], "service-not-found", 3),
        (["disconnect", "nobody"], "service-not-found", 3),
    ],
)
async def test_wrong_words_have_an_error_with_a_remedy(
    trio: Cluster, line: list[str], slug: str, code: int
) -> None:
    """And leave nothing behind."""
    done = await trio[1].pln(*line, "--json")
    check_error(done, slug)
    assert done.returncode == code
    held = await trio[1].get("/v1/services")
    assert [view for view in held["services"] if view["name"] in ("n", "Name!")] == []


async def test_a_port_that_is_taken_is_said(trio: Cluster) -> None:
    """With the address; nothing listens there afterwards."""
    async with server(echo) as port, server(echo) as taken:
        await serve(trio[0], port, "takes")
        await knows(trio[1], "takes", "a")
        done = await trio[1].pln("connect", "takes", str(taken), "--json")
        check_error(done, "port-in-use")
        held = (await trio[1].get("/v1/services"))["listeners"]
        assert [view for view in held if view["service"] == "takes"] == []
