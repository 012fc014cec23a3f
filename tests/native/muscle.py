"""Bare muscles without a brain: what a test needs to seed, call and listen to them."""

from __future__ import annotations

import atexit
import http.client
import os
import select
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from pollen import _native
from pollen.core import effects as fx
from pollen.core.ids import Hash, PeerId
from pollen.options import SeedOptions
from pollen.sdk import door

EXAMPLES = Path(__file__).parents[2] / "examples" / "c"
CLUSTER = b"c" * 32
DEADLINE = 20.0
LEASE_MS = 60_000


class Muscle:
    """One ``Muscles`` with its queue, driven by hand: nothing drains or beats unless asked."""

    def __init__(self, *, event_capacity: int = 8192, key: _native.KeyPair | None = None) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="pln-", dir="/tmp"))
        atexit.register(shutil.rmtree, self.home, ignore_errors=True)
        self.key = key or _native.KeyPair.generate()
        self.raw = _native.Muscles(
            key=self.key,
            boot=os.urandom(16),
            directory=str(self.home),
            memory_bytes=1 << 28,
            event_capacity=event_capacity,
        )
        self.socket = str(self.home / "call.sock")
        self.addresses = self.raw.start(listen=["127.0.0.1:0"], call_socket=self.socket)
        self.events: list[dict[str, Any]] = []
        self.rows: list[fx.SeedRow] = []

    @property
    def peer(self) -> PeerId:
        return PeerId(self.key.public)

    # -- events -----------------------------------------------------------------------------

    def take(self, seconds: float = 0.1) -> list[dict[str, Any]]:
        """Wait for the descriptor, drain once, beat."""
        self.raw.beat()
        if not select.select([self.raw.event_fd()], [], [], seconds)[0]:
            return []
        os.read(self.raw.event_fd(), 4096)
        came: list[dict[str, Any]] = msgspec.msgpack.decode(self.raw.drain())
        self.events += came
        return came

    def wait(self, kind: str, count: int = 1) -> dict[str, Any]:
        """The ``count``-th event with this tag."""
        found: list[dict[str, Any]] = []

        def is_there() -> bool:
            found[:] = [event for event in self.events if event["t"] == kind]
            return len(found) >= count or bool(self.take() and False)

        wait_for(is_there, f"{kind} number {count}")
        return found[count - 1]

    # -- seeds and calls --------------------------------------------------------------------

    def seed(self, name: str, functions: list[str], replicas: list[PeerId] | None = None) -> None:
        """Hold an example module and publish a row for it; load it when this is a replica."""
        content = self.upload((EXAMPLES / f"{name}.wasm").read_bytes())
        hosts = [self.peer] if replicas is None else replicas
        row = seed_row(name, content, functions, hosts, self.peer)
        self.rows.append(row)
        self.push([self.peer, *hosts])
        if self.peer in hosts:
            self.raw.load_seed(row.seed, [])
            assert self.wait("load_finished", len(self.rows))["slug"] == ""

    def load_closed(self, name: str, functions: list[str]) -> fx.SeedRow:
        """Load an example whose row has a check: it is held, and closed to callers."""
        content = self.upload((EXAMPLES / f"{name}.wasm").read_bytes())
        row = seed_row(name, content, functions, [], self.peer)
        options = msgspec.structs.replace(row.options, check=functions[0])
        self.rows.append(msgspec.structs.replace(row, wake=[self.peer], options=options))
        self.push([self.peer])
        self.raw.load_seed(row.seed, [])
        assert self.wait("load_finished", len(self.rows))["slug"] == ""
        return self.rows[-1]

    def open(self, row: fx.SeedRow) -> None:
        """The brain claims the replica ready."""
        ready = msgspec.structs.replace(row, wake=[], replicas=[self.peer])
        self.rows[self.rows.index(row)] = ready
        self.push([self.peer])

    def begin(
        self, seed: Hash, function: str, data: bytes = b"", *, here: bool = True
    ) -> dict[str, Any]:
        """A call of the brain, and its end."""
        number = sum(event["t"] == "call_ended" for event in self.events) + 1
        self.raw.begin_call(
            token=f"check/{number:02}",
            seed=seed,
            function=function,
            input=data,
            budget_ms=5_000,
            here=here,
        )
        ended = self.wait("call_ended", number)
        assert ended["token"] == f"check/{number:02}"
        return ended

    def sample(self, seed: Hash) -> dict[str, Any]:
        """What the next telemetry says of a seed."""
        found: list[dict[str, Any]] = []

        def is_told() -> bool:
            told = [event for event in self.take() if event["t"] == "telemetry"]
            found[:] = [held for event in told for held in event["seeds"] if held["seed"] == seed]
            return bool(found)

        wait_for(is_told, "telemetry")
        return found[-1]

    def push(
        self,
        peers: list[PeerId],
        lease_ms: int = LEASE_MS,
        prices: dict[PeerId, int] | None = None,
        words: list[tuple[str, str]] | None = None,
        properties: str = "{}",
    ) -> None:
        """Replace the tables; who has no price costs 1. All members are the same to policies."""
        rows = [
            fx.PeerRow(
                peer=peer,
                name=peer.hex()[:8],
                properties=properties,
                words=words or [],
                price_us=(prices or {}).get(peer, 1),
            )
            for peer in dict.fromkeys(peers)
        ]
        self.raw.push_tables(
            generation=1,
            base=0,
            lanes={fx.SEEDS: fx.LaneRows(rows=self.rows), fx.PEERS: fx.LaneRows(rows=rows)},
            lease_ms=lease_ms,
        )

    def upload(self, data: bytes, query: str = "") -> Hash:
        """PUT /content."""
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.connect()
        try:
            connection.request("PUT", f"/content{query}", data)
            answer = msgspec.json.decode(connection.getresponse().read())
        finally:
            connection.close()
        return Hash(bytes.fromhex(answer["content"]))

    def connect(self) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(DEADLINE)
        connected.connect(self.socket)
        return connected

    def client(self) -> Client:
        """A connection that speaks ``pollen-call/1``."""
        return Client(self.connect())


