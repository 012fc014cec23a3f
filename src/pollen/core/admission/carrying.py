"""Who answers a joiner: this node, or a linked one to which the request is carried.

Decides: where a request of ``pollen-join/1`` is answered, and what the joiner hears when nobody is.
Does not know: what a token must say (``invites``), how it is redeemed (``redeeming``).
Invariants: each request is answered once: by us, by what came back, or when the wait ends. Who is
    carried to answers or refuses, and carries no further. An answer that promises something leaves
    when it is on disk.
Source: docs/design/protocol.md#invites. Known: a carrier sees the
    token of somebody who is not a member yet, and could use it first; a token bound to a key has no
    such weakness.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import msgspec

from pollen.core import limits, timers
from pollen.core.admission import invites
from pollen.core.admission.acts import publish_act
from pollen.core.admission.consequences import Consequences
from pollen.core.admission.invites import Invite
from pollen.core.admission.redeeming import Redeeming
from pollen.core.clocks import Clocks
from pollen.core.codec import Refusal, decode, encode
from pollen.core.commands import InviteCommand, Invited
from pollen.core.disk import Disk
from pollen.core.effects import AnswerJoin, Effect, Log, SendMessage, SetTimer
from pollen.core.events import Event, JoinRequested
from pollen.core.ids import Nanos, Now, PeerId, RequestId, short
from pollen.core.messages import JoinCarried, JoinReturned, Message, encode_message
from pollen.core.peers import Peers
from pollen.core.trust import Tier
from pollen.core.turn import Asked, Handler, Heard, Room, Turn


class Carried(msgspec.Struct, frozen=True, kw_only=True):
    """A request that waits for another node's answer."""

    request: RequestId
    carrier: PeerId


