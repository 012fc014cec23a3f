"""A small faithful stand-in for ``pollen._native``, trusted only as far as ``test_muscles`` runs it
through the same claims as the real module.

All its muscles of one process share one ``Network``.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.ids import Hash, LinkId, PeerId, RequestId, Token
from tests.contract.fake_keys import FakeKey, NativeError, verify_signatures

QUEUE_MAX = 512


class Network:
    """Who listens where; links and content of one process."""

    def __init__(self) -> None:
        self.by_address: dict[str, FakeMuscles] = {}
        self.by_key: dict[bytes, FakeMuscles] = {}
        self.joins: dict[int, bytes] = {}
        self.links = 0
        self.requests = 0
        self.ports = 40_000


class FakeMuscles:
    """The calls of ``pollen._native.Muscles`` over a ``Network``."""

    def __init__(self, network: Network, key: FakeKey, boot: bytes) -> None:
        self._network = network
        self.key = key
        self._boot = boot
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        self._events: collections.deque[ev.Event] = collections.deque()
        self._is_armed = False
        self._hello: tuple[bytes, int, int, bytes] | None = None
        self.links: dict[int, tuple[FakeMuscles, bool]] = {}
        self.admitted: set[int] = set()
        self._early: dict[int, list[ev.Event]] = {}
        self.content: dict[bytes, bytes] = {}
        self.seeds: dict[bytes, Any] = {}
        self.peers: dict[bytes, Any] = {}
        self.services: dict[bytes, Any] = {}
        self.served: dict[bytes, Any] = {}
        self.listeners: dict[int, str] = {}
        self.vias: dict[int, bytes | None] = {}
        self.relays = False
        self.seen: list[str] = []
        self.generation = 0
        self.loaded: set[bytes] = set()
        self.is_open = False
        self.is_closed = False
        self.fail_next: list[str] = []

    # -- the calls of the real one --------------------------------------------------------------

    def start(
        self,
        *,
        listen: Sequence[str],
        call_socket: str,
        http: str | None = None,
        hosts: Sequence[tuple[str, str]] = (),
    ) -> list[str]:
        bound = []
        for address in listen:
            host, _, port = address.rpartition(":")
            if port == "0":
                self._network.ports += 1
                port = str(self._network.ports)
            full = f"{'127.0.0.1' if host in ('0.0.0.0', '[::]') else host}:{port}"
            if full in self._network.by_address:
                raise NativeError("port-in-use", f"{full} is in use")
            self._network.by_address[full] = self
            bound.append(full)
        self._network.by_key[self.key.public] = self
        self.is_open = True
        return bound

    def event_fd(self) -> int:
        return self._reader.fileno()

    def drain(self) -> bytes:
        if self.is_closed and not self._events:
            return msgspec.msgpack.encode([])
        self._is_armed = False
        batch = [self._events.popleft() for _ in range(min(512, len(self._events)))]
        if self._events:
            self._wake()
        return msgspec.msgpack.encode(batch)

    def set_hello(self, *, cluster: bytes, minor_min: int, minor_max: int, chain: bytes) -> None:
        self._hello = (cluster, minor_min, minor_max, chain)

    def dial(self, peer: bytes, addresses: Sequence[str], by_mesh: bool = False) -> None:
        self._check_room()
        there = self._network.by_address
        target = next((there[a] for a in addresses if a in there), None)
        via = self._via(peer) if target is None and by_mesh else None
        if via is not None:
            target = self._network.by_key.get(peer)
        if target is None or target.key.public != peer or target._hello is None:
            self._emit(ev.DialFailed(peer=PeerId(peer), slug="unreachable", reason="nobody"))
            return
        self._network.links += 1
        link = LinkId(self._network.links)
        self.links[link] = (target, True)
        target.links[link] = (self, False)
        self.vias[link], target.vias[link] = via, via
        self._emit_hello(link, target, True)
        target._emit_hello(link, self, False)
        for one, other in ((self, target), (target, self)):
            far = PeerId(other.key.public)
            one._emit(ev.PathMoved(link=link, peer=far, address=one._seen(link)))

    def set_relay(self, relays: bool, bytes_per_s: int) -> None:
        self.relays = relays and bytes_per_s > 0

    def set_seen(self, addresses: Sequence[str]) -> None:
        if any(not address.rpartition(":")[2].isdigit() for address in addresses):
            raise NativeError("bad-request", "that is not an address")
        self.seen = list(addresses)

    def answers(self, service: str) -> bytes:
        """No client of this node was led anywhere."""
        return msgspec.msgpack.encode([])

    def paths(self, peer: bytes) -> bytes:
        links = [link for link, (other, _) in self.links.items() if other.key.public == peer]
        known: dict[str, Any] = {"since_ms": 0, "paths": [], "candidates": []}
        if links:
            via = self.vias[links[0]]
            way = {"kind": "mesh" if via else "ip", "address": self._seen(links[0])}
            known["paths"] = [{**way, "via": via or b"", "selected": True, "rtt_us": 100}]
            known["candidates"] = [{**way, "active": True}]
        return msgspec.msgpack.encode(known)

    def _seen(self, link: int) -> str:
        """Where the peer of a link is; empty through others."""
        other, there = self.links[link][0], self._network.by_address
        return "" if self.vias[link] else next(a for a, m in there.items() if m is other)

    def admit_link(self, link: int) -> None:
        self._check_room()
        if link in self.links:
            self.admitted.add(link)
            for event in self._early.pop(link, []):
                self._emit(event)

    def close_link(self, link: int, code: int, reason: str) -> None:
        held = self.links.pop(link, None)
        self.admitted.discard(link)
        if held is None:
            return
        other = held[0]
        if other.links.pop(link, None) is not None:
            other.admitted.discard(link)
            me = PeerId(self.key.public)
            other._emit(ev.LinkClosed(link=LinkId(link), peer=me, code=code, reason=reason))
        peer = PeerId(other.key.public)
        self._emit(ev.LinkClosed(link=LinkId(link), peer=peer, code=0, reason="closed here"))

    def send_message(self, peer: bytes, body: bytes) -> None:
        self._check_room()
        for link, other in self._to(peer):
            me = PeerId(self.key.public)
            other._receive(link, ev.MessageReceived(link=LinkId(link), peer=me, body=body))

    def send_records(self, peer: bytes, records: Sequence[ev.SignedRecord]) -> None:
        self._check_room()
        triples = [(r.owner, b"pollen-record/1\0" + r.body, r.signature) for r in records]
        good = verify_signatures(triples)
        kept = [record for record, is_good in zip(records, good, strict=True) if is_good]
        for link, other in self._to(peer):
            event = ev.RecordsReceived(
                link=LinkId(link),
                peer=PeerId(self.key.public),
                records=kept,
                rejected=len(records) - len(kept),
            )
            other._receive(link, event)

    def answer_join(self, request: int, body: bytes) -> None:
        self._network.joins[request] = body

    def ask_join(
        self, addresses: Sequence[str], peer: bytes, body: bytes, timeout_ms: int
    ) -> bytes:
        target = next(
            (self._network.by_address[a] for a in addresses if a in self._network.by_address), None
        )
        if target is None or target.key.public != peer:
            raise NativeError("unreachable", "nobody answers at the issuer's addresses")
        self._network.requests += 1
        request = RequestId(self._network.requests)
        joiner = PeerId(self.key.public)
        target._emit(ev.JoinRequested(request=request, peer=joiner, remote="x:1", body=body))
        deadline = timeout_ms / 1000
        while request not in self._network.joins and deadline > 0:
            deadline -= 0.005
            import time

            time.sleep(0.005)
        if request not in self._network.joins:
            raise NativeError("unreachable", "no answer in time")
        return self._network.joins.pop(request)

    def inspect_module(
        self, request: int, content: bytes, bundle: bytes | None = None, kind: str = "module"
    ) -> None:
        if kind not in ("module", "blob"):
            raise NativeError("bad-request", f"{kind!r} is no kind of seed")
        if bundle is not None and len(bundle) not in (0, 32):
            raise NativeError("bad-request", f"bundle must be 32 bytes, not {len(bundle)}")
        data = self.content.get(content)
        is_module = data is not None and data.startswith(b"\0asm")
        slug = "" if is_module else "blob-not-found" if data is None else "module-invalid"
        slug = "" if kind == "blob" and data is not None else slug
        # It has no engine: a bundle is read by the real ones alone.
        slug = "bundle-invalid" if bundle and is_module else slug
        event = ev.ModuleInspected(
            request=RequestId(request),
            content=Hash(content),
            size=len(data or b""),
            functions=["run"] if is_module else [],
            slug=slug,
            reason=slug and "no such content, or no module",
        )
        self._emit(event)

    def load_seed(self, seed: bytes, holders: Sequence[bytes]) -> None:
        row = self.seeds.get(seed)
        if row is None:
            event = ev.LoadFinished(seed=Hash(seed), slug="seed-not-found", reason="no row")
            self._emit(event)
            return
        for holder in holders:
            other = self._network.by_key.get(holder)
            if row.content not in self.content and other is not None and other.is_open:
                data = other.content.get(row.content)
                if data is not None:
                    self.content[row.content] = data
        if row.content in self.content:
            self.loaded.add(seed)
            self._emit(ev.LoadFinished(seed=Hash(seed)))
        else:
            event = ev.LoadFinished(seed=Hash(seed), slug="unreachable", reason="no holder")
            self._emit(event)

    def unload_seed(self, seed: bytes, keep: bool = False) -> None:
        self.loaded.discard(seed)

    def begin_call(
        self,
        *,
        token: str,
        seed: bytes,
        function: str,
        input: bytes,
        budget_ms: int,
        here: bool,
    ) -> None:
        self._check_room()
        row, slug = self.seeds.get(seed), ""
        if row is None or seed not in self.loaded:
            slug = "seed-not-found"
        elif function not in row.functions:
            slug = "function-not-found"
        output = b"" if slug else input[: limits.OWN_OUTPUT_MAX_BYTES]
        event = ev.CallEnded(
            token=Token(token),
            slug=slug,
            reason=slug and "no such seed here, or no such function",
            output=output,
            output_bytes=len(output) and len(input),
        )
        self._emit(event)

    def push_tables(
        self,
        *,
        generation: int,
        base: int,
        lanes: Mapping[str, Any],
        lease_ms: int,
    ) -> None:
        if base not in (0, self.generation):
            raise NativeError("stale-generation", f"{self.generation} is held, not {base}")
        if base == 0:
            self.seeds, self.peers, self.services, self.served = {}, {}, {}, {}
        held = {
            "seeds": (self.seeds, "seed"),
            "peers": (self.peers, "peer"),
            "services": (self.services, "key"),
            "served": (self.served, "key"),
        }
        for name, lane in lanes.items():
            if name not in held:
                raise NativeError("bad-request", f"there is no lane of rows {name!r}")
            table, key = held[name]
            table.update({getattr(row, key): row for row in lane.rows})
            for gone in lane.gone:
                table.pop(gone, None)
        self.generation = generation

    def open_listener(self, asked: fx.OpenListener) -> None:
        """Nobody can connect to these: they have an address and no socket."""
        bind, listener = asked.bind, asked.listener
        bound, slug = bind, ""
        if not bind.startswith("unix:"):
            host, _, port = bind.rpartition(":")
            if not host or not port.isdigit():
                slug = "usage"
            elif port == "0":
                self._network.ports += 1
                bound = f"{host}:{self._network.ports}"
        if bound in self.listeners.values():
            slug = "port-in-use"
        if not slug:
            self.listeners[listener] = bound
        reason = slug and f"cannot listen on {bind}"
        event = ev.ListenerOpened(
            listener=listener, bound="" if slug else bound, slug=slug, reason=reason
        )
        self._emit(event)

    def close_listener(self, listener: int) -> None:
        self.listeners.pop(listener, None)

    def probe_service(self, asked: fx.ProbeService) -> None:
        """No program listens in this world."""
        slug, reason = "provider-refused", "Connection refused"
        self._emit(ev.ServiceProbed(number=asked.number, slug=slug, reason=reason))

    def beat(self) -> None:
        """The real ones tell telemetry by their own clock; these when a link is admitted."""
        if self.admitted:
            self._emit(self._telemetry())

    def metrics(self) -> bytes:
        return msgspec.msgpack.encode({"running": 0, "seeds": [], "bounds_us": []})

    def keep_spans(self, millionths: int) -> None:
        return

    def drain_spans(self) -> bytes:
        return msgspec.msgpack.encode([])

    def close(self, grace_ms: int) -> None:
        if self.is_closed:
            return
        for link in list(self.links):
            self.close_link(link, 5, "shutting down")
        self._network.by_address = {
            a: m for a, m in self._network.by_address.items() if m is not self
        }
        if self._network.by_key.get(self.key.public) is self:
            del self._network.by_key[self.key.public]
        self.is_open = False
        self.is_closed = True
        self._reader.close()
        self._writer.close()

    # -- inside ---------------------------------------------------------------------------------

    def put(self, data: bytes) -> bytes:
        """What ``PUT /content`` does."""
        content = hash_content(data)
        self.content[content] = data
        return content

    def _telemetry(self) -> ev.Telemetry:
        return ev.Telemetry(
            peers=[
                ev.PeerSample(PeerId(other.key.public), 100, 0, 0, not via, via=PeerId(via or b""))
                for link, (other, _) in self.links.items()
                if link in self.admitted
                for via in (self.vias[link],)
            ],
            seeds=[ev.SeedSample(Hash(seed), 0, 0, 0, 0, 0) for seed in self.seeds],
            memory_bytes=0,
            events_dropped=0,
            control_stalls=0,
            services=[
                ev.ServiceSample(Hash(key), 0, 0, 0, 0, 0)
                for key in {**self.services, **self.served}
            ],
        )

    def _via(self, peer: bytes) -> bytes | None:
        """The first hop to a peer that relays and is linked with both."""
        row, network = self.peers.get(peer), self._network.by_key
        hops = [hop for hop in (row.hops if row else []) if hop in network and self._to(hop)]
        takes = (hop for hop in hops if network[hop].relays and network[hop]._to(peer))
        return next(takes, None)

    def _check_room(self) -> None:
        if self.fail_next:
            raise NativeError(self.fail_next.pop(0), "as the test asked")

    def _to(self, peer: bytes) -> list[tuple[int, FakeMuscles]]:
        return [
            (link, other)
            for link, (other, _) in self.links.items()
            if other.key.public == peer and link in self.admitted
        ]

    def _receive(self, link: int, event: ev.Event) -> None:
        if link in self.admitted:
            self._emit(event)
        elif link in self.links:
            self._early.setdefault(link, []).append(event)

    def _emit_hello(self, link: LinkId, other: FakeMuscles, dialled: bool) -> None:
        assert other._hello is not None
        cluster, low, high, chain = other._hello
        event = ev.HelloReceived(
            link=link,
            peer=PeerId(other.key.public),
            dialled=dialled,
            remote="",
            cluster=Hash(cluster),
            minor_min=low,
            minor_max=high,
            boot=other._boot,
            chain=chain,
        )
        self._emit(event)

    def _emit(self, event: ev.Event) -> None:
        if self.is_closed:
            return
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        if not self._is_armed:
            self._is_armed = True
            with contextlib.suppress(BlockingIOError, OSError):
                self._writer.send(b"\1")


def hash_content(data: bytes) -> bytes:
    return hashlib.blake2b(b"content" + data, digest_size=32).digest()


class FakeNative:
    """``pollen.runtime.loop.native.Native`` over the fakes."""

    error = NativeError

    def __init__(self, network: Network | None = None) -> None:
        self.network = network or Network()

    def load_key(self, path: str) -> FakeKey:
        return FakeKey(Path(path).read_bytes())

    def generate_key(self) -> FakeKey:
        return FakeKey(os.urandom(32))

    def open_muscles(
        self,
        *,
        key: Any,
        boot: bytes,
        directory: str,
        memory_bytes: int,
        code_cache_bytes: int = 2 << 30,
    ) -> FakeMuscles:
        return FakeMuscles(self.network, key, boot)

    def verify(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
        return verify_signatures(items)

    def sealer(self) -> None:
        return None

    def version(self) -> str:
        return "fake"
