"""Streamed replies and request heads, from a guest on another node to its caller."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
from collections.abc import Iterator

import msgspec
import psutil
import pytest

import pollen
from pollen.errors import BadRequest, DeadlineExceeded, GuestError, TooLarge, Unreachable
from pollen.sdk import door, inflow
from pollen.sdk.control import Control
from pollen.sizes import HEAD_MAX_BYTES
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import EXAMPLES, example, running
from tests.e2e.talk import check_error, metric, refusal

pytestmark = pytest.mark.timeout(120)

MIB = 1 << 20
# What a stalled reader holds back at most: the client's window, the link's, a chunk at each node.
HELD_MAX = inflow.WINDOW + (256 + 2 * 256) * 1024
# What a stream of any length may add to a daemon's memory.
GROWTH_MAX = 64 * MIB


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """The callers are at a, the guests at b; relay is at both."""
    with running(Cluster(2, properties={"a": {"at": "a"}, "b": {"at": "b"}})) as cluster:
        asyncio.run(_publish(cluster))
        yield cluster


async def _publish(cluster: Cluster) -> None:
    there = [["at", "b"]]
    await cluster.seed(example("ticker"), "ticker", on="b", host=there, timeout_ms=100_000)
    await cluster.seed(example("ticker"), "brief", on="b", host=there, timeout_ms=1500)
    await cluster.seed(example("echo"), "echo", on="b", host=there)
    await cluster.seed(example("relay"), "relay", on="b", host=there)
    lines = EXAMPLES.parent / "wasi" / "lines.wasm"
    await cluster.seed(lines, "lines", on="b", host=there, config={"args": "e"})


async def in_flight(node: Node, seed: str = "ticker") -> int:
    """Calls of a seed that run there or wait."""
    page = await asyncio.to_thread(Control(node.paths).text, "/v1/metrics")
    start = "pollen_executions_in_flight{"
    rows = [row for row in page.splitlines() if row.startswith(start) and f'"{seed}"' in row]
    return sum(int(float(row.split()[-1])) for row in rows)


async def executed(node: Node, seed: str = "ticker") -> int:
    """Calls of a seed that ended there, in whatever way, and those that go on."""
    page = await asyncio.to_thread(Control(node.paths).text, "/v1/metrics")
    start = "pollen_executions_total{"
    rows = [row for row in page.splitlines() if row.startswith(start) and f'"{seed}"' in row]
    return sum(int(float(row.split()[-1])) for row in rows) + await in_flight(node, seed)


async def is_idle(node: Node, seed: str = "ticker") -> None:
    """Wait until no guest of the seed is left there."""

    async def has_ended() -> bool:
        return await in_flight(node, seed) == 0

    await until(has_ended, 20, f"no guest is left on {node.name}")


async def rests(node: Node, name: str = "link_chunk_bytes_total") -> int:
    """Wait until that many bytes of chunks grow no more, and say how many there are."""
    seen = -1

    async def is_same() -> bool:
        nonlocal seen
        before, seen = seen, await metric(node, name)
        return before == seen

    await until(is_same, 20, "the guest waits for its reader", poll=0.2)
    return seen


def resident(node: Node) -> int:
    """Memory of a daemon, bytes."""
    return int(psutil.Process(node.pid).memory_info().rss)


# -- pieces -----------------------------------------------------------------------------------


async def test_the_first_piece_is_here_while_the_function_still_runs(pair: Cluster) -> None:
    """It writes without end, so whatever came was written by a guest that runs; leaving ends it."""
    a, b = pair
    async with a.connect() as mesh:
        async with mesh.stream("ticker", "forever") as pieces:
            first = await anext(pieces)
            assert first.startswith(b"1\n")
            assert await in_flight(b) == 1
            with pytest.raises(BadRequest, match="has not ended"):
                _ = pieces.reply
        await is_idle(b)
        with pytest.raises(BadRequest, match="was left"):
            while True:
                await anext(pieces)


async def test_the_pieces_are_what_a_whole_call_brings(pair: Cluster) -> None:
    """A function that writes serves both kinds of callers: its output comes behind that."""
    a, b = pair
    async with a.connect() as mesh:
        whole = await mesh.call("ticker", "count", b"1000")
        async with mesh.stream("ticker", "count", b"1000") as pieces:
            parts = [piece async for piece in pieces]
        here = (await b.status())["node"]
    expected = b"".join(b"%d\n" % number for number in range(1, 1001)) + b"done\n"
    assert whole.data == expected
    assert b"".join(parts) == expected and len(parts) > 1
    assert (pieces.reply.data, pieces.reply.node, pieces.reply.attempts) == (b"", here, 1)
    assert pieces.reply.rtt > 0 and pieces.reply.run > 0


async def test_a_function_that_does_not_write_may_be_streamed(pair: Cluster) -> None:
    async with pair[0].connect() as mesh, mesh.stream("echo", "echo", b"whole") as pieces:
        assert [piece async for piece in pieces] == [b"whole"]


async def test_a_guest_on_the_callers_own_node_streams_as_well(pair: Cluster) -> None:
    async with pair[1].connect() as mesh, mesh.stream("ticker", "count", b"3") as pieces:
        assert b"".join([piece async for piece in pieces]) == b"1\n2\n3\ndone\n"
    assert pieces.reply.rtt == 0.0


async def test_a_stream_may_be_longer_than_an_output(pair: Cluster) -> None:
    """4 MiB limit what is kept for a caller that does not stream, and nothing else."""
    error = await refusal(pair[0], "ticker", "flood", b"5")
    assert error.slug == "guest-output-too-large"
    async with pair[0].connect() as mesh, mesh.stream("ticker", "flood", b"5") as pieces:
        assert sum([len(piece) async for piece in pieces]) == 5 * MIB


async def test_a_programs_standard_output_is_streamed(pair: Cluster) -> None:
    """A WASI command writes as it always does; its exit code is the status all the same."""
    text = b"".join(b"line %d\n" % number for number in range(20_000))
    async with pair[0].connect() as mesh:
        async with mesh.stream("lines", None, text) as pieces:
            parts = [piece async for piece in pieces]
        assert b"".join(parts) == text and len(parts) > 10
        with pytest.raises(GuestError) as raised:
            async with mesh.stream("lines", None, b"no such\n") as pieces:
                assert [piece async for piece in pieces] == []
    assert raised.value.status == 1


async def test_the_counters_tell_of_streams(pair: Cluster) -> None:
    a, b = pair
    names = ("door_streams_total", "door_chunk_bytes_total")
    links = ("link_streams_total", "link_chunk_bytes_total")
    before = [await metric(a, name) for name in names] + [await metric(b, name) for name in links]
    async with a.connect() as mesh, mesh.stream("ticker", "flood", b"1") as pieces:
        assert sum([len(piece) async for piece in pieces]) == MIB
    after = [await metric(a, name) for name in names] + [await metric(b, name) for name in links]
    assert [new - old for old, new in zip(before, after, strict=True)] == [1, MIB, 1, MIB]


# -- memory and slow readers ------------------------------------------------------------------


async def test_a_long_stream_takes_no_memory_whatever_its_reader_does(pair: Cluster) -> None:
    """256 MiB pass with both daemons under 64 MiB over idle; a reader that rests makes the guest
    wait, with what is under way bounded, and gets the rest when it goes on."""
    a, b = pair
    size = 256 * MIB
    async with a.connect() as mesh:
        async with mesh.stream("ticker", "flood", b"1") as pieces:
            assert sum([len(piece) async for piece in pieces]) == MIB
        idle = [resident(node) for node in pair]
        sent = await metric(b, "link_chunk_bytes_total")
        got, rested, most = 0, 0, [0, 0]
        async with mesh.stream("ticker", "flood", b"256", timeout=100) as pieces:
            async for piece in pieces:
                got += len(piece)
                if got >= (rested + 1) * 64 * MIB:
                    rested += 1
                    most = [max(*pair_) for pair_ in zip(most, map(resident, pair), strict=True)]
                if got >= 64 * MIB and rested == 1:
                    rested += 1
                    assert await rests(b) - sent - got <= HELD_MAX
                    assert await in_flight(b) == 1 and await metric(b, "calls_running") == 0
        most = [max(*pair_) for pair_ in zip(most, map(resident, pair), strict=True)]
    assert got == size
    assert all(top - low < GROWTH_MAX for top, low in zip(most, idle, strict=True)), (idle, most)


@pytest.mark.parametrize("caller", [0, 1], ids=["from afar", "on its node"])
async def test_a_reader_that_never_reads_stalls_its_own_call_only(
    pair: Cluster, caller: int
) -> None:
    """Calls on the same connection and the same link go on; the guest is ended at its deadline."""
    node, host = pair[caller], pair[1]
    async with node.connect() as mesh, mesh.stream("ticker", "forever", timeout=4) as pieces:
        await rests(node, "door_chunk_bytes_total")
        for number in range(50):
            assert (await mesh.call("echo", "echo", b"%d" % number)).data == b"%d" % number
        assert await in_flight(host) == 1
        await is_idle(host)
        came = 0
        with pytest.raises(DeadlineExceeded) as raised:
            async for piece in pieces:
                came += len(piece)
    assert came == inflow.WINDOW
    assert raised.value.may_have_executed
    assert f"after {came} bytes had arrived" in raised.value.reason


async def test_a_client_that_gives_credit_and_leaves_its_socket_unread_holds_little(
    pair: Cluster,
) -> None:
    """16 streams with endless credit have 1 MiB and what the socket holds; other clients go on."""
    a, b = pair
    talk = door.Conversation()
    how = {"budget_ms": 60_000, "retries": 0, "idempotent": False, "traceparent": None}
    frames = [talk.call("ticker", "flood", b"64", credit=2**32 - 1, **how)[1] for _ in range(16)]
    before, sent = resident(a), await metric(a, "door_chunk_bytes_total")
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(a.paths.call_socket))
        plain.sendall(door.PREFACE + b"".join(frames))

        async def has_begun() -> bool:
            return await metric(a, "door_chunk_bytes_total") > sent

        await until(has_begun, 20, "chunks go out")
        assert await rests(a, "door_chunk_bytes_total") - sent <= 4 * MIB
        assert resident(a) - before < GROWTH_MAX
        async with a.connect() as mesh:
            assert (await mesh.call("echo", "echo", b"other")).data == b"other"
    await is_idle(b)


async def test_many_stalled_streams_leave_room_on_their_link(pair: Cluster) -> None:
    """128 readers that do not read hold half of the connection's window; one more is refused."""
    a, b = pair
    streams = []
    async with a.connect() as mesh:
        try:
            for _ in range(128):
                streams.append(mesh.stream("ticker", "flood", b"64", timeout=60))
                await streams[-1].__aenter__()

            async def all_there() -> bool:
                return await in_flight(b) == 128

            await until(all_there, 30, "128 guests write")
            await rests(b)
            assert (await mesh.call("echo", "echo", bytes(MIB))).data == bytes(MIB)
            with pytest.raises(pollen.Overloaded, match="128 streamed calls"):
                async with mesh.stream("ticker", "count", b"1", retries=0) as pieces:
                    await anext(pieces)
        finally:
            for stream in streams:
                await stream.__aexit__(None, None, None)
        await is_idle(b)


