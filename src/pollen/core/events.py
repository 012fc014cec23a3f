"""Everything that can happen to a node, as data.

Decides: nothing; this is the closed vocabulary that ``Node.handle`` accepts.
Does not know: where an event came from (muscles, clock, store or a user's command).
Invariants: events are frozen; ids and hashes are raw bytes; times are integers with their
unit in the name. The muscles send theirs as one msgpack array a drain (docs/internals/seam.md).
Source: docs/ARCHITECTURE.md#the-seam; the style of h11's event vocabulary.
"""

from __future__ import annotations

import msgspec

from pollen.core.commands import Command
from pollen.core.ids import Hash, LinkId, PeerId, RequestId, Token


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="t"):
    """Base of every event; ``t`` is the tag on the wire of the seam."""


class SignedRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A record as carried: the exact signed bytes and who signed them.

    ``owner`` is 32 bytes, ``signature`` 64; ``body`` is decoded by ``core.records.ledger`` only.
    """

    owner: PeerId
    body: bytes
    signature: bytes


class Started(Event, frozen=True, kw_only=True, tag="started"):
    """The driver is ready: the muscles listen and the store is open.

    ``addresses`` are the ``ip:port`` texts under which this node can be dialled.
    """

    addresses: list[str]


class TimerFired(Event, frozen=True, kw_only=True, tag="timer"):
    """The timer set under ``token`` is due. A late or repeated one is harmless."""

    token: Token


class HelloReceived(Event, frozen=True, kw_only=True, tag="hello"):
    """A peer proved its key by the handshake and said Hello; nothing is admitted yet.

    ``chain`` is opaque to the muscles: the core decodes and judges it.
    """

    link: LinkId
    peer: PeerId
    dialled: bool
    remote: str
    cluster: Hash
    minor_min: int
    minor_max: int
    boot: bytes
    chain: bytes


class LinkClosed(Event, frozen=True, kw_only=True, tag="link_closed"):
    """A link is gone. ``code`` is the peer's close code where it sent one, else 0."""

    link: LinkId
    peer: PeerId
    code: int
    reason: str


class PathMoved(Event, frozen=True, kw_only=True, tag="path_moved"):
    """The packets of a link go another way: ``address`` is where the peer is seen, empty while they
    go through other members. The first way is told, too."""

    link: LinkId
    peer: PeerId
    address: str


class DialFailed(Event, frozen=True, kw_only=True, tag="dial_failed"):
    """No link came of a ``Dial``: ``slug`` is ``unreachable`` or ``version-mismatch``."""

    peer: PeerId
    slug: str
    reason: str


class MessageReceived(Event, frozen=True, kw_only=True, tag="message"):
    """A message of an admitted peer, whole. ``body`` is at most 1 MiB and untrusted."""

    link: LinkId
    peer: PeerId
    body: bytes


class RecordsReceived(Event, frozen=True, kw_only=True, tag="records"):
    """Records whose signatures the muscles verified, in the order in which they came.

    ``rejected`` counts those of the same batch that failed and were dropped.
    """

    link: LinkId
    peer: PeerId
    records: list[SignedRecord]
    rejected: int


class JoinRequested(Event, frozen=True, kw_only=True, tag="join"):
    """A key that is not a member asks over ``pollen-join/1``; answer with ``AnswerJoin``."""

    request: RequestId
    peer: PeerId
    remote: str
    body: bytes


class JoinAnswered(Event, frozen=True, kw_only=True, tag="join_answered"):
    """The answer to ``AskJoin``, untrusted; ``slug`` says why there is none."""

    peer: PeerId
    body: bytes
    slug: str = ""


class ModuleInspected(Event, frozen=True, kw_only=True, tag="inspected"):
    """The answer to ``InspectModule``: the callable exports, or the slug of a refusal.

    ``memory_bytes`` is what the module's memory has from the beginning. ``may_be_program``: it can
    be run as an ordinary program; with other functions than ``_start`` it may be either. Of a
    bundle ``functions`` are those of its files, ``bundle`` is the content made of it, to be
    published, and ``description`` says as JSON what the functions take
    (docs/design/python.md#the-description).
    """

    request: RequestId
    content: Hash
    size: int
    functions: list[str]
    memory_bytes: int = 0
    may_be_program: bool = False
    bundle: bytes = b""
    description: str = ""
    slug: str = ""
    reason: str = ""
    remedy: str = ""


class LoadFinished(Event, frozen=True, kw_only=True, tag="load_finished"):
    """The answer to ``LoadSeed``. ``slug`` is empty when the seed can be called here."""

    seed: Hash
    slug: str = ""
    reason: str = ""


class SeedWoken(Event, frozen=True, kw_only=True, tag="seed_woken"):
    """The muscles loaded a cold seed for a call, as its row allowed: it can be called here."""

    seed: Hash


class CallEnded(Event, frozen=True, kw_only=True, tag="call_ended"):
    """How a ``BeginCall`` ended. ``slug`` is empty when the function succeeded, ``guest-status``
    when it returned another code than 0.

    ``reason`` is one line. ``output``: its first ``limits.OWN_OUTPUT_MAX_BYTES``, of
    ``output_bytes`` in all. ``run_us``: how long the guest ran.
    """

    token: Token
    slug: str = ""
    reason: str = ""
    run_us: int = 0
    output: bytes = b""
    output_bytes: int = 0


