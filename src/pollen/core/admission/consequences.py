"""What follows from who is a member: who is let in, which links end, which leases are signed.

Decides: the verdict on a Hello, the links to close, the Hello of this node itself, new leases.
Does not know: what makes a member (``members``, ``trust``), records beyond publishing its own.
Invariants: in the turn in which a deny, a lease's end or an access deadline is seen, the link to
    whom it ends is closed. A stranger is refused before its version is looked at, and always alike.
    One timer wakes the node at the next wall time that matters, and every event looks as well, so
    that a jump of the clock is seen at once.
Source: docs/design/protocol.md#trust; docs/internals/trust.md#the-hello.
"""

from __future__ import annotations

from collections.abc import Mapping

from pollen.core import limits, timers
from pollen.core.admission.acts import is_over
from pollen.core.admission.asking import Asking
from pollen.core.admission.lending import Lending
from pollen.core.admission.redeeming import Redeeming
from pollen.core.clocks import Clocks
from pollen.core.codec import Rejection, encode
from pollen.core.config import NodeConfig
from pollen.core.durability import chain_row
from pollen.core.effects import CloseLink, Log, SetHello, SetTimer
from pollen.core.events import Event, HelloReceived, JoinAnswered
from pollen.core.ids import ClusterId, Hash, LinkId, Nanos, PeerId, short
from pollen.core.kinds import ACT, CERT, DENY, LEASE, POLICY
from pollen.core.labels import denied_text
from pollen.core.peers import Mesh
from pollen.core.records import Records
from pollen.core.trust import Certificate, Chain, HeldLease, Members, Trust
from pollen.core.turn import Handler, Room, Turn
from pollen.errors import PollenError

_REASONS = {
    limits.CLOSE_NOT_A_MEMBER: "not a member",
    limits.CLOSE_VERSION_MISMATCH: "no version in common",
    limits.CLOSE_DENIED: "access has ended",
}


