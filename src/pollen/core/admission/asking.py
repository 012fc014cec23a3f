"""How a member whose lease ran out gets a new one: a laptop that slept for two months.

Decides: whom to ask over ``pollen-join/1``, when, and what the answer is worth. A node whose own
    clock is in doubt asks as well: every answer holds the time of the node that gave it.
Does not know: links (nobody admits us now); who signs (``redeeming``) or carries (``carrying``).
Invariants: one new question at a time; an earlier one may still wait for its answer. While nobody
    answers, all known peers are asked in turn, for ever, with a growing wait. A key that is denied
    as far as we know does not ask. An answer is judged like a Hello of our own: it can give a lease
    and nothing else.
Source: docs/design/protocol.md#trust (an expired lease may still speak ``pollen-join/1``, for
renewal only).
"""

from __future__ import annotations

from pollen.core import limits, timers
from pollen.core.admission.invites import JoinReply, JoinRequest
from pollen.core.clocks import Clocks
from pollen.core.codec import Rejection, decode, encode
from pollen.core.effects import AskJoin, Log, SetTimer
from pollen.core.events import JoinAnswered
from pollen.core.ids import Nanos, PeerId, short
from pollen.core.peers import Peers
from pollen.core.trust import Trust
from pollen.core.turn import Turn


class Asking:
    """This node's own lease, once it is too late for anybody to renew it unasked."""

    def __init__(self, own: PeerId, trust: Trust, peers: Peers, clocks: Clocks) -> None:
        self._own = own
        self._trust = trust
        self._peers = peers
        self._clocks = clocks
        self._next = Nanos(0)
        self._asked = 0

    def on_jump(self) -> None:
        """The clock may be right now: what was answered before says nothing, so ask at once."""
        self._asked, self._next = 0, Nanos(0)

    def settle(self, turn: Turn) -> None:
        """Ask the next peer when it is time: for a lease, or for the time when that is in doubt."""
        is_well = self._own in self._trust.current and not self._clocks.is_in_doubt
        if is_well or self._trust.is_denied(self._own):
            self._asked, self._next = 0, Nanos(0)
            return
        if turn.now.mono < self._next:
            return
        known = self._peers.dialable()
        wait = min(limits.ASK_LEASE_FIRST_NS << min(self._asked, 16), limits.ASK_LEASE_MAX_NS)
        self._next = Nanos(turn.now.mono + wait)
        if known:
            peer, addresses = known[self._asked % len(known)]
            self._asked += 1
            request = JoinRequest(b"", "", self._trust.credentials_of(self._own))
            turn.do(AskJoin(peer=peer, addresses=addresses, body=encode(request)))
        turn.do(SetTimer(token=timers.token_for(timers.ASK), at=self._next))

    def on_answered(self, event: JoinAnswered, turn: Turn) -> None:
        """A peer answered: a lease, a refusal, or nothing worth anything. Its clock is noted."""
        why, chain = event.slug, b""
        reply = decode(JoinReply, event.body, "join-reply")
        if not why:
            why = reply.kind if isinstance(reply, Rejection) else reply.slug
        if isinstance(reply, JoinReply):
            chain = b"" if why else reply.chain
            # Who lost its disk knows nobody by records before it is let in.
            if event.peer in self._trust.certificates or event.peer in self._trust.shown():
                self._clocks.note_member(event.peer, reply.wall)
        shown = self._trust.take_shown(self._own, chain) if chain else None
        if isinstance(shown, Rejection):
            why = shown.kind
        name = "lease-refused" if why else "lease-renewed"
        fields: dict[str, str | int] = {"peer": short(event.peer), "slug": why}
        turn.do(Log(level="warning" if why else "info", event=name, fields=fields))
