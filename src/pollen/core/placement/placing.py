"""Placement on one node: from what changed to what is loaded, claimed, told and routed.

Decides: in which order the projections, the plan, the hosting and the tables follow a change.
Does not know: links, disks; how records spread. It publishes by the turn.
Invariants: what a change does not touch is not looked at. The plan advances in slices; what follows
    from a placement follows when it is found. A claim is published when it differs, and only then.
Source: docs/design/protocol.md#placement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from pollen.core import limits, timers
from pollen.core.codec import Rejection, encode
from pollen.core.commands import PinCommand, Seeded, Unseeded
from pollen.core.config import NodeConfig
from pollen.core.effects import MODULE, PeerRow, SetTimer
from pollen.core.events import (
    CallEnded,
    Event,
    LoadFinished,
    PeerSample,
    SeedWoken,
    TablesStale,
    Telemetry,
)
from pollen.core.ids import Hash, Nanos, PeerId
from pollen.core.kinds import CLAIM, FAST
from pollen.core.placement import tables
from pollen.core.placement.bundle import Bundle
from pollen.core.placement.checking import seed_of
from pollen.core.placement.entry import View
from pollen.core.placement.held import HELD_TABLE
from pollen.core.placement.hosting import Hosting
from pollen.core.placement.pins import PIN_TABLE
from pollen.core.placement.situation import Situation
from pollen.core.placement.tables import Tables
from pollen.core.policy import Party
from pollen.core.trust import Members
from pollen.core.turn import Asked, Handler, Room, Turn
from pollen.core.work import taken

# Brings the rows of another room up to date, given the peers that moved.
Follow = Callable[[Collection[PeerId], Turn], None]


class Placing(Room):
    """What this node does about the plan."""

    def __init__(
        self,
        own: PeerId,
        members: Members,
        situation: Situation,
        is_linked: Callable[[PeerId], bool],
        estimate: Callable[[PeerId], int | None],
        hops: Callable[[PeerId], list[PeerId]],
        hosting: Hosting,
        bundle: Bundle,
    ) -> None:
        self._own = own
        self._members = members
        self._situation = situation
        self._estimate = estimate
        self._hops = hops
        self._hosting = hosting
        self._bundle = bundle
        self._tables = Tables()
        self.services, self.served = self._tables.services, self._tables.served
        self._prices: dict[PeerId, int] = {}
        self._claimed: dict[Hash, None] = {}
        self._unrouted: dict[Hash, None] = {}
        self._unrouted_peers: dict[PeerId, None] = {}
        self._place: list[int] = []
        self._unpriced: dict[PeerId, None] = {}
        self._overdue_at: int | None = None
        # When the first telemetry of this run came, and its first link.
        self._began: Nanos | None = None
        self._linked: Nanos | None = None
        self._view = View(
            roles=situation.roles,
            placement=situation.placement,
            claims=situation.claims,
            is_linked=is_linked,
        )
        self.telemetry: Telemetry | None = None

    @classmethod
    def of(
        cls,
        config: NodeConfig,
        party: Party,
        members: Members,
        situation: Situation,
        is_linked: Callable[[PeerId], bool],
        estimate: Callable[[PeerId], int | None],
        hops: Callable[[PeerId], list[PeerId]],
    ) -> Placing:
        """For a node with this configuration; ``party`` is what its certificate says."""
        hosting = Hosting(config.node, party, config.memory_bytes, config.blob_bytes)
        bundle = Bundle(config.memory_bytes, config.slots, config.idle_ns)
        return cls(config.node, members, situation, is_linked, estimate, hops, hosting, bundle)

    def restore(self, restored: Mapping[str, Sequence[tuple[bytes, bytes]]]) -> list[Rejection]:
        """Which blobs this node held when it stopped, and which names were pinned; the faults in
        what its disk holds."""
        faults = self._hosting.held.restore(restored.get(HELD_TABLE, ()))
        return faults + self._hosting.pins.restore(restored.get(PIN_TABLE, ()))

    def events(self) -> Mapping[type[Event], Handler]:
        """A seed that a call woke; a check that ended; tables that the muscles do not hold."""
        return {
            CallEnded: self.on_call_ended,
            SeedWoken: self.on_woken,
            TablesStale: lambda event, turn: self.forget_tables(),
        }

    def commands(self) -> Mapping[type[object], Handler]:
        """To keep a copy here."""
        return {PinCommand: self._on_pin}

    def timers(self) -> Mapping[str, Handler]:
        """When something about a seed on this node may be due."""
        return {timers.LOAD: lambda key, turn: self.on_timer(key)}

    def _on_pin(self, asked: Asked, turn: Turn) -> None:
        situation = self._situation
        party, serving = self._hosting.party, situation.serving
        self._hosting.pins.on_pin(asked, situation.names, party, serving, turn)
        holding = situation.names.get(asked.command.target)
        if holding is not None:
            situation.touch(serving(holding).seed)

    def is_pinned(self, name: str) -> bool:
        """Whether a user wants a copy here, whatever the plan says."""
        return name in self._hosting.pins

    # -- what the muscles say -------------------------------------------------------------------

    def note_telemetry(self, event: Telemetry, turn: Turn, *, is_level: bool) -> None:
        """New counters: prices, the fast record, and versions that fail. ``is_level``: no record is
        known of that is not here."""
        self.telemetry = event
        self._note_prices(event.peers)
        offered = self._hosting.space.offered(event.disk_bytes)
        told = msgspec.structs.replace(event, disk_bytes=offered)
        self._bundle.note_telemetry(told, turn.now.mono)
        self._note_disk(event.disk_bytes, turn.now.mono, is_level=is_level)
        for key in self._hosting.note_samples(event.seeds, turn):
            self._situation.touch(key)
        self._tell_fast(turn)

    def _note_disk(self, free_bytes: int, now: Nanos, *, is_level: bool) -> None:
        """What is free; and, once in a run, that it is known what the others hold."""
        space = self._hosting.space
        was_known = space.disk_free_bytes is not None, space.has_heard
        space.free_bytes, space.disk_free_bytes = self._bundle.free_bytes, free_bytes
        space.has_heard = space.has_heard or self._has_heard(now, is_level=is_level)
        for key in self._hosting.roomless():
            self._situation.touch(key)
        if was_known == (True, space.has_heard):
            return
        # Blobs waited for that.
        for key, role in self._situation.roles.items():
            if role.seed.is_blob:
                self._situation.touch(key)

    def _has_heard(self, now: Nanos, *, is_level: bool) -> bool:
        """Whether the records of the others came, or are waited for no longer."""
        self._began = now if self._began is None else self._began
        if now >= self._began + limits.HEAR_MAX_NS:
            return True
        linked = self._linked
        return linked is not None and now >= linked + limits.HEAR_NS and is_level

    def note_party(self, party: Party) -> None:
        """This node's certificate says so now: it may host other seeds than before."""
        if self._hosting.note_party(party):
            self._situation.touch_all()

    def note_coordinate(self, coordinate: list[int]) -> None:
        """Where this node is on the map of round trips; who was never measured has another price
        with each move of it, which is told in slices."""
        self._bundle.note_coordinate(coordinate)
        if coordinate != self._place:
            self._place = coordinate
            known = self._prices
            self._unpriced = {peer: None for peer in self._situation.live if peer not in known}

    def _note_prices(self, samples: Sequence[PeerSample]) -> None:
        """A price that moved past its hysteresis changes the row of its peer, and no other."""
        for sample in samples:
            held = self._prices.get(sample.peer)
            price = tables.quantised_price(sample.rtt_us, held) if sample.rtt_us else held
            if price is not None and price != held:
                self._prices[sample.peer] = price
                self._unrouted_peers[sample.peer] = None

    def _tell_fast(self, turn: Turn) -> None:
        payload = self._bundle.due(turn.now.mono)
        if payload is not None:
            turn.publish(FAST, b"", payload)

    def on_load_finished(self, event: LoadFinished, turn: Turn) -> None:
        """A seed can be called here, or not."""
        self._situation.touch(event.seed)
        self._hosting.on_load_finished(event, self._view, turn)

    def on_woken(self, event: SeedWoken, turn: Turn) -> None:
        """A call woke a seed here."""
        self._situation.touch(event.seed)
        self._hosting.on_woken(event, self._view, turn)

    def on_call_ended(self, event: CallEnded, turn: Turn) -> None:
        """The check of a replica here ended."""
        self._situation.touch(seed_of(event))
        self._hosting.on_call_ended(event, turn)

    def note_published(self, answer: Seeded | Unseeded, turn: Turn) -> None:
        """A user published or withdrew a seed here. The file of a blob is on the disk by then; that
        of the version before may leave it with its name."""
        held = self._hosting.held
        gone = answer.replaced if isinstance(answer, Seeded) else answer.seed
        if gone:
            held.disown(Hash(bytes.fromhex(gone)))
        if isinstance(answer, Seeded) and not answer.unchanged:
            self._hosting.firsts.note(Hash(bytes.fromhex(answer.seed)))
        if isinstance(answer, Seeded) and answer.kind != MODULE:
            held.note(Hash(bytes.fromhex(answer.seed)), turn, is_held=True)

    def on_timer(self, key: bytes) -> None:
        """Something about a seed on this node may be due."""
        self._situation.touch(Hash(key))

    def note_link(self, now: Nanos) -> None:
        """A link came: it may lead to content that is missing."""
        self._linked = now if self._linked is None else self._linked
        for key in self._hosting.waiting():
            self._situation.touch(key)

    def note_unlinked(self, peer: PeerId) -> None:
        """Its last link closed: who had left is gone."""
        self._unrouted_peers[peer] = None

    def note_ways(self, peers: Collection[PeerId]) -> None:
        """Their packets go to other members than before."""
        self._unrouted_peers.update(dict.fromkeys(peers))

    def forget_tables(self) -> None:
        """The muscles hold other tables than those told: the next push is whole."""
        self._tables.forget()

    # -- leaving --------------------------------------------------------------------------------

    def leave(self, turn: Turn) -> int:
        """Hand over what serves here. Returns how many seeds that are. The claims of blobs leave
        before the record that says so, so that nobody makes a copy in between."""
        keys = self._hosting.leave(turn.now)
        for key in keys:
            self._claim(key, turn)
            self._situation.touch(key)
        return len(keys)

    @property
    def is_gone(self) -> bool:
        """True when nothing serves here any more that some other node could take over."""
        return self._hosting.count_leaving(self._view) == 0

    # -- what follows ---------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """True while something is not brought up to date that has changed."""
        return self._situation.has_work or bool(self._unpriced)

    def converge(self, turn: Turn, pairs: int = limits.PLAN_SLICE_PAIRS) -> None:
        """One slice: plan, load and unload towards the plan, and claim what is so.

        What is loaded and unloaded leaves last: the rows that it needs leave before it.
        """
        self._situation.refresh(turn.now)
        self._situation.planner.advance(pairs)
        for key in self._situation.take_touched():
            self._hosting.converge(key, self._view, turn)
            self._unrouted[key] = None
            self._claim(key, turn)
        self._watch_overdue(turn)

    def _claim(self, key: Hash, turn: Turn) -> None:
        claim = self._hosting.claim(key)
        if claim is not None:
            self._claimed[key] = None
            turn.publish(CLAIM, key, encode(claim))
        elif key in self._claimed:
            del self._claimed[key]
            turn.publish(CLAIM, key, None)

    def _watch_overdue(self, turn: Turn) -> None:
        """One timer for the first host whose loading will be overdue."""
        at = self._situation.next_overdue
        if at is not None and at != self._overdue_at:
            self._overdue_at = at
            due = Nanos(turn.now.mono + max(at - turn.now.wall, 0))
            turn.do_last(SetTimer(token=timers.token_for(timers.OVERDUE), at=due))

    # -- tables ---------------------------------------------------------------------------------

    def push(self, turn: Turn, *, is_urgent: bool, follow: Follow) -> None:
        """Bring the rows up to date that something touched, and tell the muscles.

        ``follow`` does so with the rows of other rooms, and is told which peers moved: they came,
        went, have another certificate or another price.
        """
        unpriced = taken(self._unpriced, limits.PLACE_SLICE_SEEDS)
        for peer in (*self._situation.take_touched_peers(), *unpriced):
            self._unrouted_peers[peer] = None
        follow(self._unrouted_peers, turn)
        for peer in self._unrouted_peers:
            self._tables.peers.set(peer, self._peer_row(peer))
        for key in self._unrouted:
            placement = self._situation.placement(key)
            row = tables.seed_row(
                key,
                self._situation.roles,
                self._situation.claims,
                () if placement is None else placement.wake,
                self.price_of,
                self._hosting.seed(key),
            )
            self._tables.seeds.set(key, row)
        # What is let go in this turn keeps its row until the next one.
        self._unrouted = dict.fromkeys(self._hosting.take_unloaded())
        self._unrouted_peers = {}
        self._tables.push(turn, is_urgent=is_urgent)

    def price_of(self, peer: PeerId) -> int:
        """What a call to a peer costs, in microseconds."""
        return self.price(peer)[0]

    def price(self, peer: PeerId) -> tuple[int, str]:
        """What a call to a peer costs in microseconds, and where that comes from."""
        if peer == self._own:
            return 0, "here"
        measured = self._prices.get(peer)
        if measured:
            return measured, "measured"
        estimated = self._estimate(peer)
        return (estimated, "estimated") if estimated else (limits.PRICE_UNKNOWN_US, "unknown")

    def _peer_row(self, peer: PeerId) -> PeerRow | None:
        member = self._members.find(peer)
        if member is None or not (peer in self._situation.live or self._is_leaving(peer)):
            return None
        name, price = member.info.name, self.price_of(peer)
        return tables.peer_row(peer, member.certificate, name, price, self._hops(peer))

    def _is_leaving(self, peer: PeerId) -> bool:
        """It said that it left, and what it has in flight ends before its link does."""
        is_here = peer == self._own or self._view.is_linked(peer)
        return is_here and self._situation.has_left(peer)

    @property
    def pushed_at(self) -> Nanos:
        """When the muscles were last told."""
        return self._tables.pushed_at
