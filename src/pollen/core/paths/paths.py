"""When the ways to members are looked at again, and what peers are told of where they are seen.

Decides: when this node says who is directly linked with it; whom it tells where it sees them; which
    members' ways are looked at again.
Does not know: what a way is made of (``routes``), what a sighting proves (``seen``).
Invariants: a way that came is told to the muscles before the peer is dialled by it. A change of one
    member's record is followed in its turn, one of the others with the next telemetry.
Source: docs/internals/paths.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from pollen.core import limits, timers
from pollen.core.codec import Rejection, encode
from pollen.core.config import NodeConfig
from pollen.core.effects import SendMessage, SetRelay, SetSeen, SetTimer
from pollen.core.events import Event, HelloReceived, MeshSample, PathMoved, Telemetry
from pollen.core.ids import SECOND, LinkId, Nanos, PeerId
from pollen.core.kinds import NEAR
from pollen.core.messages import Message, Seen, encode_message
from pollen.core.paths.near import Nat, NearRecord, choose_neighbours, decode_near
from pollen.core.paths.routes import Atlas
from pollen.core.paths.seen import Sightings
from pollen.core.peers import Mesh
from pollen.core.records import Record
from pollen.core.trust import Members
from pollen.core.turn import Handler, Heard, Room, Turn
from pollen.core.work import taken

# A live member without a direct path for so long is one that cannot be reached. Guess: a dial of
# somebody who is there ends sooner.
LACK_NS = 2 * SECOND
# Everybody was directly linked for so long: nothing needs to be said any more. Guess.
CALM_NS = 60 * SECOND


# A member keeps its ways so long after its last bulk connection was seen. Guess: its link may be
# lost meanwhile, and is found again by them.
BULK_NS = 60 * SECOND


class PathState(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of the way to a linked member: its ``address``, empty while packets go through
    others; ``since`` when that is so."""

    link: LinkId
    address: str
    since: Nanos