class Consequences(Room):
    """The consequences of membership on one node."""

    def __init__(
        self,
        config: NodeConfig,
        members: Members,
        mesh: Mesh,
        redeeming: Redeeming,
        records: Records,
        clocks: Clocks,
    ) -> None:
        self._config = config
        self._members = members
        self._mesh = mesh
        self._peers = mesh.peers
        self._clocks = clocks
        self._redeeming = redeeming
        self._records = records
        self._leasing = Lending(config.node, members.trust)
        self._renewing = Asking(config.node, members.trust, mesh.peers, clocks)
        self._shown = config.chain
        self._is_lender = False
        self._alarm = Nanos(0)

    @staticmethod
    def own_certificate(config: NodeConfig, trust: Trust) -> Certificate:
        """The certificate that this node begins with. Raises ``PollenError``
        (``state-unusable``)."""
        chain = trust.take_shown(config.node, config.chain)
        if isinstance(chain, Chain):
            trust.declare(config.node, chain.carried)
            return chain.leaf
        raise PollenError(
            "state-unusable",
            f"this node's own certificate does not hold ({chain.kind})",
            "join again with a new token: pln purge, then pln join TOKEN",
        )

    def events(self) -> Mapping[type[Event], Handler]:
        """Answers to this node's own questions for a lease."""
        return {JoinAnswered: self._renewing.on_answered}

    def timers(self) -> Mapping[str, Handler]:
        """The next wall time at which somebody's membership may end."""
        return {timers.ACCESS: self.on_timer}

    def start(self, turn: Turn) -> None:
        """Publish this node's chain, unless it stands already, and its lease, unless some record
        has one: who was never linked with it is shown nothing else.
        """
        own, trust = self._config.node, self._members.trust
        chain, lease = trust.chain_of(own), trust.lease_of(own)
        held = self._records.find(own, CERT, b"")
        if chain is not None and (held is None or held.body.payload != chain.raw):
            turn.publish(CERT, b"", chain.raw)
        if lease is not None and not any(r.body.key == own for r in self._records.live_of(LEASE)):
            turn.publish(LEASE, own, encode(lease.carried))

    def _hello(self) -> SetHello:
        return SetHello(
            cluster=Hash(self._config.cluster),
            minor_min=limits.MINOR_MIN,
            minor_max=limits.MINOR_MAX,
            chain=self._shown,
        )

    # -- links ----------------------------------------------------------------------------------

    def admits(self, event: HelloReceived, turn: Turn) -> bool:
        """False for a link that must not be: it is closed, and the fault counted."""
        fault = self._fault_of(event, turn.now.wall)
        if fault is None:
            return True
        code, rejection = fault
        denier = self._denier(event.peer) if rejection.kind == "denied" else ""
        turn.do(_close(event.link, code, denier))
        turn.note(rejection, event.peer)
        if rejection.kind == "lease-ended" and self._clocks.is_in_doubt and event.remote:
            # It may be our clock: a node without records can ask nobody else for the time.
            self._peers.learn(event.peer, [event.remote], turn)
        return False

    def _fault_of(self, event: HelloReceived, wall: Nanos) -> tuple[int, Rejection] | None:
        """Membership first, so that a stranger learns nothing; then the version."""
        if ClusterId(event.cluster) != self._config.cluster:
            return limits.CLOSE_NOT_A_MEMBER, Rejection("hello-of-another-cluster")
        admitted = self._members.trust.admit(event.peer, event.chain, wall)
        if isinstance(admitted, Rejection):
            return limits.CLOSE_NOT_A_MEMBER, admitted
        if event.minor_max < limits.MINOR_MIN or event.minor_min > limits.MINOR_MAX:
            spoken = f"{event.minor_min}..{event.minor_max}"
            return limits.CLOSE_VERSION_MISMATCH, Rejection("hello-version", spoken)
        return None

    def on_linked(self, peer: PeerId) -> None:
        """A member came into sight: its lease may be overdue."""
        if self._is_lender:
            self._leasing.note(peer, self._is_seen)

    def _is_seen(self, peer: PeerId) -> bool:
        return self._peers.has_link(peer) or peer in self._mesh.membership.live

    def _cut(self, peer: PeerId, turn: Turn) -> None:
        link = self._peers.link_of(peer)
        if link is None or self._members.is_current(peer):
            return
        why = "denied" if self._members.trust.is_denied(peer) else "membership-ended"
        turn.do(_close(link.link, limits.CLOSE_DENIED, self._denier(peer)))
        turn.do(Log(level="warning", event=why, fields={"peer": short(peer)}))

    def _denier(self, peer: PeerId) -> str:
        """The name of who denied a former member; it hears that, and not for what reason."""
        trust = self._members.trust
        chain = trust.chain_of(peer) if trust.is_denied(peer) else None
        killer = None if chain is None else trust.killer_of(chain)
        if killer is None:
            return ""
        issuer = PeerId(killer.deny.issuer)
        return "the root" if issuer in trust.roots else self._members.name_of(issuer)

    def on_jump(self, *, is_earlier: bool) -> None:
        """The clock jumped; ``is_earlier``: what had ended has not, and what is due may not be."""
        self._renewing.on_jump()
        if is_earlier and self._is_lender:
            self._leasing.note_all(self._is_seen)

    # -- what changed ---------------------------------------------------------------------------

    def settle(self, turn: Turn) -> list[PeerId]:
        """Carry out what changed since the last turn, and return whose standing did."""
        wall = turn.now.wall
        changed = self._members.take_changed(wall)
        for peer in changed:
            self._cut(peer, turn)
            if peer == self._config.node:
                self._on_own(turn)
        for peer in self._members.trust.take_voided():
            turn.do(Log(level="warning", event="deny-void", fields={"peer": short(peer)}))
        if self._is_lender:
            for payload in self._members.trust.take_buried():
                self.publish_deny(payload, turn)
            policy = self._members.trust.publishers.take_owed(self._members.trust.admins)
            if policy is not None:
                turn.publish(POLICY, *policy)
            for peer in changed:
                self._leasing.note(peer, self._is_seen)
            for peer in self._leasing.take_due(wall, self._is_seen):
                self._lend(peer, turn)
        self._renewing.settle(turn)
        self._wake(turn)
        return changed

    def _on_own(self, turn: Turn) -> None:
        """Our own certificate or lease changed: show it, and lend when we may."""
        is_lender = self._redeeming.is_lender()
        if is_lender and not self._is_lender:
            self._leasing.note_all(self._is_seen)
        self._is_lender = is_lender
        shown = self._members.trust.credentials_of(self._config.node)
        if shown == self._shown or not self._members.is_current(self._config.node):
            return
        self._shown = shown
        self.start(turn)
        turn.write_last(chain_row(shown))
        turn.do(self._hello())

    def _lend(self, peer: PeerId, turn: Turn) -> None:
        chain = self._members.trust.chain_of(peer)
        if chain is not None:
            self.publish_lease(self._redeeming.lend(chain, turn.now.wall), turn)

    def publish_lease(self, held: HeldLease, turn: Turn) -> None:
        """Spread a lease that this node signed."""
        turn.publish(LEASE, held.lease.subject, encode(held.carried))

    def forget(self, turn: Turn) -> None:
        """Take back leases of this node that ended long ago, and acts that were kept for a year."""
        own, wall = self._config.node, turn.now.wall
        for record in [r for r in self._records.live_of(LEASE) if r.body.owner == own]:
            ends = self._members.trust.end_of_lease(record.body.payload)
            if ends is not None and wall >= ends + limits.LEASE_KEEP_NS:
                turn.publish(LEASE, record.body.key, None)
        for record in [r for r in self._records.live_of(ACT) if r.body.owner == own]:
            if is_over(record.body.payload, wall):
                turn.publish(ACT, record.body.key, None)

    def publish_deny(self, payload: bytes, turn: Turn) -> None:
        """Spread a deny, whoever signed it."""
        turn.publish(DENY, Trust.deny_key(payload), payload)

    def _wake(self, turn: Turn) -> None:
        """One timer for the next wall time at which something may end or be due."""
        now = turn.now
        times = [self._members.trust.next_end]
        if self._is_lender:
            times.append(self._leasing.next_due)
        known = [at for at in times if at is not None]
        if not known:
            return
        at = min(known)
        if at == self._alarm and at > now.wall:
            return
        self._alarm = at
        wait = min(max(at - now.wall, 0), limits.STANDING_WAKE_MAX_NS)
        token = timers.token_for(timers.ACCESS)
        turn.do(SetTimer(token=token, at=Nanos(now.mono + wait)))

    def on_timer(self, subject: bytes, turn: Turn) -> None:
        """The alarm fired: the next one is set again."""
        self._alarm = Nanos(0)


def _close(link: LinkId, code: int, denier: str = "") -> CloseLink:
    return CloseLink(link=link, code=code, reason=denied_text(denier) if denier else _REASONS[code])