# -- ends -------------------------------------------------------------------------------------


async def test_a_guest_that_is_ended_within_a_chunk_ends_its_stream_whole(pair: Cluster) -> None:
    """The seed's own limit ends it while its reader rests. Who reads on has all that was written,
    then the reason: a chunk that was begun is finished first, else the rest could not be read."""
    a, b = pair
    async with a.connect() as mesh, mesh.stream("brief", "flood", b"64", timeout=60) as pieces:
        await rests(b)
        await is_idle(b, "brief")
        came = 0
        with pytest.raises(DeadlineExceeded) as raised:
            async for piece in pieces:
                came += len(piece)
    assert inflow.WINDOW < came <= HELD_MAX and came % (64 * 1024) == 0
    assert f"after {came} bytes had arrived" in raised.value.reason


async def test_a_cancelled_reader_ends_the_guest(pair: Cluster) -> None:
    a, b = pair

    async def read() -> None:
        async with a.connect() as mesh, mesh.stream("ticker", "forever") as pieces:
            async for _ in pieces:
                pass

    reading = asyncio.ensure_future(read())

    async def is_running() -> bool:
        return await in_flight(b) == 1

    await until(is_running, 20, "the guest runs")
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    await is_idle(b)


async def test_a_host_that_dies_in_the_middle_is_told_and_nothing_runs_twice() -> None:
    """The seed is idempotent and another host has it: a whole call would be run again there."""
    async with Cluster(3, properties={"b": {"at": "x"}, "c": {"at": "x"}}) as cluster:
        hosts = {"host": [["at", "x"]], "min_replicas": 2, "idempotent": True}
        await cluster.seed(example("ticker"), "ticker", on="bc", **hosts)
        by_id = {(await node.status())["node"]: node for node in cluster}
        async with cluster[0].connect() as mesh:
            async with mesh.stream("ticker", "forever", idempotent=True) as pieces:
                came = len(await anext(pieces))
                (victim,) = [node for node in by_id.values() if await in_flight(node)]
                (other,) = [node for node in cluster.nodes[1:] if node is not victim]
                await victim.kill()
                with pytest.raises(Unreachable) as raised:
                    async for piece in pieces:
                        came += len(piece)
            assert raised.value.may_have_executed and raised.value.attempts == 1
            assert f"after {came} bytes had arrived" in raised.value.reason
            assert await executed(other) == 0
            assert (await mesh.call("ticker", "count", b"1")).data == b"1\ndone\n"


