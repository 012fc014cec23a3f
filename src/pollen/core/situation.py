"""What follows from the records and who is alive: names, hosts, and the rows of the tables.

Decides: when a projection is out of date, and rebuilds it then and only then.
Does not know: effects; how records came; what is done about a projection.
Invariants: names, hosts and rows are functions of the records, the live members and the prices; no
    projection is kept from before a change that it depends on.
Source: PROTOCOL 3 and 5. In this first form a projection is rebuilt whole.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollen.core import limits, tables
from pollen.core.codec import Rejection
from pollen.core.effects import PeerRow, SeedRow
from pollen.core.events import Telemetry
from pollen.core.ids import Hash, Nanos, PeerId
from pollen.core.liveness import Facts
from pollen.core.members import Member, Members
from pollen.core.membership import Membership
from pollen.core.names import Holding, resolve
from pollen.core.plan import Host, hosts_view
from pollen.core.records import (
    ACCUSE,
    CLAIM,
    NODE,
    REFUTE,
    SPEC,
    Change,
    Record,
    Records,
    as_buried,
)
from pollen.core.specs import Seed, decode_seed

Fault = tuple[PeerId, Rejection]


class Situation:
    """The projections of one node."""

    def __init__(
        self, own: PeerId, store: Records, members: Members, membership: Membership
    ) -> None:
        self._own = own
        self._records = store
        self._members = members
        self._membership = membership
        self._are_names_stale = True
        self._prices: dict[PeerId, int] = {}
        self.is_stale = True
        self.names: dict[str, Holding] = {}
        self.hosts: dict[Hash, list[Host]] = {}
        self.live: dict[PeerId, int] = {}
        self.telemetry: Telemetry | None = None

    def note_change(self, change: Change, now: Nanos) -> Member | Rejection | None:
        """A record changed: a member that follows from it, or the fault in it."""
        if change.record.body.kind in (ACCUSE, REFUTE):
            record = as_buried(change.record) if change.is_gone else change.record
            return self._membership.note_record(record, now)
        self.is_stale = True
        if change.record.body.kind == SPEC:
            self._are_names_stale = True
        if change.record.body.kind != NODE:
            return None
        self._are_names_stale = True
        # Who is gone stays a member: what it published goes on.
        return None if change.is_gone else self.note_node(change.record, now)

    def note_node(self, record: Record, now: Nanos) -> Member | Rejection | None:
        """A node record: membership hears of its epoch and phase."""
        member = self._members.apply(record)
        if isinstance(member, Member):
            info = member.info
            facts = Facts(epoch=member.epoch, phase=info.phase, restarts=info.restarts)
            self._membership.note_member(member.peer, facts, now)
        return member

    def note_telemetry(self, telemetry: Telemetry) -> None:
        """New counters; a price that moved past its hysteresis makes the rows stale."""
        self.telemetry = telemetry
        for sample in telemetry.peers:
            held = self._prices.get(sample.peer)
            price = tables.quantised_price(sample.rtt_us, held) if sample.rtt_us else held
            if price is not None and price != held:
                self._prices[sample.peer] = price
                self.is_stale = True

    def refresh(self, wall: Nanos) -> list[Fault]:
        """Rebuild what is out of date; the specs that could not be read are returned."""
        faults: list[Fault] = []
        if not self.is_stale:
            return faults
        if self._are_names_stale:
            self.names = resolve(self._readable_seeds(faults), self._members.certificates)
            self._are_names_stale = False
        self.live = self._members.with_access(self._membership.live, wall)
        self.hosts = hosts_view(self._records.live_of(CLAIM), self.live)
        return faults

    def _readable_seeds(self, faults: list[Fault]) -> list[Seed]:
        seeds = []
        for record in self._records.live_of(SPEC):
            seed = decode_seed(record.body.owner, record.body.payload)
            if isinstance(seed, Seed) and seed.spec.name.encode() != record.body.key:
                seed = Rejection("spec-key", seed.spec.name)
            if isinstance(seed, Seed):
                seeds.append(seed)
            else:
                faults.append((record.body.owner, seed))
        return seeds

    def rows(self, hosted: Sequence[Seed]) -> tuple[dict[Hash, SeedRow], dict[PeerId, PeerRow]]:
        """The rows of the tables, this node's own included; after it nothing is stale."""
        prices = {peer: self._prices.get(peer, limits.PRICE_UNKNOWN_US) for peer in self.live}
        prices[self._own] = 0
        names = self._members.names()
        seeds = tables.seed_rows(self.names, self.hosts, hosted, prices)
        peers = tables.peer_rows(sorted(prices), self._members.certificates, names, prices)
        self.is_stale = False
        return seeds, peers
