"""Whole daemons: found, join, seed, status, stop, through the control socket.

With the fake the daemons share this process and a network of their own; with the real module each
is a detached process, started and stopped as ``pln up -d`` and ``pln down`` do.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import pollen.errors
from pollen import lock, paths
from pollen.errors import PollenError, error_from_dict
from pollen.paths import Paths
from pollen.runtime import daemon
from pollen.runtime.folder import enrol, identity, service
from pollen.runtime.folder.config import Config
from pollen.runtime.watch import logs
from tests.contract.fake_native import FakeNative

pytestmark = pytest.mark.timeout(120)
DEADLINE = 20.0
GOOD = {"name": "x", "content": "0" * 64}
# (module (func (export "run") (result i32) i32.const 0))
MODULE = bytes.fromhex(
    "0061736d01000000010501600001" + "7f0302010007070103" + "72756e00000a0601040041000b"
)


SOURCE = str(Path(pollen.errors.__file__).parent.parent)
JOIN = """
import json, os, sys
from pollen.errors import PollenError
from pollen import paths
from pollen.runtime.folder import enrol
enrol.JOIN_TIMEOUT_MS = int(os.environ["POLLEN_TEST_JOIN_MS"])
home, token, name, replace = sys.argv[1:]
try:
    joined = enrol.join(paths.resolve(home), token, name, replace=replace == "True")
    print(json.dumps({"cluster": joined.cluster.hex()}))
except PollenError as error:
    print(json.dumps(error.to_dict()))
"""


class UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=30)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(30)
        self.sock.connect(self._path)


def ask(path: Path, method: str, target: str, body: Any = None) -> Any:
    """The JSON of an answer; the typed error of a problem."""
    connection = UnixConnection(path)
    try:
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body)
        connection.request(method, target, data)
        response = connection.getresponse()
        raw = response.read()
    finally:
        connection.close()
    if response.status != 200:
        assert response.headers["content-type"] == "application/problem+json"
        raise error_from_dict(json.loads(raw))
    return json.loads(raw) if raw else None


class Node:
    """A node's folder and how its daemon is run."""

    def __init__(self, native: Any, home: Path, name: str) -> None:
        self.native = native
        self.name = name
        self.paths: Paths = paths.resolve(str(home / name))
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._daemon: daemon.Daemon | None = None

    @property
    def is_fake(self) -> bool:
        return isinstance(self.native, FakeNative)

    def up(self) -> None:
        if not self.is_fake:
            self.start("127.0.0.1:0")
            return
        paths.make_home(self.paths)
        if identity.read(self.paths) is None:
            identity.init(self.paths, self.name, native=self.native)
        is_ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(is_ready,))
        self._thread.start()
        assert is_ready.wait(DEADLINE)

    def start(self, address: str) -> int:
        """A detached daemon of the sources under test."""
        source = {"PYTHONPATH": SOURCE}
        options = service.StartOptions([address], name=self.name, environment=source)
        return service.start(self.paths, options)

    def _run(self, is_ready: threading.Event) -> None:
        config = Config(listen=["127.0.0.1:0"], name=self.name)
        with logs.opened(self.paths.log_file) as log:
            self._daemon = daemon.Daemon(self.paths, config, self.native, log)
            asyncio.run(self._daemon.run(is_ready.set))

    def down(self) -> None:
        if not self.is_fake:
            if service.running(self.paths) is not None:
                service.stop(self.paths, 1_000)
            return
        if self._thread is not None and self._thread.is_alive():
            ask(self.paths.control_socket, "POST", "/v1/shutdown", {"grace_ms": 0})
            self._thread.join(DEADLINE)

    def get(self, target: str) -> Any:
        return ask(self.paths.control_socket, "GET", target)

    def post(self, target: str, body: Any) -> Any:
        return ask(self.paths.control_socket, "POST", target, body)

    def join(self, token: str, *, replace: bool = False) -> str:
        """The cluster that was joined, hex. Muscles are one a process: the real ones get one."""
        if self.is_fake:
            joined = enrol.join(self.paths, token, self.name, replace=replace, native=self.native)
            return joined.cluster.hex()
        line = [sys.executable, "-c", JOIN, str(self.paths.home), token, self.name, str(replace)]
        env = {
            **os.environ,
            "PYTHONPATH": SOURCE,
            "POLLEN_TEST_JOIN_MS": str(enrol.JOIN_TIMEOUT_MS),
        }
        run = subprocess.run(line, env=env, capture_output=True, text=True, check=True)
        answer = json.loads(run.stdout)
        if "slug" in answer:
            raise error_from_dict(answer)
        return str(answer["cluster"])

    def put(self, data: bytes) -> str:
        if self.is_fake:
            assert self._daemon is not None
            return str(self._daemon._muscles.put(data).hex())  # type: ignore[union-attr]
        return str(ask(self.paths.call_socket, "PUT", "/content", data)["content"])

    def seed(self, name: str, data: bytes = MODULE, **options: Any) -> Any:
        return self.post("/v1/seeds", {"name": name, "content": self.put(data), "options": options})

    def wait_for(self, claim: Callable[[Any], bool]) -> Any:
        """The first status for which the claim holds."""
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            status = self.get("/v1/status")
            if claim(status):
                return status
            time.sleep(0.02)
        raise AssertionError(f"never so; last: {status}")


