"""Sockets over frames over pipes: what a client and a server of real sockets see of each other."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from pollen.sdk import mux
from pollen.sdk.mux import Accepted, Event, Mux, Wanted
from pollen.sdk.pump import BACKLOG, Poll, Pump

WITHIN = 10.0


class Way:
    """Both ends in this process; ``turn`` moves what can be moved."""

    def __init__(self) -> None:
        there, back = os.pipe(), os.pipe()
        self.pipes = (*there, *back)
        self.poll = Poll()
        self.near_mux, self.far_mux = Mux(is_caller=True), Mux(is_caller=False)
        self.near = Pump(self.poll, self.near_mux, (back[0], there[1]), self.near_told)
        self.far = Pump(self.poll, self.far_mux, (there[0], back[1]), self.far_told)
        self.waiting: dict[int, socket.socket] = {}
        self.servers: list[socket.socket] = []
        self.held: list[socket.socket] = []

    def near_told(self, event: Event) -> None:
        assert isinstance(event, Accepted)
        self.near.attach(event.stream, self.waiting.pop(event.stream))

    def far_told(self, event: Event) -> None:
        assert isinstance(event, Wanted)
        ours, theirs = socket.socketpair()
        self.servers.append(theirs)
        self.far_mux.accept(event.stream)
        self.far.attach(event.stream, ours)

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A client's socket and the server's."""
        client, ours = socket.socketpair()
        self.waiting[self.near_mux.open(b"call.sock")] = ours
        self.until(lambda: bool(self.servers))
        server = self.servers.pop()
        for one in (client, server):
            one.setblocking(False)
            self.held.append(one)
        return client, server

    def turn(self) -> None:
        self.near.settle()
        self.far.settle()
        self.poll.turn(0.01)

    def until(self, is_so: Callable[[], bool]) -> None:
        end = time.monotonic() + WITHIN
        while not is_so():
            assert time.monotonic() < end
            self.turn()

    def read(self, one: socket.socket, count: int) -> bytes:
        """So many bytes, or all until the end."""
        data = bytearray()
        end = time.monotonic() + WITHIN
        while len(data) < count:
            assert time.monotonic() < end, f"{len(data)} of {count} came"
            self.turn()
            try:
                more = one.recv(65_536)
            except BlockingIOError:
                continue
            if not more:
                break
            data += more
        return bytes(data)

    def is_at_end(self, one: socket.socket) -> bool:
        self.turn()
        try:
            return one.recv(1) == b""
        except BlockingIOError:
            return False

    def takes(self, one: socket.socket) -> bool:
        """Whether the other end still takes bytes."""
        self.turn()
        try:
            one.send(b"x")
        except BlockingIOError:
            return True
        except OSError:
            return False
        return True

    def is_hung(self, one: socket.socket) -> bool:
        """Whether nobody holds the other end, found without a byte sent."""
        self.turn()
        poll = select.poll()
        poll.register(one, 0)
        return any(mask & select.POLLHUP for _, mask in poll.poll(0))

    def close(self) -> None:
        self.near.close()
        self.far.close()
        for descriptor in self.pipes:
            os.close(descriptor)
        for one in (*self.held, *self.servers, *self.waiting.values()):
            one.close()


@pytest.fixture
def way() -> Iterator[Way]:
    made = Way()
    yield made
    made.close()


def test_bytes_go_both_ways(way: Way) -> None:
    client, server = way.connect()
    client.send(b"ask")
    assert way.read(server, 3) == b"ask"
    server.send(b"answer")
    assert way.read(client, 6) == b"answer"


def test_a_client_that_ended_its_sending_reads_the_answer(way: Way) -> None:
    """The half-close of a request that goes on to its end."""
    client, server = way.connect()
    client.send(b"ask")
    client.shutdown(socket.SHUT_WR)
    assert way.read(server, 10) == b"ask"
    server.send(b"answer")
    server.close()
    assert way.read(client, 10) == b"answer"
    way.until(lambda: way.near.is_idle and way.far.is_idle)


def test_a_client_that_closes_is_gone_for_the_server(way: Way) -> None:
    """A call is cancelled so: the server finds that nobody reads."""
    client, server = way.connect()
    client.close()
    way.until(lambda: way.is_hung(server))
    assert not way.takes(server)


def test_a_client_that_closes_after_its_half_close_is_gone_as_well(way: Way) -> None:
    client, server = way.connect()
    client.shutdown(socket.SHUT_WR)
    way.until(lambda: way.is_at_end(server))
    client.close()
    way.until(lambda: way.is_hung(server))


def test_an_answer_before_the_whole_request_was_read_counts(way: Way) -> None:
    """Who refuses a body closes before it read all of it: the client finds that, and the answer."""
    client, server = way.connect()
    client.send(b"x" * 1_000)
    server.send(b"refused")
    server.close()
    way.until(lambda: not way.takes(client))
    assert way.read(client, 10) == b"refused"


def test_an_answer_of_several_frames_and_its_end_may_come_at_once(way: Way) -> None:
    """The end of a stream does not go before the bytes that came with it."""
    client, server = way.connect()
    client.shutdown(socket.SHUT_WR)
    way.until(lambda: way.is_at_end(server))
    whole = os.urandom(3 * mux.PIECE)
    for at in range(0, len(whole), 4_096):
        server.send(whole[at : at + 4_096])
    server.close()
    for _ in range(20):
        way.far.settle()
        way.poll.drop(way.pipes[2])
        way.poll.turn(0.001)
    way.near.listen()
    assert way.read(client, len(whole) + 1) == whole


def test_a_large_answer_comes_whole_through_small_windows(way: Way) -> None:
    client, server = way.connect()
    whole = os.urandom(3 * mux.WINDOW)
    came, sent = bytearray(), 0
    end = time.monotonic() + WITHIN
    while len(came) < len(whole):
        assert time.monotonic() < end
        with contextlib.suppress(BlockingIOError):
            sent += server.send(whole[sent : sent + 65_536]) if sent < len(whole) else 0
        way.turn()
        try:
            came += client.recv(65_536)
        except BlockingIOError:
            continue
    assert bytes(came) == whole


def test_a_reader_that_rests_holds_a_window_and_stops_no_other(way: Way) -> None:
    """What is taken from its sender is bounded, and a second stream goes on."""
    slow, sender = way.connect()
    client, server = way.connect()
    taken = 0
    quiet = 0
    while quiet < 20:
        try:
            taken += sender.send(b"x" * 65_536)
            quiet = 0
        except BlockingIOError:
            quiet += 1
        way.turn()
    buffers = sum(one.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) for one in (sender, slow))
    assert taken <= mux.WINDOW + BACKLOG + 2 * buffers
    client.send(b"ask")
    assert way.read(server, 3) == b"ask"


def test_a_pipe_that_ends_is_over_and_its_sockets_close(way: Way) -> None:
    client, _ = way.connect()
    os.close(way.pipes[1])
    spare = os.open(os.devnull, os.O_RDONLY)
    assert spare == way.pipes[1], "the number is used again, so that close finds it"
    way.until(lambda: way.far.is_over)
    way.near.close()
    assert select.select([client], [], [], WITHIN)[0] and client.recv(1) == b""
