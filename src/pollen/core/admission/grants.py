"""What a member is given anew, or denied: the documents that do it, planned before they are told.

Decides: who signs, the certificate that comes of a wish, and whether a deny must go with it.
Does not know: links, records beyond what ``Trust`` tells; how the documents travel (``granting``).
Invariants: nothing is given above the signer's own authority. What takes anything away is a deny of
    the generation that was and a certificate of the next one that cites it: so the old one is worth
    nothing, whoever shows it. Planning changes nothing.
Source: docs/design/protocol.md#grants-and-denies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pollen.core import limits
from pollen.core.admission.invites import Issuer, Wish, may_give
from pollen.core.codec import Refusal, Signed
from pollen.core.ids import Nanos, PeerId, Sign, earlier, outlives, short
from pollen.core.properties import check_properties
from pollen.core.trust import (
    Certificate,
    Chain,
    ProvenDeny,
    Tier,
    Trust,
    issue_certificate,
)


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody wishes of a member's authority; None leaves it as it is.

    ``gives`` are properties to set, ``drops`` keys to take away. ``until`` is when access ends,
    wall nanoseconds, 0 for never.
    """

    tier: Tier | None = None
    gives: Mapping[str, object] = {}
    drops: Sequence[str] = ()
    until: Nanos | None = None


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """The documents of a grant: a chain, and the deny that must follow it, as its record's payload.

    ``takes`` says in words what is taken away.
    """

    chain: list[Signed]
    certificate: Certificate
    deny: bytes | None
    takes: list[str]


class Desk(msgspec.Struct, frozen=True, kw_only=True):
    """Where grants and denies are made: this node's authority, what it knows, and its keys.

    ``is_roots``: all is for the root to sign, whatever this node may.
    """

    issuer: Issuer
    trust: Trust
    sign: Sign
    is_roots: bool = False

    def is_own(self, subject: PeerId) -> bool:
        """Whether this node changes what it may itself, with the root key that it has."""
        return subject == self.issuer.node and self.issuer.signing_root is not None


def plan_grant(
    desk: Desk, before: Chain, change: Change, wall: Nanos, *, is_moved: bool = False
) -> Grant | Refusal | None:
    """The documents that make the change; None when it changes nothing.

    ``before`` is the chain of the member that counts, or counted until it was denied. ``is_moved``:
    it is to stand below this node or the root from now on, whatever else changes.
    """
    leaf = before.leaf
    wanted = _wanted(leaf, change)
    if isinstance(wanted, Refusal):
        return wanted
    verdicts = desk.trust.verdicts_of(PeerId(leaf.subject))
    is_denied = desk.trust.certificates.get(PeerId(leaf.subject)) is None
    tier = Tier(wanted.tier)
    signer = signer_for(desk, before, verdicts, tier)
    if isinstance(signer, Refusal):
        return signer
    if not is_denied and not is_moved and _same(leaf, wanted):
        return None
    if not desk.is_roots and not desk.is_own(PeerId(leaf.subject)):
        refusal = may_give(desk.issuer, Wish(tier=tier, properties=wanted.properties), "grant")
        if refusal is not None:
            return refusal
    return _documents(desk, before, wanted, signer, verdicts, wall)


def _documents(
    desk: Desk,
    before: Chain,
    wanted: Certificate,
    signer: PeerId,
    verdicts: Sequence[ProvenDeny],
    wall: Nanos,
) -> Grant | Refusal:
    leaf, own = before.leaf, desk.issuer.chain
    takes = taken_by(leaf, wanted)
    killed = max([leaf.generation, *(v.deny.generation for v in verdicts)])
    if killed >= limits.DENY_GENERATION_MAX:
        return Refusal("denied", "this key was granted too often", "let it join with a new key")
    lifted, deny, cites = ProvenDeny.covering(verdicts), None, b""
    if takes or (verdicts and lifted is None):
        made = plan_deny(desk, before, signer, "; ".join(takes), wall)
        if isinstance(made, Refusal):
            return made
        deny, cites = made, Trust.deny_key(made)
    elif lifted is not None:
        cites = lifted.hash
    is_roots = signer != desk.issuer.node
    lineage: list[PeerId] = []
    if not is_roots and own is not None:
        lineage = [*map(PeerId, own.leaf.lineage), desk.issuer.node]
        until = earlier(wanted.access_deadline, own.leaf.access_deadline)
        wanted = msgspec.structs.replace(wanted, access_deadline=until)
    certificate = msgspec.structs.replace(
        wanted,
        issuer=signer,
        lineage=lineage,
        generation=killed + 1,
        not_before=wall,
        cites=cites,
    )
    parent = () if is_roots or own is None else own.carried
    chain = issue_certificate(certificate, desk.sign, parent)
    return Grant(chain=chain, certificate=certificate, deny=deny, takes=takes)


