"""The reading end of a streamed reply: credit, pieces before errors, and every way of leaving."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import queue
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import pollen
from pollen.errors import BadRequest, CallError, DeadlineExceeded, GuestError, TooLarge, Unreachable
from pollen.sdk import door
from pollen.sdk.inflow import WINDOW, Inflow
from pollen.sizes import HEAD_MAX_BYTES

NODE = bytes(32)
STEP = WINDOW // 2


def framed(*array: object) -> bytes:
    body = msgspec.msgpack.encode(array)
    return len(body).to_bytes(4, "big") + body


def chunk(number: int, data: bytes) -> bytes:
    return framed(6, number, data)


def reply(number: int, output: bytes, status: int | None = None) -> bytes:
    return framed(2, number, status, NODE, 1, 0, 0, 0, 0, 0, output)


def failure(number: int) -> bytes:
    return framed(3, number, "guest-failed", "why", "do", NODE, 1, True, 0)


class Node:
    """A node whose answers the test writes; what came from clients is in ``heard``."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.heard: queue.Queue[Any] = queue.Queue()
        self._links: list[socket.socket] = []
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(str(home / "call.sock"))
        self._door.listen()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._door.accept()
                self._links.append(link)
                threading.Thread(target=self._listen, args=(link,), daemon=True).start()

    def _listen(self, link: socket.socket) -> None:
        with contextlib.suppress(OSError), link.makefile("rb") as source:
            source.read(len(door.PREFACE))
            while head := source.read(4):
                self.heard.put(msgspec.msgpack.decode(source.read(int.from_bytes(head, "big"))))
        self.heard.put("closed")

    def take(self) -> Any:
        """The next frame of a client."""
        return self.heard.get(timeout=10)

    def say(self, *frames: bytes) -> None:
        """To the client that connected last."""
        self._links[-1].sendall(b"".join(frames))

    def hang_up(self) -> None:
        """Close the connection that was made last."""
        self._links[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End it: first whoever takes connections, so that none comes after the last is closed."""
        self._door.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        for each in (self._door, *self._links):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()


@pytest.fixture
def node() -> Iterator[Node]:
    with tempfile.TemporaryDirectory(prefix="pln-") as folder:
        made = Node(Path(folder))
        yield made
        made.close()


def test_credit_is_given_in_steps_of_half_a_window_and_never_after_the_end() -> None:
    """So that a reader of small pieces does not send a frame for each of them."""
    flow = Inflow()
    for _ in range(3):
        flow.feed(bytes(STEP // 2))
    owed = [(flow.take(), flow.owed())[1] for _ in range(3)]
    assert owed == [0, STEP, 0]
    flow.feed(bytes(STEP))
    flow.answer(door.Answered(0, None, NODE, 1, 0, 0, 0, 0, 0, b""))
    assert len(flow.take() or b"") == STEP and flow.owed() == 0
    assert flow.take() is None and flow.reply.data == b""


def test_a_status_delivers_its_output_and_then_the_error() -> None:
    flow = Inflow()
    flow.answer(door.Answered(0, 7, NODE, 1, 0, 0, 0, 0, 0, b"seven"))
    assert flow.take() == b"seven"
    with pytest.raises(GuestError) as raised:
        flow.take()
    assert (raised.value.status, raised.value.output) == (7, b"seven")


async def test_pieces_are_read_with_credit_and_the_head_goes_along(node: Node) -> None:
    async with pollen.connect(node.home) as mesh:
        async with mesh.stream("s", "f", b"in", head=b"beside") as pieces:
            call = await asyncio.to_thread(node.take)
            assert (call[2], call[3], call[8:]) == ("s", "f", [b"in", b"beside", WINDOW])
            say = (chunk(call[1], bytes(STEP)), chunk(call[1], b"more"))
            await asyncio.to_thread(node.say, *say)
            assert len(await anext(pieces)) == STEP
            assert await asyncio.to_thread(node.take) == [5, call[1], STEP]
            node.say(reply(call[1], b"last"))
            assert [piece async for piece in pieces] == [b"more", b"last"]
        assert (pieces.reply.data, pieces.reply.node) == (b"", NODE.hex())
        with pytest.raises(BadRequest, match="one call"):
            await pieces.__aenter__()
    # Nothing was cancelled: it had ended.
    assert await asyncio.to_thread(node.take) == "closed"


async def test_what_came_before_a_failure_is_read_first(node: Node) -> None:
    async with pollen.connect(node.home) as mesh, mesh.stream("s") as pieces:
        call = await asyncio.to_thread(node.take)
        node.say(chunk(call[1], b"some"), failure(call[1]))
        assert await anext(pieces) == b"some"
        for _ in range(2):
            with pytest.raises(GuestError):
                await anext(pieces)
        with pytest.raises(GuestError):
            _ = pieces.reply


async def test_leaving_cancels_and_other_calls_of_the_mesh_go_on(node: Node) -> None:
    async with pollen.connect(node.home) as mesh:
        async with mesh.stream("s") as pieces:
            call = await asyncio.to_thread(node.take)
            other = asyncio.ensure_future(mesh.call("t"))
            second = await asyncio.to_thread(node.take)
            node.say(chunk(call[1], b"some"), reply(second[1], b"whole"))
            assert (await other).data == b"whole"
        assert await asyncio.to_thread(node.take) == [1, call[1]]
        # A chunk that crossed the CANCEL is dropped.
        node.say(chunk(call[1], b"late"))
        with pytest.raises(BadRequest, match="was left"):
            while True:
                await anext(pieces)


@pytest.mark.parametrize("how", ["hang up", "silence"])
async def test_a_node_that_goes_away_or_falls_silent_ends_the_stream(node: Node, how: str) -> None:
    wanted = Unreachable if how == "hang up" else DeadlineExceeded
    async with pollen.connect(node.home) as mesh, mesh.stream("s", timeout=0.05) as pieces:
        call = await asyncio.to_thread(node.take)
        node.say(chunk(call[1], b"some"))
        assert await anext(pieces) == b"some"
        if how == "hang up":
            node.hang_up()
        with pytest.raises(wanted) as raised:
            await anext(pieces)
    assert raised.value.may_have_executed


async def test_a_stream_is_read_within_its_block(node: Node) -> None:
    async with pollen.connect(node.home) as mesh:
        with pytest.raises(BadRequest, match="has not begun"):
            await anext(mesh.stream("s"))
    with pytest.raises(BadRequest, match="closed"):
        async with mesh.stream("s"):
            pass


def test_the_blocking_twin_reads_gives_credit_and_ends(node: Node) -> None:
    with pollen.connect_sync(node.home) as mesh:
        stream = mesh.stream("s", "f", b"in", head="beside")
        begun = threading.Thread(target=lambda: answered(node))
        begun.start()
        assert [len(piece) for piece in stream] == [STEP, 4, 4]
        begun.join()
        assert stream.reply.data == b"" and list(stream) == []


def answered(node: Node) -> None:
    """One streamed call, with the credit that its reader owes."""
    call = node.take()
    assert call[8:] == [b"in", b"beside", WINDOW]
    node.say(chunk(call[1], bytes(STEP)))
    assert node.take() == [5, call[1], STEP]
    node.say(chunk(call[1], b"more"), reply(call[1], b"last"))


@pytest.mark.parametrize("how", ["close", "with", "collect", "mesh"])
def test_a_blocking_stream_that_is_left_hangs_up(node: Node, how: str) -> None:
    """Its connection is its own, so that this cancels the call."""
    mesh = pollen.connect_sync(node.home)
    stream = mesh.stream("s")

    def answer() -> None:
        node.say(chunk(node.take()[1], b"some"))

    threading.Thread(target=answer, daemon=True).start()
    assert next(stream) == b"some"
    if how == "close":
        stream.close()
    elif how == "with":
        with stream:
            pass
    elif how == "mesh":
        mesh.close()
    else:
        del stream
        gc.collect()
    assert node.take() == "closed"
    if how != "collect":
        with pytest.raises(BadRequest, match="was left"):
            next(stream)


@pytest.mark.parametrize("how", ["hang up", "silence", "interrupt"])
def test_a_blocking_stream_ends_with_its_node(node: Node, how: str) -> None:
    mesh = pollen.connect_sync(node.home)
    stream = mesh.stream("s", timeout=0.05 if how == "silence" else 60)

    def answer() -> None:
        node.say(chunk(node.take()[1], b"some"))

    threading.Thread(target=answer, daemon=True).start()
    assert next(stream) == b"some"
    if how == "hang up":
        node.hang_up()
    elif how == "interrupt":
        mesh.interrupt()
    with pytest.raises(CallError) as raised:
        next(stream)
    assert raised.value.slug == ("deadline" if how == "silence" else "unreachable")
    assert raised.value.may_have_executed


async def test_a_head_has_its_type_and_its_limit(node: Node) -> None:
    mesh = pollen.connect_sync(node.home)
    with pytest.raises(TooLarge, match="65537 bytes, the limit 65536") as raised:
        mesh.call("s", head=bytes(HEAD_MAX_BYTES + 1))
    assert raised.value.remedy
    with pytest.raises(TypeError, match="a request head is bytes or str, not int"):
        mesh.stream("s", head=5)  # type: ignore[arg-type]
