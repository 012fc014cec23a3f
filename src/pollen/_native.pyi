"""The muscles, as Python sees them: names, shapes, errors; the words are in docs/internals/seam."""

from collections.abc import Mapping, Sequence
from typing import Protocol, Self, final

__all__ = [
    "KeyPair",
    "Muscles",
    "NativeError",
    "engine_version",
    "hash_content",
    "seal",
    "unseal",
    "verify_signatures",
]

class _PolicyRow(Protocol):
    @property
    def tree(self) -> str: ...
    @property
    def seed(self) -> Sequence[tuple[str, str]]: ...
    @property
    def lets_strangers(self) -> bool: ...

class _SeedRow(Protocol):
    @property
    def name(self) -> str: ...
    @property
    def seed(self) -> bytes: ...
    @property
    def publisher(self) -> bytes: ...
    @property
    def content(self) -> bytes: ...
    @property
    def functions(self) -> Sequence[str]: ...
    @property
    def replicas(self) -> Sequence[bytes]: ...
    @property
    def wake(self) -> Sequence[bytes]: ...
    @property
    def packed_options(self) -> bytes: ...
    @property
    def policy(self) -> _PolicyRow | None: ...
    @property
    def manifest(self) -> Sequence[tuple[str, bytes]]: ...
    @property
    def host(self) -> Sequence[tuple[str, str]]: ...
    @property
    def host_policy(self) -> _PolicyRow | None: ...

class _Listener(Protocol):
    @property
    def listener(self) -> int: ...
    @property
    def bind(self) -> str: ...
    @property
    def service(self) -> str: ...
    @property
    def datagrams(self) -> bool: ...
    @property
    def provider(self) -> bytes | None: ...
    @property
    def any_user(self) -> bool: ...
    @property
    def idle_ms(self) -> int: ...
    @property
    def auth(self) -> str: ...

class _Probe(Protocol):
    """``pollen.core.effects.ProbeService``."""

    @property
    def number(self) -> int: ...
    @property
    def target(self) -> str: ...
    @property
    def path(self) -> str: ...
    @property
    def proxy_header(self) -> bool: ...
    @property
    def timeout_ms(self) -> int: ...

class _LaneRows(Protocol):
    """``pollen.core.effects.LaneRows``: rows of the lane's kind, and 32-byte keys."""

    @property
    def rows(self) -> Sequence[_SeedRow | _PeerRow | _ServiceRow | _ServedRow]: ...
    @property
    def gone(self) -> Sequence[bytes]: ...

class _PeerRow(Protocol):
    @property
    def peer(self) -> bytes: ...
    @property
    def name(self) -> str: ...
    @property
    def properties(self) -> str: ...
    @property
    def price_us(self) -> int: ...
    @property
    def words(self) -> Sequence[tuple[str, str]]: ...

class _ServiceRow(Protocol):
    @property
    def key(self) -> bytes: ...
    @property
    def name(self) -> str: ...
    @property
    def providers(self) -> Sequence[bytes]: ...
    @property
    def datagrams(self) -> bool: ...
    @property
    def failing(self) -> Sequence[bytes]: ...

class _ServedRow(Protocol):
    @property
    def key(self) -> bytes: ...
    @property
    def name(self) -> str: ...
    @property
    def target(self) -> str: ...
    @property
    def datagrams(self) -> bool: ...
    @property
    def allow(self) -> Sequence[tuple[str, str]]: ...
    @property
    def policy(self) -> _PolicyRow | None: ...
    @property
    def proxy_header(self) -> bool: ...
    @property
    def idle_ms(self) -> int: ...

class _SignedRecord(Protocol):
    @property
    def owner(self) -> bytes: ...
    @property
    def body(self) -> bytes: ...
    @property
    def signature(self) -> bytes: ...

class NativeError(Exception):
    """An operating error of the muscles: ``args`` is (slug, reason)."""

    slug: str
    reason: str

@final
class KeyPair:
    """An ed25519 key pair. The private half leaves this object only through ``save``."""

    @staticmethod
    def generate() -> KeyPair: ...
    @staticmethod
    def load(path: str) -> KeyPair:
        """Read a key file of ours. NativeError ``state-unusable`` when unreadable or malformed."""
    def save(self, path: str) -> None:
        """Create ``path`` with mode 0600 and fsync it; an existing file is an error and is kept."""
    @property
    def public(self) -> bytes: ...
    def sign(self, message: bytes) -> bytes:
        """The 64-byte signature of the exact bytes."""