def plan_deny(
    desk: Desk, before: Chain, signer: PeerId, reason: str, wall: Nanos
) -> bytes | Refusal:
    """The payload of a deny of this member, which names every deny of it that is known here."""
    subject = PeerId(before.leaf.subject)
    verdicts = desk.trust.verdicts_of(subject)
    if len(verdicts) >= limits.DENIES_NAMED_MAX:
        text = f"{short(subject)} was denied {len(verdicts)} times"
        return Refusal("denied", text, "let it stay out; it can join with a new key")
    is_roots = signer != desk.issuer.node
    said = reason[: limits.DENY_REASON_MAX_CHARS]
    return ProvenDeny.issue(before, signer, desk.sign, verdicts, wall, said, is_roots=is_roots)


def signer_for(
    desk: Desk, before: Chain, verdicts: Sequence[ProvenDeny], tier: Tier
) -> PeerId | Refusal:
    """Whose key may move this member's authority from here: this node's own, or a root's."""
    issuer, own = desk.issuer, desk.issuer.node
    is_roots = desk.is_roots or desk.is_own(PeerId(before.leaf.subject))
    if is_roots and issuer.signing_root is not None:
        return issuer.signing_root
    if issuer.chain is None or issuer.chain.leaf.tier < Tier.ADMIN:
        remedy = "run it on an admin node; pln members shows them"
        if issuer.signing_root is not None:
            remedy = f"it has the root key, so first: pln grant {short(own)} --admin"
        return Refusal("denied", "this node is not an admin whose certificate counts", remedy)
    is_below = own in before.leaf.lineage
    is_liftable = all(v.may_be_lifted_by(own, desk.trust.roots) for v in verdicts)
    if is_below and is_liftable and tier < Tier.ADMIN:
        return own
    if issuer.signing_root is not None:
        return issuer.signing_root
    if tier >= Tier.ADMIN or not before.leaf.lineage:
        return Refusal(
            "denied",
            "the root key is not on this node, and only it makes or unmakes an admin",
            "run it where the root key is, or ask for it: --request FILE; see: pln root --help",
        )
    above = short(PeerId(before.leaf.lineage[-1]))
    return Refusal(
        "denied",
        f"{short(PeerId(before.leaf.subject))} stands below node {above}, not below this one",
        f"run it on node {above}, or where the root key is",
    )


def taken_by(before: Certificate, after: Certificate) -> list[str]:
    """In words, what the second certificate takes away of the first."""
    takes = []
    if after.tier < before.tier:
        takes.append(f"the tier {Tier(before.tier).label}")
    old, new = _object(before.properties), _object(after.properties)
    takes += [f"the property {key}" for key in old if key not in new]
    takes += [f"the value of {key}" for key in old if key in new and not _keeps(old[key], new[key])]
    if outlives(before.access_deadline, after.access_deadline):
        takes.append("access after the new end")
    return takes


def _keeps(old: object, new: object) -> bool:
    """Whether every gate that the old value opened is opened by the new one."""
    if old == new:
        return True
    held = old if isinstance(old, list) else [old]
    return isinstance(new, list) and all(item in new for item in held)


def _wanted(leaf: Certificate, change: Change) -> Certificate | Refusal:
    """The member's certificate with the change made, still unsigned."""
    properties = _object(leaf.properties)
    for key in change.drops:
        if not _drop(properties, key.split(".")):
            has = ", ".join(properties) or "none"
            text = f"there is no property {key!r} to take away"
            return Refusal("bad-request", text, f"it has: {has}")
    compact = check_properties(msgspec.json.encode(_merged(properties, change.gives)).decode())
    if isinstance(compact, Refusal):
        return compact
    tier = Tier(leaf.tier) if change.tier is None else change.tier
    gives = "{}"
    if tier >= Tier.ADMIN:
        gives = leaf.gives if leaf.tier >= Tier.ADMIN else compact
    until = leaf.access_deadline if change.until is None else change.until
    return msgspec.structs.replace(
        leaf, tier=int(tier), properties=compact, gives=gives, access_deadline=until
    )


def _drop(properties: dict[str, object], path: Sequence[str]) -> bool:
    """Take the property at a dotted key out; False when there is none."""
    *above, last = path
    at: object = properties
    for step in above:
        at = at.get(step) if isinstance(at, dict) else None
    if not isinstance(at, dict) or last not in at:
        return False
    del at[last]
    return True


def _merged(held: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """What is given takes the place of what is held; objects are merged by key."""
    merged = dict(held)
    for key, value in given.items():
        inner = merged.get(key)
        is_both = isinstance(inner, dict) and isinstance(value, dict)
        merged[key] = _merged(inner, value) if is_both else value  # type: ignore[arg-type]
    return merged


def _same(before: Certificate, after: Certificate) -> bool:
    names = ("tier", "properties", "access_deadline")
    return all(getattr(before, name) == getattr(after, name) for name in names)


def _object(text: str) -> dict[str, object]:
    found: dict[str, object] = msgspec.json.decode(text)
    return found
