"""Leases, which prove that a member was still wanted lately, and the credentials that a member
shows.

Decides: what a lease holds and whether its bytes are valid; what travels in a Hello.
Does not know: whether its signer is an admin, or denied (``trust``); who renews when (``lending``).
Invariants: a lease adds no authority: it names one certificate by its hash and a time. Judging one
    reads no clock. Credentials that are over the budget are refused before a signature is checked.
Source: docs/design/protocol.md#trust. Refused: dates in the certificate alone, which would end a
    mesh whose root key is kept offline.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import msgspec

from pollen.core import limits
from pollen.core.codec import (
    LEASE_DOMAIN,
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
from pollen.core.ids import ClusterId, KeyRole, Nanos, PeerId, Sign, Verify
from pollen.core.trust import certs
from pollen.core.trust.certs import Certificate, Chain


class Lease(msgspec.Struct, frozen=True, array_like=True):
    """Freshness of one certificate, signed by an admin's node key, or by a root.

    Times are wall nanoseconds.
    """

    cluster: WireClusterId
    signer: WirePeerId
    subject: WirePeerId
    certificate: WireHash
    not_before: U64
    not_after: U64

    @property
    def half_life(self) -> int:
        """The wall time from which it is renewed; each rank waits a step more (``lending``)."""
        return self.not_before + (self.not_after - self.not_before) // 2


class HeldLease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that holds, and as it was carried."""

    lease: Lease
    carried: Signed


class Credentials(msgspec.Struct, frozen=True, array_like=True):
    """What a Hello carries as its chain: enough to be judged by somebody who has no records.

    ``signer`` is the chain of the admin that signed ``lease``; ``successions`` lead from the first
    root to the one that the chains end at.
    """

    chain: list[Signed]
    lease: Signed | None = None
    signer: list[Signed] = []
    successions: list[Signed] = []


def issue_lease(lease: Lease, sign: Sign, role: KeyRole = KeyRole.NODE) -> Signed:
    """The lease as carried, signed by this node, or by the root for a founder."""
    body = encode(lease)
    return Signed(body, sign(role, signing_bytes(LEASE_DOMAIN, body)))


def lend(chain: Chain, signer: PeerId, wall: Nanos, sign: Sign) -> HeldLease:
    """A lease of full length for a certificate, from now on, signed by this node's key."""
    lease = Lease(
        cluster=chain.leaf.cluster,
        signer=signer,
        subject=chain.leaf.subject,
        certificate=chain.hash,
        not_before=wall,
        not_after=wall + chain.leaf.lease_length,
    )
    return HeldLease(lease=lease, carried=issue_lease(lease, sign))


def founding_credentials(certificate: Certificate, sign: Sign) -> bytes:
    """The credentials of a member that the root makes by itself, with its first lease."""
    chain = certs.issue_certificate(certificate, sign)
    lease = Lease(
        cluster=certificate.cluster,
        signer=certificate.issuer,
        subject=certificate.subject,
        certificate=certs.certificate_hash(chain[-1]),
        not_before=certificate.not_before,
        not_after=certificate.not_before + certificate.lease_length,
    )
    return encode_credentials(chain, issue_lease(lease, sign, KeyRole.ROOT))


@functools.lru_cache(limits.DECODED_REMEMBERED)
def decode_carried(payload: bytes) -> Signed | Rejection:
    """A lease with its signature, as its record carries it."""
    return decode(Signed, payload, "lease")


@functools.lru_cache(limits.DECODED_REMEMBERED)
def _decode_lease(raw: bytes) -> Lease | Rejection:
    return decode(Lease, raw, "lease")


def judge_lease(signed: Signed, cluster: ClusterId, verify: Verify) -> Lease | Rejection:
    """A lease whose signer did sign it. Whether that is worth anything is not judged here."""
    lease = _decode_lease(signed.body)
    if isinstance(lease, Rejection):
        return lease
    if lease.cluster != cluster:
        return Rejection("lease-of-another-cluster")
    if not 0 < lease.not_after - lease.not_before <= limits.LEASE_MAX_NS:
        return Rejection("lease-length", f"{lease.not_after - lease.not_before} ns")
    message = signing_bytes(LEASE_DOMAIN, signed.body)
    if verify([(lease.signer, message, signed.signature)]) != [True]:
        return Rejection("lease-signature")
    return lease


def end_of(payload: bytes) -> int | None:
    """The wall time at which the lease in a record ends; None for bytes that are no lease."""
    carried = decode(Signed, payload, "lease")
    lease = carried if isinstance(carried, Rejection) else decode(Lease, carried.body, "lease")
    return lease.not_after if isinstance(lease, Lease) else None


def encode_credentials(
    chain: Sequence[Signed],
    lease: Signed | None = None,
    signer: Sequence[Signed] = (),
    successions: Sequence[Signed] = (),
) -> bytes:
    """The bytes for a Hello. A signer that is in the chain itself is not repeated."""
    apart = [] if [*signer] == [*chain][: len(signer)] else [*signer]
    return encode(Credentials([*chain], lease, apart, [*successions]))


def decode_credentials(raw: bytes) -> Credentials | Rejection:
    """What a peer showed, unjudged but within the budgets of bytes and of signatures."""
    if len(raw) > limits.CHAIN_MAX_BYTES:
        return Rejection("chain-too-long", f"{len(raw)} bytes")
    shown = decode(Credentials, raw, "chain")
    if isinstance(shown, Rejection):
        return shown
    if not 1 <= len(shown.chain) <= limits.CHAIN_MAX_CERTIFICATES:
        return Rejection("chain-length", f"{len(shown.chain)} certificates")
    if len(shown.signer) > limits.CHAIN_MAX_CERTIFICATES:
        return Rejection("chain-length", f"{len(shown.signer)} certificates of the signer")
    if len(shown.successions) > limits.SUCCESSIONS_MAX:
        return Rejection("chain-length", f"{len(shown.successions)} successions")
    return shown