async def test_what_a_guest_wrote_before_it_failed_is_read_first(pair: Cluster) -> None:
    """A tail call behind written output would give one caller two outputs: it is refused, for both
    kinds of callers."""
    error = await refusal(pair[0], "ticker", "relay")
    assert (error.slug, error.may_have_executed) == ("guest-failed", True)
    assert "wrote 2 bytes and then made a tail call" in error.reason
    came = b""
    async with pair[0].connect() as mesh, mesh.stream("ticker", "relay") as pieces:
        with pytest.raises(GuestError, match="after 2 bytes had arrived"):
            async for piece in pieces:
                came += piece
    assert came == b"1\n"


async def test_a_tail_call_takes_the_stream_and_the_head_along(pair: Cluster) -> None:
    async with pair[0].connect() as mesh:
        to = b"pln://seed/ticker/"
        async with mesh.stream("relay", "tail", to + b"forever") as pieces:
            assert (await anext(pieces)).startswith(b"1\n")
        reply = await mesh.call("relay", "tail", to + b"head", head=b"for both")
    assert reply.data == b"for both"


async def test_a_nested_call_neither_streams_nor_has_the_head(pair: Cluster) -> None:
    """The guest above has the whole reply, and hands on what it wants."""
    async with pair[0].connect() as mesh:
        ask = b"pln://seed/ticker/"
        async with mesh.stream("relay", "relay", ask + b"count\n2", head=b"above") as pieces:
            assert [piece async for piece in pieces] == [b"1\n2\ndone\n"]
        assert (await mesh.call("relay", "relay", ask + b"head\n", head=b"above")).data == b"none"