class PeerSample(msgspec.Struct, frozen=True):
    """One link: smoothed round trip, bytes since it began, and how long its peer was silent.

    ``silent_ms``: since any packet came, told to within a second. ``brain_age_ms``: since the
    peer's brain last took a turn, as its probes say. ``direct``: the path is not relayed; else
    ``via`` is the member to whom its packets went last. ``bulk``: content or tunnels go, or may go
    at once, on a connection of their own beside it.
    """

    peer: PeerId
    rtt_us: int
    bytes_out: int
    bytes_in: int
    direct: bool
    silent_ms: int = 0
    brain_age_ms: int = 0
    via: PeerId = PeerId(b"")
    bulk: bool = False


class SeedSample(msgspec.Struct, frozen=True):
    """One seed on this node, since start: ``calls`` begun here, wherever they ran; of those that
    came here ``good`` ended well and ``failures`` did not, in ``faults`` the guest failed a member.
    What runs and what waits now, and the smoothed run time. Of the calls begun here the callers of
    ``cancelled`` went away before the end.
    """

    seed: Hash
    calls: int
    failures: int
    in_flight: int
    queued: int
    run_us: int
    good: int = 0
    faults: int = 0
    cancelled: int = 0


class ServiceSample(msgspec.Struct, frozen=True):
    """One service on this node, since start: tunnels ``opened`` and ``open`` now at either end,
    those that a gate or a provider ``refused``, and the bytes of its clients (``bytes_in``: towards
    the service)."""

    key: Hash
    opened: int
    open: int
    refused: int
    bytes_in: int
    bytes_out: int


class MeshSample(msgspec.Struct, frozen=True):
    """Packets through the mesh at this node, since start: those of its own connections (``sent``,
    ``received``), those ``passed_on`` for others, with their bytes, and why others were dropped:
    ``no_way``, ``over_budget``, ``not_allowed`` (a source or destination without a row, or no
    relay), ``expired`` (their ttl), ``crowded`` (a queue was full), ``too_large`` (for the next
    carrier). Those sent in two halves are ``halved``."""

    sent: int = 0
    received: int = 0
    passed_on: int = 0
    passed_bytes: int = 0
    no_way: int = 0
    over_budget: int = 0
    not_allowed: int = 0
    expired: int = 0
    crowded: int = 0
    too_large: int = 0
    halved: int = 0
    carriers: int = 0


class Telemetry(Event, frozen=True, kw_only=True, tag="telemetry"):
    """Counters of the muscles since start, twice a second; at most one is ever queued.

    ``disk_bytes`` is what is free where content is kept; the driver adds it.
    """

    peers: list[PeerSample]
    seeds: list[SeedSample]
    memory_bytes: int
    events_dropped: int
    control_stalls: int
    disk_bytes: int = 0
    services: list[ServiceSample] = []
    mesh: MeshSample = MeshSample()


class LinkWanted(Event, frozen=True, kw_only=True, tag="link_wanted"):
    """A call found its nearest replica unlinked; told once a second a peer while calls need it."""

    peer: PeerId


class ListenerOpened(Event, frozen=True, kw_only=True, tag="listener_opened"):
    """The answer to ``OpenListener``: ``bound`` is where clients find it, or a slug says why they
    do not."""

    listener: int
    bound: str = ""
    slug: str = ""
    reason: str = ""
    remedy: str = ""


class ServiceProbed(Event, frozen=True, kw_only=True, tag="service_probed"):
    """The answer to ``ProbeService``: ``slug`` is empty when the program passed its check,
    ``provider-refused`` when it did not, ``overloaded`` when this node could not ask it.

    ``reason`` is one line, without the address."""

    number: int
    slug: str = ""
    reason: str = ""


class VerbEnded(Event, frozen=True, kw_only=True, tag="verb_ended"):
    """What came of a ``RunVerb``: a body, or a slug with its reason and remedy."""

    peer: PeerId
    key: bytes
    body: bytes = b""
    slug: str = ""
    reason: str = ""
    remedy: str = ""


class PeerFound(Event, frozen=True, kw_only=True, tag="peer_found"):
    """Discovery says that a peer may be dialled there; trust comes from the handshake.

    Without a peer anybody may be there; with this node's own id these are its addresses from now
    on. ``source`` is the scheme.
    """

    peer: PeerId
    addresses: list[str]
    source: str


class Commanded(Event, frozen=True, kw_only=True, tag="commanded"):
    """A user asked for something; answered by ``Reply`` with the same request."""

    request: RequestId
    command: Command


class Persisted(Event, frozen=True, kw_only=True, tag="persisted"):
    """The ``Persist`` effect with this token is on disk (docs/design/protocol.md#durability)."""

    token: Token


class StoreTroubled(Event, frozen=True, kw_only=True, tag="store_troubled"):
    """The disk takes nothing, for this reason; with an empty ``slug`` it takes things again.

    ``is_failed``: a batch was tried and did not get there. The driver tries it again.
    """

    slug: str = ""
    reason: str = ""
    remedy: str = ""
    is_failed: bool = False


class TablesStale(Event, frozen=True, kw_only=True, tag="tables_stale"):
    """The muscles hold another generation than the last ``PushTables`` built on: push whole."""
