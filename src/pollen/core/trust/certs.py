"""Who belongs to the cluster, with which authority: certificates in chains that end at a root.

Decides: whether a chain of bytes proves an authority, and what a new certificate may say.
Does not know: links, records, denies, leases, private keys (``sign`` is injected), the clock (the
    wall time is an argument).
Invariants: a certificate is immutable; what a chain proves depends on its bytes, the cluster and
    the roots only. A chain that does not verify proves nothing, whatever it says. Only a root
    makes admins, only admins make others, and nobody gives more than it has. No signature is
    checked before the chain's shape, so a chain costs at most one batch within its budget.
Source: docs/design/protocol.md#trust. Refused: bounding the properties of a child to those that its
    issuer itself has (docs/decisions/properties-of-a-child.md).
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Container, Sequence

import msgspec

from pollen.core import limits
from pollen.core.codec import (
    CERTIFICATE_DOMAIN,
    U8,
    U32,
    U64,
    Refusal,
    Rejection,
    Signed,
    WireClusterId,
    WirePeerId,
    decode,
    encode,
    signing_bytes,
)
from pollen.core.ids import ClusterId, Hash, KeyRole, Nanos, PeerId, Sign, Verify, hash_of, outlives
from pollen.core.policy import Party
from pollen.core.properties import check_properties, excess_of


class Tier(enum.IntEnum):
    """What a member may do; each tier may do all that the one below may."""

    LEAF = 0
    PUBLISHER = 1
    ADMIN = 2

    @property
    def label(self) -> str:
        """The word that users type and read."""
        return self.name.lower()

    @staticmethod
    def parse(text: str) -> Tier | Refusal:
        """A tier by its word."""
        for tier in Tier:
            if tier.label == text:
                return tier
        known = "use one of: leaf, publisher, admin"
        return Refusal("bad-request", f"{text[:40]!r} is not a tier", known)


class Certificate(msgspec.Struct, frozen=True, array_like=True):
    """Immutable authority of one key. Times are wall nanoseconds; ``access_deadline`` 0 is never.

    ``properties`` is a JSON object as text; ``lineage`` the ancestors, oldest first, the root not
    among them. ``cites`` is the hash of the deny that this one lifts, or empty. ``lease_ns`` is how
    long each lease of it lasts, 0 for the default. ``gives`` bounds the properties that an admin
    may give, as an object; what it does not state is free.
    """

    cluster: WireClusterId
    subject: WirePeerId
    issuer: WirePeerId
    tier: U8
    properties: str
    lineage: list[WirePeerId]
    generation: U32
    not_before: U64
    access_deadline: U64 = 0
    cites: bytes = b""
    lease_ns: U64 = 0
    gives: str = "{}"

    def has_access(self, wall: Nanos) -> bool:
        """False once the access deadline has passed."""
        return self.access_deadline == 0 or wall < self.access_deadline

    @property
    def party(self) -> Party:
        """Its subject as policies read it."""
        return Party(Tier(self.tier).label, self.subject.hex(), self.properties)

    @property
    def lease_length(self) -> Nanos:
        """How long a lease of this certificate may last."""
        return Nanos(self.lease_ns or limits.LEASE_NS)


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """A verified chain, the one that the root signed first: what it says, and as it was carried.

    ``hash`` names the proved certificate in leases.
    """

    certificates: tuple[Certificate, ...]
    carried: tuple[Signed, ...]
    hash: Hash

    @property
    def leaf(self) -> Certificate:
        """The certificate that the chain proves."""
        return self.certificates[-1]

    @property
    def root(self) -> PeerId:
        """The root that it ends at."""
        return self.certificates[0].issuer

    @property
    def raw(self) -> bytes:
        """The encoded chain, as records carry it."""
        return encode(self.carried)

    def above(self, ancestor: PeerId) -> Chain | None:
        """The chain of an ancestor, which this one proves as well."""
        if ancestor not in self.leaf.lineage:
            return None
        count = self.leaf.lineage.index(ancestor) + 1
        carried = self.carried[:count]
        return Chain(
            certificates=self.certificates[:count],
            carried=carried,
            hash=certificate_hash(carried[-1]),
        )


# -- making -------------------------------------------------------------------------------------


def issue_certificate(
    certificate: Certificate, sign: Sign, parent: Sequence[Signed] = ()
) -> list[Signed]:
    """The chain that proves ``certificate``: ``parent`` and a signature below it.

    Without ``parent`` the root signs, else the node whose chain ``parent`` is.
    """
    body = encode(certificate)
    role = KeyRole.NODE if parent else KeyRole.ROOT
    return [*parent, Signed(body, sign(role, signing_bytes(CERTIFICATE_DOMAIN, body)))]


def certificate_hash(carried: Signed) -> Hash:
    """What names a certificate in leases."""
    return hash_of("certificate", carried.body)


# -- judging ------------------------------------------------------------------------------------


@functools.lru_cache(limits.DECODED_REMEMBERED)
def decode_chain(raw: bytes) -> tuple[Signed, ...] | Rejection:
    """The links of an encoded chain, unjudged but within the budget of bytes."""
    if len(raw) > limits.CHAIN_MAX_BYTES:
        return Rejection("chain-too-long", f"{len(raw)} bytes")
    return decode(tuple[Signed, ...], raw, "chain")


@functools.lru_cache(limits.DECODED_REMEMBERED)
def _decode_certificate(raw: bytes) -> Certificate | Rejection:
    return decode(Certificate, raw, "certificate")


def judge_chain(
    carried: Sequence[Signed],
    *,
    cluster: ClusterId,
    roots: Container[PeerId],
    subject: PeerId,
    verify: Verify,
) -> Chain | Rejection:
    """What a chain proves for ``subject``, dates and denies aside."""
    if not 1 <= len(carried) <= limits.CHAIN_MAX_CERTIFICATES:
        return Rejection("chain-length", f"{len(carried)} certificates")
    if sum(len(link.body) for link in carried) > limits.CHAIN_MAX_BYTES:
        return Rejection("chain-too-long")
    certificates: list[Certificate] = []
    for link in carried:
        certificate = _decode_certificate(link.body)
        if isinstance(certificate, Rejection):
            return certificate
        fault = fault_of(certificate, cluster) or _fault_below(certificate, certificates, roots)
        if fault:
            return Rejection(fault)
        certificates.append(certificate)
    if certificates[-1].subject != subject:
        return Rejection("certificate-of-another-key")
    items = [
        (bytes(c.issuer), signing_bytes(CERTIFICATE_DOMAIN, link.body), link.signature)
        for c, link in zip(certificates, carried, strict=True)
    ]
    if verify(items) != [True] * len(items):
        return Rejection("certificate-signature")
    return Chain(
        certificates=tuple(certificates),
        carried=tuple(carried),
        hash=certificate_hash(carried[-1]),
    )


def fault_of(certificate: Certificate, cluster: ClusterId) -> str:
    """What is wrong with a certificate by itself; nothing when all is well."""
    if certificate.cluster != cluster:
        return "certificate-of-another-cluster"
    if certificate.tier > Tier.ADMIN:
        return "certificate-tier-unknown"
    # Only compact text: two readers of one text must not see two objects.
    for text in (certificate.properties, certificate.gives):
        if check_properties(text) != text:
            return "certificate-properties"
    if certificate.lease_ns > limits.LEASE_MAX_NS:
        return "certificate-lease"
    # What no deny could name could not be denied.
    if certificate.generation > limits.DENY_GENERATION_MAX:
        return "certificate-generation"
    return ""


def _fault_below(
    certificate: Certificate, above: Sequence[Certificate], roots: Container[PeerId]
) -> str:
    """What is wrong with a certificate at its place: below a root, or below its issuer."""
    if certificate.lineage != [c.subject for c in above]:
        return "certificate-lineage"
    if not above:
        return "" if certificate.issuer in roots else "certificate-of-another-root"
    issuer = above[-1]
    if certificate.issuer != issuer.subject or certificate.subject in certificate.lineage:
        return "certificate-lineage"
    if issuer.tier < Tier.ADMIN:
        return "certificate-issuer-no-admin"
    if certificate.tier >= Tier.ADMIN:
        return "certificate-admin-not-of-root"
    if outlives(certificate.access_deadline, issuer.access_deadline):
        return "certificate-outlives-issuer"
    if excess_of(certificate.properties, issuer.gives):
        return "certificate-exceeds-issuer"
    return ""
