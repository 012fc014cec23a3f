"""Everything a node may ask of the world, as data.

Decides: nothing; this is the closed vocabulary that ``Node.handle`` returns.
Does not know: how an effect is carried out (the driver, or the simulator's plane).
Invariants: effects are frozen; each is carried out in the order returned; none has a result: what
comes of it is a later event.
Source: docs/ARCHITECTURE.md#the-seam; docs/design/protocol.md#tables,
docs/design/protocol.md#durability.
"""

from __future__ import annotations

from typing import Any

import msgspec

from pollen.core.codec import encode
from pollen.core.events import SignedRecord
from pollen.core.ids import Hash, LinkId, Nanos, PeerId, RequestId, Token
from pollen.options import SeedOptions


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """Base of every effect."""


class Dial(Effect, frozen=True, kw_only=True):
    """Try to reach a peer; ends in ``HelloReceived`` or ``DialFailed``.

    ``by_mesh``: its packets may also go through other members, as the ``hops`` of its row say. With
    no address they go there alone, and a direct path is sought from there.
    """

    peer: PeerId
    addresses: list[str]
    by_mesh: bool = False


class AdmitLink(Effect, frozen=True, kw_only=True):
    """Let calls, messages and content flow on a link whose Hello was judged good."""

    link: LinkId


class CloseLink(Effect, frozen=True, kw_only=True):
    """End a link with a close code (``core.limits.CLOSE_*``) that the peer sees."""

    link: LinkId
    code: int
    reason: str


class SendMessage(Effect, frozen=True, kw_only=True):
    """Send one message to an admitted peer; silently dropped when the link is gone."""

    peer: PeerId
    body: bytes


class SendRecords(Effect, frozen=True, kw_only=True):
    """Send signed records, as carried, to an admitted peer; dropped when the link is gone."""

    peer: PeerId
    records: list[SignedRecord]


class SetHello(Effect, frozen=True, kw_only=True):
    """What this node says in every later Hello: its cluster, versions and credentials."""

    cluster: Hash
    minor_min: int
    minor_max: int
    chain: bytes


class AnswerJoin(Effect, frozen=True, kw_only=True):
    """Answer ``JoinRequested``; the body is opaque to the muscles."""

    request: RequestId
    body: bytes


class AskJoin(Effect, frozen=True, kw_only=True):
    """Ask a peer over ``pollen-join/1``; ``JoinAnswered`` follows."""

    peer: PeerId
    addresses: list[str]
    body: bytes


# What a spec may be of: a module, which is run; a file, which is held and handed out; an archive of
# files, which is served as a site as well. The muscles know one kind more: a file that is sealed.
MODULE = "module"
BUNDLE = "bundle"
BLOB = "blob"
SITE = "site"
SEALED = "sealed"


class InspectModule(Effect, frozen=True, kw_only=True):
    """Check that held content is a callable module; ``ModuleInspected`` follows.

    ``bundle``: held content with the files that the module is to run, else empty. They are compiled
    and imported, with every request of theirs refused. With the ``kind`` ``BLOB`` or ``SITE`` the
    content has to be held whole, whatever it is; with ``SEALED`` it has to be sealed, too.
    """

    request: RequestId
    content: Hash
    bundle: bytes = b""
    kind: str = MODULE


class LoadSeed(Effect, frozen=True, kw_only=True):
    """Fetch (from ``holders``, unless held), verify, compile and warm up a seed; a blob is held.

    The seed's row must stand in the tables pushed before. ``LoadFinished`` follows. A load that is
    under way for a call is joined.
    """

    seed: Hash
    holders: list[PeerId]


class UnloadSeed(Effect, frozen=True, kw_only=True):
    """Stop serving a seed: calls in flight end by themselves. Content is unpinned, unless it is to
    be kept (``keep``), so that a call can wake the seed here. The load of a blob that is under way
    ends; what came of it stays with ``keep``."""

    seed: Hash
    keep: bool = False


