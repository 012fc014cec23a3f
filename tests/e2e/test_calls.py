"""Calls across nodes: nested and tail calls, doors, callers, and the SDK's promises."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest

import pollen
from pollen.errors import CallError, Denied, Unreachable
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example, running
from tests.e2e.talk import alive, over_http, refusal, settles

pytestmark = pytest.mark.timeout(60)

HOSTS = {"echo": "ab", "shout": "b", "trap": "ab", "relay": "a", "loop": "b", "primes": "b"}


@pytest.fixture(scope="module")
def split() -> Iterator[Cluster]:
    """Two nodes that host different seeds; a has a TCP door."""
    properties = {"a": {"at": "a", "team": "red"}, "b": {"at": "b"}}
    with running(Cluster(2, properties=properties)) as cluster:
        asyncio.run(_publish(cluster))
        yield cluster


async def _publish(cluster: Cluster) -> None:
    for name, letters in HOSTS.items():
        host = [["at", letter] for letter in letters]
        await cluster.seed(example(name), name, on=letters, host=host)
    await cluster.seed(
        example("echo"), "private", on="a", host=[["at", "a"]], allow=[["team", "red"]]
    )


async def ids(cluster: Cluster) -> tuple[str, str]:
    first, second = [(await node.status())["node"] for node in cluster]
    return first, second


async def test_a_call_goes_where_the_seed_is(split: Cluster) -> None:
    a, b = await ids(split)
    async with split[0].connect() as mesh:
        there = await mesh.call("shout", "shout", b"far")
        here = await mesh.call("relay", "caller_info")
    assert (there.data, there.node, there.attempts) == (b"FAR", b, 1)
    assert there.rtt > 0 and there.elapsed >= there.run
    assert (here.node, here.rtt) == (a, 0.0)


async def test_a_nested_call_runs_on_another_node(split: Cluster) -> None:
    """relay is on a only, shout on b only: a asks b on behalf of its seed."""
    async with split[1].connect() as mesh:
        reply = await mesh.call("relay", "relay", b"pln://seed/shout/upper\nnested")
    assert reply.data == b"NESTED"
    assert reply.node == (await ids(split))[0]


async def test_a_nested_reply_may_be_a_status(split: Cluster) -> None:
    """A return code that is not 0 delivers its output all the same."""
    async with split[0].connect() as mesh:
        reply = await mesh.call("relay", "relay", b"pln://seed/trap/status\n")
    assert reply.data == b"seven"


async def test_a_tail_call_is_followed_from_the_callers_node(split: Cluster) -> None:
    """b asks a, gets the marker, and calls b itself: what it names ran there."""
    async with split[1].connect() as mesh:
        reply = await mesh.call("relay", "tail", b"pln://seed/shout/shout")
    assert reply.data == b"ON"
    assert reply.node == (await ids(split))[1]
    assert reply.rtt == 0.0


async def test_a_tail_call_has_the_callers_authority_and_not_the_seeds(split: Cluster) -> None:
    """a is in team red and may call private; b is not, and relay on a is no way round it."""
    async with split[0].connect() as mesh:
        assert (await mesh.call("relay", "tail", b"pln://seed/private/echo")).data == b"on"
    error = await refusal(split[1], "relay", "tail", b"pln://seed/private/echo")
    assert isinstance(error, Denied)


async def test_a_tail_call_that_leads_nowhere_says_that_something_ran(split: Cluster) -> None:
    """The seed that is missing did not run; the one that handed the call on did."""
    error = await refusal(split[1], "relay", "tail", b"pln://seed/nowhere/echo")
    assert (error.slug, error.may_have_executed) == ("seed-not-found", True)
    plain = await refusal(split[1], "nowhere", "echo", b"")
    assert (plain.slug, plain.may_have_executed) == ("seed-not-found", False)


async def test_a_gate_reads_the_callers_properties(split: Cluster) -> None:
    async with split[0].connect() as mesh:
        assert (await mesh.call("private", "echo", b"red")).data == b"red"
    error = await refusal(split[1], "private", "echo", b"not red")
    assert isinstance(error, Denied) and "private" in error.reason and error.remedy


async def test_a_guest_learns_who_calls(split: Cluster) -> None:
    a, b = await ids(split)
    async with split[0].connect() as mesh:
        own = (await mesh.call("relay", "caller_info")).json()
    async with split[1].connect() as mesh:
        other = (await mesh.call("relay", "caller_info")).json()
    assert (own["peerKey"], own["attributes"]) == (a, {"at": "a", "team": "red"})
    assert (other["peerKey"], other["attributes"]) == (b, {"at": "b"})
    assert own["deadlineUnixMs"] > 0
    assert other["unverified"]["originPeerKey"] == b


async def test_a_nested_call_is_made_as_the_host(split: Cluster) -> None:
    """The callee sees the link's peer; seed and origin are told as information only."""
    async with split[1].connect() as mesh:
        uri = b"pln://seed/relay/caller_info\n"
        info = (await mesh.call("relay", "relay", uri)).json()
    a, b = await ids(split)
    assert info["peerKey"] == a
    assert info["unverified"] == {"callingSeed": "relay", "originPeerKey": b}


