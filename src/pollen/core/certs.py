"""Who belongs to the cluster, with which authority: certificates signed by the root.

Decides: whether a chain of bytes makes its bearer a member now, and what a new certificate says.
Does not know: links, records, invites, private keys (``sign`` is injected), the clock (the wall
    time is an argument).
Invariants: a certificate is immutable; what a chain proves depends on its bytes, the cluster, the
    root and the wall time only. A chain that does not verify proves nothing, whatever it says.
Source: PROTOCOL 4. In this first form every certificate is signed by the root itself; chains with
    admins in between, leases and denies come with the Brain issue, so a chain of more than one
    certificate is refused.
"""

from __future__ import annotations

import enum

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
from pollen.core.ids import ClusterId, KeyRole, Nanos, PeerId, Sign, Verify, hash_of


class Tier(enum.IntEnum):
    """What a member may do; each tier may do all that the one below may."""

    LEAF = 0
    PUBLISHER = 1
    ADMIN = 2

    @property
    def label(self) -> str:
        """The word that users type and read."""
        return self.name.lower()


class Certificate(msgspec.Struct, frozen=True, array_like=True):
    """Immutable authority of one key. Times are wall nanoseconds; ``access_deadline`` 0 is never.

    ``properties`` is a JSON object as text; ``lineage`` the ancestors, oldest first.
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


def cluster_id_of(root: bytes, nonce: bytes) -> ClusterId:
    """The cluster id: a hash of the first root's public key and a nonce (PROTOCOL 1)."""
    return ClusterId(hash_of("cluster", root, nonce))


def issue_certificate(certificate: Certificate, sign: Sign) -> bytes:
    """The encoded chain that proves ``certificate``: the root signs it. ``sign`` needs the root."""
    body = encode(certificate)
    signature = sign(KeyRole.ROOT, signing_bytes(CERTIFICATE_DOMAIN, body))
    return encode([Signed(body, signature)])


def judge_chain(
    raw: bytes, *, cluster: ClusterId, root: PeerId, subject: PeerId, verify: Verify
) -> Certificate | Rejection:
    """The certificate that ``raw`` proves for ``subject``, dates aside."""
    if len(raw) > limits.CHAIN_MAX_BYTES:
        return Rejection("chain-too-long", f"{len(raw)} bytes")
    chain = decode(list[Signed], raw, "chain")
    if isinstance(chain, Rejection):
        return chain
    if len(chain) != 1:
        return Rejection("chain-length", f"{len(chain)} certificates")
    link = chain[0]
    certificate = decode(Certificate, link.body, "certificate")
    if isinstance(certificate, Rejection):
        return certificate
    fault = _fault_of(certificate, cluster, root, subject)
    if fault:
        return Rejection(fault)
    message = signing_bytes(CERTIFICATE_DOMAIN, link.body)
    if verify([(root, message, link.signature)]) != [True]:
        return Rejection("certificate-signature")
    return certificate


def _fault_of(certificate: Certificate, cluster: ClusterId, root: PeerId, subject: PeerId) -> str:
    if certificate.cluster != cluster:
        return "certificate-of-another-cluster"
    if certificate.subject != subject:
        return "certificate-of-another-key"
    if certificate.issuer != root:
        return "certificate-of-another-root"
    if certificate.tier > Tier.ADMIN:
        return "certificate-tier-unknown"
    if isinstance(check_properties(certificate.properties), Refusal):
        return "certificate-properties"
    return ""


def has_access(certificate: Certificate, wall: Nanos) -> bool:
    """False once the access deadline has passed."""
    return certificate.access_deadline == 0 or wall < certificate.access_deadline


def check_properties(text: str) -> str | Refusal:
    """The properties in compact text, or why they are refused: not an object, or too long."""
    wrong = Refusal(
        "bad-request",
        "the properties are no JSON object",
        'give them as an object, e.g. {"team": "red", "role": ["web", "db"]}',
    )
    try:
        value = msgspec.json.decode(text)
        compact = msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return wrong
    if not isinstance(value, dict):
        return wrong
    if len(compact.encode()) > limits.PROPERTIES_MAX_BYTES:
        return Refusal(
            "bad-request",
            f"the properties are over {limits.PROPERTIES_MAX_BYTES} bytes",
            "shorten them: they travel in every handshake",
        )
    return compact


def parse_tier(text: str) -> Tier | Refusal:
    """A tier by its word."""
    for tier in Tier:
        if tier.label == text:
            return tier
    return Refusal("bad-request", f"{text[:40]!r} is no tier", "use one of: leaf, publisher, admin")
