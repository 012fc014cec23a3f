"""The one place that touches ``pollen._native``: effects become calls, drained bytes events.

The module is loaded lazily, so that nothing else of the runtime needs it.
A command queue that is full (``overloaded``) is back-pressure: the effect is kept and tried again,
a send only behind earlier sends to the same peer. A peer whose backlog outgrows its bound has its
link closed: a new link begins with everything, so nothing is lost by it.
Source: docs/internals/seam.md.
"""

from __future__ import annotations

import collections
import contextlib
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, cast

import msgspec

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.ids import KeyRole, LinkId, PeerId, Sign, Verify
from pollen.core.peers.discovery.contract import Seal, Unseal
from pollen.errors import InvariantError, PollenError, error_from

BACKLOG_MAX = 1_024


class LogLine(ev.Event, frozen=True, kw_only=True, tag="log"):
    """A log line of the muscles or of a guest; it goes to the log and never to the core."""

    level: str = "info"
    source: str = ""
    seed: str = ""
    call: str = ""
    trace_id: str = ""
    span_id: str = ""
    text: str = ""


Drained = (
    ev.HelloReceived
    | ev.LinkClosed
    | ev.PathMoved
    | ev.DialFailed
    | ev.MessageReceived
    | ev.RecordsReceived
    | ev.JoinRequested
    | ev.ModuleInspected
    | ev.LoadFinished
    | ev.SeedWoken
    | ev.CallEnded
    | ev.Telemetry
    | ev.LinkWanted
    | ev.ListenerOpened
    | ev.ServiceProbed
    | LogLine
)


class Key(Protocol):
    """``pollen._native.KeyPair``, as far as the runtime uses it."""

    @property
    def public(self) -> bytes: ...
    def save(self, path: str) -> None: ...
    def sign(self, message: bytes) -> bytes: ...


class Muscles(Protocol):
    """``pollen._native.Muscles``, so that a fake can stand in for it in contract tests."""

    def start(
        self,
        *,
        listen: Sequence[str],
        call_socket: str,
        http: str | None = None,
        hosts: Sequence[tuple[str, str]] = (),
    ) -> list[str]: ...
    def event_fd(self) -> int: ...
    def drain(self) -> bytes: ...
    def set_hello(
        self, *, cluster: bytes, minor_min: int, minor_max: int, chain: bytes
    ) -> None: ...
    def dial(self, peer: bytes, addresses: Sequence[str], by_mesh: bool = ...) -> None: ...
    def set_relay(self, relays: bool, bytes_per_s: int) -> None: ...
    def set_seen(self, addresses: Sequence[str]) -> None: ...
    def paths(self, peer: bytes) -> bytes: ...
    def answers(self, service: str) -> bytes: ...
    def admit_link(self, link: int) -> None: ...
    def close_link(self, link: int, code: int, reason: str) -> None: ...
    def send_message(self, peer: bytes, body: bytes) -> None: ...
    def send_records(self, peer: bytes, records: Sequence[ev.SignedRecord]) -> None: ...
    def answer_join(self, request: int, body: bytes) -> None: ...
    def ask_join(
        self, addresses: Sequence[str], peer: bytes, body: bytes, timeout_ms: int
    ) -> bytes: ...
    def inspect_module(
        self, request: int, content: bytes, bundle: bytes = ..., kind: str = ...
    ) -> None: ...
    def load_seed(self, seed: bytes, holders: Sequence[bytes]) -> None: ...
    def unload_seed(self, seed: bytes, keep: bool = ...) -> None: ...
    def begin_call(
        self,
        *,
        token: str,
        seed: bytes,
        function: str,
        input: bytes,
        budget_ms: int,
        here: bool,
    ) -> None: ...
    def push_tables(
        self,
        *,
        generation: int,
        base: int,
        lanes: Mapping[str, fx.LaneRows],
        lease_ms: int,
    ) -> None: ...
    def open_listener(self, asked: fx.OpenListener) -> None: ...
    def close_listener(self, listener: int) -> None: ...
    def probe_service(self, asked: fx.ProbeService) -> None: ...
    def run_workload(
        self,
        *,
        name: str,
        seed: str,
        function: str,
        service: str,
        input: bytes,
        rate: int,
        concurrency: int,
        duration_ms: int,
        warm_up_ms: int,
    ) -> bytes: ...
    def end_workload(self, name: str) -> int: ...
    def beat(self) -> None: ...
    def metrics(self) -> bytes: ...
    def keep_spans(self, millionths: int) -> None: ...
    def drain_spans(self) -> bytes: ...
    def close(self, grace_ms: int) -> None: ...


class Native(Protocol):
    """The module itself, or what stands in for it."""

    def load_key(self, path: str) -> Key: ...
    def generate_key(self) -> Key: ...
    def open_muscles(
        self,
        *,
        key: Key,
        boot: bytes,
        directory: str,
        memory_bytes: int,
        code_cache_bytes: int = ...,
    ) -> Muscles: ...
    def verify(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]: ...
    def sealer(self) -> tuple[Seal, Unseal] | None: ...
    def version(self) -> str: ...


