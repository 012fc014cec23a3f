"""A cluster in a small internet, how its members reach each other, and a stream that is watched.

``way`` is the only place where the tests read how packets go.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from typing import Any

import msgspec

from pollen.sdk.control import Control
from pollen.testing import Cluster, Node, until
from tests.e2e.conftest import example, running
from tests.e2e.serving import LOOPBACK, knows, listener, serve
from tests.e2e.streams import stream
from tests.netlab import Lab, left_over, need

SERVICE = "echoes"
SEED = "journal"
# How long a cluster may take to be of one mind, on a machine that is busy with other things.
SETTLE = 60.0
# Idempotent calls a second beside a stream of bytes.
CALLS = 50
# Bytes a piece of a stream, and seconds between two.
PIECE = 4_096
BEAT = 0.02
# How long a connection is in use before its way is broken, seconds. One of 1.2 s was reset when its
# direct way was cut, once in some twenty runs: its second path was not there yet.
IN_USE = 3.0
# No power of two: what comes twice or not at all is found.
_PATTERN = os.urandom(65_521)


class Way(msgspec.Struct, frozen=True):
    """How a member reaches another: directly, through ``via``, or not at all."""

    direct: bool = False
    via: str = ""

    @property
    def is_there(self) -> bool:
        """Whether there is one."""
        return self.direct or bool(self.via)


async def way(node: Node, peer: str) -> Way:
    """How packets of a node go to a peer, by its ``pln status nodes --json``.

    A node that does not name the path yet tells only whether the link is direct.
    """
    found = [held for held in (await node.status())["nodes"] if held["name"] == peer]
    if not found or not found[0]["rtt_us"]:
        return Way()
    path = str(found[0].get("path", ""))
    if path.startswith("via "):
        return Way(via=path.removeprefix("via "))
    if path:
        return Way(direct=path == "direct")
    return Way(direct=True) if found[0]["direct"] else Way(via="?")


async def until_way(node: Node, peer: str, seconds: float, *, direct: bool) -> float:
    """Wait until a way is direct, or through others; how long that took."""
    began = time.monotonic()

    async def is_so() -> bool:
        found = await way(node, peer)
        return found.is_there and found.direct is direct

    kind = "directly" if direct else "through another member"
    await until(is_so, seconds, f"{node.name} reaches {peer} {kind}")
    return time.monotonic() - began


async def passed_on(node: Node, *, sized: bool = False) -> int:
    """How many packets of others a node has passed on since its start, or their bytes."""
    named = 'pollen_mesh_packets_total{way="passed_on"}'
    return await figure(node, "pollen_mesh_passed_bytes_total" if sized else named)


async def figure(node: Node, name: str) -> int:
    """A number of a node's metrics page."""
    page = await asyncio.to_thread(Control(node.paths).text, "/v1/metrics")
    for line in page.splitlines():
        if line.startswith(f"{name} "):
            return int(float(line.split()[-1]))
    raise AssertionError(f"{node.name} has no {name}")


async def until_linked(made: Town, seconds: float) -> float:
    """Wait until every member reaches every other one; how long that took."""
    began = time.monotonic()
    names = [node.name for node in made.cluster]

    async def are_so() -> bool:
        ways = [await way(made[one], two) for one in names for two in names if one != two]
        return all(found.is_there for found in ways)

    await until(are_so, seconds, "all members are linked", poll=0.05)
    return time.monotonic() - began


async def until_no_double(made: Town, seconds: float) -> float:
    """Wait until no member has two connections to one other; how long that took."""
    began = time.monotonic()

    async def is_so() -> bool:
        names = ("pollen_links", "pollen_link_connections")
        held = [[await figure(node, name) for name in names] for node in made.cluster]
        return held == [[len(held) - 1] * 2] * len(held)

    await until(is_so, seconds, "each pair has one connection", poll=0.1)
    return time.monotonic() - began


class Echoes:
    """A TCP server on a member's loopback that says again what comes; it outlives its node."""

    def __init__(self, lab: Lab, name: str) -> None:
        self._held = lab.listening(name)
        self.port: int = self._held.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._held.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                client.sendall(data)

    def close(self) -> None:
        """Take nobody any more."""
        with contextlib.suppress(OSError):
            self._held.shutdown(socket.SHUT_RDWR)
        self._held.close()


class Town:
    """A running cluster in a laboratory. ``b`` has an echo of TCP and the seed ``journal``."""

    def __init__(self, lab: Lab, cluster: Cluster, echoes: Echoes) -> None:
        self.lab, self.cluster, self._echoes = lab, cluster, echoes

    def __getitem__(self, name: str) -> Node:
        return next(node for node in self.cluster if node.name == name)

    async def again(self, **kinds: str) -> None:
        """Begin again: every cut is healed, members get their kinds and start without a link.

        Those that have a kind are stopped in order before; who does not run, starts.
        """
        await asyncio.gather(*(self[name].stop() for name in kinds))
        self.lab.heal()
        for name, kind in kinds.items():
            self.lab.become(name, kind)
        await asyncio.gather(*(node.start() for node in self.cluster if not node.is_running))

    async def first_byte(self) -> float:
        """Seconds until an echo of b comes back at a listener of a that nobody used yet.

        Raises ``TimeoutError`` when none comes.
        """
        bound = await listener(self["a"], SERVICE)
        return await asyncio.to_thread(self._asked, bound)

    def _asked(self, bound: str) -> float:
        began = time.monotonic()
        with self.lab.dialled("a", bound) as held:
            held.settimeout(20)
            held.sendall(b"?")
            if held.recv(1) != b"?":
                raise TimeoutError("the tunnel ended before its first byte")
        return time.monotonic() - began

    async def close_listeners(self) -> None:
        """So that the next listener is a fresh one."""
        for held in (await self["a"].get("/v1/services"))["listeners"]:
            await self["a"].pln("disconnect", held["bound"])

    def check_quiet(self) -> None:
        """Nothing went to an address outside."""
        assert self.lab.strays() == (0, [])

    def close(self) -> None:
        """The end of what is not the cluster's."""
        self._echoes.close()