# -- heads ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 255, 256, HEAD_MAX_BYTES])
async def test_a_head_arrives_beside_the_input(pair: Cluster, size: int) -> None:
    head = os.urandom(size)
    for node in pair:
        async with node.connect() as mesh:
            assert (await mesh.call("ticker", "head", head=head)).data == head
            async with mesh.stream("ticker", "head", head=head) as pieces:
                assert b"".join([piece async for piece in pieces]) == head
            assert (await mesh.call("ticker", "head")).data == b"none"


async def test_a_head_that_is_too_long_is_refused_by_the_client_and_by_the_node(
    pair: Cluster,
) -> None:
    head = bytes(HEAD_MAX_BYTES + 1)
    async with pair[0].connect() as mesh:
        with pytest.raises(TooLarge, match="request head is 65537 bytes, the limit 65536"):
            await mesh.call("ticker", "head", head=head)
    talk = door.Conversation()
    _, frame = talk.call(
        "ticker",
        "head",
        b"",
        budget_ms=9000,
        retries=0,
        idempotent=False,
        traceparent=None,
        head=head,
    )

    def answer() -> door.Answer | door.Chunk:
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(10)
            plain.connect(str(pair[0].paths.call_socket))
            plain.sendall(door.PREFACE + frame)
            while True:
                if answers := talk.receive(plain.recv(65536)):
                    return answers[0]

    failed = await asyncio.to_thread(answer)
    assert isinstance(failed, door.Failed) and failed.slug == "input-too-large"
    assert "request head is 65537 bytes" in failed.reason and not failed.may_have_executed


