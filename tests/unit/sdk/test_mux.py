"""Many streams over one pair of pipes: the frames, what they may not do, and every interleaving."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pollen.sdk import mux
from pollen.sdk.mux import (
    MAGIC,
    PIECE,
    WINDOW,
    Accepted,
    Broken,
    Data,
    Ended,
    Hello,
    Kind,
    Mux,
    Refused,
    Stopped,
    Wanted,
)


def frame(kind: int, stream: int, body: bytes = b"") -> bytes:
    return struct.pack("!BII", kind, stream, len(body)) + body


def taken(one: Mux) -> bytes:
    """What it has to send, as sent."""
    data = bytes(one.out)
    one.out.clear()
    return data


def joined() -> tuple[Mux, Mux, int]:
    """Both ends, with one open stream."""
    near, far = Mux(is_caller=True), Mux(is_caller=False)
    stream = near.open(b"call.sock")
    assert far.receive(taken(near)) == [Wanted(stream, b"call.sock")]
    far.accept(stream)
    assert near.receive(taken(far)) == [Accepted(stream)]
    return near, far, stream


def test_the_far_end_says_hello_behind_its_magic() -> None:
    far = Mux(is_caller=False)
    far.hello(b"{}")
    said = taken(far)
    assert said.startswith(MAGIC)
    assert Mux(is_caller=True).receive(said[len(MAGIC) :]) == [Hello(b"{}")]


def test_a_stream_carries_bytes_in_both_directions() -> None:
    near, far, stream = joined()
    assert near.send(stream, b"ask") == 3
    assert far.receive(taken(near)) == [Data(stream, b"ask")]
    assert far.send(stream, b"answer") == 6
    assert near.receive(taken(far)) == [Data(stream, b"answer")]


def test_frames_may_come_byte_by_byte() -> None:
    near, far, stream = joined()
    near.send(stream, b"x" * 100)
    near.end(stream)
    events = [event for byte in taken(near) for event in far.receive(bytes([byte]))]
    assert events == [Data(stream, b"x" * 100), Ended(stream)]


def test_nothing_is_sent_before_the_stream_is_accepted() -> None:
    near = Mux(is_caller=True)
    stream = near.open(b"call.sock")
    assert near.room(stream) == 0 and near.send(stream, b"early") == 0


def test_a_sender_stops_at_its_window_and_goes_on_with_credit() -> None:
    near, far, stream = joined()
    assert near.send(stream, b"x" * (WINDOW + 1)) == WINDOW
    assert near.room(stream) == 0 and near.send(stream, b"x") == 0
    came = far.receive(taken(near))
    assert all(isinstance(event, Data) and len(event.data) <= PIECE for event in came)
    far.passed(stream, WINDOW // 2 - 1)
    assert taken(far) == b""
    far.passed(stream, 1)
    near.receive(taken(far))
    assert near.room(stream) == WINDOW // 2


def test_a_direction_that_ended_leaves_the_other_one_open() -> None:
    near, far, stream = joined()
    near.end(stream)
    assert far.receive(taken(near)) == [Ended(stream)]
    assert near.send(stream, b"late") == 0
    assert far.send(stream, b"answer") == 6
    far.end(stream)
    assert near.receive(taken(far)) == [Data(stream, b"answer"), Ended(stream)]
    assert near.is_over(stream) and far.is_over(stream)


def test_a_reader_that_stops_ends_the_sender_and_drops_what_is_under_way() -> None:
    near, far, stream = joined()
    far.send(stream, b"x" * 1_000)
    near.stop(stream)
    assert near.receive(taken(far)) == []
    assert far.receive(taken(near)) == [Stopped(stream)]
    assert far.send(stream, b"more") == 0
    near.send(stream, b"still")
    assert far.receive(taken(near)) == [Data(stream, b"still")]


def test_what_comes_for_a_stream_that_is_over_is_dropped() -> None:
    near, far, stream = joined()
    far.send(stream, b"late")
    near.end(stream)
    near.stop(stream)
    assert near.is_over(stream)
    assert near.receive(taken(far)) == []


def test_a_refusal_carries_its_reason_and_ends_the_stream() -> None:
    near, far = Mux(is_caller=True), Mux(is_caller=False)
    stream = near.open(b"call.sock")
    far.receive(taken(near))
    far.refuse(stream, b"no-daemon")
    assert near.receive(taken(far)) == [Refused(stream, b"no-daemon")]
    assert near.is_over(stream) and far.is_over(stream)


def test_there_is_a_limit_of_streams_at_both_ends() -> None:
    near, far = Mux(is_caller=True), Mux(is_caller=False)
    for _ in range(mux.STREAMS):
        near.open(b"call.sock")
    with pytest.raises(OverflowError):
        near.open(b"call.sock")
    assert len(far.receive(taken(near))) == mux.STREAMS
    assert far.receive(frame(Kind.OPEN, mux.STREAMS + 1, b"call.sock")) == []
    assert taken(far) == frame(Kind.REFUSE, mux.STREAMS + 1)


def test_a_ping_is_answered() -> None:
    near, far, _ = joined()
    near.ping()
    assert far.receive(taken(near)) == []
    assert taken(far) == frame(Kind.PONG, 0)
    assert near.receive(frame(Kind.PONG, 0)) == []


@pytest.mark.parametrize(
    "nonsense",
    [
        frame(Kind.DATA, 2, b"x"),
        frame(Kind.DATA, 0, b"x"),
        frame(Kind.OPEN, 1, b"x"),
        frame(99, 1),
        frame(0, 1),
        frame(Kind.ACCEPT, 1),
        frame(Kind.CREDIT, 1, b"\0\0\0\1"),
        frame(Kind.CREDIT, 1, b"\0"),
        frame(Kind.HELLO, 0),
        frame(Kind.PONG, 0),
        struct.pack("!BII", Kind.DATA, 1, PIECE + 1),
        b"".join(frame(Kind.DATA, 1, b"x" * PIECE) for _ in range(WINDOW // PIECE + 1)),
    ],
)
def test_what_breaks_the_rules_ends_the_connection(nonsense: bytes) -> None:
    """Unknown streams and kinds, credit over the window, data over the credit, long frames."""
    _, far, _ = joined()
    with pytest.raises(Broken):
        far.receive(nonsense)


def test_no_data_may_come_before_the_answer() -> None:
    near = Mux(is_caller=True)
    stream = near.open(b"call.sock")
    with pytest.raises(Broken):
        near.receive(frame(Kind.DATA, stream, b"x"))


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_raise_anything_but_broken(data: bytes, is_caller: bool) -> None:
    end = Mux(is_caller=is_caller)
    try:
        end.receive(data)
    except Broken:
        return


class Side:
    """One end with what it was given and what came, for each stream."""

    def __init__(self, end: Mux) -> None:
        self.mux = end
        self.pipe = bytearray()
        self.sent: dict[int, bytearray] = {}
        self.came: dict[int, bytearray] = {}
        self.passed: dict[int, int] = {}
        self.ended: set[int] = set()
        self.stopped: set[int] = set()
        self.has_stopped: set[int] = set()

    def begin(self, stream: int) -> None:
        self.sent[stream], self.came[stream] = bytearray(), bytearray()
        self.passed[stream] = 0


class Interleavings(RuleBasedStateMachine):
    """Two ends with pipes that bring any part of what was sent, in any order of turns."""

    @initialize()
    def begin(self) -> None:
        self.near, self.far = Side(Mux(is_caller=True)), Side(Mux(is_caller=False))
        self.streams: list[int] = []
        self.counter = 0

    def sides(self, is_near: bool) -> tuple[Side, Side]:
        return (self.near, self.far) if is_near else (self.far, self.near)

    @rule()
    @precondition(lambda self: len(self.streams) < 6)
    def open(self) -> None:
        stream = self.near.mux.open(b"call.sock")
        self.streams.append(stream)
        self.near.begin(stream)

    @rule(is_near=st.booleans(), size=st.integers(1, 3 * WINDOW // 2), data=st.data())
    @precondition(lambda self: self.streams)
    def send(self, is_near: bool, size: int, data: st.DataObject) -> None:
        one, _ = self.sides(is_near)
        stream = data.draw(st.sampled_from(self.streams))
        self.counter += 1
        text = bytes([self.counter % 251]) * size
        count = one.mux.send(stream, text)
        if stream in one.sent:
            one.sent[stream] += text[:count]
        else:
            assert count == 0

    @rule(is_near=st.booleans(), what=st.sampled_from(("end", "stop")), data=st.data())
    @precondition(lambda self: self.streams)
    def close(self, is_near: bool, what: str, data: st.DataObject) -> None:
        one, _ = self.sides(is_near)
        stream = data.draw(st.sampled_from(self.streams))
        if one.mux.room(stream) or (stream in one.came and len(one.came[stream])):
            getattr(one.mux, what)(stream)
            if what == "stop":
                one.has_stopped.add(stream)

    @rule(is_near=st.booleans(), part=st.floats(0.01, 1))
    def deliver(self, is_near: bool, part: float) -> None:
        one, other = self.sides(is_near)
        one.pipe += taken(one.mux)
        count = max(1, int(len(one.pipe) * part))
        data = bytes(one.pipe[:count])
        del one.pipe[:count]
        for event in other.mux.receive(data):
            self.take(other, event)

    def take(self, side: Side, event: mux.Event) -> None:
        if isinstance(event, Wanted):
            side.begin(event.stream)
            side.mux.accept(event.stream)
        elif isinstance(event, Data):
            assert event.stream not in side.ended | side.has_stopped
            side.came[event.stream] += event.data
        elif isinstance(event, Ended):
            side.ended.add(event.stream)
        elif isinstance(event, Stopped):
            side.stopped.add(event.stream)

    @rule(is_near=st.booleans(), part=st.floats(0, 1), data=st.data())
    @precondition(lambda self: self.streams)
    def pass_on(self, is_near: bool, part: float, data: st.DataObject) -> None:
        one, _ = self.sides(is_near)
        stream = data.draw(st.sampled_from(self.streams))
        if stream not in one.came:
            return
        count = int((len(one.came[stream]) - one.passed[stream]) * part)
        one.passed[stream] += count
        one.mux.passed(stream, count)

    @invariant()
    def nothing_is_invented_and_no_credit_exceeded(self) -> None:
        if not hasattr(self, "near"):
            return
        for one, other in ((self.near, self.far), (self.far, self.near)):
            for stream, came in one.came.items():
                sent = other.sent.get(stream, b"")
                assert bytes(sent[: len(came)]) == bytes(came)
                assert len(sent) - one.passed[stream] <= WINDOW or stream in one.has_stopped

    def teardown(self) -> None:
        """Once all that was sent has come, each stream that nobody stopped has all of it."""
        if not hasattr(self, "near"):
            return
        while self.near.pipe or self.far.pipe or self.near.mux.out or self.far.mux.out:
            self.deliver(is_near=True, part=1)
            self.deliver(is_near=False, part=1)
        for one, other in ((self.near, self.far), (self.far, self.near)):
            for stream in set(one.came) - one.has_stopped:
                assert one.came[stream] == other.sent[stream]


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
