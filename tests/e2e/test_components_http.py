"""Components that answer HTTP, asked at every door, on the node that runs them and from another."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pollen.errors import BadRequest
from pollen.sdk.control import Control
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example, running
from tests.e2e.doors import HOST, House, house, pln, said
from tests.e2e.talk import check_error, over_http, refusal

pytestmark = pytest.mark.timeout(120)

ANSWERS = str(Path(__file__).parents[2] / "examples" / "components" / "http" / "answers.wasm")
MIB = 1 << 20
HANDLE = "wasi:http/incoming-handler"


@pytest.fixture(scope="module")
def far() -> Iterator[Cluster]:
    """Who asks is at a, the component at b."""
    with running(Cluster(2, properties={"b": {"at": "b"}})) as cluster:
        asyncio.run(_publish(cluster))
        yield cluster


async def _publish(cluster: Cluster) -> None:
    there = [["at", "b"]]
    await cluster.seed(ANSWERS, "api", on="b", host=there)
    await cluster.seed(example("echo"), "echo", on="b", host=there)


@pytest.fixture(scope="module")
def door() -> Iterator[House]:
    """One node with a TCP door: the component is public there, and hidden by another name."""
    with house() as found:
        pln(found.paths.home, "seed", ANSWERS, "api", "--public")
        pln(found.paths.home, "seed", ANSWERS, "hidden")
        yield found


def stream_of(link: socket.socket, target: str) -> http.client.HTTPResponse:
    """The head of the answer to a GET."""
    link.sendall(f"GET {target} HTTP/1.1\r\nhost: a\r\n\r\n".encode())
    response = http.client.HTTPResponse(link)
    response.begin()
    return response


def resident(node: Node) -> int:
    """Memory of a daemon, bytes."""
    return int(psutil.Process(node.pid).memory_info().rss)


def connected(path: Path) -> socket.socket:
    link = socket.socket(socket.AF_UNIX)
    link.settimeout(30)
    link.connect(str(path))
    return link


def test_a_request_reaches_the_component_on_the_other_node(far: Cluster) -> None:
    """Path, query, authority and headers; what is of the connection stays behind."""
    headers = {"X-In": "one", "Connection": "x-own", "X-Own": "no", "Host": "some.where:81"}
    at = far[0].paths.call_socket
    answer = over_http(at, "/http/api/echo/a%2Fb?q=1&r", method="GET", headers=headers)
    assert (answer.status, answer.body) == (200, b"")
    wanted = {
        "content-type": "text/plain",
        "x-method": "GET",
        "x-path": "/echo/a%2Fb?q=1&r",
        "x-authority": "some.where:81",
        "x-out": "one",
        "x-prefix": "/http/api",
    }
    assert {name: answer.headers.get(name) for name in wanted} == wanted
    assert "x-connection" not in answer.headers
    assert over_http(at, "/http/api", method="GET").body == b"hello\n"
    assert over_http(at, "/http/api/nothing", method="GET").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "PROPFIND"])
def test_a_body_goes_there_and_back(far: Cluster, method: str) -> None:
    """Any method is the component's; a body of the largest size streams back whole."""
    at = far[0].paths.call_socket
    for body in (b"", b"some", bytes(range(256)) * 16 * 1024):
        answer = over_http(at, "/http/api/echo", body, method=method)
        assert (answer.status, answer.headers["x-method"]) == (200, method)
        assert answer.body == body


def test_a_body_over_the_limit_is_refused(far: Cluster) -> None:
    """As that of any call."""
    answer = over_http(far[0].paths.call_socket, "/http/api/echo", bytes(4 * MIB + 1))
    assert (answer.status, answer.problem["slug"]) == (413, "input-too-large")


