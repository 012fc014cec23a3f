"""Members are granted more or less, denied, and let in again: what an admin asks for, carried out.

Decides: whom a word names, what falls with whom, in which order the documents are told.
Does not know: how the documents are made (``grants``) and judged (``trust``); who seeds what (it is
    told).
Invariants: a command that is refused, or that only asks, tells nothing. A grant leaves before the
    deny that goes with it, so that nobody who hears of both in their order is without authority in
    between. Each act is a record of its own, kept for a year.
Source: docs/design/protocol.md#grants-and-denies.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pollen.core.admission.acts import act_key, publish_act
from pollen.core.admission.grants import (
    Change,
    Desk,
    Grant,
    plan_deny,
    plan_grant,
    signer_for,
)
from pollen.core.admission.policies import Names, PublisherPolicies
from pollen.core.admission.redeeming import Redeeming
from pollen.core.admission.releases import Releases
from pollen.core.admission.rooted import Rooted
from pollen.core.codec import Refusal, Rejection, Signed
from pollen.core.commands import Denied, DenyCommand, Fallen, GrantCommand, Granted, UndenyCommand
from pollen.core.ids import (
    MILLISECOND,
    SIGNATURE_BYTES,
    KeyRole,
    Nanos,
    PeerId,
    Sign,
    Verify,
    short,
)
from pollen.core.kinds import DENY, GRANT
from pollen.core.properties import check_properties
from pollen.core.rng import Rng
from pollen.core.trust import Chain, Members, RootRequest, Tier, Trust
from pollen.core.turn import Asked, Handler, Room, Turn


class Holdings(Names, Protocol):
    """What hangs on members."""

    def held_by(self, peers: Collection[PeerId]) -> tuple[list[str], int]:
        """The names of the seeds that they published, and how many replicas they host."""


class Granting(Room):
    """The administrative acts of this node. ``holdings`` tells what hangs on members, and
    ``services_of`` which names nobody but them serves."""

    def __init__(
        self,
        members: Members,
        redeeming: Redeeming,
        sign: Sign,
        verify: Verify,
        rng: Rng,
        holdings: Holdings,
        services_of: Callable[[Collection[PeerId]], list[str]],
    ) -> None:
        self._members = members
        self._trust = members.trust
        self._redeeming = redeeming
        self._sign = sign
        self._rng = rng
        self._holds, self._services_of = holdings.held_by, services_of
        self._policies = PublisherPolicies(
            members, redeeming, sign, holdings, self._request, self._note
        )
        self._releases = Releases(self._trust, redeeming, sign, verify, self._note)
        self._rooted = Rooted(
            members,
            redeeming,
            sign,
            verify,
            self._publish_chain,
            self._policies.tell,
            self._note,
        )

    def commands(self) -> Mapping[type[object], Handler]:
        """To grant, to deny and to let in again; what has to do with the root key."""
        return {
            GrantCommand: self.on_grant,
            DenyCommand: self.on_deny,
            UndenyCommand: self.on_undeny,
            **self._rooted.commands(),
            **self._policies.commands(),
            **self._releases.commands(),
        }

    # -- grant ----------------------------------------------------------------------------------

    def on_grant(self, asked: Asked, turn: Turn) -> None:
        """Give a member another certificate."""
        command: GrantCommand = asked.command
        answer = self._grant(command, turn)
        turn.answer(asked.request, answer, when_durable=not command.dry_run)

    def _grant(self, command: GrantCommand, turn: Turn) -> Granted | Refusal:
        peer = self._members.find_named(command.target)
        if isinstance(peer, Refusal):
            return peer
        chain = self._trust.chain_of(peer)
        if chain is None or peer not in self._trust.certificates:
            return _denied_already(peer)
        change = _change_of(command)
        if isinstance(change, Refusal):
            return change
        planned = plan_grant(self._desk(command.by_root), chain, change, turn.now.wall)
        if isinstance(planned, Refusal):
            return planned
        if command.by_root and planned is not None:
            return self._asked_of_root(peer, chain, planned, turn)
        if planned is not None and _narrows(chain, planned):
            refusal = self._leaves_no_admin([peer, *self._members.below([peer])])
            if refusal is not None:
                return refusal
        return self._told(peer, chain, planned, "grant", turn, is_asked=command.dry_run)

    def on_undeny(self, asked: Asked, turn: Turn) -> None:
        """Let a denied member in again, with what it had."""
        command: UndenyCommand = asked.command
        peer = self._members.find_named(command.target)
        by_root = command.by_root
        answer = peer if isinstance(peer, Refusal) else self._undeny(peer, by_root, turn)
        turn.answer(asked.request, answer, when_durable=True)

    def _undeny(self, peer: PeerId, by_root: bool, turn: Turn) -> Granted | Refusal:
        chain = self._trust.chain_of(peer)
        name = self._members.name_of(peer)
        if peer in self._trust.certificates:
            return Refusal("bad-request", f"{name} is not denied", "pln members shows who is")
        if chain is None:
            text = f"no certificate of {short(peer)} is known here"
            return Refusal("peer-not-found", text, "let it join with a new token: pln invite")
        planned = plan_grant(self._desk(by_root), chain, Change(), turn.now.wall)
        if isinstance(planned, Refusal):
            return planned
        if by_root and planned is not None:
            return self._asked_of_root(peer, chain, planned, turn)
        return self._told(peer, chain, planned, "undeny", turn, is_asked=False)

    def _told(
        self,
        peer: PeerId,
        before: Chain,
        grant: Grant | None,
        verb: str,
        turn: Turn,
        *,
        is_asked: bool,
    ) -> Granted | Refusal:
        """Tell a planned grant unless it was only asked about, and say what comes of it."""
        answer = self._answer(peer, before, grant)
        if grant is None or is_asked:
            return answer
        refusal = self._publish(peer, grant, turn)
        if refusal is not None:
            return refusal
        detail = f"{answer.tier} {answer.properties}"
        self._note(verb, peer, detail, turn)
        return answer

    def _answer(self, peer: PeerId, before: Chain, grant: Grant | None) -> Granted:
        leaf = before.leaf if grant is None else grant.certificate
        takes = [] if grant is None else grant.takes
        is_less = grant is not None and _narrows(before, grant)
        below = self._members.below([peer]) if is_less else []
        falls = [self._below(child, peer) for child in below]
        return Granted(
            node=peer.hex(),
            name=self._members.name_of(peer),
            tier=Tier(leaf.tier).label,
            properties=leaf.properties,
            access_until_unix_ms=leaf.access_deadline // MILLISECOND,
            generation=leaf.generation,
            takes=takes,
            falls=falls,
            changed=grant is not None,
        )

    def _publish(self, peer: PeerId, grant: Grant, turn: Turn) -> Refusal | None:
        refusal = self._publish_chain(peer, grant.chain, turn)
        if refusal is None and grant.deny is not None:
            turn.publish(DENY, Trust.deny_key(grant.deny), grant.deny)
        return refusal

    def _publish_chain(self, peer: PeerId, carried: list[Signed], turn: Turn) -> Refusal | None:
        chain = self._trust.judge(peer, carried)
        if isinstance(chain, Rejection):
            return Refusal("internal", f"what this node signed does not hold: {chain.kind}", "")
        held = self._redeeming.lend(chain, turn.now.wall)
        turn.publish(GRANT, peer, self._trust.credentials_with(chain, held))
        return None

    # -- asking the root elsewhere --------------------------------------------------------------

    def _asked_of_root(
        self, peer: PeerId, before: Chain, grant: Grant, turn: Turn
    ) -> Granted | Refusal:
        """The answer of a grant that only the root signs, with the request to it."""
        papers = self._papers(peer, before, grant.chain, grant.deny or b"")
        request = self._request(papers, turn)
        if isinstance(request, Refusal):
            return request
        return msgspec.structs.replace(self._answer(peer, before, grant), request=request)

    def _papers(
        self, peer: PeerId, before: Chain, chain: Sequence[Signed], deny: bytes
    ) -> Sequence[msgspec.Struct]:
        known = self._trust.verdicts_of(peer)
        return RootRequest.papers_of(self._members.name_of(peer), before, known, chain, deny)

    def _request(self, papers: Sequence[Any], turn: Turn) -> str | Refusal:
        issuer, root = self._redeeming.issuer(), list(self._trust.roots)[-1]
        if len(papers) > RootRequest.PAPERS_MAX:
            text = f"the root would have to sign {len(papers)} documents at once"
            return _too_much(text, f"at most {RootRequest.PAPERS_MAX}")
        request = RootRequest(issuer.cluster, root, issuer.node, turn.now.wall, [*papers])
        sealed = request.sealed(self._sign)
        if len(sealed) > RootRequest.BYTES_MAX:
            text = f"the request to the root would have {-(-len(sealed) // 1024)} KiB"
            return _too_much(text, f"at most {RootRequest.BYTES_MAX // 1024} KiB")
        return base64.b64encode(sealed).decode()

    # -- deny -----------------------------------------------------------------------------------

    def on_deny(self, asked: Asked, turn: Turn) -> None:
        """Deny members: all that were named, or none when one may not be."""
        command: DenyCommand = asked.command
        answer = self._deny(command, turn)
        turn.answer(asked.request, answer, when_durable=not command.dry_run)

    def _deny(self, command: DenyCommand, turn: Turn) -> Denied | Refusal:
        desk, planned = self._desk(command.by_root), {}
        for target in command.targets:
            peer = self._members.find_named(target)
            if isinstance(peer, Refusal):
                return peer
            payload = self._plan_deny(desk, peer, command.reason, turn.now.wall)
            if isinstance(payload, Refusal):
                return payload
            planned[peer] = payload
        kept = {} if command.cascade else self._kept(desk, planned, turn.now.wall)
        saved = {peer for peer, grant in kept.items() if isinstance(grant, Grant)}
        stays = {*saved, *planned}
        falls = [
            (peer, above)
            for above in planned
            for peer in self._members.below([above])
            if peer not in stays
        ]
        gone = [*planned, *(peer for peer, _ in falls)]
        seeds, replicas = self._holds(gone)
        answer = Denied(
            denied=[self._fallen(peer, "") for peer in planned],
            falls=[self._below(peer, above) for peer, above in falls],
            kept=[self._fallen(peer, "") for peer in sorted(saved)],
            seeds=seeds,
            services=self._services_of(gone),
            replicas=replicas,
        )
        if command.by_root:
            return self._denied_by_root(answer, planned, kept, turn)
        if command.dry_run:
            return answer
        for peer, grant in kept.items():
            if isinstance(grant, Grant):
                self._publish(peer, grant, turn)
                self._note("grant", peer, "kept when the one above it was denied", turn)
        for peer, payload in planned.items():
            turn.publish(DENY, Trust.deny_key(payload), payload)
            self._note("deny", peer, command.reason, turn)
        return answer

    def _denied_by_root(
        self,
        answer: Denied,
        planned: Mapping[PeerId, bytes],
        kept: Mapping[PeerId, Grant | Refusal],
        turn: Turn,
    ) -> Denied | Refusal:
        """The answer of a deny that only the root signs, with the request to it."""
        papers: list[Any] = []
        for peer, grant in kept.items():
            chain = self._trust.chain_of(peer)
            if isinstance(grant, Grant) and chain is not None:
                papers += self._papers(peer, chain, grant.chain, grant.deny or b"")
        for peer, payload in planned.items():
            chain = self._trust.chain_of(peer)
            papers += self._papers(peer, chain, (), payload) if chain is not None else ()
        request = self._request(papers, turn)
        if isinstance(request, Refusal):
            return request
        return msgspec.structs.replace(answer, request=request)

    def _plan_deny(self, desk: Desk, peer: PeerId, reason: str, wall: Nanos) -> bytes | Refusal:
        if peer == desk.issuer.node:
            remedy = "to leave: pln down, then pln purge; to be denied: ask another admin"
            return Refusal("bad-request", "a node does not deny itself", remedy)
        chain = self._trust.chain_of(peer)
        if chain is None or peer not in self._trust.certificates:
            return _denied_already(peer)
        # No tier is given, so that of a leaf is asked for; only the line of issuers counts.
        signer = signer_for(desk, chain, (), Tier.LEAF)
        if isinstance(signer, Refusal):
            return signer
        return plan_deny(desk, chain, signer, reason, wall)

    def _kept(
        self, desk: Desk, denied: Collection[PeerId], wall: Nanos
    ) -> dict[PeerId, Grant | Refusal]:
        """The members directly below those denied, each certified from here with what it has."""
        kept: dict[PeerId, Grant | Refusal] = {}
        for child in self._members.below(denied):
            chain = self._trust.chain_of(child)
            if chain is None or child in denied or chain.leaf.issuer not in denied:
                continue
            planned = plan_grant(desk, chain, Change(), wall, is_moved=True)
            if planned is not None:
                kept[child] = planned
        return kept

    # -- who ------------------------------------------------------------------------------------

    def _leaves_no_admin(self, gone: Collection[PeerId]) -> Refusal | None:
        """The refusal when nobody would be left who may grant; the root may ask for that."""
        held = [peer for peer in self._trust.admins if peer in self._trust.current]
        if not held or any(peer not in gone for peer in held):
            return None
        names = ", ".join(self._members.name_of(peer) for peer in held)
        reason = (
            f"no admin would be left without {names}: nobody could invite, grant, deny or renew"
        )
        remedy = "make another one first: pln grant PEER --admin; or ask the root: --request FILE"
        return Refusal("denied", reason, remedy)

    def _desk(self, by_root: bool) -> Desk:
        issuer = self._redeeming.issuer()
        if not by_root:
            return Desk(issuer=issuer, trust=self._trust, sign=self._sign)
        issuer = msgspec.structs.replace(issuer, signing_root=list(self._trust.roots)[-1])
        return Desk(issuer=issuer, trust=self._trust, sign=_blank, is_roots=True)

    def _below(self, peer: PeerId, above: PeerId) -> Fallen:
        return self._fallen(peer, f"stands below {self._members.name_of(above)}")

    def _fallen(self, peer: PeerId, why: str) -> Fallen:
        return Fallen(node=peer.hex(), name=self._members.name_of(peer), why=why)

    def _note(self, verb: str, peer: PeerId, detail: str, turn: Turn) -> None:
        """The record of an act, for ``pln audit``."""
        publish_act(turn, verb, peer, detail, act_key(turn.now.wall, self._rng.draw()))


def _blank(role: KeyRole, message: bytes) -> bytes:
    """Where the root's signature will stand, once it has signed elsewhere."""
    return bytes(SIGNATURE_BYTES)


