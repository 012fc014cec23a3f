"""The doors under clients that are slow or broken, on real daemons."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import time
from collections.abc import Iterator

import pytest

from pollen.runtime.watch import logs
from pollen.testing import until
from tests.e2e.doors import (
    ANSWER,
    CALL,
    HOST,
    LIMIT,
    MIB,
    House,
    connected,
    heard,
    house,
    problem,
    said,
)

# Stands behind each malformed request: nobody may answer it.
SMUGGLED = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture(scope="module")
def door() -> Iterator[House]:
    """One daemon for tests that leave it as it was."""
    with house() as found:
        yield found


MALFORMED = {
    "length and coding": (
        400,
        CALL + HOST + b"content-length: 4\r\ntransfer-encoding: chunked\r\n",
    ),
    "coding and length": (
        400,
        CALL + HOST + b"transfer-encoding: chunked\r\ncontent-length: 4\r\n",
    ),
    "two lengths": (400, CALL + HOST + b"content-length: 4\r\ncontent-length: 5\r\n"),
    "no number": (400, CALL + HOST + b"content-length: abc\r\n"),
    "signed": (400, CALL + HOST + b"content-length: +4\r\n"),
    "over 64 bits": (413, CALL + HOST + b"content-length: 99999999999999999999999\r\n"),
    "too large": (413, CALL + HOST + b"content-length: 99999999999\r\n"),
    "gzip": (501, CALL + HOST + b"transfer-encoding: gzip, chunked\r\n"),
    "two codings": (400, CALL + HOST + b"transfer-encoding: chunked\r\n" * 2),
    "folded": (400, CALL + HOST + b"a: b\r\n c\r\n"),
    "nul": (400, CALL + HOST + b"a: b\0c\r\n"),
    "space": (400, CALL + HOST + b"a : b\r\n"),
    "two hosts": (400, CALL + HOST + HOST),
    "no host": (400, CALL),
    "bad host": (400, CALL + b"host: a/b\r\n"),
    "no form": (400, b"GET call/echo HTTP/1.1\r\n" + HOST),
    "many headers": (431, CALL + b"a: b\r\n" * 10_000),
    "large head": (431, CALL + b"a: " + b"b" * MIB + b"\r\n"),
    "large target": (414, b"POST /" + b"a" * MIB + b" HTTP/1.1\r\n"),
    "0.9": (505, b"GET /healthz\r\n"),
    "2.0": (505, b"PRI * HTTP/2.0\r\n"),
    "target": (400, b"POST /call/\x7f HTTP/1.1\r\n" + HOST),
    "greeting": (400, b"SSH-2.0-client\r\n"),
}


@pytest.mark.parametrize("case", MALFORMED)
@pytest.mark.parametrize("name", ["tcp", "call.sock"])
def test_a_malformed_request_is_told_why_and_is_the_last_of_its_connection(
    door: House, name: str, case: str
) -> None:
    """The status of RFC 9110 with problem+json; nothing behind it is read as a request."""
    status, head = MALFORMED[case]
    where = door if name == "tcp" else door.paths.call_socket
    told = problem(said(where, head + b"\r\n" + SMUGGLED))
    slug = "input-too-large" if status == 413 else "bad-request"
    assert (told["status"], told["slug"], told["may_have_executed"]) == (status, slug, False)


def test_requests_before_a_malformed_one_are_answered(door: House) -> None:
    """Pipelined answers keep their order, whatever follows; chunked bodies end where they say."""
    whole = CALL + HOST + b"content-length: 2\r\n\r\nhi"
    chunked = (
        CALL
        + HOST
        + b"transfer-encoding: chunked\r\n\r\n2;x=y\r\nab\r\n1\r\nc\r\n0\r\nt: v\r\n\r\n"
    )
    answer = said(door, whole + chunked + whole + b"GET /healthz\r\n" + SMUGGLED)
    assert ANSWER.findall(answer) == [b"200", b"200", b"200", b"505"]
    assert re.findall(rb"\r\n\r\n(\w+)HTTP", answer) == [b"hi", b"abc", b"hi"]


def test_a_head_and_a_body_may_come_byte_by_byte(door: House) -> None:
    """However the network cuts a request, it is the same request."""
    request = CALL + HOST + b"transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    with connected(door) as link:
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request * 2 + b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n":
            link.sendall(bytes([byte]))
        answer = heard(link)
    assert ANSWER.findall(answer) == [b"200", b"200", b"404"]


def test_an_announced_length_over_the_limit_is_refused_at_once(door: House) -> None:
    """Not a byte of the body is asked for, also of a client that waits for 100 Continue."""
    head = CALL + HOST + b"content-length: %d\r\nexpect: 100-continue\r\n\r\n" % (LIMIT + 1)
    began = time.monotonic()
    told = problem(said(door, head))
    assert (told["status"], told["slug"]) == (413, "input-too-large")
    assert time.monotonic() - began < 5


async def test_what_is_no_http_is_named_in_the_log(door: House) -> None:
    """A TLS hello gets no answer, and a line of the log that says what came, and from where."""
    assert said(door, bytes.fromhex("1603010200010001fc0303")) == b""

    async def is_logged() -> bool:
        lines = (
            json.loads(line)["text"]
            for line in logs.tail(door.paths.log_file, 1000, "")
            if '"text"' in line
        )
        return any("TLS hello" in text and "from=127.0.0.1" in text for text in lines)

    await until(is_logged, 10, "the log names the hello")
    assert door.refused()["not_http"] >= 1


def test_a_body_and_a_head_that_trickle_end_with_408(door: House) -> None:
    """A body under 1 KiB/s after 5 s, one that the budget ends, and a head after 10 s."""
    body = CALL + HOST + b"content-length: 1000000\r\n"
    slow, late, head = (connected(door) for _ in range(3))
    began = time.monotonic()
    slow.sendall(body + b"\r\nx")
    late.sendall(body + b"pollen-timeout: 1s\r\n\r\nx")
    head.sendall(CALL + b"a: ")
    for link, least, most, words in (
        (late, 1, 4, "within the call's time"),
        (slow, 5, 9, "too slowly"),
        (head, 10, 15, "within 10 s"),
    ):
        told = problem(heard(link))
        assert (told["status"], told["slug"]) == (408, "deadline")
        assert words in told["title"]
        assert least <= time.monotonic() - began < most
        link.close()


def test_a_trickle_is_measured_though_it_never_pauses(door: House) -> None:
    """A byte every tenth of a second is 10 B/s."""
    with connected(door) as link:
        link.sendall(CALL + HOST + b"content-length: 1000000\r\n\r\n")
        link.setblocking(False)
        began, answer = time.monotonic(), b""

        async def trickle() -> bool:
            nonlocal answer
            with contextlib.suppress(BlockingIOError):
                answer += link.recv(65_536)
            with contextlib.suppress(OSError):
                link.send(b"x")
            return answer.endswith(b"}")

        asyncio.run(until(trickle, 12, "the door answers", poll=0.1))
        assert problem(answer)["status"] == 408
        assert 5 <= time.monotonic() - began < 9
