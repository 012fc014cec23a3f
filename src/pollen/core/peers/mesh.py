"""The peers of a node as one machine: who is known, who ought to be linked, who is alive.

Decides: in which order ``known``, ``links`` and ``membership`` hear of an event.
Does not know: what a Hello proves (``consequences``), records but by what follows from them.
Invariants: a peer that comes alive is dialled without waiting for its back-off; a watcher watches
    exactly those with whom it is or ought to be linked.
Source: docs/design/protocol.md#liveness; docs/design/style.md#sans-io-core.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pollen.core import limits, timers
from pollen.core.effects import CloseLink, SendMessage
from pollen.core.events import (
    DialFailed,
    Event,
    HelloReceived,
    LinkClosed,
    LinkWanted,
    PeerFound,
    Telemetry,
)
from pollen.core.ids import Nanos, PeerId
from pollen.core.messages import Keep, Message, encode_message
from pollen.core.peers.coords import Coords
from pollen.core.peers.known import Peers
from pollen.core.peers.links import Links
from pollen.core.peers.membership import Membership
from pollen.core.rng import Rng
from pollen.core.trust import Member
from pollen.core.turn import Handler, Heard, Room, Turn

# What a peer tells of its place on the map; empty for one that tells nothing.
CoordinateOf = Callable[[PeerId], Sequence[int]]


class Mesh(Room):
    """Peers, links and membership of one node."""

    def __init__(
        self,
        own: PeerId,
        rng: Rng,
        is_denied: Callable[[PeerId], bool] = lambda _: False,
        has_way: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        self._own = own
        self._is_denied = is_denied
        self.links = Links(own, rng)
        self.peers = Peers(own, rng, self._is_wanted, has_way)
        self.membership = Membership(own)
        self.coords = Coords(rng)
        self._rtts: dict[PeerId, int] = {}
        self._coordinate_of: CoordinateOf = lambda _: ()
        self._reached_out_at = Nanos(0)
        self._moved: list[PeerId] = []

    def start(self, turn: Turn) -> None:
        """Take over who is alive by what the disk says, and dial."""
        self.membership.advance(turn)
        self._follow_live()
        self._watch(turn.now.mono)
        self.peers.start(turn)

    def _is_wanted(self, peer: PeerId) -> bool:
        """Whether to dial a peer again by ourselves: never one that is denied."""
        return self.links.is_wanted(peer) and not self._is_denied(peer)

    def events(self) -> Mapping[type[Event], Handler]:
        """Dials that failed, and links that calls want."""
        return {
            DialFailed: self.peers.on_dial_failed,
            LinkWanted: self.on_wanted,
        }

    def messages(self) -> Mapping[type[Message], Handler]:
        """The other side's wish for a link."""
        return {Keep: self.on_keep}

    def timers(self) -> Mapping[str, Handler]:
        """When to dial again."""
        return {timers.DIAL: self.peers.on_timer}

    # -- links ----------------------------------------------------------------------------------

    def on_hello(self, event: HelloReceived, turn: Turn) -> bool:
        """A Hello that was judged good. True when it became the peer's link."""
        if not self.peers.on_hello(event, turn):
            return False
        if event.dialled and event.remote:
            self.peers.learn(event.peer, [event.remote], turn)
        self.links.on_closed(event.peer)
        self.membership.on_link(event.peer, turn.now.mono)
        self._tell([event.peer], turn)
        return True

    def on_link_closed(self, event: LinkClosed, turn: Turn) -> None:
        """Dial again where the link is wanted."""
        if self.peers.on_link_closed(event, turn):
            self.membership.on_link_closed(event.peer)
            self.links.on_closed(event.peer)

    def on_wanted(self, event: LinkWanted, turn: Turn) -> None:
        """A call needs a link that is not there: dial on demand."""
        if self.links.on_wanted(event.peer, turn.now.mono):
            self.peers.end_backoff([event.peer], turn)
            self._tell([event.peer], turn)

    def on_found(self, event: PeerFound, turn: Turn) -> None:
        """Discovery found an address: of one peer, or of whoever is there."""
        if event.peer:
            self.peers.learn(event.peer, event.addresses, turn)
        else:
            self.peers.try_anybody(event.addresses, turn)

    def on_keep(self, heard: Heard, turn: Turn) -> None:
        """The other side's wish."""
        self.links.on_keep(heard.peer, heard.message.is_kept, turn.now.mono)

    # -- telemetry ------------------------------------------------------------------------------

    def on_telemetry(self, event: Telemetry, coordinate_of: CoordinateOf, turn: Turn) -> None:
        """Half a second went by: silence, idle links, nearer neighbours, too few links."""
        now = turn.now.mono
        self.membership.on_telemetry(event, now)
        self.peers.on_telemetry(event.peers, turn)
        self._coordinate_of = coordinate_of
        self.coords.note(event.peers, coordinate_of)
        for peer in self.links.on_telemetry(event.peers, now):
            link = self.peers.link_of(peer)
            if link is not None:
                reason = "neither side needs this link"
                turn.do(CloseLink(link=link.link, code=limits.CLOSE_IDLE, reason=reason))
        if self.links.is_full_mesh:
            return
        self._rtts = {sample.peer: sample.rtt_us for sample in event.peers if sample.rtt_us}
        linked = self.peers.linked()
        near = self.links.choose_near(dict.fromkeys(linked), self._distance, now)
        self.peers.dial(near, turn)
        if len(linked) < limits.VIEW_MIN:
            self.peers.explore(limits.EXPLORE_DIALS, turn)
        elif now >= self._reached_out_at + limits.REACH_OUT_NS:
            self._reached_out_at = now
            self.peers.explore(1, turn, self.membership.live)
        self._tell(linked, turn)

    def estimate(self, peer: PeerId) -> int | None:
        """The round trip to a peer by the map, in microseconds; None where the map is blank."""
        told = self._coordinate_of(peer)
        return self.coords.estimate(told) if told else None

    def _distance(self, peer: PeerId) -> int | None:
        return self._rtts.get(peer) or self.estimate(peer)

    def _tell(self, peers: list[PeerId], turn: Turn) -> None:
        said = self.links.tell(peer for peer in peers if self.peers.has_link(peer))
        for peer, is_kept in said:
            turn.do(SendMessage(peer=peer, body=encode_message(Keep(is_kept))))

    # -- records --------------------------------------------------------------------------------

    def learn(self, member: Member, turn: Turn) -> None:
        """A member's node record came: where it can be dialled."""
        self.peers.learn(member.peer, member.info.addresses, turn)

    def advance(self, turn: Turn) -> bool:
        """State and do what follows from the records; True when who is alive changed."""
        is_changed = self.membership.advance(turn)
        if is_changed:
            came, is_moved = self._follow_live()
            self.peers.end_backoff(came, turn)
            if is_moved or self.links.is_full_mesh:
                self._watch(turn.now.mono)
                self.peers.dial(self.links.wanted() or [], turn)
        return is_changed

    def _follow_live(self) -> tuple[list[PeerId], bool]:
        live = self.membership.live
        moved = self.membership.take_moved()
        self._moved += moved
        came = [peer for peer in moved if peer in live]
        return came, self.links.note_live(came, [peer for peer in moved if peer not in live])

    def take_moved(self) -> list[PeerId]:
        """Who came to life or ceased to, as the records say, since the last call."""
        moved, self._moved = self._moved, []
        return moved

    def _watch(self, now: Nanos) -> None:
        wanted = self.links.wanted()
        self.membership.watch(self.membership.members() if wanted is None else wanted, now)
