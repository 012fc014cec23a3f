"""A few nodes in one process: effects of one become events of another, in virtual time.

The ancestor of the simulator. It models links, content, disks and timers faithfully enough to prove
the order rules of the seam: rows before loads, persisted before answered, deltas on what is held.
"""

from __future__ import annotations

import hashlib
import heapq
from dataclasses import dataclass, field
from typing import Any

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import invites, limits, restoring
from pollen.core.certs import Certificate, Tier, cluster_id_of, issue_certificate
from pollen.core.codec import Refusal, encode
from pollen.core.commands import Command, InviteCommand, SeedCommand, SeedOptions
from pollen.core.config import NodeConfig
from pollen.core.ids import (
    MILLISECOND,
    SECOND,
    ClusterId,
    Hash,
    KeyRole,
    LinkId,
    Nanos,
    Now,
    PeerId,
    RequestId,
    Token,
)
from pollen.core.node import Node
from pollen.core.rng import Rng

WALL_ZERO = 1_700_000_000 * SECOND
_SECRETS: dict[bytes, bytes] = {}


def make_key(name: str) -> PeerId:
    """A public key whose secret only ``sign_with`` knows."""
    secret = hashlib.blake2b(b"secret" + name.encode(), digest_size=32).digest()
    public = hashlib.blake2b(b"public" + secret, digest_size=32).digest()
    _SECRETS[public] = secret
    return PeerId(public)


def sign_with(public: bytes, message: bytes) -> bytes:
    return hashlib.blake2b(message, key=_SECRETS[public], digest_size=64).digest()


def verify(items: Any) -> list[bool]:
    return [
        key in _SECRETS and sign_with(key, message) == signature
        for key, message, signature in items
    ]


def signer(node: PeerId, root: PeerId | None) -> Any:
    def sign(role: KeyRole, message: bytes) -> bytes:
        if role is KeyRole.NODE:
            return sign_with(node, message)
        assert root is not None, "the root key is not here"
        return sign_with(root, message)

    return sign


def content_id(data: bytes) -> Hash:
    return Hash(hashlib.blake2b(b"content" + data, digest_size=32).digest())


@dataclass
class Machine:
    """What survives a crash (disk, content) and what does not (node, links, tables)."""

    name: str
    key: PeerId
    root: PeerId | None = None
    disk: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    content: set[bytes] = field(default_factory=set)
    node: Node | None = None
    boots: int = 0
    timers: dict[Token, int] = field(default_factory=dict)
    links: dict[int, PeerId] = field(default_factory=dict)
    admitted: set[int] = field(default_factory=set)
    seeds: dict[bytes, fx.SeedRow] = field(default_factory=dict)
    peers: dict[bytes, fx.PeerRow] = field(default_factory=dict)
    generation: int = 0
    loaded: dict[bytes, PeerId | None] = field(default_factory=dict)
    replies: dict[int, fx.Reply] = field(default_factory=dict)
    answers: dict[int, bytes] = field(default_factory=dict)
    logs: list[fx.Log] = field(default_factory=list)
    trace: list[fx.Effect] = field(default_factory=list)

    @property
    def address(self) -> str:
        return f"192.0.2.{ord(self.name[0])}:60611"

    def restored(self) -> dict[str, list[tuple[bytes, bytes]]]:
        return {table: sorted(rows.items()) for table, rows in self.disk.items()}

    def write(self, rows: list[tuple[str, bytes, bytes | None]]) -> None:
        for table, key, value in rows:
            held = self.disk.setdefault(table, {})
            if value is None:
                held.pop(key, None)
            else:
                held[key] = value