# -- HTTP -------------------------------------------------------------------------------------


async def test_http_on_the_nodes_own_socket_acts_as_the_node(split: Cluster) -> None:
    where = split[0].paths.call_socket
    answer = await asyncio.to_thread(over_http, where, "/call/private/echo", b"mine")
    assert (answer.status, answer.body) == (200, b"mine")
    assert answer.headers["pollen-node"] == (await ids(split))[0]
    assert answer.headers["pollen-attempts"] == "1"
    assert "run;dur=" in answer.headers["server-timing"]


async def test_strangers_reach_public_seeds_and_learn_of_no_other() -> None:
    """The TCP door: a private seed, its functions and what does not exist look all alike."""
    async with Cluster(1) as cluster:
        (node,) = cluster
        await node.stop()
        tcp = await _start_with_door(node)
        await cluster.seed(example("echo"), "open", public=True)
        await cluster.seed(example("shout"), "closed")
        opened = await asyncio.to_thread(over_http, tcp, "/call/open/echo", b"hi")
        assert (opened.status, opened.body) == (200, b"hi")
        targets = ("closed/shout", "closed", "closed/none", "none/shout", "none")
        answers = [
            await asyncio.to_thread(over_http, tcp, f"/call/{target}", b"hi") for target in targets
        ]
        assert {answer.status for answer in answers} == {404}
        bodies = {answer.body.replace(b"none", b"?").replace(b"closed", b"?") for answer in answers}
        assert len(bodies) == 1
        upload = await asyncio.to_thread(over_http, tcp, "/content", b"x", "PUT")
        assert upload.status == 404


async def _start_with_door(node: Node) -> str:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as probe:
        tcp = f"127.0.0.1:{probe.getsockname()[1]}"
    await node.start("--http", tcp)
    return tcp


@pytest.mark.parametrize(
    ("method", "target", "status", "allowed"),
    [
        ("GET", "/call/echo/echo", 405, "POST"),
        ("DELETE", "/healthz", 405, "GET, HEAD"),
        ("POST", "/content", 405, "PUT"),
        ("GET", "/", 404, None),
        ("POST", "/calls/echo", 404, None),
    ],
)
async def test_what_is_no_call_is_told_in_the_words_of_http(
    split: Cluster, method: str, target: str, status: int, allowed: str | None
) -> None:
    where = split[0].paths.call_socket
    answer = await asyncio.to_thread(over_http, where, target, b"", method)
    assert (answer.status, answer.headers.get("allow")) == (status, allowed)
    assert (answer.problem["slug"], answer.problem["status"]) == ("bad-request", status)
    assert answer.problem["remedy"]