class BeginCall(Effect, frozen=True, kw_only=True):
    """Call a function of a seed as this node; ``CallEnded`` with the same token follows.

    ``here``: only this node's own replica, also one that is not open to callers yet, and without
    its gate; such a call is in no demand. Else the call goes wherever one from a door would go. The
    seed's row must stand in the tables pushed before. ``budget_ms`` ends it, or the seed's own
    time-out when that is less.
    """

    token: Token
    seed: Hash
    function: str
    input: bytes = b""
    budget_ms: int
    here: bool


class PolicyRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Who may call a seed or reach a service: a packed tree (docs/design/policy.md#the-tree), the
    words below ``seed`` with what they lead to, and whether a client of the TCP door passes. A tree
    that is not one lets nobody pass."""

    tree: str
    seed: list[tuple[str, str]]
    lets_strangers: bool


class SeedRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What the muscles must know to route, gate, limit and run one seed.

    ``seed`` is the hash of the spec, ``content`` the BLAKE3 of the module. A service that the seed
    asks must let in its ``publisher`` as well as the node where it runs. ``replicas`` are the
    ready hosts, nearest first, at most 16; ``wake`` the ranks to wake when there is none, in their
    order: a node listed in its own row may load the seed for a call that asks, and tells of it by
    ``SeedWoken``. A replica of a seed with the option ``check`` is opened to callers by the first
    row that names this node among the replicas.
    A row whose ``name`` is empty is reached by its hash only: a spec that is being replaced.
    ``policy`` is asked beside the pairs of the options; without one it lets all pass.
    ``manifest`` names by role the contents that are held wherever it runs, beside its module; the
    files of the role ``bundle`` are handed to it. ``kind``: a ``MODULE`` runs, a ``BLOB`` or a
    ``SITE`` of ``size`` bytes is held and handed out. What is ``SEALED`` any member may be sent;
    those that the pairs and ``policy`` let pass read it where they can open it. ``former``: the
    seeds of the name's former versions that are kept, the newest first; their own rows have no
    name. ``host`` and ``host_policy``: who may host a module, and so who gets its contents; empty
    for a blob, which goes to whoever may call.
    """

    name: str
    seed: Hash
    publisher: PeerId
    content: Hash
    functions: list[str]
    replicas: list[PeerId]
    wake: list[PeerId]
    options: SeedOptions
    policy: PolicyRow | None = None
    kind: str = MODULE
    size: int = 0
    manifest: list[tuple[str, Hash]] = []
    former: list[Hash] = []
    host: list[tuple[str, str]] = []
    host_policy: PolicyRow | None = None

    @property
    def packed_options(self) -> bytes:
        """The options as a msgpack map from their names, which the muscles read."""
        return encode(self.options)


class PeerRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A member: properties (a JSON object) for gates, its price in microseconds.

    ``words`` are what else a policy reads of it; one with an empty text leads nowhere. ``hops``:
    the linked members to whom packets for it go when it has no direct path, best first, at most 4.
    """

    peer: PeerId
    name: str
    properties: str
    price_us: int
    words: list[tuple[str, str]] = []
    hops: list[PeerId] = []


class ServiceRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """Where a service is: ``providers`` are the live nodes that serve it, in the order in which
    they are tried, this node among them; none while all are down. ``key`` is the hash of the name.
    ``datagrams``: it is spoken to by UDP. ``failing``: the last of them, whose program fails its
    check: they are tried when no other can be."""

    key: Hash
    name: str
    providers: list[PeerId]
    datagrams: bool
    failing: list[PeerId] = []


class ServedRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What this node serves: where it is (``target``: ``IP:PORT``, ``NAME:PORT`` or ``unix:PATH``)
    and whom it is for.

    ``allow`` and ``policy`` are asked of the member at the other end, and again when anything of
    it changed: a tunnel that is not allowed any more is cut. ``proxy_header``: a PROXY header of
    version 2 goes ahead of a stream. ``idle_ms`` ends a session of datagrams.
    """

    key: Hash
    name: str
    target: str
    datagrams: bool
    allow: list[tuple[str, str]]
    policy: PolicyRow | None = None
    proxy_header: bool = False
    idle_ms: int


# The lanes of rows that the muscles know.
SEEDS = "seeds"
PEERS = "peers"
SERVICES = "services"
SERVED = "served"


class LaneRows(msgspec.Struct, frozen=True, kw_only=True):
    """What is new or changed in one lane of rows, and the keys of those that go."""

    rows: list[Any] = []
    gone: list[bytes] = []

    @property
    def is_empty(self) -> bool:
        """Whether it says nothing."""
        return not (self.rows or self.gone)


class PushTables(Effect, frozen=True, kw_only=True):
    """Change the leased tables in one swap, by lane.

    Source: docs/design/protocol.md#tables.

    ``base`` 0 replaces everything; else it must be the generation the muscles hold. A push
    renews the lease. A peer that leaves the table loses its calls at once.
    """

    generation: int
    base: int
    lanes: dict[str, LaneRows]
    lease_ms: int


class SetTimer(Effect, frozen=True, kw_only=True):
    """Wake the node with ``TimerFired(token)`` at ``at`` (monotonic); replaces the same token."""

    token: Token
    at: Nanos


# A row for the disk: table, key, and the value that it has from now on; None deletes it.
Row = tuple[str, bytes, bytes | None]


class Persist(Effect, frozen=True, kw_only=True):
    """Write (table, key, value) rows, None deletes; ``Persisted(token)`` follows the commit."""

    token: Token
    batch: list[Row]


class OpenListener(Effect, frozen=True, kw_only=True):
    """Take clients of this machine for a service; ``ListenerOpened`` with the same number follows.

    ``bind``: ``IP:PORT`` (port 0 takes any) or ``unix:PATH``. Without a ``service`` it is a proxy.
    ``provider`` is the only node that serves them, else whoever does. ``any_user``: every user of
    this machine may come, else only the one whose daemon this is. ``auth``: the path of a file with
    the users and passwords that clients of a proxy must give.
    """

    listener: int
    bind: str
    service: str
    datagrams: bool
    provider: PeerId | None = None
    any_user: bool = False
    idle_ms: int
    auth: str = ""


class CloseListener(Effect, frozen=True, kw_only=True):
    """Take no more clients, and end those that there are."""

    listener: int


class ProbeService(Effect, frozen=True, kw_only=True):
    """Check the program of a service of this node; ``ServiceProbed`` with the same number follows.

    ``target`` and ``proxy_header`` as in ``ServedRow``. With a ``path`` that is asked for by HTTP,
    and has to be answered by a status from 200 to 399; else the program has to accept.
    """

    number: int
    target: str
    path: str
    proxy_header: bool
    timeout_ms: int


class SetRelay(Effect, frozen=True, kw_only=True):
    """Whether packets of other members are passed on here, and how many bytes a second in all."""

    relays: bool
    bytes_per_s: int


class SetSeen(Effect, frozen=True, kw_only=True):
    """Where others see this node: peers on the mesh are told to try a direct path to there."""

    addresses: list[str]


class RunVerb(Effect, frozen=True, kw_only=True):
    """Do for the admin ``peer`` what it asked for; answered by ``VerbEnded``."""

    peer: PeerId
    key: bytes
    verb: str
    args: bytes


class Reply(Effect, frozen=True, kw_only=True):
    """The answer to a ``Commanded``: a result, or a slug with its reason and remedy."""

    request: RequestId
    result: msgspec.Struct | None = None
    slug: str = ""
    reason: str = ""
    remedy: str = ""


class Log(Effect, frozen=True, kw_only=True):
    """A line for the node's log: a stable event name and its fields."""

    level: str
    event: str
    fields: dict[str, str | int]
