"""What follows from the records and the links: names, hosts, and the rows of the tables.

Decides: when a projection is out of date, and rebuilds it then and only then.
Does not know: effects; how records came; what is done about a projection.
Invariants: names, hosts and rows are functions of the records, the linked peers and the prices; no
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
from pollen.core.members import Member, Members
from pollen.core.names import Holding, resolve
from pollen.core.peers import Peers
from pollen.core.plan import Host, hosts_view
from pollen.core.records import CLAIM, NODE, SPEC, Change, Records
from pollen.core.specs import Seed, decode_seed

Fault = tuple[PeerId, Rejection]


class Situation:
    """The projections of one node."""

    def __init__(self, own: PeerId, store: Records, members: Members, peers: Peers) -> None:
        self._own = own
        self._records = store
        self._members = members
        self._peers = peers
        self._are_names_stale = True
        self._prices: dict[PeerId, int] = {}
        self.is_stale = True
        self.names: dict[str, Holding] = {}
        self.hosts: dict[Hash, list[Host]] = {}
        self.telemetry: Telemetry | None = None

    def note_change(self, change: Change) -> Member | Rejection | None:
        """A record changed: a member that follows from it, or the fault in it."""
        self.is_stale = True
        if change.record.body.kind == SPEC:
            self._are_names_stale = True
        if change.record.body.kind != NODE:
            return None
        self._are_names_stale = True
        return self._members.apply(change.record)

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
        epochs = self._members.live_epochs(self._boots(), wall)
        own = self._members.find(self._own)
        if own is not None:
            epochs[self._own] = own.epoch
        self.hosts = hosts_view(self._records.live_of(CLAIM), epochs)
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

    def _boots(self) -> dict[PeerId, bytes]:
        links = ((peer, self._peers.link_of(peer)) for peer in self._peers.linked())
        return {peer: link.boot for peer, link in links if link is not None}

    def rows(
        self, hosted: Sequence[Seed], wall: Nanos
    ) -> tuple[dict[Hash, SeedRow], dict[PeerId, PeerRow]]:
        """The rows of the tables, this node's own included; after it nothing is stale."""
        live = sorted(self._members.live_epochs(self._boots(), wall))
        prices = {peer: self._prices.get(peer, limits.PRICE_UNKNOWN_US) for peer in live}
        prices[self._own] = 0
        names = self._members.names()
        seeds = tables.seed_rows(self.names, self.hosts, hosted, prices)
        listed = sorted([*live, self._own])
        peers = tables.peer_rows(listed, self._members.certificates, names, prices)
        self.is_stale = False
        return seeds, peers
