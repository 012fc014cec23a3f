"""Placement on one node among many: real projections, plan, hosting and tables; stubbed members."""

from __future__ import annotations

from typing import Any

import msgspec

from pollen.core import effects as fx
from pollen.core import timers
from pollen.core.codec import encode
from pollen.core.effects import Effect
from pollen.core.events import LoadFinished
from pollen.core.ids import ClusterId, Hash, Nanos, Now, PeerId, hash_of
from pollen.core.peers import Verdict
from pollen.core.placement import Placing, Situation, State
from pollen.core.placement.bundle import Bundle, Fast
from pollen.core.placement.claims import Claim
from pollen.core.placement.hosting import Hosting
from pollen.core.policy import Party
from pollen.core.records import Change, Records
from pollen.core.seeds import Seed, specs
from pollen.core.trust import Certificate, Member, NodeInfo, Trust
from pollen.options import SeedOptions
from tests.strategies import CLUSTER, make_record
from tests.unit.names.test_named import MEMBERS, A
from tests.unit.turns import effects_of, turn_at
from tests.unit.world import make_key, signer, verify

GIB = 1 << 30
CONTENT = hash_of("content", b"echo")


class Folk:
    """The members, all alive unless said otherwise."""

    ROOT = make_key("town-root")

    def __init__(self) -> None:
        self.certificates: dict[PeerId, Certificate] = {}
        self.members: dict[PeerId, Member] = {}
        self.live: dict[PeerId, int] = {}
        self.able: dict[PeerId, int] = {}
        self.left: list[PeerId] = []
        self.trust = Trust(ClusterId(CLUSTER), self.ROOT, verify)

    def verdict_of(self, peer: PeerId) -> Verdict:
        return Verdict.LEFT if peer in self.left else Verdict.LIVE

    def find(self, peer: PeerId) -> Member | None:
        return self.members.get(peer)

    def current_of(self, live: dict[PeerId, int]) -> dict[PeerId, int]:
        return dict(live)


class Town:
    """One node's placement; ``turn`` is what ``Node`` does after each event."""

    def __init__(self, names: list[str]) -> None:
        self.peers = [make_key(name) for name in names]
        self.own = self.peers[0]
        self.folk, self.mono, self.seq = Folk(), 1, 0
        self.linked = list(self.peers)
        self.estimates: dict[PeerId, int] = {}
        folk: Any = self.folk
        self.records = Records(ClusterId(CLUSTER), self.own, signer(self.own, None))
        self.situation = Situation(self.own, folk, folk)
        self.hosting = Hosting(self.own, Party(), 64 * GIB)
        self.placing = Placing(
            self.own,
            folk,
            self.situation,
            lambda peer: peer in self.linked,
            self.estimates.get,
            lambda peer: [],
            self.hosting,
            Bundle(64 * GIB, 4),
        )
        self.tables: dict[Hash, fx.SeedRow] = {}
        self.known: dict[PeerId, fx.PeerRow] = {}
        self.changes: list[Change] = []
        for peer in self.peers:
            self.join(peer)
        self.open()

    def open(self) -> None:
        """The own epoch is on disk: it may publish."""
        for effect in effects_of(self.mono, self.records.ask_lease):
            if isinstance(effect, fx.Persist):
                self.records.open_lease(timers.parse_token(effect.token)[1])

    @property
    def now(self) -> Now:
        return Now(Nanos(self.mono), Nanos(self.mono))

    def join(self, peer: PeerId, memory: int = GIB) -> None:
        info = NodeInfo(
            name=f"n{len(self.folk.members)}", addresses=[], boot=b"b" * 16, version="1",
            memory_bytes=memory, minor_min=1, minor_max=1,
        )  # fmt: skip
        certificate = msgspec.structs.replace(MEMBERS[A], subject=peer)
        self.folk.certificates[peer] = certificate
        member = Member(peer=peer, info=info, certificate=certificate, epoch=1)
        self.folk.members[peer] = member
        self.live(peer, True)

    def live(self, peer: PeerId, is_live: bool) -> None:
        for held in (self.folk.live, self.folk.able):
            held.pop(peer, None)
            if is_live:
                held[peer] = 1
        self.situation.note_member(peer)

    def say(self, owner: PeerId, kind: str, key: bytes, payload: bytes) -> None:
        """A record of somebody else."""
        self.seq += 1
        record = make_record(owner, kind, key, 1, self.seq, not payload, payload)
        assert self.situation.note_change(Change(record, owner), Nanos(self.mono)) is None

    def spec(
        self, name: str, previous: Seed | None = None, owner: PeerId | None = None, **options: Any
    ) -> Seed:
        owner = self.peers[-1] if owner is None else owner
        spec = specs.make_spec(
            name=name,
            name_epoch=1 if previous is None else previous.spec.name_epoch + 1,
            content=CONTENT,
            size=100,
            functions=["run"],
            options=SeedOptions(**options),
        )
        payload = specs.encode_record(encode(spec), [] if previous is None else [previous])
        self.say(owner, "spec", name.encode(), payload)
        seed = specs.decode_seed(owner, payload)
        assert isinstance(seed, Seed)
        return seed

    def claim(self, node: PeerId, seed: Seed, state: State, **fields: Any) -> None:
        self.say(node, "claim", seed.seed, encode(Claim(int(state), **fields)))

    def fast(self, node: PeerId, **fields: Any) -> None:
        self.say(node, "fast", b"", encode(Fast(**fields)))

    def slice(self) -> list[Effect]:
        """One turn of the node."""
        turn = turn_at(self.now, self.records)
        self.placing.converge(turn)
        self.open()
        self.changes = self.records.take_changes()
        for change in self.changes:
            self.situation.note_change(change, Nanos(self.mono))
        self.placing.push(turn, is_urgent=True, follow=lambda moved, at: None)
        for effect in turn.effects():
            if isinstance(effect, fx.PushTables):
                seeds = effect.lanes.get(fx.SEEDS, fx.LaneRows())
                self.tables |= {row.seed: row for row in seeds.rows}
                for gone in seeds.gone:
                    self.tables.pop(Hash(gone))
                peers = effect.lanes.get(fx.PEERS, fx.LaneRows())
                self.known |= {row.peer: row for row in peers.rows}
                for gone in peers.gone:
                    self.known.pop(PeerId(gone))
        return turn.effects()

    def turn(self, after: int = 0) -> list[Effect]:
        """Time passes, and whatever follows follows."""
        self.mono += after
        out = self.slice()
        while self.placing.has_work or self.changes:
            out += self.slice()
        return [e for e in out if not isinstance(e, fx.SetTimer | fx.PushTables)]

    def load(self, seed: Seed, slug: str = "") -> None:
        """The muscles say that a load ended."""
        turn = turn_at(self.now, self.records)
        self.placing.on_load_finished(LoadFinished(seed=seed.seed, slug=slug), turn)
        self.turn()
