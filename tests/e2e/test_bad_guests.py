"""Guests and calls that go wrong: a typed error through every door, and the node goes on."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Iterator

import msgspec
import pytest

from pollen.errors import SLUGS, PollenError
from pollen.sdk import door
from pollen.testing import Cluster, until
from tests.e2e.conftest import example, running, with_seeds
from tests.e2e.talk import alive, check_error, logged, metric, over_http, refusal, settles

pytestmark = [pytest.mark.alone, pytest.mark.timeout(60)]

LIMIT = 4 * 1024 * 1024


class Case(msgspec.Struct, frozen=True):
    """A call that fails: with which slug, and what its reason says."""

    seed: str
    function: str
    slug: str
    says: str
    input: str = ""


CASES = [
    Case("ehco", "echo", "seed-not-found", "ehco"),
    Case("echo", "ehco", "function-not-found", "ehco"),
    Case("trap", "trap", "guest-trapped", "unreachable"),
    Case("trap", "error", "guest-failed", "this function always fails"),
    Case("trap", "status", "guest-status", "7"),
    Case("loop", "loop", "deadline", "time"),
    Case("hog", "linear", "guest-out-of-memory", "memory"),
    Case("hog", "heap", "guest-out-of-memory", "memory"),
    Case("hog", "vars", "guest-vars-too-large", "1048576"),
    Case("hog", "output", "guest-output-too-large", "4194304", "4194305"),
    Case("relay", "garbage", "guest-failed", "tail call"),
    Case("relay", "relay", "guest-failed", "request failed", "nonsense"),
    Case("circle-tail", "tail_next", "hop-limit", "16 hops"),
    Case("circle-a", "relay", "guest-failed", "request failed"),
    Case("relay", "spend", "call-limit", "1,000 calls", "1000\npln://seed/echo/echo"),
    Case("relay", "get", "guest-host-refused", "127.0.0.1", '{"url": "http://127.0.0.1/"}'),
]
IDS = [f"{case.seed}/{case.function}" for case in CASES]


@pytest.fixture(scope="module")
def pair() -> Iterator[Cluster]:
    """Two nodes with the examples, and two seeds that call each other in a circle."""
    with running(Cluster(2)) as cluster:
        asyncio.run(_publish(cluster))
        yield cluster


async def _publish(cluster: Cluster) -> None:
    await with_seeds(cluster)
    circles = {
        "circle-a": "pln://seed/circle-b/relay",
        "circle-b": "pln://seed/circle-a/relay",
        "circle-tail": "pln://seed/circle-tail/tail_next",
    }
    for name, uri in circles.items():
        await cluster.seed(example("relay"), name, config={"next": uri})


def budget_ms(case: Case) -> int:
    """Short where the time is what ends the call; else a slow machine must not end it first."""
    return 500 if case.slug == "deadline" else 20_000


@pytest.mark.parametrize("case", CASES, ids=IDS)
async def test_the_sdk_raises_the_type_of_the_slug(pair: Cluster, case: Case) -> None:
    timeout = budget_ms(case) / 1_000
    error = await refusal(pair[1], case.seed, case.function, case.input, timeout=timeout)
    assert (error.slug, type(error)) == (case.slug, SLUGS[case.slug].error)
    assert case.says in error.reason
    assert error.remedy
    await alive(*pair)


@pytest.mark.parametrize("case", CASES, ids=IDS)
async def test_pln_ends_with_the_exit_code_of_the_slug(pair: Cluster, case: Case) -> None:
    line = ["--json", "--timeout", f"{budget_ms(case)}ms", case.seed, case.function, case.input]
    check_error(await pair[0].pln("call", *line), case.slug)
    await alive(*pair)


@pytest.mark.parametrize("case", CASES, ids=IDS)
async def test_http_answers_with_the_status_of_the_slug(pair: Cluster, case: Case) -> None:
    target = f"/call/{case.seed}/{case.function}"
    headers = {"Pollen-Timeout": f"{budget_ms(case)}ms"}
    body = case.input.encode()
    answer = await asyncio.to_thread(
        over_http, pair[0].paths.call_socket, target, body, "POST", headers
    )
    assert answer.status == SLUGS[case.slug].http_status
    if case.slug == "guest-status":
        assert (answer.body, answer.headers["pollen-guest-status"]) == (b"seven", "7")
        return
    problem = answer.problem
    assert (problem["slug"], problem["status"]) == (case.slug, answer.status)
    assert case.says in problem["title"] and problem["remedy"]
    await alive(*pair)


async def test_seeds_that_call_in_a_circle_end_at_a_limit(pair: Cluster) -> None:
    """A guest sees its request fail; the error says why the innermost did, and so does the log.

    A chain of 16 hops is within the 1,000 calls, since a chain does not pay for breadth.
    """
    error = await refusal(pair[0], "circle-a", "relay", timeout=5)
    below, logs = error.remedy.splitlines()
    assert below.startswith("a call that it made failed: [hop-limit] circle-")
    assert "pln logs --seed circle-a" in logs

    async def is_told() -> bool:
        lines = [line["text"] for node in pair for line in logged(node, "-limit]")]
        return any("[hop-limit] pln://seed/circle-" in text for text in lines)

    await until(is_told, 10, "the log names the limit")
    await alive(*pair)


async def test_a_log_flood_is_cut_and_counted(pair: Cluster) -> None:
    """64 KiB a call: of 100,000 lines of 32 bytes at most 2,048 are kept, the guest goes on."""
    async with pair[0].connect() as mesh:
        reply = await mesh.call("hog", "log", "100000")
    (node,) = [node for node in pair if (await node.status())["node"] == reply.node]

    async def is_counted() -> bool:
        return any("dropped" in line.get("text", "") for line in logged(node, '"hog"'))

    await until(is_counted, 10, "the log says how much was dropped")
    assert len(logged(node, "0123456789abcdef")) <= 2_048
    await alive(*pair)


async def test_an_input_over_the_limit_is_refused_before_it_is_sent(pair: Cluster) -> None:
    error = await refusal(pair[0], "echo", "echo", b"x" * (LIMIT + 1))
    assert error.slug == "input-too-large" and error.remedy
    with pair[0].home.joinpath("large").open("wb") as file:
        file.truncate(LIMIT + 1)
    done = await pair[0].pln("call", "--json", "echo", "echo", f"@{file.name}")
    check_error(done, "input-too-large")
    await alive(*pair)


async def test_an_input_over_the_limit_is_refused_by_http(pair: Cluster) -> None:
    where = pair[0].paths.call_socket
    answer = await asyncio.to_thread(over_http, where, "/call/echo/echo", b"x" * (LIMIT + 1))
    assert (answer.status, answer.problem["slug"]) == (413, "input-too-large")
    await alive(*pair)


async def test_an_input_at_the_limit_passes(pair: Cluster) -> None:
    data = b"x" * LIMIT
    async with pair[0].connect() as mesh:
        assert (await mesh.call("echo", "echo", data)).data == data


async def test_a_frame_over_the_limit_ends_its_connection_only(pair: Cluster) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(pair[0].paths.call_socket))
        connection.sendall(door.PREFACE + (door.MAX_FRAME + 1).to_bytes(4, "big") + b"x" * 1000)
        while await asyncio.to_thread(connection.recv, 65_536):
            pass  # a goodbye, then the end
    await alive(*pair)


GARBAGE = [
    b"\0" * 64,
    b"\xff" * 64,
    b"\0pln-c1\n" + b"\0\0\0\x05hello",
    b"GET\r\n\r\n",
    b"\0pln-c2\n",
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest.mark.parametrize("name", ["call_socket", "control_socket"])
async def test_garbage_on_a_socket_ends_its_connection_only(
    pair: Cluster, name: str, garbage: bytes
) -> None:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(str(getattr(pair[0].paths, name)))
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        try:
            while await asyncio.to_thread(connection.recv, 65_536):
                pass
        except ConnectionError:
            pass
    await alive(*pair)


async def test_garbage_on_the_link_port_is_ignored(pair: Cluster) -> None:
    host, _, port = pair[0].address.rpartition(":")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as connection:
        for size in range(1, 1_400, 7):
            connection.sendto(bytes([size & 0xFF]) * size, (host, int(port)))
    await alive(*pair)


BODIES = [b"{", b"[]", b'{"name": 5}', b'{"name": "x", "content": "zz", "wibble": 1}', b"\xff"]


@pytest.mark.parametrize("body", BODIES)
async def test_a_malformed_admin_request_is_bad(pair: Cluster, body: bytes) -> None:
    where = pair[0].paths.control_socket
    answer = await asyncio.to_thread(over_http, where, "/v1/seeds", body)
    assert (answer.status, answer.problem["slug"]) == (400, "bad-request")
    await alive(*pair)


async def test_content_that_nobody_holds_is_no_seed(pair: Cluster) -> None:
    body = json.dumps({"name": "nothing", "content": "ab" * 32}).encode()
    where = pair[0].paths.control_socket
    answer = await asyncio.to_thread(over_http, where, "/v1/seeds", body)
    assert (answer.status, answer.problem["slug"]) == (404, "blob-not-found")


async def test_a_busy_node_without_room_says_so_and_recovers(pair: Cluster) -> None:
    """A call whose memory need is over what is left is refused, not run; nothing leaks of it."""
    errors: list[PollenError] = []

    async def one() -> None:
        errors.append(await refusal(pair[0], "loop", "loop", timeout=1.0, retries=0))

    await asyncio.gather(*(one() for _ in range(40)))
    # Who still waits for a slot when those before ran out of time may be told to come back.
    assert {error.slug for error in errors} - {"overloaded"} == {"deadline"}
    for node in pair:
        await settles(node, "calls_running", 0)
        await settles(node, "calls_queued", 0)
        assert await metric(node, "events_waiting") < 100
    await alive(*pair)


async def test_what_is_too_much_at_once_is_refused_and_told_when_to_come_again(
    pair: Cluster,
) -> None:
    """16,384 calls may be under way on a connection; what comes beyond them did not run."""
    async with pair[0].connect() as mesh:
        calls = [mesh.call("loop", "loop", timeout=2, retries=0) for _ in range(16_384 + 100)]
        ends = await asyncio.gather(*calls, return_exceptions=True)
    errors = [end for end in ends if isinstance(end, PollenError)]
    full = [error for error in errors if error.slug == "overloaded"]
    assert len(errors) == len(ends) and len(full) >= 100
    assert {error.slug for error in errors} == {"overloaded", "deadline"}
    assert all(error.retry_after and error.may_have_executed is False for error in full)
    await alive(*pair)
