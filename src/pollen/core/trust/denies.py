"""That somebody is wanted no more: denies, what they kill, and how a key comes back.

Decides: whether a deny holds, and whether a chain survives the denies that are known.
Does not know: links, records, the clock. It keeps nothing.
Invariants: a deny holds for ever while its root is in the line: it proves by itself that its issuer
    is a root or an ancestor of its subject, so that neither its issuer's end nor the order of
    arrival matters. More denies never revive a chain. Nothing but a higher generation brings a key
    back, given by the denier, an ancestor of the denier or a root, and it cites this very deny or a
    later one that names it: a deny and a grant that did not know of each other end denied.
Source: docs/design/protocol.md#trust. Refused: a deny that counts for the chains of its issuer
    only, which would leave a denied key that holds an invite of another admin inside.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence

import msgspec

from pollen.core import limits
from pollen.core.codec import (
    DENY_DOMAIN,
    U32,
    U64,
    Rejection,
    Signed,
    WireClusterId,
    WireHash,
    WirePeerId,
    decode,
    encode,
    signing_bytes,
)
from pollen.core.ids import ClusterId, Hash, KeyRole, PeerId, Sign, Verify, hash_of
from pollen.core.trust import certs
from pollen.core.trust.certs import Certificate, Chain


class Deny(msgspec.Struct, frozen=True, array_like=True):
    """No certificate of ``subject`` up to ``generation`` counts. ``issued`` is wall nanoseconds.

    ``after`` are the hashes of the denies of this subject that its issuer knew, ascending: whoever
    cites this deny cites them as well.
    """

    cluster: WireClusterId
    subject: WirePeerId
    generation: U32
    issuer: WirePeerId
    issued: U64
    reason: str = ""
    after: list[WireHash] = []


class DenyPayload(msgspec.Struct, frozen=True, array_like=True):
    """A deny as a record carries it.

    ``evidence`` is a chain of the subject in which the issuer is an ancestor; empty for a root's.
    """

    deny: Signed
    evidence: list[Signed] = []


class ProvenDeny(msgspec.Struct, frozen=True, kw_only=True):
    """A deny that holds: ``lifters`` are the nodes that may bring its subject back, next to a root.

    It has none when a root denied. ``hash`` is what the certificate that lifts it cites. ``root``
    denied, or is where the evidence ends: the deny is void while that is not in the line.
    """

    deny: Deny
    hash: Hash
    lifters: tuple[PeerId, ...]
    root: PeerId

    def may_be_lifted_by(self, issuer: PeerId, roots: Container[PeerId]) -> bool:
        """Whether certificates of this issuer may bring the subject back."""
        return issuer in roots or issuer in self.lifters

    @staticmethod
    def issue(
        chain: Chain,
        issuer: PeerId,
        sign: Sign,
        known: Collection[ProvenDeny],
        wall: int,
        reason: str,
        *,
        is_roots: bool,
    ) -> bytes:
        """The payload of a deny of this chain's subject that names all that are ``known``."""
        leaf = chain.leaf
        deny = Deny(
            cluster=leaf.cluster,
            subject=leaf.subject,
            generation=max([leaf.generation, *(v.deny.generation for v in known)]),
            issuer=issuer,
            issued=wall,
            reason=reason,
            after=sorted(v.hash for v in known),
        )
        return issue_deny(deny, sign, () if is_roots else chain.carried)

    def covers(self, other: ProvenDeny) -> bool:
        """Whether a certificate that cites this deny cites the other one as well."""
        return self.hash == other.hash or other.hash in self.deny.after

    @staticmethod
    def covering(known: Collection[ProvenDeny]) -> ProvenDeny | None:
        """The deny that a certificate must cite to survive all of these, or None.

        There is none for no denies, and for denies that did not know of each other.
        """
        able = [v for v in known if all(v.covers(other) for other in known)]
        return min(able, key=lambda v: v.hash, default=None)


def deny_hash(signed: Signed) -> Hash:
    """What names a deny in the certificate that lifts it, and as the key of its record."""
    return hash_of("deny", signed.body)


def deny_key(payload: bytes) -> Hash:
    """The key of a deny's record: its own hash, so that no other deny takes its place."""
    carried = decode(DenyPayload, payload, "deny")
    return hash_of("deny", b"") if isinstance(carried, Rejection) else deny_hash(carried.deny)


def issue_deny(deny: Deny, sign: Sign, evidence: Sequence[Signed] = ()) -> bytes:
    """The payload of a deny record. Without evidence the root signs, else this node does."""
    body = encode(deny)
    role = KeyRole.NODE if evidence else KeyRole.ROOT
    signed = Signed(body, sign(role, signing_bytes(DENY_DOMAIN, body)))
    return encode(DenyPayload(signed, [*evidence]))


def judge_deny(
    payload: bytes, *, cluster: ClusterId, roots: Container[PeerId], verify: Verify
) -> ProvenDeny | Rejection:
    """A deny that its issuer may say and did sign."""
    carried = decode(DenyPayload, payload, "deny")
    if isinstance(carried, Rejection):
        return carried
    deny = decode(Deny, carried.deny.body, "deny")
    if isinstance(deny, Rejection):
        return deny
    if deny.cluster != cluster:
        return Rejection("deny-of-another-cluster")
    if deny.generation > limits.DENY_GENERATION_MAX:
        return Rejection("deny-generation")
    if len(deny.after) > limits.DENIES_NAMED_MAX:
        return Rejection("deny-names-too-many")
    root = PeerId(deny.issuer)
    lifters: tuple[PeerId, ...] = ()
    if root not in roots:
        chain = certs.judge_chain(
            carried.evidence, cluster=cluster, roots=roots, subject=deny.subject, verify=verify
        )
        if isinstance(chain, Rejection):
            return Rejection("deny-evidence", chain.kind)
        ancestors = chain.leaf.lineage
        if deny.issuer not in ancestors:
            return Rejection("deny-of-no-descendant")
        root, lifters = chain.root, tuple(ancestors[: ancestors.index(deny.issuer) + 1])
    message = signing_bytes(DENY_DOMAIN, carried.deny.body)
    if verify([(deny.issuer, message, carried.deny.signature)]) != [True]:
        return Rejection("deny-signature")
    return ProvenDeny(deny=deny, hash=deny_hash(carried.deny), lifters=lifters, root=root)


def killer_of(
    chain: Chain, denies: Mapping[PeerId, Mapping[Hash, ProvenDeny]], roots: Container[PeerId]
) -> ProvenDeny | None:
    """The earliest deny that kills a chain: one of its subject or of an ancestor, or None."""
    killers = [
        verdict
        for certificate in chain.certificates
        for verdict in denies.get(certificate.subject, {}).values()
        if not _survives(certificate, verdict, denies[certificate.subject], roots)
    ]
    return min(killers, key=lambda v: (v.deny.issued, v.hash), default=None)


def _survives(
    certificate: Certificate,
    verdict: ProvenDeny,
    known: Mapping[Hash, ProvenDeny],
    roots: Container[PeerId],
) -> bool:
    """A higher generation that cites this deny, or one that names it, from who may lift it.

    What the root gave, only a root takes: else an admin could certify another one's key below
    itself and then deny it as its descendant.
    """
    if verdict.lifters and not certificate.lineage:
        return True
    cited = known.get(Hash(certificate.cites))
    if certificate.generation <= verdict.deny.generation or cited is None:
        return False
    return cited.covers(verdict) and verdict.may_be_lifted_by(certificate.issuer, roots)