def _narrows(before: Chain, grant: Grant) -> bool:
    """Whether what stands below a member may fall with what it has no more."""
    after = grant.certificate
    if before.leaf.tier < Tier.ADMIN:
        return False
    return after.tier < Tier.ADMIN or "access after the new end" in grant.takes


def _change_of(command: GrantCommand) -> Change | Refusal:
    tier: Tier | Refusal | None = Tier.parse(command.tier) if command.tier else None
    if isinstance(tier, Refusal):
        return tier
    text = check_properties(command.properties)
    if isinstance(text, Refusal):
        return text
    gives: dict[str, object] = msgspec.json.decode(text)
    both: Sequence[str] = [key for key in command.drops if key in gives]
    if both:
        reason = f"the property {both[0]!r} is set and taken away at once"
        return Refusal("bad-request", reason, "give it once")
    until = None
    if command.until_unix_ms >= 0:
        until = Nanos(command.until_unix_ms * MILLISECOND)
    return Change(tier=tier, gives=gives, drops=command.drops, until=until)


def _too_much(text: str, most: str) -> Refusal:
    remedy = f"{most}; ask in parts: name fewer members, or deny with what stands below and then,"
    remedy += " for each that stays: pln undeny PEER --request FILE"
    return Refusal("bad-request", text, remedy)


def _denied_already(peer: PeerId) -> Refusal:
    remedy = f"let it in again: pln undeny {short(peer)}"
    return Refusal("denied", f"{short(peer)} is denied", remedy)
