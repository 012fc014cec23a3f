"""Who is a member and who is not any more, and what admins did: as a person asks for it.

Decides: the one word for how a member stands, and the order of acts.
Does not know: what makes a member (``trust``), how acts are written (``admission``).
Invariants: a question changes nothing. Everything shown was proved, but for the detail of an act,
    which is its author's word.
Source: docs/design/protocol.md#grants-and-denies; docs/internals/control-api.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from pollen.core.admission import Act
from pollen.core.commands import Acts, ActView, AuditCommand, MemberList, MembersCommand, MemberView
from pollen.core.desk.views import Screen, absence_of
from pollen.core.ids import MILLISECOND, Now, PeerId
from pollen.core.records import Record
from pollen.core.trust import Tier
from pollen.core.turn import Asked, Handler, Room, Turn


class Roster(Room):
    """``acts`` are the records of acts that this node holds."""

    def __init__(
        self, screen: Callable[[Now], Screen], acts: Callable[[], Iterable[Record]]
    ) -> None:
        self._screen = screen
        self._acts = acts

    def commands(self) -> Mapping[type[object], Handler]:
        """Both questions."""
        return {MembersCommand: self.on_members, AuditCommand: self.on_audit}

    def on_members(self, asked: Asked, turn: Turn) -> None:
        """Everybody of whom a certificate is known."""
        screen = self._screen(turn.now)
        trust = screen.members.trust
        root = list(trust.roots)[-1]
        views = [view for peer in trust.known() if (view := member_view(screen, peer)) is not None]
        turn.answer(asked.request, MemberList(root=root.hex(), members=views))

    def on_audit(self, asked: Asked, turn: Turn) -> None:
        """The newest acts of everybody."""
        screen, command = self._screen(turn.now), asked.command
        decoded = [(r.body.owner, Act.read(r.body.payload)) for r in self._acts()]
        acts = [(act.wall, owner, act) for owner, act in decoded if isinstance(act, Act)]
        newest = sorted(acts, key=lambda row: (row[0], row[1]), reverse=True)
        most = max(command.most, 0)
        views = [act_view(screen, owner, act) for _, owner, act in newest[:most]]
        turn.answer(asked.request, Acts(acts=views))


def member_view(screen: Screen, peer: PeerId) -> MemberView | None:
    """How one key stands; None for one of which no chain is known."""
    members, trust = screen.members, screen.members.trust
    chain = trust.chain_of(peer)
    if chain is None:
        return None
    leaf = chain.leaf
    issuer = PeerId(leaf.issuer)
    killer = trust.killer_of(chain) if trust.is_denied(peer) else None
    return MemberView(
        node=peer.hex(),
        name=members.name_of(peer),
        state=_state_of(screen, peer),
        tier=Tier(leaf.tier).label,
        properties=leaf.properties,
        issuer=issuer.hex(),
        issuer_name="the root" if issuer in trust.roots else members.name_of(issuer),
        generation=leaf.generation,
        access_until_unix_ms=leaf.access_deadline // MILLISECOND,
        member_until_unix_ms=trust.ends(peer) // MILLISECOND,
        denied_by="" if killer is None else _namer(screen, PeerId(killer.deny.issuer)),
        denied_unix_ms=0 if killer is None else killer.deny.issued // MILLISECOND,
        reason=""
        if killer is None
        else _why(screen, peer, PeerId(killer.deny.subject)) or killer.deny.reason,
    )


def _state_of(screen: Screen, peer: PeerId) -> str:
    members = screen.members
    if members.trust.is_denied(peer):
        return "denied"
    if not members.is_current(peer):
        return "ended"
    if peer == screen.node:
        return "self"
    return "online" if peer in screen.situation.live else absence_of(screen, peer)


def _why(screen: Screen, peer: PeerId, denied: PeerId) -> str:
    """Who fell with somebody above says so."""
    return "" if denied == peer else f"it stood below {screen.members.name_of(denied)}"


def _namer(screen: Screen, peer: PeerId) -> str:
    return "the root" if peer in screen.members.trust.roots else screen.members.name_of(peer)


def act_view(screen: Screen, owner: PeerId, act: Act) -> ActView:
    """One act as it is shown."""
    subject = PeerId(act.subject)
    return ActView(
        at_unix_ms=act.wall // MILLISECOND,
        by=owner.hex(),
        by_name=screen.members.name_of(owner),
        verb=act.verb,
        subject=subject.hex(),
        subject_name=_namer(screen, subject),
        detail=act.detail,
    )