class RealNative:
    """``pollen._native`` behind ``Native``; its errors become ``PollenError``."""

    def __init__(self) -> None:
        try:
            from pollen import _native
        except ImportError as error:
            raise PollenError(
                "internal",
                f"the native module cannot be loaded: {error}",
                "install the wheel: pip install pollen-mesh",
            ) from error
        self._module: Any = _native

    def load_key(self, path: str) -> Key:
        """Read a key file. ``state-unusable`` when it is unreadable or malformed."""
        try:
            return cast(Key, self._module.KeyPair.load(path))
        except self._module.NativeError as error:
            raise as_error(error) from error

    def generate_key(self) -> Key:
        """A new key pair."""
        return cast(Key, self._module.KeyPair.generate())

    def open_muscles(
        self,
        *,
        key: Key,
        boot: bytes,
        directory: str,
        memory_bytes: int,
        code_cache_bytes: int = 2 << 30,
    ) -> Muscles:
        """The data plane of this process, not started."""
        try:
            muscles = self._module.Muscles(
                key=key,
                boot=boot,
                directory=directory,
                memory_bytes=memory_bytes,
                code_cache_bytes=code_cache_bytes,
            )
        except self._module.NativeError as error:
            raise as_error(error) from error
        return cast(Muscles, muscles)

    def verify(self, items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
        """Check (public key, message, signature) triples."""
        return list(self._module.verify_signatures(items))

    def sealer(self) -> tuple[Seal, Unseal] | None:
        """XChaCha20-Poly1305: how to seal a datagram, and how to open one."""
        return self._module.seal, self._module.unseal

    def version(self) -> str:
        """Versions of the muscles."""
        return str(self._module.engine_version())


def as_error(error: Exception) -> PollenError:
    """The typed error of a ``NativeError``."""
    slug, reason = slug_of(error), str(error.args[1] if len(error.args) > 1 else error)
    remedy = _CONTENT_REMEDY if reason.startswith("the content store") else _REMEDIES.get(slug, "")
    return error_from(slug, reason, remedy)


def slug_of(error: Exception) -> str:
    """The slug that a ``NativeError`` carries, else ``internal``."""
    return str(error.args[0]) if error.args and len(error.args) > 1 else "internal"


# The peers hold the bytes, and the records are elsewhere.
_CONTENT_REMEDY = (
    "move its folder away and start again: peers send what they hold, the rest is seeded\n"
    "or give up what this node keeps: pln purge --yes, then pln join TOKEN"
)
PORT_REMEDY = "give another port: pln set listen IP:PORT, or pln up -d --port N"

_REMEDIES = {
    "port-in-use": PORT_REMEDY,
    "state-unusable": "restore the folder from a copy, or give another one: --dir",
    "version-mismatch": "run the same version of pollen on both machines; see: pln version",
    "unreachable": "check that the issuer is up and its address can be reached from here",
}


class Keys:
    """This machine's private keys, which stay in the native module.

    ``root`` may come and go while the node runs; the core is told of each change.
    """

    def __init__(self, node: Key, root: Key | None) -> None:
        self._node = node
        self.root = root

    def sign(self, role: KeyRole, message: bytes) -> bytes:
        """The signing function that the core is given."""
        if role is KeyRole.NODE:
            return self._node.sign(message)
        if self.root is None:
            raise InvariantError("the core signs with a root key that is not here")
        return self.root.sign(message)


def make_sign(node: Key, root: Key | None) -> Sign:
    """The signing function of keys that stay as they are."""
    return Keys(node, root).sign


def make_verify(native: Native) -> Verify:
    """The verifying function that the core is given."""
    return native.verify


class Port:
    """Effects in, calls out; what cannot be taken now is kept in order."""

    def __init__(self, muscles: Muscles, warn: Callable[[str, dict[str, str | int]], None]) -> None:
        self._muscles = muscles
        self._warn = warn
        self._held: collections.deque[fx.Effect] = collections.deque()
        self._sends: dict[PeerId, collections.deque[fx.Effect]] = {}
        self._links: dict[PeerId, LinkId] = {}
        self._seen: dict[LinkId, PeerId] = {}
        self._decoder = msgspec.msgpack.Decoder(list[Drained])
        self.refused = 0
        self.is_stale = False

    def drain(self) -> list[Drained]:
        """The next events, at most 512. The wake-up byte is read first: what comes after the read
        is in this batch or writes another byte."""
        with contextlib.suppress(OSError):
            os.read(self._muscles.event_fd(), 4096)
        events = self._decoder.decode(self._muscles.drain())
        for event in events:
            if isinstance(event, ev.HelloReceived):
                self._seen[event.link] = event.peer
            elif isinstance(event, ev.LinkClosed):
                self._forget(event.link, event.peer)
        return events

    def _forget(self, link: LinkId, peer: PeerId) -> None:
        self._seen.pop(link, None)
        if self._links.get(peer) == link:
            del self._links[peer]
            self._sends.pop(peer, None)

    @property
    def has_backlog(self) -> bool:
        """True while something waits for room: call ``retry`` soon."""
        return bool(self._held or self._sends)

    @property
    def waiting(self) -> int:
        """How many effects wait for room."""
        return len(self._held) + sum(len(sends) for sends in self._sends.values())

    @property
    def linked(self) -> int:
        """How many peers have an admitted link."""
        return len(self._links)

    def carry_out(self, effect: fx.Effect) -> None:
        """Do what the core asked of the muscles, now or as soon as there is room."""
        if isinstance(effect, fx.SendRecords | fx.SendMessage):
            self._send(effect)
        elif isinstance(effect, fx.PushTables):
            # A deny waits for nothing that waits for room. The muscles take it always.
            self._try(effect)
        elif self._held or not self._try(effect):
            self._held.append(effect)

    def retry(self) -> None:
        """Try what waits, in order."""
        while self._held and self._try(self._held[0]):
            self._held.popleft()
        for peer in list(self._sends):
            waiting = self._sends[peer]
            while waiting and self._try(waiting[0]):
                waiting.popleft()
            if not waiting:
                del self._sends[peer]

    def _send(self, effect: fx.SendRecords | fx.SendMessage) -> None:
        waiting = self._sends.get(effect.peer)
        # An AdmitLink that waits must go before the first send on its link.
        if waiting is None and not self._held and self._try(effect):
            return
        waiting = self._sends.setdefault(effect.peer, collections.deque())
        waiting.append(effect)
        if len(waiting) > BACKLOG_MAX:
            self._cut(effect.peer)

    def _cut(self, peer: PeerId) -> None:
        del self._sends[peer]
        link = self._links.get(peer)
        self._warn("link-cut", {"peer": peer.hex()[:8], "reason": "its backlog is full"})
        if link is not None:
            reason = "the backlog to this node is full"
            self._held.append(
                fx.CloseLink(link=link, code=limits.CLOSE_PROTOCOL_ERROR, reason=reason)
            )

    def _try(self, effect: fx.Effect) -> bool:
        """False when there is no room; any other refusal is logged and done with."""
        try:
            self._call(effect)
        except Exception as error:
            slug = slug_of(error)
            if slug == "overloaded":
                self.refused += 1
                return False
            if slug == "stale-generation":
                self.is_stale = True
                return True
            if slug == "unreachable" and isinstance(effect, fx.SendMessage | fx.SendRecords):
                # Its link closed; the node hears of that next, and says again what must arrive.
                return True
            fields: dict[str, str | int] = {
                "effect": type(effect).__name__,
                "slug": slug,
                "reason": as_error(error).reason,
            }
            self._warn("effect-failed", fields)
        return True

    def _call(self, effect: fx.Effect) -> None:
        muscles = self._muscles
        match effect:
            case fx.Dial(peer=peer, addresses=addresses, by_mesh=by_mesh):
                muscles.dial(peer, addresses, by_mesh)
            case fx.SetRelay(relays=relays, bytes_per_s=bytes_per_s):
                muscles.set_relay(relays, bytes_per_s)
            case fx.SetSeen(addresses=addresses):
                muscles.set_seen(addresses)
            case fx.AdmitLink(link=link):
                if link in self._seen:
                    self._links[self._seen[link]] = link
                muscles.admit_link(link)
            case fx.CloseLink(link=link, code=code, reason=reason):
                muscles.close_link(link, code, reason)
            case fx.SendMessage(peer=peer, body=body):
                muscles.send_message(peer, body)
            case fx.SendRecords(peer=peer, records=records):
                muscles.send_records(peer, records)
            case fx.AnswerJoin(request=request, body=body):
                muscles.answer_join(request, body)
            case fx.SetHello():
                muscles.set_hello(
                    cluster=effect.cluster,
                    minor_min=effect.minor_min,
                    minor_max=effect.minor_max,
                    chain=effect.chain,
                )
            case fx.InspectModule(request=request, content=content, bundle=bundle, kind=kind):
                muscles.inspect_module(request, content, bundle, kind)
            case fx.LoadSeed(seed=seed, holders=holders):
                muscles.load_seed(seed, holders)
            case fx.UnloadSeed(seed=seed, keep=keep):
                muscles.unload_seed(seed, keep)
            case fx.BeginCall():
                muscles.begin_call(
                    token=effect.token,
                    seed=effect.seed,
                    function=effect.function,
                    input=effect.input,
                    budget_ms=effect.budget_ms,
                    here=effect.here,
                )
            case fx.PushTables():
                muscles.push_tables(
                    generation=effect.generation,
                    base=effect.base,
                    lanes=effect.lanes,
                    lease_ms=effect.lease_ms,
                )
            case fx.OpenListener():
                muscles.open_listener(effect)
            case fx.CloseListener(listener=listener):
                muscles.close_listener(listener)
            case fx.ProbeService():
                muscles.probe_service(effect)
            case _:
                raise InvariantError(f"{type(effect).__name__} is not for the muscles")