class Client:
    """``pollen-call/1`` over a blocking socket."""

    def __init__(self, connected: socket.socket) -> None:
        self.socket = connected
        self.talk = door.Conversation()
        connected.sendall(door.PREFACE)

    def send(
        self,
        seed: str,
        function: str,
        data: bytes = b"",
        budget_ms: int = 20_000,
        retries: int = 0,
    ) -> int:
        number, frame = self.talk.call(
            seed,
            function,
            data,
            budget_ms=budget_ms,
            retries=retries,
            idempotent=False,
            traceparent=None,
        )
        self.socket.sendall(frame)
        return number

    def answer(self) -> door.Answer | None:
        """The next answer; None when the connection ends or says goodbye."""
        while True:
            try:
                data = self.socket.recv(65_536)
                answers = self.talk.receive(data) if data else None
            except Exception:
                return None
            if answers is None:
                return None
            if answers:
                return answers[0]

    def call(self, seed: str, function: str, data: bytes = b"") -> Any:
        self.send(seed, function, data)
        return self.answer()


def seed_row(
    name: str, content: Hash, functions: list[str], replicas: list[PeerId], owner: PeerId
) -> fx.SeedRow:
    """A row with nothing special about it."""
    return fx.SeedRow(
        name=name,
        seed=Hash(name.encode().ljust(32, b".")),
        publisher=owner,
        content=content,
        functions=functions,
        replicas=replicas,
        wake=[],
        options=SeedOptions(memory_bytes=1 << 24),
    )


def link(a: Muscle, b: Muscle) -> None:
    """Both say Hello, both admit."""
    met = [sum(event["t"] == "hello" for event in side.events) for side in (a, b)]
    for side in (a, b):
        side.raw.set_hello(cluster=CLUSTER, minor_min=1, minor_max=1, chain=b"chain")
    a.raw.dial(b.peer, b.addresses)
    for side, before in zip((a, b), met, strict=True):
        side.raw.admit_link(side.wait("hello", before + 1)["link"])


def wait_for(condition: Callable[[], bool], what: str, seconds: float = DEADLINE) -> None:
    """A condition with a deadline; the condition itself waits for descriptors."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"not within {seconds:.0f} s: {what}")


def metric(side: Muscle, name: str) -> int:
    """One counter of the muscles."""
    value: int = msgspec.msgpack.decode(side.raw.metrics())[name]
    return value
