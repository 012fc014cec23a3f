"""``pln ping``: round trips to members and services, and what is said when nothing answers."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from pollen.testing import Cluster, until
from tests.e2e.conftest import running
from tests.e2e.serving import LOOPBACK, knows, serve, server
from tests.e2e.talk import check_error

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def both() -> Iterator[Cluster]:
    """An admin and a publisher; each test serves names of its own."""
    with running(Cluster(2)) as cluster:
        yield cluster


async def test_a_member_is_asked_as_often_as_one_likes(both: Cluster) -> None:
    """Each round has its time, and the summary is that of the rounds."""
    done = await both[0].pln("ping", "b", "-c", "3", "-i", "10ms", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    times = [held["us"] for held in report["rounds"]]
    assert (report["kind"], report["target"], report["sent"], report["answered"]) == (
        "node",
        "b",
        3,
        3,
    )
    assert {held["node"] for held in report["rounds"]} == {(await both[1].status())["node"]}
    assert (report["min_us"], report["max_us"]) == (min(times), max(times))
    assert min(times) <= report["avg_us"] <= max(times)
    digits = (await both[1].status())["node"][:8]
    shown = (await both[0].pln("ping", digits, "-c", "2", "-i", "10ms")).stdout.decode()
    lines = shown.splitlines()
    assert lines[0].startswith("1: b answered after ")
    assert lines[2].startswith("2 of 2 answered: min ")


async def test_a_brain_answers_admins_only(both: Cluster) -> None:
    """Who is none is told what else shows how far a member is."""
    problem = check_error(await both[1].pln("ping", "a", "-c", "1", "--json"), "denied")
    assert "pln status" in problem["remedy"]


async def test_a_service_is_connected_to_and_hears_nothing(both: Cluster) -> None:
    """One client a round, which ends without a byte; the node that has the service is named."""
    heard: list[bytes] = []

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.read(-1))
        writer.close()

    async with server(handler) as port:
        await serve(both[0], port, "quiet")
        await knows(both[1], "quiet", "a")
        for target in ("quiet", "service/quiet@a"):
            heard.clear()
            done = await both[1].pln("ping", target, "-c", "4", "-i", "10ms", "--json")
            assert done.returncode == 0, done.stderr
            report = json.loads(done.stdout)
            assert (report["kind"], report["answered"]) == ("service", 4)
            assert {held["name"] for held in report["rounds"]} == {"a"}

            async def came() -> bool:
                return len(heard) == 4

            await until(came, 10, "four clients came and went")
            assert set(heard) == {b""}


async def test_a_service_that_does_not_listen_fails_each_round(both: Cluster) -> None:
    """Each round says why, and the last reason is the verb's."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        await serve(both[0], free.getsockname()[1], "nobody")
        await knows(both[1], "nobody", "a")
        done = await both[1].pln("ping", "nobody", "-c", "2", "-i", "10ms")
        assert done.returncode == 6
        lines = done.stdout.decode().splitlines()
        assert [line.split()[1] for line in lines[:2]] == ["[provider-refused]"] * 2
        assert lines[2] == "0 of 2 answered"
        assert b"[provider-refused]" in done.stderr
        check_error(await both[1].pln("ping", "nobody", "-c", "1", "--json"), "provider-refused")


async def test_what_cannot_be_measured_is_said_at_once(both: Cluster) -> None:
    """Nobody, itself, a service of datagrams, and a name that is two things."""
    check_error(await both[0].pln("ping", "nothing", "--json"), "peer-not-found")
    check_error(await both[0].pln("ping", "service/nothing", "--json"), "service-not-found")
    check_error(await both[0].pln("ping", "nothing@b", "--json"), "service-not-found")
    check_error(await both[0].pln("ping", "a", "--json"), "usage")
    await serve(both[0], "udp:9", "dgrams")
    check_error(await both[0].pln("ping", "dgrams", "--json"), "usage")
    await serve(both[0], 9, "b")
    problem = check_error(await both[0].pln("ping", "b", "--json"), "ambiguous")
    assert "node/b" in problem["remedy"] and "service/b" in problem["remedy"]
    assert (await both[0].pln("ping", "node/b", "-c", "1")).returncode == 0


async def test_a_member_that_is_gone_does_not_answer() -> None:
    """The rounds are counted, and the verb ends with what went wrong."""
    async with Cluster(2) as cluster:
        await cluster[1].kill()
        done = await cluster[0].pln("ping", "b", "-c", "1")
        assert (done.returncode, done.stdout.decode().splitlines()[-1]) == (6, "0 of 1 answered")
        assert b"[unreachable]" in done.stderr


async def test_an_interrupted_ping_says_what_it_saw(both: Cluster) -> None:
    """Ctrl-C ends it, as every verb, with 130."""
    line = both[0].command("-m", "pollen.cli", "--dir", str(both[0].home), "ping", "node/b")
    pipe = subprocess.PIPE
    held = subprocess.Popen([*line, "-i", "1h"], stdout=pipe, stderr=pipe)
    assert held.stdout is not None
    first = await asyncio.to_thread(held.stdout.readline)
    assert first.startswith(b"1: b answered after ")
    held.send_signal(signal.SIGINT)
    out, _ = await asyncio.to_thread(held.communicate)
    assert (held.returncode, out.startswith(b"1 of 1 answered: min ")) == (130, True)