async def test_a_probe_may_ask_for_the_head_alone(split: Cluster) -> None:
    where = split[0].paths.call_socket
    answer = await asyncio.to_thread(over_http, where, "/healthz", b"", "HEAD")
    assert (answer.status, answer.body, answer.headers["content-length"]) == (200, b"", "3")


async def test_http_takes_a_budget_with_its_unit(split: Cluster) -> None:
    where = split[0].paths.call_socket
    bad = await asyncio.to_thread(
        over_http, where, "/call/echo/echo", b"", "POST", {"Pollen-Timeout": "5"}
    )
    assert (bad.status, bad.problem["slug"]) == (400, "bad-request")
    far = await asyncio.to_thread(
        over_http, where, "/call/echo/echo", b"", "POST", {"Pollen-Timeout": "2h"}
    )
    assert (far.status, far.problem["remedy"]) == (400, "give 1ms to 1h")
    late = await asyncio.to_thread(
        over_http, where, "/call/loop/loop", b"", "POST", {"Pollen-Timeout": "100ms"}
    )
    assert (late.status, late.problem["slug"]) == (504, "deadline")
    await settles(split[1], "calls_running", 0)


# -- the SDK ----------------------------------------------------------------------------------


async def test_cancelling_an_awaited_call_stops_the_guest_on_the_other_node(
    split: Cluster,
) -> None:
    async with split[0].connect() as mesh:
        call = asyncio.ensure_future(mesh.call("loop", "loop", timeout=30))
        await settles(split[1], "calls_running", 1)
        call.cancel()
        await settles(split[1], "calls_running", 0, timeout=5)
        with pytest.raises(asyncio.CancelledError):
            await call
        # The connection is as good as before.
        assert (await mesh.call("echo", "echo", b"on")).data == b"on"


async def test_cancelling_a_nested_call_stops_the_whole_chain(split: Cluster) -> None:
    async with split[0].connect() as mesh:
        call = asyncio.ensure_future(mesh.call("relay", "relay", b"pln://seed/loop/loop\n"))
        await settles(split[1], "calls_running", 1)
        call.cancel()
        await settles(split[1], "calls_running", 0, timeout=5)
        await settles(split[0], "calls_running", 0, timeout=5)


async def test_a_client_that_goes_away_takes_its_calls_with_it(split: Cluster) -> None:
    mesh = split[0].connect()
    calls = [asyncio.ensure_future(mesh.call("loop", "loop", timeout=30)) for _ in range(3)]
    await settles(split[1], "calls_running", 3)
    await mesh.close()
    await settles(split[1], "calls_running", 0, timeout=5)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers} == {Unreachable}


async def test_map_is_ordered_bounded_and_cancelled_on_exit(split: Cluster) -> None:
    async with split[0].connect() as mesh:
        shout = mesh.function("shout", "shout")
        words = [f"word {number}" for number in range(300)]
        assert [r.text async for r in shout.map(words, in_flight=16)] == [
            word.upper() for word in words
        ]

        async def inputs() -> AsyncIterator[bytes]:
            for number in range(3):
                yield str(number).encode()

        assert [r.data async for r in shout.map(inputs())] == [b"0", b"1", b"2"]
        loop = mesh.function("loop", "loop")
        replies = loop.map([b""] * 8, in_flight=4)
        waiting = asyncio.ensure_future(anext(replies))
        await settles(split[1], "calls_running", 4)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await replies.aclose()
        await settles(split[1], "calls_running", 0, timeout=5)


async def test_map_raises_the_first_error_in_its_place(split: Cluster) -> None:
    async with split[0].connect() as mesh:
        primes = mesh.function("primes", "primes")
        seen = []
        with pytest.raises(pollen.GuestError) as failed:
            async for reply in primes.map(["10", "100", "x", "1000"], in_flight=2):
                seen.append(reply.text)
        assert seen == ["4", "25"]
        assert "not a decimal number" in failed.value.reason