@final
class Muscles:
    """The data plane of one node: endpoint, sandbox, gateway. One a process."""

    def __new__(
        cls,
        *,
        key: KeyPair,
        boot: bytes,
        directory: str,
        memory_bytes: int,
        code_cache_bytes: int = 2147483648,
        event_capacity: int = 8192,
    ) -> Self: ...
    def start(
        self,
        *,
        listen: Sequence[str],
        call_socket: str,
        http: str | None = None,
        hosts: Sequence[tuple[str, str]] = ...,
    ) -> list[str]:
        """Bind and serve; the bound addresses. NativeError ``port-in-use``, ``state-unusable``."""
    def event_fd(self) -> int:
        """The read end to watch; it turns readable when the queue stops being empty."""
    def drain(self) -> bytes:
        """At most 512 events as one msgpack array of maps tagged ``t``; empty array when none."""
    def set_hello(self, *, cluster: bytes, minor_min: int, minor_max: int, chain: bytes) -> None:
        """What this node says in every later Hello; before it, links are refused uniformly."""
    def dial(self, peer: bytes, addresses: Sequence[str], by_mesh: bool = False) -> None:
        """With ``by_mesh`` also through other members, and without an address there alone."""
    def set_relay(self, relays: bool, bytes_per_s: int) -> None:
        """Whether packets of others are passed on; before the first call they are not."""
    def set_seen(self, addresses: Sequence[str]) -> None:
        """Where others see this node, all of it; NativeError ``bad-request`` for no address."""
    def paths(self, peer: bytes) -> bytes:
        """What is known of the ways to a peer, a msgpack map; waits 250 ms at most (GIL released):
        ``since_ms``, ``paths`` (maps of ``kind`` ``ip`` or ``mesh``, ``address``, ``via``,
        ``selected``, ``rtt_us``) and ``candidates`` (``kind``, ``address``, ``active``)."""
    def answers(self, service: str) -> bytes:
        """What each provider of a service said to the last client of this node, a msgpack list of
        maps: ``node``, ``slug`` (empty: it took the client), ``reason``, ``ago_ms``."""
    def admit_link(self, link: int) -> None: ...
    def close_link(self, link: int, code: int, reason: str) -> None: ...
    def send_message(self, peer: bytes, body: bytes) -> None:
        """NativeError ``overloaded`` when that link's command queue is full."""
    def send_records(self, peer: bytes, records: Sequence[_SignedRecord]) -> None: ...
    def answer_join(self, request: int, body: bytes) -> None: ...
    def ask_join(
        self, addresses: Sequence[str], peer: bytes, body: bytes, timeout_ms: int
    ) -> bytes:
        """Blocking (GIL released): one ``pollen-join/1`` exchange. NativeError ``unreachable``."""
    def inspect_module(
        self, request: int, content: bytes, bundle: bytes | None = None, kind: str = "module"
    ) -> None:
        """Check held content; ``inspected`` follows. A ``blob`` has to be held, whatever it is.
        With ``bundle``, the id of held content, the
        module has to be a runner: it compiles and describes the bundle, which takes 5 s of its time
        at most (and, once a node, the compiling of the runner). ``inspected`` then has the id of
        the prepared ``bundle``, which is held, and its ``description``."""
    def load_seed(self, seed: bytes, holders: Sequence[bytes]) -> None: ...
    def unload_seed(self, seed: bytes, keep: bool = False) -> None:
        """With ``keep`` the content stays held, so that a call can wake the seed."""
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
        """Call as this node; with ``here`` its own replica, also a closed one. ``call_ended``
        follows with the token."""
    def push_tables(
        self,
        *,
        generation: int,
        base: int,
        lanes: Mapping[str, _LaneRows],
        lease_ms: int,
    ) -> None:
        """NativeError ``stale-generation`` when ``base`` is not the one held: push whole;
        ``bad-request`` for a lane that the muscles do not know."""
    def open_listener(self, asked: _Listener) -> None:
        """Take clients of this machine for a service; ``listener_opened`` follows with what is
        bound, or with the slug ``port-in-use``, ``usage`` or ``config-invalid``."""
    def close_listener(self, listener: int) -> None:
        """Take no more, and end those that there are; an unknown number is not an error."""
    def probe_service(self, asked: _Probe) -> None:
        """Check the program of a service; ``service_probed`` with the number follows. It takes
        ``timeout_ms`` at most, and reads 64 KiB at most of what it is answered."""
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
    ) -> bytes:
        """Blocking (GIL released): call a seed from here, or with a ``service`` ask that; a JSON
        report. Rate 0: closed loop."""
    def end_workload(self, name: str) -> int:
        """End the workloads of this name, which report at once; how many there were."""
    def beat(self) -> None:
        """The brain lives. Probes tell the time since the last; 60 s without ends the process."""
    def metrics(self) -> bytes:
        """A msgpack map of counters and gauges for ``status`` and the metrics page."""
    def keep_spans(self, millionths: int) -> None:
        """Keep spans of sampled calls from now on; sample this share of traces that begin here."""
    def drain_spans(self) -> bytes:
        """The spans that ended since the last time: one msgpack array of maps, 2048 at most."""
    def close(self, grace_ms: int) -> None:
        """Refuse new calls, wait ``grace_ms`` for those in flight, stop. GIL released."""

def seal(key: bytes, nonce: bytes, plain: bytes) -> bytes: ...
def unseal(key: bytes, nonce: bytes, sealed: bytes) -> bytes | None: ...
def verify_signatures(items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
    """Check (public key, message, signature) triples; malformed ones are False."""

def hash_content(data: bytes) -> bytes:
    """The content id (BLAKE3, 32 bytes)."""

def engine_version() -> str:
    """Versions of the muscles for ``pln version``; builds no engine."""