class Carrying(Room):
    """The door for those who are no members yet, or no more."""

    def __init__(
        self,
        redeeming: Redeeming,
        consequences: Consequences,
        addresses: Callable[[], list[str]],
        peers: Peers,
        clocks: Clocks,
        disk: Disk,
    ) -> None:
        self._own = redeeming.own
        self._redeeming = redeeming
        self._trust = redeeming.trust
        self._consequences = consequences
        self._addresses = addresses
        self._peers = peers
        self._clocks = clocks
        self._disk = disk
        self._waiting: dict[bytes, Carried] = {}
        self._count = 0

    def events(self) -> Mapping[type[Event], Handler]:
        """Joiners."""
        return {JoinRequested: self.on_join}

    def messages(self) -> Mapping[type[Message], Handler]:
        """Requests that members carry, and their answers."""
        return {JoinCarried: self.on_carried, JoinReturned: self.on_returned}

    def commands(self) -> Mapping[type[object], Handler]:
        """To make a token."""
        return {InviteCommand: self.on_invite}

    def timers(self) -> Mapping[str, Handler]:
        """The end of a wait for somebody who was carried to."""
        return {timers.JOIN: self.on_timer}

    def on_invite(self, asked: Asked, turn: Turn) -> None:
        """A user wants a token."""
        turn.answer(asked.request, self.invite(asked.command, turn.now))

    def invite(self, command: InviteCommand, now: Now) -> Invited | Refusal:
        """A token that leads here, or through somebody linked."""
        addresses, known = self._addresses(), self._peers.dialable()
        return self._redeeming.invite(command, addresses, known, now.wall)

    # -- asked by a joiner ----------------------------------------------------------------------

    def on_join(self, event: JoinRequested, turn: Turn) -> None:
        """Answer a joiner, or carry its request to who can."""
        carrier = self._carrier_of(event.body)
        if carrier is None:
            answer = partial(_answer, event.request)
            self._redeem(event.body, event.peer, answer, turn)
            return
        if not self._peers.has_link(carrier) or len(self._waiting) >= limits.CARRIED_MAX:
            turn.do(self._refusal(event.request, carrier))
            return
        self._count += 1
        key = self._count.to_bytes(8, "big")
        self._waiting[key] = Carried(request=event.request, carrier=carrier)
        message = JoinCarried(key, event.peer, event.body)
        turn.do(SendMessage(peer=carrier, body=encode_message(message)))
        at = Nanos(turn.now.mono + limits.CARRY_WAIT_NS)
        turn.do(SetTimer(token=timers.token_for(timers.JOIN, key), at=at))

    def _carrier_of(self, body: bytes) -> PeerId | None:
        """The node that must answer in our stead; None when we do, be it with a refusal."""
        request = self._redeeming.read(body)
        if isinstance(request, Refusal):
            return None
        if not isinstance(request, Invite):
            return None if self._redeeming.is_lender() else self._linked_admin()
        issuer = PeerId(request.issuer)
        if issuer == self._own or request.cluster != self._redeeming.issuer().cluster:
            return None
        if not request.subject:
            return issuer
        if self._redeeming.is_lender() and request.tier < Tier.ADMIN:
            return None
        return issuer if self._peers.has_link(issuer) else self._linked_admin()

    def _linked_admin(self) -> PeerId | None:
        linked = [peer for peer in self._trust.admins if self._peers.has_link(peer)]
        return min(linked, default=None)

    def _redeem(
        self, body: bytes, joiner: PeerId, answer: Callable[[bytes], Effect], turn: Turn
    ) -> None:
        """Answer a request; what the answer promises is on disk before it leaves. A disk that takes
        nothing refuses at once, and the token stays good."""
        if self._disk.is_troubled:
            reason = f"the disk of node {short(self._own)} takes nothing, so nobody can be let in"
            refusal = Refusal("storage-full", reason, "there: pln doctor; then join again")
            turn.do(answer(self._timed(invites.refuse_join(refusal))))
            return
        own = (self._own, self._addresses())
        peers = [own, *self._peers.dialable()]
        redeemed = self._redeeming.redeem(body, joiner, peers, turn.now.wall)
        if redeemed.lease is not None:
            self._consequences.publish_lease(redeemed.lease, turn)
        if redeemed.admitted:
            key, detail = redeemed.admitted
            publish_act(turn, "admit", joiner, detail, key)
        turn.write(*redeemed.rows)
        said = answer(self._timed(redeemed.reply))
        if redeemed.rows:
            turn.do_when_durable(said)
        else:
            turn.do(said)
        slug = redeemed.reply.slug
        fields: dict[str, str | int] = {"peer": short(joiner), "slug": slug}
        turn.do(Log(level="info", event="join-refused" if slug else "join", fields=fields))

    # -- between members ------------------------------------------------------------------------

    def on_carried(self, heard: Heard, turn: Turn) -> None:
        """A member brings somebody's request: redeem it here or refuse it here."""
        message: JoinCarried = heard.message
        answer = partial(_give_back, heard.peer, message.key)
        self._redeem(message.body, message.joiner, answer, turn)

    def on_returned(self, heard: Heard, turn: Turn) -> None:
        """The answer to what we carried; from anybody else, or late, it is nothing."""
        message: JoinReturned = heard.message
        waiting = self._waiting.get(message.key)
        if waiting is None or waiting.carrier != heard.peer:
            return
        del self._waiting[message.key]
        body = message.body[: limits.JOIN_MAX_BYTES]
        reply = decode(invites.JoinReply, body, "join-reply")
        if isinstance(reply, invites.JoinReply):
            # Who asks takes the time from us: passed on, one clock would vote many times.
            body = self._timed(reply)
        turn.do(AnswerJoin(request=waiting.request, body=body))

    def _timed(self, reply: invites.JoinReply) -> bytes:
        return encode(msgspec.structs.replace(reply, wall=self._clocks.raw_wall))

    def on_timer(self, key: bytes, turn: Turn) -> None:
        """Whom we carried to did not answer in time."""
        waiting = self._waiting.pop(key, None)
        if waiting is not None:
            turn.do(self._refusal(waiting.request, waiting.carrier))

    def _refusal(self, request: RequestId, carrier: PeerId) -> AnswerJoin:
        refusal = Refusal(
            "unreachable",
            f"node {short(carrier)} must answer this, and it cannot be reached from here",
            "try again when it is up, or ask another admin for a token: pln invite",
        )
        return AnswerJoin(request=request, body=self._timed(invites.refuse_join(refusal)))


def _answer(request: RequestId, body: bytes) -> Effect:
    return AnswerJoin(request=request, body=body)


def _give_back(carrier: PeerId, key: bytes, body: bytes) -> Effect:
    return SendMessage(peer=carrier, body=encode_message(JoinReturned(key, body)))