class World:
    """Machines, a clock and a queue. ``run`` until nothing but timers is left, then some more."""

    def __init__(self, seed: int = 1) -> None:
        self.rng = Rng(seed)
        self.now = 1
        self.machines: dict[str, Machine] = {}
        self._queue: list[tuple[int, int, str, int, Any]] = []
        self._order = 0
        self._links = 0
        self._requests = 0

    # -- building -------------------------------------------------------------------------------

    def found(self, name: str) -> Machine:
        """The first node, with the root key and an admin certificate."""
        root = make_key("root")
        machine = Machine(name, make_key(name), root)
        cluster = cluster_id_of(root, b"nonce")
        certificate = Certificate(
            cluster, machine.key, root, Tier.ADMIN, '{"role":["web"]}', [], 1, WALL_ZERO
        )
        chain = issue_certificate(certificate, signer(machine.key, root))
        identity = restoring.Identity(cluster=cluster, root=root, chain=chain, name=name)
        machine.write(restoring.identity_rows(identity))
        self.machines[name] = machine
        self.start(name)
        return machine

    def join(self, name: str, token: str) -> Machine | Refusal:
        """What ``pln join`` does, with the exchange through the issuer's node."""
        machine = self.machines.get(name) or Machine(name, make_key(name))
        raw = invites.token_bytes(token)
        if isinstance(raw, Refusal):
            return raw
        invite = invites.open_token(raw, verify)
        if isinstance(invite, Refusal):
            return invite
        issuer = next(m for m in self.machines.values() if m.key == invite.issuer)
        body = self.ask_join(issuer, machine.key, encode(invites.JoinRequest(raw, name)))
        checked = invites.check_reply(body, invite, machine.key, verify)
        if isinstance(checked, Refusal):
            return checked
        machine.write(restoring.enrolment_rows(checked[0], name))
        self.machines[name] = machine
        self.start(name)
        return machine

    def ask_join(self, issuer: Machine, joiner: PeerId, body: bytes) -> bytes:
        request = self._request()
        event = ev.JoinRequested(request=request, peer=joiner, remote="x:1", body=body)
        self.post(issuer.name, event)
        self.run(SECOND)
        return issuer.answers[request]

    def start(self, name: str) -> None:
        machine = self.machines[name]
        machine.boots += 1
        identity = restoring.read_identity(machine.restored())
        assert identity is not None
        config = NodeConfig(
            node=machine.key,
            cluster=identity.cluster,
            root=identity.root,
            chain=identity.chain,
            boot=hashlib.blake2b(f"{name}/{machine.boots}".encode(), digest_size=16).digest(),
            name=identity.name,
            version="0.1.0",
            memory_bytes=1 << 30,
            has_root=machine.root is not None,
        )
        rng = Rng(self.rng.draw())
        sign = signer(machine.key, machine.root)
        machine.node = Node(config, rng, sign, verify, machine.restored())
        machine.timers, machine.links, machine.seeds, machine.peers = {}, {}, {}, {}
        machine.generation, machine.loaded, machine.admitted = 0, {}, set()
        self.post(name, ev.Started(addresses=[machine.address]))

    def kill(self, name: str) -> None:
        """Gone without a word: its links close on the other side."""
        machine = self.machines[name]
        machine.node = None
        for link, peer in machine.links.items():
            self._close(self._by_key(peer), machine.key, link, 0)
        machine.links = {}

    # -- asking ---------------------------------------------------------------------------------

    def command(self, name: str, command: Command) -> fx.Reply:
        request = self._request()
        self.post(name, ev.Commanded(request=request, command=command))
        self.run(SECOND)
        return self.machines[name].replies[request]

    def ask(self, name: str, command: Command) -> Any:
        """The result of a command that must succeed."""
        reply = self.command(name, command)
        assert reply.slug == "", f"{reply.slug}: {reply.reason}"
        return reply.result

    def invite(self, name: str, tier: str = "publisher", **options: Any) -> str:
        return str(self.ask(name, InviteCommand(tier=tier, **options)).token)

    def seed(self, name: str, seed: str, data: bytes = b"module", **options: Any) -> fx.Reply:
        content = content_id(data)
        self.machines[name].content.add(content)
        take_over = options.pop("take_over", False)
        command = SeedCommand(
            name=seed,
            content=content.hex(),
            options=SeedOptions(**options),
            take_over=take_over,
        )
        return self.command(name, command)

    # -- running --------------------------------------------------------------------------------

    def post(self, name: str, event: ev.Event, after: int = 0) -> None:
        self._order += 1
        boots = self.machines[name].boots
        heapq.heappush(self._queue, (self.now + after, self._order, name, boots, event))

    def run(self, nanos: int) -> None:
        """Let this much virtual time pass."""
        end = self.now + nanos
        while self._queue and self._queue[0][0] <= end:
            self.now, _, name, boots, event = heapq.heappop(self._queue)
            machine = self.machines[name]
            if machine.node is None or machine.boots != boots:
                continue
            if isinstance(event, ev.TimerFired):
                if machine.timers.get(event.token) != self.now:
                    continue
                del machine.timers[event.token]
            self.deliver(machine, event)
        self.now = end

    def deliver(self, machine: Machine, event: ev.Event) -> list[fx.Effect]:
        assert machine.node is not None
        now = Now(Nanos(self.now), Nanos(WALL_ZERO + self.now))
        out = machine.node.handle(event, now)
        for effect in out:
            machine.trace.append(effect)
            self._carry_out(machine, effect)
        return out

    def _carry_out(self, machine: Machine, effect: fx.Effect) -> None:
        match effect:
            case fx.Dial():
                self._dial(machine, effect)
            case fx.AdmitLink(link=link):
                machine.admitted.add(link)
            case fx.CloseLink(link=link, code=code):
                peer = machine.links.pop(link, None)
                if peer is not None:
                    self._close(self._by_key(peer), machine.key, link, code)
            case fx.SendRecords(peer=peer, records=records):
                self._send_records(machine, peer, records)
            case fx.AnswerJoin(request=request, body=body):
                machine.answers[request] = body
            case fx.InspectModule(request=request, content=content):
                self._inspect(machine, request, content)
            case fx.LoadSeed():
                self._load(machine, effect)
            case fx.UnloadSeed(seed=seed):
                machine.loaded.pop(seed, None)
            case fx.PushTables():
                push_tables(machine, effect)
            case fx.SetTimer(token=token, at=at):
                at = max(at, self.now + 1)
                machine.timers[token] = at
                self.post(machine.name, ev.TimerFired(token=token), at - self.now)
            case fx.Persist(token=token, batch=batch):
                machine.write(batch)
                self.post(machine.name, ev.Persisted(token=token), MILLISECOND)
            case fx.Reply(request=request):
                machine.replies[request] = effect
            case fx.Log():
                machine.logs.append(effect)
            case _:
                raise AssertionError(f"nobody carries out {effect!r}")

    def _dial(self, machine: Machine, effect: fx.Dial) -> None:
        target = self._by_key(effect.peer)
        if target.node is None or target.address not in effect.addresses:
            event = ev.DialFailed(peer=effect.peer, slug="unreachable", reason="nobody there")
            self.post(machine.name, event, 10 * MILLISECOND)
            return
        self._links += 1
        link = LinkId(self._links)
        machine.links[link], target.links[link] = target.key, machine.key
        self._hello(machine, target, link, True)
        self._hello(target, machine, link, False)

    def _hello(self, to: Machine, of: Machine, link: LinkId, dialled: bool) -> None:
        identity = restoring.read_identity(of.restored())
        assert identity is not None
        event = ev.HelloReceived(
            link=link,
            peer=of.key,
            dialled=dialled,
            remote=of.address,
            cluster=Hash(identity.cluster),
            minor_min=limits.MINOR_MIN,
            minor_max=limits.MINOR_MAX,
            boot=hashlib.blake2b(f"{of.name}/{of.boots}".encode(), digest_size=16).digest(),
            chain=identity.chain,
        )
        self.post(to.name, event, MILLISECOND)

    def _send_records(self, machine: Machine, peer: PeerId, records: list[ev.SignedRecord]) -> None:
        for link in machine.admitted:
            if machine.links.get(link) == peer:
                kept = [r for r in records if verify([_triple(r)]) == [True]]
                event = ev.RecordsReceived(
                    link=LinkId(link),
                    peer=machine.key,
                    records=kept,
                    rejected=len(records) - len(kept),
                )
                self.post(self._by_key(peer).name, event, 2 * MILLISECOND)

    def _close(self, machine: Machine, peer: PeerId, link: int, code: int) -> None:
        if machine.links.pop(link, None) is not None:
            event = ev.LinkClosed(link=LinkId(link), peer=peer, code=code, reason="")
            self.post(machine.name, event, MILLISECOND)

    def _inspect(self, machine: Machine, request: RequestId, content: Hash) -> None:
        found = content in machine.content
        event = ev.ModuleInspected(
            request=request,
            content=content,
            size=100 if found else 0,
            functions=["run"] if found else [],
            slug="" if found else "blob-not-found",
            reason="" if found else "no such content here",
        )
        self.post(machine.name, event, MILLISECOND)

    def _load(self, machine: Machine, effect: fx.LoadSeed) -> None:
        row = machine.seeds.get(effect.seed)
        assert row is not None, "a seed's row must stand in the tables pushed before"
        source: PeerId | None = machine.key if row.content in machine.content else None
        for peer in effect.holders if source is None else ():
            holder = self._by_key(peer)
            if holder.node is not None and row.content in holder.content:
                source = peer
                break
        if source is None:
            event = ev.LoadFinished(seed=effect.seed, slug="unreachable", reason="no holder")
        else:
            machine.content.add(row.content)
            machine.loaded[effect.seed] = source
            event = ev.LoadFinished(seed=effect.seed)
        self.post(machine.name, event, 5 * MILLISECOND)

    # -- little ---------------------------------------------------------------------------------

    def _by_key(self, key: PeerId) -> Machine:
        found = [m for m in self.machines.values() if m.key == key]
        return found[0] if found else Machine("nobody", key)

    def _request(self) -> RequestId:
        self._requests += 1
        return RequestId(self._requests)

    def cluster(self) -> ClusterId:
        identity = restoring.read_identity(next(iter(self.machines.values())).restored())
        assert identity is not None
        return identity.cluster


def push_tables(machine: Machine, push: fx.PushTables) -> None:
    """What the muscles do with a push."""
    assert push.generation == machine.generation + 1
    assert push.base in (0, machine.generation)
    if push.base == 0:
        machine.seeds, machine.peers = {}, {}
    machine.generation = push.generation
    machine.seeds |= {row.seed: row for row in push.seeds}
    machine.peers |= {row.peer: row for row in push.peers}
    for seed in push.gone_seeds:
        machine.seeds.pop(seed, None)
    for peer in push.gone_peers:
        machine.peers.pop(peer, None)


def _triple(record: ev.SignedRecord) -> tuple[bytes, bytes, bytes]:
    return record.owner, b"pollen-record/1\0" + record.body, record.signature


def three(seed: int = 1) -> World:
    """A founded cluster of a, b and c, linked."""
    world = World(seed)
    world.found("a")
    world.run(SECOND)
    for name in ("b", "c"):
        assert isinstance(world.join(name, world.invite("a")), Machine)
        world.run(3 * SECOND)
    return world