async def test_json_text_and_bytes(split: Cluster) -> None:
    async with split[0].connect() as mesh:
        echo = mesh.function("echo", "echo")
        assert (await echo(json={"a": [1, "ü"]})).json() == {"a": [1, "ü"]}
        assert (await echo("ü")).text == "ü"
        assert (await echo(memoryview(b"\x00\xff"))).data == b"\x00\xff"
        with pytest.raises(pollen.BadRequest):
            await echo(b"both", json={})


async def test_a_lost_daemon_is_unreachable_and_heals() -> None:
    async with Cluster(1) as cluster:
        (node,) = cluster
        await cluster.seed(example("echo"), "echo")
        async with node.connect() as mesh:
            assert (await mesh.call("echo", "echo", b"one")).data == b"one"
            await node.kill()
            with pytest.raises(Unreachable) as lost:
                await mesh.call("echo", "echo", b"two")
            assert lost.value.remedy
            await node.start()
            await cluster.ready("echo")
            assert (await mesh.call("echo", "echo", b"three")).data == b"three"


async def test_a_daemon_lost_during_a_call_says_that_it_may_have_run() -> None:
    async with Cluster(1) as cluster:
        (node,) = cluster
        await cluster.seed(example("loop"), "loop")
        async with node.connect() as mesh:
            call = asyncio.ensure_future(mesh.call("loop", "loop"))
            await settles(node, "calls_running", 1)
            await node.kill()
            with pytest.raises(Unreachable) as lost:
                await call
        assert lost.value.may_have_executed


def _blocking(home: str) -> list[str]:
    """What the blocking twin does, in a thread of its own."""
    seen = []
    with pollen.connect_sync(home) as mesh:
        shout = mesh.function("shout", "shout", timeout=10)
        seen.append(shout("one").text)
        seen += [reply.text for reply in shout.map(["two", "three"], in_flight=2)]
        try:
            mesh.call("trap", "error")
        except pollen.GuestError as error:
            seen.append(error.slug)
        try:
            mesh.call("loop", "loop", timeout=0.2)
        except pollen.DeadlineExceeded as error:
            seen.append(error.slug)
        seen.append(mesh.call("echo", "echo", "after an error").text)
        seen.append(str(mesh.status()["healthy"]))
    return seen


async def test_the_blocking_twin_has_the_same_names(split: Cluster) -> None:
    seen = await asyncio.to_thread(_blocking, str(split[0].home))
    assert seen == ["ONE", "TWO", "THREE", "guest-failed", "deadline", "after an error", "True"]


async def test_many_tasks_share_one_connection(split: Cluster) -> None:
    async with split[0].connect() as mesh:
        echo = mesh.function("echo", "echo")
        replies = await asyncio.gather(*(echo(str(number)) for number in range(500)))
    assert [reply.text for reply in replies] == [str(number) for number in range(500)]
    assert {reply.node for reply in replies} <= set(await ids(split))


async def test_errors_survive_a_pickle(split: Cluster) -> None:
    """They cross processes, as in concurrent.futures."""
    import pickle

    error = await refusal(split[0], "none", "x")
    again = pickle.loads(pickle.dumps(error))
    assert isinstance(again, CallError)
    assert json.dumps(again.to_dict()) == json.dumps(error.to_dict())
    await alive(split[0])


async def test_a_seed_that_runs_nowhere_comes_to_life_by_being_called(split: Cluster) -> None:
    """With --min-replicas 0 nobody loads it; the first call waits for its first replica."""
    a, b = split
    async with a.connect() as mesh:
        await mesh.seed(example("echo"), "sleepy", min_replicas=0)

    async def is_known() -> bool:
        return any(seed["name"] == "sleepy" for seed in (await b.status())["seeds"])

    await until(is_known, 10, "b knows the seed")
    seeds = {seed["name"]: seed for seed in (await b.status())["seeds"]}
    assert (seeds["sleepy"]["replicas"], seeds["sleepy"]["wanted"]) == ([], 0)
    async with b.connect() as mesh:
        assert (await mesh.call("sleepy", "echo", b"wake up", timeout=10)).data == b"wake up"