def test_head_has_the_headers_and_no_body(far: Cluster) -> None:
    """The component sees HEAD; the connection serves the next request."""
    with connected(far[0].paths.call_socket) as link:
        asked = b"HEAD /http/api/echo HTTP/1.1\r\nhost: a\r\n\r\n"
        link.sendall(asked + b"GET /http/api/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
        parts = []
        while part := link.recv(65_536):
            parts.append(part)
    head, _, rest = b"".join(parts).partition(b"\r\n\r\n")
    assert b"x-method: HEAD" in head
    assert rest.startswith(b"HTTP/1.1 200 OK") and rest.endswith(b"hello\n")


def test_the_first_chunk_comes_while_the_guest_runs(far: Cluster) -> None:
    """Eight ticks take over two seconds; the first one is here long before."""
    with connected(far[0].paths.call_socket) as link:
        began = time.monotonic()
        response = stream_of(link, "/http/api/ticks?8")
        assert response.read(5) == b"tick\n"
        first = time.monotonic() - began
        assert response.read() == b"tick\n" * 7
        whole = time.monotonic() - began
    assert whole > 2.0
    assert first < whole - 1.5


def test_a_large_answer_flows_in_flat_memory(far: Cluster) -> None:
    """256 MiB pass both nodes, whose memory does not grow with them."""
    size = 256 * MIB
    with connected(far[0].paths.call_socket) as link:
        before = [resident(node) for node in far]
        response = stream_of(link, f"/http/api/large?{size}")
        got = most = 0
        while piece := response.read(MIB):
            got += len(piece)
            grown = [resident(node) - held for node, held in zip(far, before, strict=True)]
            most = max(most, *grown)
    assert got == size
    assert most < 64 * MIB


async def test_a_client_that_goes_away_ends_the_guest(far: Cluster) -> None:
    """No guest goes on answering nobody, here or there."""

    async def under_way() -> int:
        page = await asyncio.to_thread(Control(far[1].paths).text, "/v1/metrics")
        start = "pollen_executions_in_flight{"
        rows = [row for row in page.splitlines() if row.startswith(start) and '"api"' in row]
        return sum(int(float(row.split()[-1])) for row in rows)

    with connected(far[0].paths.call_socket) as link:
        response = await asyncio.to_thread(stream_of, link, "/http/api/large?9999999999")
        assert len(response.read(MIB)) == MIB
        assert await under_way() == 1

    async def is_over() -> bool:
        return await under_way() == 0

    await until(is_over, 10, "the guest has ended")


def test_an_answer_that_breaks_off_is_seen_to_be_short(far: Cluster) -> None:
    """Its head was sent, so the connection ends before the body does."""
    headers = {"Pollen-Timeout": "1s"}
    with pytest.raises(http.client.IncompleteRead) as short:
        over_http(far[0].paths.call_socket, "/http/api/ticks?99", method="GET", headers=headers)
    assert b"tick\n" in short.value.partial


FAILURES = {
    "none": (502, "guest-failed", "without an answer"),
    "error": (502, "guest-failed", "no luck"),
    "half": (502, "guest-failed", "before the body"),
    "trap": (502, "guest-trapped", "unreachable"),
    "spin": (504, "deadline", "time"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_no_answer_is_a_problem_with_words(far: Cluster, case: str) -> None:
    """A status of RFC 9110, and the slug that a call would have had."""
    status, slug, words = FAILURES[case]
    headers = {"Pollen-Timeout": "700ms"} if case == "spin" else {}
    at = far[0].paths.call_socket
    answer = over_http(at, f"/http/api/{case}", method="POST", headers=headers)
    told = answer.problem
    assert (answer.status, told["slug"], told["may_have_executed"]) == (status, slug, True)
    assert words in told["title"] and told["remedy"]


def test_what_answers_no_http_is_told_what_to_do(far: Cluster) -> None:
    """A seed of functions, and a name that nobody has."""
    at = far[0].paths.call_socket
    told = over_http(at, "/http/echo/x", method="GET").problem
    assert (told["status"], told["slug"]) == (404, "function-not-found")
    assert told["remedy"].endswith("POST /call/echo/<function>")
    told = over_http(at, "/http/nobody/", method="GET").problem
    assert (told["status"], told["slug"]) == (404, "seed-not-found")
    told = over_http(at, "/http//", method="GET").problem
    assert (told["status"], told["slug"]) == (400, "bad-request")
    assert "/http/<seed>/" in told["remedy"]


async def test_a_call_of_it_says_how_to_ask(far: Cluster) -> None:
    """By the SDK, by the command line, and at /call/; nothing ran."""
    error = await refusal(far[0], "api", None)
    assert isinstance(error, BadRequest) and not error.may_have_executed
    assert "/http/" in error.remedy
    done = await far[0].pln("call", "api", "--json")
    assert "answers requests of HTTP" in check_error(done, "bad-request")["title"]
    told = over_http(far[0].paths.call_socket, f"/call/api/{HANDLE}").problem
    assert told["slug"] == "bad-request"


async def test_a_thousand_requests_at_once(far: Cluster) -> None:
    """Each has a connection and gets its own answer: more than may be streamed at once wait."""
    at, count = str(far[0].paths.call_socket), 1000

    async def wrong(number: int) -> bytes:
        """The answer, if it is not its own; whole or in chunks."""
        reader, writer = await asyncio.open_unix_connection(at)
        head = f"POST /http/api/echo?{number} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n"
        writer.write(f"{head}content-length: 4\r\n\r\n{number:04}".encode())
        answer = await reader.read()
        writer.close()
        start, _, body = answer.partition(b"\r\n\r\n")
        is_own = f"x-path: /echo?{number}\r\n".encode() in start + b"\r\n"
        whole = b"%04d" % number
        is_whole = body in (whole, b"4\r\n%b\r\n0\r\n\r\n" % whole)
        return b"" if start.startswith(b"HTTP/1.1 200 OK") and is_own and is_whole else answer

    answered = await asyncio.gather(*(wrong(number) for number in range(count)))
    assert [answer for answer in answered if answer] == []


async def test_idempotent_requests_outlive_their_host() -> None:
    """GET is tried on the other host when the first one is killed under load (RFC 9110, 9.2.2)."""
    async with Cluster(3, properties={"b": {"at": "h"}, "c": {"at": "h"}}) as cluster:
        await cluster.seed(ANSWERS, "api", on="b", host=[["at", "h"]], min_replicas=2)
        await cluster.ready("api", on=["b", "c"])
        at, stop = cluster[0].paths.call_socket, asyncio.Event()
        seen: Counter[int] = Counter()

        async def load() -> None:
            while not stop.is_set():
                answer = await asyncio.to_thread(over_http, at, "/http/api/", method="GET")
                seen[answer.status] += 1

        async def are_many() -> bool:
            return sum(seen.values()) >= wanted

        loads = [asyncio.create_task(load()) for _ in range(8)]
        wanted = 100
        await until(are_many, 20, "requests are answered")
        await cluster[1].kill()
        wanted = sum(seen.values()) + 500
        await until(are_many, 60, "requests are answered by the other host")
        stop.set()
        await asyncio.gather(*loads)
        assert set(seen) == {200}, seen


def test_a_stranger_asks_public_components_alone(door: House) -> None:
    """What is not public does not exist at the TCP door, and does at the local one."""
    assert over_http(door.tcp, "/http/api/", method="GET").body == b"hello\n"
    assert over_http(door.tcp, "/http/api/echo", b"some").body == b"some"
    hidden, nobody = (over_http(door.tcp, f"/http/{n}/", method="GET") for n in ("hidden", "no"))
    assert hidden.problem == nobody.problem
    assert (hidden.status, hidden.problem["slug"]) == (404, "seed-not-found")
    assert over_http(door.paths.call_socket, "/http/hidden/", method="GET").status == 200


async def test_at_the_host_of_a_site_only_its_publisher_answers(tmp_path: Path) -> None:
    """The scripts of another one would have the site's origin and its cookies."""
    (tmp_path / "index.html").write_text("a garden")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        door = f"127.0.0.1:{probe.getsockname()[1]}"
    async with Cluster(2) as cluster:
        await cluster[1].stop()
        await cluster[1].start("--http", door)
        for node, what, name in (
            (cluster[0], str(tmp_path), "garden"),
            (cluster[0], ANSWERS, "own"),
            (cluster[1], ANSWERS, "other"),
        ):
            done = await node.pln("seed", what, name, "--public")
            assert done.returncode == 0, done.stderr

        def visit(path: str, host: str) -> tuple[int, bytes]:
            answer = over_http(door, path, method="GET", headers={"host": host})
            return answer.status, answer.body

        async def are_there() -> bool:
            at_door = [visit(f"/http/{name}/", "127.0.0.1") for name in ("own", "other")]
            return {*at_door, visit("/", "garden")} == {(200, b"hello\n"), (200, b"a garden")}

        await until(are_there, 30, "all are known at the door")
        assert visit("/http/own/", "garden") == (200, b"hello\n")
        assert visit("/http/other/", "garden")[0] == 404


def test_a_stranger_who_reads_slowly_holds_little(door: House) -> None:
    """Thirty answers without an end that nobody reads: the guests wait, the node holds little."""
    before = door.process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for _ in range(30):
            link = stack.enter_context(socket.create_connection(("127.0.0.1", door.port), 20))
            link.sendall(b"GET /http/api/large?9999999999 HTTP/1.1\r\n" + HOST + b"\r\n")
        for _ in range(300):
            assert over_http(door.tcp, "/http/api/", method="GET").body == b"hello\n"
            assert door.process.memory_info().rss - before < 96 * MIB


def test_requests_in_a_row_keep_their_order(door: House) -> None:
    """Pipelined, with bodies by length and in chunks; the last one closes."""
    one = b"POST /http/api/echo HTTP/1.1\r\n" + HOST + b"content-length: 2\r\n\r\nhi"
    two = b"PUT /http/api/echo HTTP/1.1\r\n" + HOST + b"transfer-encoding: chunked\r\n\r\n"
    last = b"GET /http/api/ HTTP/1.1\r\n" + HOST + b"connection: close\r\n\r\n"
    answer = said(door, one + two + b"3\r\nabc\r\n0\r\n\r\n" + last)
    places = [answer.index(word) for word in (b"\r\n\r\nhi", b"\r\n\r\nabc", b"hello\n")]
    assert places == sorted(places) and answer.count(b"HTTP/1.1 200 OK") == 3


async def test_inspect_names_its_function(far: Cluster) -> None:
    done = await far[0].pln("inspect", "api", "--json")
    told: dict[str, Any] = json.loads(done.stdout)
    assert HANDLE in json.dumps(told)