@contextlib.contextmanager
def town(kinds: Mapping[str, str], *, first: str = "p1") -> Iterator[Town]:
    """A town as long as the block lasts, for tests that each have a loop of their own."""
    need()
    assert next(iter(kinds)) == first, "who begins the cluster stands first"
    lab = Lab(kinds)
    cluster = Cluster(namespaces=lab, properties={"b": {"role": "host"}})
    with running(cluster):
        made = Town(lab, cluster, Echoes(lab, "b"))
        try:
            asyncio.run(_furnish(made))
            yield made
        finally:
            made.close()
    assert left_over(lab) == []


async def _furnish(made: Town) -> None:
    await serve(made["b"], made._echoes.port, SERVICE)
    await made.cluster.seed(example(SEED), SEED, host=[["role", "host"]], min_replicas=1)
    for node in made.cluster:
        await knows(node, SERVICE, "b")


# -- a stream that is watched ----------------------------------------------------------------------


class Flow:
    """Bytes that go to an echo at a steady rate; what comes back is compared byte by byte."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._tasks = [asyncio.ensure_future(step()) for step in (self._write, self._read)]
        self._is_over = False
        self._began = time.monotonic()
        self._sent = self._heard = 0
        # When bytes came, and what ended it before its time.
        self.came: list[float] = []
        self.problem = ""

    async def _write(self) -> None:
        began, pieces = time.monotonic(), 0

        async def is_due() -> bool:
            return self._is_over or bool(self.problem) or pieces * BEAT < time.monotonic() - began

        try:
            while not self._is_over and not self.problem:
                await until(is_due, 10, "the next piece is due", poll=BEAT / 4)
                self._writer.write(_pattern(self._sent, PIECE))
                self._sent += PIECE
                pieces += 1
                await self._writer.drain()
            self._writer.write_eof()
        except OSError as error:
            self.problem = self.problem or f"writing: {error}"

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(1 << 16):
                self.came.append(time.monotonic())
                if data != _pattern(self._heard, len(data)):
                    self.problem = f"wrong bytes after {self._heard}"
                    return
                self._heard += len(data)
        except OSError as error:
            self.problem = f"reading: {error}"
        if not self.problem and not self._is_over:
            self.problem = f"it ended after {self._heard} bytes"

    async def flows(self) -> None:
        """Wait until bytes have come for some time."""

        async def do() -> bool:
            assert not self.problem, self.problem
            return len(self.came) >= 10 and time.monotonic() - self._began >= IN_USE

        await until(do, SETTLE, "bytes come back")

    async def finish(self) -> None:
        """End it; all that was said has come back, or ``problem`` says why not."""
        self._is_over = True
        try:
            await asyncio.wait_for(asyncio.gather(*self._tasks), SETTLE)
        except TimeoutError:
            self.problem = self.problem or "the rest never came"
        if not self.problem and self._heard != self._sent:
            self.problem = f"{self._heard} of {self._sent} bytes came back"
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    def gap(self, since: float) -> float:
        """The longest time without a byte, from ``since`` on."""
        times = [since, *(at for at in self.came if at >= since)]
        return max((b - a for a, b in itertools.pairwise(times)), default=float("inf"))


def _pattern(offset: int, size: int) -> bytes:
    """What a flow says from a place on."""
    begin = offset % len(_PATTERN)
    rounds = (begin + size) // len(_PATTERN) + 1
    return (_PATTERN * rounds)[begin : begin + size]


@contextlib.asynccontextmanager
async def flow(made: Town) -> AsyncIterator[Flow]:
    """One TCP connection of a to the echo of b, in use; it is finished in the end."""
    bound = await listener(made["a"], SERVICE)
    assert bound.startswith(LOOPBACK)
    held = await asyncio.to_thread(made.lab.dialled, "a", bound)
    held.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=held, limit=1 << 20)
    watched = Flow(reader, writer)
    try:
        await watched.flows()
        yield watched
    finally:
        await watched.finish()


class Seen(msgspec.Struct):
    """What a fault did: the longest gap of the bytes, and of calls, and what failed."""

    gap: float
    problem: str
    calls: int
    failed: dict[str, int]
    at: float
    more: dict[str, Any] = {}


async def under(made: Town, fault: Callable[[], Awaitable[None]], seconds: float) -> Seen:
    """Strike while bytes flow on one connection and idempotent calls run, both from a to b."""
    await made.cluster.ready(SEED, SETTLE, on={"b"})
    async with flow(made) as bytes_of, made["a"].connect() as mesh:
        calls, at = await stream(mesh, fault, rate=CALLS, seconds=seconds, is_idempotent=True)
    return Seen(
        gap=bytes_of.gap(at),
        problem=bytes_of.problem,
        calls=len(calls),
        failed=dict(Counter(call.slug for call in calls if call.slug)),
        at=at,
    )