@pytest.fixture
def nodes(native: Any, folder: Path) -> Iterator[Callable[[str], Node]]:
    made: list[Node] = []

    def make(name: str) -> Node:
        made.append(Node(native, folder, name))
        return made[-1]

    yield make
    for node in made:
        node.down()


@pytest.fixture
def pair(nodes: Callable[[str], Node]) -> tuple[Node, Node]:
    a, b = nodes("a"), nodes("b")
    a.up()
    b.join(a.post("/v1/invites", {"tier": "publisher"})["token"])
    b.up()
    a.wait_for(lambda s: s["summary"].startswith("healthy: 2 of 2 nodes"))
    return a, b


def test_a_first_start_founds_a_cluster(nodes: Callable[[str], Node]) -> None:
    """With no credentials a node begins a cluster of its own and answers."""
    a = nodes("a")
    a.up()
    health = a.get("/v1/health")
    assert (health["state"], health["name"]) == ("running", "a")
    assert a.get("/v1/status")["summary"] == "healthy: 1 of 1 node, 0 seeds, 0 replicas"


def test_a_seed_on_one_is_ready_on_both(pair: tuple[Node, Node]) -> None:
    """Published, fetched by hash, claimed, listed."""
    a, b = pair
    seeded = a.seed("echo")
    assert seeded["functions"] == ["run"]
    status = b.wait_for(lambda s: s["seeds"] and s["seeds"][0]["ready"] == 2)
    assert status["summary"] == "healthy: 2 of 2 nodes, 1 seed, 2 replicas"


def test_state_survives_a_restart(pair: tuple[Node, Node]) -> None:
    """Stopped and started, a node is itself, finds its peer and serves its seed."""
    a, b = pair
    a.seed("echo")
    b.wait_for(lambda s: s["seeds"] and s["seeds"][0]["ready"] == 2)
    b.down()
    b.up()
    b.wait_for(lambda s: s["summary"] == "healthy: 2 of 2 nodes, 1 seed, 2 replicas")


def test_a_used_token_says_so(pair: tuple[Node, Node], nodes: Callable[[str], Node]) -> None:
    """A nonce is spent for one key; the refusal names the reason and the remedy."""
    a, _ = pair
    token = a.post("/v1/invites", {})["token"]
    nodes("c").join(token)
    with pytest.raises(PollenError, match="the token is used") as caught:
        nodes("d").join(token)
    assert (
        caught.value.slug,
        caught.value.remedy,
    ) == ("token-invalid", "ask for a new token: pln invite")


def test_the_same_joiner_may_ask_again(
    pair: tuple[Node, Node], nodes: Callable[[str], Node]
) -> None:
    """A reply that was lost is given again: redeeming is idempotent for one key."""
    a, _ = pair
    token = a.post("/v1/invites", {})["token"]
    c = nodes("c")
    assert c.join(token) == c.join(token)


def test_a_token_of_a_dead_issuer_is_unreachable(nodes: Callable[[str], Node]) -> None:
    """Nobody answers: nothing is written, the folder stays in no cluster."""
    a, b = nodes("a"), nodes("b")
    a.up()
    token = a.post("/v1/invites", {})["token"]
    a.down()
    enrol.JOIN_TIMEOUT_MS, kept = 1_500, enrol.JOIN_TIMEOUT_MS
    try:
        with pytest.raises(PollenError) as caught:
            b.join(token)
    finally:
        enrol.JOIN_TIMEOUT_MS = kept
    assert caught.value.slug == "unreachable"
    assert not identity.is_enrolled(b.paths)


def test_a_member_of_another_cluster_does_not_join(
    pair: tuple[Node, Node], nodes: Callable[[str], Node]
) -> None:
    """``already-in-cluster`` until the lone cluster is given up on purpose."""
    a, _ = pair
    other = nodes("e")
    identity.init(other.paths, "e", native=other.native)
    token = a.post("/v1/invites", {})["token"]
    with pytest.raises(PollenError) as caught:
        other.join(token)
    assert caught.value.slug == "already-in-cluster"
    joined = other.join(token, replace=True)
    held = identity.read(other.paths)
    assert held is not None
    assert held.cluster.hex() == joined