# -- the blocking client and the command line -------------------------------------------------


async def test_the_blocking_client_streams_and_calls_in_the_loop(pair: Cluster) -> None:
    """A stream has a connection of its own; leaving the loop cancels it."""
    a, b = pair

    def read() -> tuple[bytes, list[bytes], str]:
        with pollen.connect_sync(a.home) as mesh:
            stream = mesh.stream("ticker", "count", b"3")
            parts, echoed = [], []
            for piece in stream:
                parts.append(piece)
                echoed.append(mesh.call("echo", "echo", piece).data)
            for _ in mesh.stream("ticker", "forever"):
                break
            return b"".join(parts), echoed, stream.reply.node

    parts, echoed, node = await asyncio.to_thread(read)
    assert parts == b"".join(echoed) == b"1\n2\n3\ndone\n"
    assert node == (await b.status())["node"]
    await is_idle(b)


@pytest.fixture
def streaming(pair: Cluster) -> Iterator[subprocess.Popen[bytes]]:
    """``pln call --stream`` of a function without an end."""
    line = pair[0].command("-m", "pollen.cli", "--dir", str(pair[0].home))
    line += ["call", "--stream", "ticker", "forever"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    yield process
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        assert pipe is not None
        pipe.close()


async def test_the_command_line_writes_pieces_as_they_come(
    pair: Cluster, streaming: subprocess.Popen[bytes]
) -> None:
    """A closed pipe ends it as it ends any program of a pipeline, and the guest with it."""
    assert streaming.stdout is not None
    assert await asyncio.to_thread(streaming.stdout.readline) == b"1\n"
    assert await in_flight(pair[1]) == 1
    streaming.stdout.close()
    assert await asyncio.to_thread(streaming.wait, 20) == 0
    await is_idle(pair[1])


async def test_ctrl_c_ends_a_stream_and_its_guest(
    pair: Cluster, streaming: subprocess.Popen[bytes]
) -> None:
    assert streaming.stdout is not None
    assert await asyncio.to_thread(streaming.stdout.readline) == b"1\n"
    streaming.send_signal(signal.SIGINT)
    assert await asyncio.to_thread(streaming.wait, 20) == 130
    await is_idle(pair[1])


async def test_the_command_line_streams_to_the_end_and_says_how_it_went(pair: Cluster) -> None:
    a = pair[0]
    done = await a.pln("call", "--stream", "-v", "ticker", "count", "2")
    assert (done.returncode, done.stdout) == (0, b"1\n2\ndone\n"), done.stderr
    assert b"ran on" in done.stderr
    failed = await a.pln("call", "--stream", "ticker", "relay")
    assert failed.stdout == b"1\n" and b"[guest-failed]" in failed.stderr
    status = await a.pln("call", "--stream", "lines", "-", stdin=b"me\nno\n")
    assert (status.returncode, status.stdout) == (0, b"me\n")
    both = await a.pln("call", "--stream", "--json", "ticker", "count", "2")
    check_error(both, "usage")
    head = await a.pln("call", "--head", "of the call", "ticker", "head")
    assert head.stdout == b"of the call"


def test_a_chunk_that_is_no_chunk_ends_the_connection() -> None:
    """The client's side: a chunk leaves its id in use, and one of an unknown id does not pass."""
    talk = door.Conversation()
    number, _ = talk.call(
        "s", None, b"", budget_ms=1, retries=0, idempotent=False, traceparent=None, credit=9
    )

    def framed(*array: object) -> bytes:
        body = msgspec.msgpack.encode(array)
        return len(body).to_bytes(4, "big") + body

    chunk = framed(6, number, b"piece")
    assert talk.receive(chunk * 2) == [door.Chunk(number, b"piece")] * 2
    assert talk.give(number, 5) == framed(5, number, 5)
    assert talk.forget(number) and talk.receive(chunk) == [] and talk.give(number, 5) == b""
    with pytest.raises(Unreachable, match="nobody asked"):
        talk.receive(framed(6, number + 1, b"piece"))