class Paths(Room):
    """``addresses``: those that everybody knows of this node."""

    def __init__(
        self,
        config: NodeConfig,
        members: Members,
        mesh: Mesh,
        addresses: Callable[[], Collection[str]],
    ) -> None:
        self._own = config.node
        self._config = config
        self._members = members
        self._mesh = mesh
        self._addresses = addresses
        self._atlas = Atlas(config.node, self._is_relay)
        self._seen = Sightings()
        self._states: dict[PeerId, PathState] = {}
        self._rtts: dict[PeerId, int] = {}
        self._hops: dict[PeerId, list[PeerId]] = {}
        # Members with a bulk connection, and when it was seen last.
        self._bulk: dict[PeerId, Nanos] = {}
        self._stale: dict[PeerId, None] = {}
        self._is_stale = False
        self._nats: dict[PeerId, Nat] = {}
        self._said: NearRecord | None = None
        self._needed_at = Nanos(0)
        self._lacks: dict[PeerId, Nanos] = {}
        self._told: dict[PeerId, str] = {}
        self._sightings: list[str] = []
        self._sample = MeshSample()

    def events(self) -> Mapping[type[Event], Handler]:
        """The muscles say how a link's packets go."""
        return {PathMoved: self.on_moved}

    def messages(self) -> Mapping[type[Message], Handler]:
        """A member says where it sees this node."""
        return {Seen: self.on_seen}

    def start(self, turn: Turn) -> None:
        """Tell the muscles whether packets of others are passed on here."""
        self.note_live(self._mesh.membership.live)
        relays, rate = self._config.relays, self._config.relay_bytes_per_s
        turn.do(SetRelay(relays=relays, bytes_per_s=rate))

    # -- what happens -----------------------------------------------------------------------------

    def on_hello(self, event: HelloReceived, turn: Turn) -> None:
        """A peer's link: how its packets go."""
        self._set_state(event.peer, event.link, event.remote, turn)
        self._lacks.pop(event.peer, None)
        self._told.pop(event.peer, None)

    def on_moved(self, event: PathMoved, turn: Turn) -> None:
        """The packets of a link go another way; one that is not the peer's says nothing."""
        held = self._states.get(event.peer)
        if held is not None and held.link == event.link and held.address != event.address:
            self._set_state(event.peer, event.link, event.address, turn)

    def _set_state(self, peer: PeerId, link: LinkId, address: str, turn: Turn) -> None:
        self._states[peer] = PathState(link=link, address=address, since=turn.now.mono)
        self._is_stale = True

    def on_unlinked(self, peer: PeerId, turn: Turn) -> None:
        """The peer's last link ended: no packet goes by it."""
        self._states.pop(peer, None)
        self._told.pop(peer, None)
        self._seen.note_unlinked(peer, turn.now.mono)
        # Whoever was reached by it is reached by others from now on.
        self._stale.update(dict.fromkeys(p for p, hops in self._hops.items() if peer in hops))

    def on_seen(self, heard: Heard, turn: Turn) -> None:
        """A member says where it sees this node."""
        address = heard.message.address
        if not self._seen.note(heard.peer, address, self._addresses()):
            turn.note(Rejection("seen-unbelievable", address), heard.peer)

    def note_record(self, record: Record) -> Rejection | None:
        """A member says who is directly linked with it, or that everybody is."""
        peer = record.body.owner
        said = decode_near(record.body.payload) if record.is_live else None
        fault = said if isinstance(said, Rejection) else None
        if peer == self._own:
            return fault
        neighbours = said.neighbours if isinstance(said, NearRecord) else None
        self._atlas.note_said(peer, neighbours)
        self._nats.pop(peer, None)
        if isinstance(said, NearRecord):
            self._nats[peer] = said.nat_kind
        self._stale[peer] = None
        self._is_stale = True
        return fault

    def note_live(self, live: Collection[PeerId]) -> None:
        """These members are live."""
        self._atlas.note_live(live)
        self._is_stale = True

    # -- twice a second ---------------------------------------------------------------------------

    def on_telemetry(self, event: Telemetry, turn: Turn) -> None:
        """Say what is to be said, and follow what changed meanwhile."""
        now = turn.now.mono
        self._sample = event.mesh
        self._rtts = {sample.peer: sample.rtt_us for sample in event.peers}
        self._note_bulk((sample.peer for sample in event.peers if sample.bulk), now)
        self._seen.forget_old(now)
        self._tell(turn)
        addresses = self._seen.addresses()
        if addresses != self._sightings:
            self._sightings = addresses
            turn.do(SetSeen(addresses=addresses))
        self._say(turn)
        if self._is_stale:
            self._is_stale = False
            hard = self._mesh.membership.live if self._said else self._atlas.hard()
            self._stale.update(dict.fromkeys((*self._hops, *hard, *self._bulk)))

    def _note_bulk(self, peers: Iterable[PeerId], now: Nanos) -> None:
        """What runs on a bulk connection outlives its direct path by a way through others."""
        before = set(self._bulk)
        self._bulk.update(dict.fromkeys(peers, now))
        for peer in [peer for peer, at in self._bulk.items() if now >= at + BULK_NS]:
            del self._bulk[peer]
        self._stale.update(dict.fromkeys(sorted(before ^ set(self._bulk))))

    def _tell(self, turn: Turn) -> None:
        """Tell peers where they are seen, when that is not where they say that they are."""
        for peer, state in self._states.items():
            member = self._members.find(peer)
            address, told = state.address, self._told.get(peer)
            if member is None or not address or address == told:
                continue
            if told is not None or address not in member.info.addresses:
                self._told[peer] = address
                turn.do(SendMessage(peer=peer, body=encode_message(Seen(address))))

    def _say(self, turn: Turn) -> None:
        """Publish who is directly linked with this node, while some member may need to know."""
        now, direct = turn.now.mono, self.direct()
        nat = self._seen.nat(len(direct))
        wanted = self._mesh.links.wanted()
        live = self._mesh.membership.live
        missing = [
            peer
            for peer in (live if wanted is None else wanted)
            if peer in live and peer != self._own and peer not in direct
        ]
        self._lacks = {peer: self._lacks.get(peer, now) for peer in missing}
        lacks = any(now >= since + LACK_NS for since in self._lacks.values())
        if lacks or nat not in (Nat.NONE, Nat.UNKNOWN):
            self._needed_at = now
        elif self._said is None or now < self._needed_at + CALM_NS:
            return
        else:
            self._said = None
            turn.publish(NEAR, b"", None)
            return
        named = () if self._said is None else self._said.neighbours
        said = NearRecord(neighbours=choose_neighbours(direct, named), nat=nat)
        if said != self._said:
            self._said, self._is_stale = said, True
            turn.publish(NEAR, b"", encode(said))

    # -- ways -------------------------------------------------------------------------------------

    def follow(self, turn: Turn) -> list[PeerId]:
        """Bring the ways up to date that may have changed, one slice; whose did.

        A peer to whom a way came is dialled when the muscles know the way.
        """
        changed = []
        direct = self.direct() if self._stale else {}
        for peer in taken(self._stale, limits.PLACE_SLICE_SEEDS):
            is_hard = self._said is not None or self._atlas.is_hard(peer)
            is_there = peer in self._mesh.membership.live and peer != self._own
            is_needed = is_there and (is_hard or peer in self._bulk)
            hops = self._atlas.hops(peer, direct) if is_needed else []
            held = self._hops.get(peer, [])
            if hops == held:
                continue
            changed.append(peer)
            if hops:
                self._hops[peer] = hops
            else:
                del self._hops[peer]
            if hops and not held:
                self._mesh.peers.on_way(peer, turn)
        if self._stale:
            turn.do(SetTimer(token=timers.token_for(timers.WORK), at=turn.now.mono))
        return changed

    def hops(self, peer: PeerId) -> list[PeerId]:
        """To whom packets for a member go while it has no direct path, best first."""
        return self._hops.get(peer, [])

    def direct(self) -> dict[PeerId, int]:
        """Who is directly linked with this node, and the round trip in microseconds."""
        rtts = self._rtts
        return {peer: rtts.get(peer, 0) for peer, state in self._states.items() if state.address}

    def _is_relay(self, peer: PeerId) -> bool:
        member = self._members.find(peer)
        return member is not None and member.info.relays

    # -- views ------------------------------------------------------------------------------------

    def state(self, peer: PeerId) -> PathState | None:
        """How packets to a linked member go."""
        return self._states.get(peer)

    def nat_of(self, peer: PeerId) -> Nat:
        """What stands before a member, by its own word; this node by what others say."""
        if peer == self._own:
            return self._seen.nat(len(self.direct()))
        return self._nats.get(peer, Nat.NONE)

    def seen_at(self) -> Sequence[str]:
        """Where others see this node."""
        return self._sightings

    def figures(self) -> tuple[dict[str, int], dict[str, int]]:
        """For the metrics page: plain numbers by metric, and packets by their way."""
        ways: dict[str, int] = msgspec.structs.asdict(self._sample)
        gauges = {
            "pollen_mesh_passed_bytes_total": ways.pop("passed_bytes"),
            "pollen_mesh_carriers": ways.pop("carriers"),
        }
        return gauges, ways