def test_another_method_is_told_which_there_are(nodes: Callable[[str], Node]) -> None:
    """RFC 9110: 405 names the methods; the body says the same status as the line."""
    a = nodes("a")
    a.up()
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(str(a.paths.control_socket))
        asked.sendall(b"PUT /v1/status HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
        answer = b"".join(iter(lambda: asked.recv(65_536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 405 " in head.splitlines()[0]
    allowed = next(line for line in head.splitlines() if line.lower().startswith(b"allow: "))
    assert set(allowed[len("allow: ") :].split(b", ")) == {b"GET", b"HEAD"}
    assert json.loads(body)["status"] == 405


@pytest.mark.only("fake")
@pytest.mark.parametrize(
    ("target", "body", "slug"),
    [
        ("/v1/seeds", {"name": "x"}, "bad-request"),
        ("/v1/seeds", b"{bad", "bad-request"),
        ("/v1/seeds", {"name": "x", "content": "zz"}, "bad-request"),
        ("/v1/seeds", {"name": "Bad Name", "content": "0" * 64}, "name-invalid"),
        ("/v1/seeds", {"name": "f" * 64, "content": "0" * 64}, "name-invalid"),
        ("/v1/seeds", {**GOOD, "options": {"timeout_ms": 0}}, "config-invalid"),
        ("/v1/seeds", {**GOOD, "options": {"tmieout": 1}}, "bad-request"),
        ("/v1/invites", {"tier": "king"}, "bad-request"),
        ("/v1/invites", {"ttl_ms": -1}, "bad-request"),
        ("/v1/invites", {"subject": "me"}, "bad-request"),
        ("/v1/nowhere", {}, "bad-request"),
    ],
)  # fmt: skip
def test_bad_requests_are_refused_with_their_slug(
    nodes: Callable[[str], Node], target: str, body: Any, slug: str
) -> None:
    """A problem with a slug, and the daemon goes on."""
    a = nodes("a")
    a.up()
    with pytest.raises(PollenError) as caught:
        a.post(target, body)
    assert slug == caught.value.slug
    assert a.get("/v1/health")["state"] == "running"


def test_no_module_is_refused_at_seed_time(nodes: Callable[[str], Node]) -> None:
    """A text file named .wasm is no seed; an unknown one is not withdrawn, but guessed at."""
    a = nodes("a")
    a.up()
    with pytest.raises(PollenError) as caught:
        a.seed("text", b"hello, I am text")
    assert caught.value.slug == "module-invalid"
    a.seed("echo")
    with pytest.raises(PollenError) as caught:
        ask(a.paths.control_socket, "DELETE", "/v1/seeds/ecoh")
    assert (caught.value.slug, caught.value.remedy) == ("seed-not-found", "did you mean: echo")
    assert ask(a.paths.control_socket, "DELETE", "/v1/seeds/seed%2Fecho")["name"] == "echo"


@pytest.mark.only("real")
def test_a_second_daemon_on_the_folder_is_refused(nodes: Callable[[str], Node]) -> None:
    """``already-running``, with the pid of the first; the lock is a process's."""
    a = nodes("a")
    a.up()
    with pytest.raises(PollenError) as caught:
        a.start("127.0.0.1:0")
    assert caught.value.slug == "already-running"
    with pytest.raises(PollenError) as caught, lock.hold(a.paths):
        pass
    assert str(service.running(a.paths)) in caught.value.reason


@pytest.mark.only("real")
def test_a_port_in_use_is_said(nodes: Callable[[str], Node]) -> None:
    """The starter learns the slug and the remedy of a start that failed."""
    a = nodes("a")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        with pytest.raises(PollenError) as caught:
            a.start(f"127.0.0.1:{port}")
    assert caught.value.slug == "port-in-use"
    assert caught.value.remedy


def test_metrics_and_logs_and_openapi_answer(nodes: Callable[[str], Node]) -> None:
    """Every route of the table answers."""
    a = nodes("a")
    a.up()
    connection = UnixConnection(a.paths.control_socket)
    connection.request("GET", "/v1/metrics")
    page = connection.getresponse().read().decode()
    assert "pollen_brain_events_total" in page
    connection.request("GET", "/v1/logs?lines=5")
    lines = [json.loads(line) for line in connection.getresponse().read().splitlines()]
    connection.close()
    assert "up" in [line["event"] for line in lines]
    document = a.get("/v1/openapi.json")
    assert "/v1/seeds/{target}" in document["paths"]
    assert "pollen" in a.get("/v1/version")


def test_a_stop_is_quick_and_leaves_no_socket(nodes: Callable[[str], Node]) -> None:
    """Down drains, closes and cleans up; the folder can be used again at once."""
    a = nodes("a")
    a.up()
    began = time.monotonic()
    a.down()
    assert time.monotonic() - began < 2.0
    assert not a.paths.control_socket.exists()
    assert not a.paths.pid_file.exists()
