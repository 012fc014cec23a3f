"""Keys, chains, leases and denies for tests of trust, made in one line each."""

from __future__ import annotations

from typing import Any

from pollen.core.codec import Signed, encode
from pollen.core.events import SignedRecord
from pollen.core.ids import DAY, MINUTE, ClusterId, Nanos, PeerId
from pollen.core.records import Record
from pollen.core.records import record as records
from pollen.core.records.record import Body
from pollen.core.trust import Certificate, Tier, Trust, certs, denies, leases, succession
from pollen.core.trust.denies import Deny
from pollen.core.trust.leases import Lease
from pollen.core.trust.succession import Succession
from tests.unit.world import make_key, signer, verify

CLUSTER = ClusterId(b"c" * 32)
T0 = Nanos(1_000 * DAY)
ROOT, ADMIN, OTHER, LEAF, STRANGER = (
    make_key(f"trust-{name}") for name in ("root", "admin", "other", "leaf", "stranger")
)


def make_certificate(subject: PeerId = ADMIN, **change: Any) -> Certificate:
    """An admin of the root by default."""
    fields: dict[str, Any] = {
        "cluster": CLUSTER,
        "subject": subject,
        "issuer": ROOT,
        "tier": Tier.ADMIN,
        "properties": "{}",
        "lineage": [],
        "generation": 1,
        "not_before": T0,
    }
    return Certificate(**{**fields, **change})


def admin_chain(admin: PeerId = ADMIN, root: PeerId = ROOT, **change: Any) -> list[Signed]:
    """A chain of one, signed by a root."""
    certificate = make_certificate(admin, issuer=root, **change)
    return certs.issue_certificate(certificate, signer(admin, root))


def member_chain(
    subject: PeerId = LEAF, admin: PeerId = ADMIN, parent: list[Signed] | None = None, **change: Any
) -> list[Signed]:
    """A publisher below an admin."""
    fields = {"issuer": admin, "tier": Tier.PUBLISHER, "lineage": [admin], **change}
    certificate = make_certificate(subject, **fields)
    parent = admin_chain(admin) if parent is None else parent
    return certs.issue_certificate(certificate, signer(admin, None), parent)


def make_lease(chain: list[Signed], subject: PeerId, by: PeerId = ADMIN, **change: Any) -> Signed:
    """A lease of 30 days from T0 on."""
    fields: dict[str, Any] = {
        "cluster": CLUSTER,
        "signer": by,
        "subject": subject,
        "certificate": certs.certificate_hash(chain[-1]),
        "not_before": T0,
        "not_after": T0 + 30 * DAY,
    }
    return leases.issue_lease(Lease(**{**fields, **change}), signer(by, None))


def make_deny(
    subject: PeerId = LEAF, by: PeerId = ADMIN, generation: int = 1, **change: Any
) -> bytes:
    """The payload of a deny by an admin, with the evidence that it is an ancestor."""
    evidence = change.pop("evidence", None)
    if evidence is None:
        evidence = [] if by == ROOT else member_chain(subject, by)
    fields = {"cluster": CLUSTER, "subject": subject, "generation": generation, "issuer": by}
    deny = Deny(**{**fields, "issued": T0 + MINUTE, **change})
    return denies.issue_deny(deny, signer(by, by), evidence)


def make_succession(root: PeerId, successor: PeerId, issued: int = T0) -> Signed:
    """A succession that the old root signed."""
    document = Succession(CLUSTER, root, successor, issued)
    return succession.issue_succession(document, signer(root, root))


def record_of(owner: PeerId, kind: str, key: bytes, payload: bytes, **change: Any) -> Record:
    """A record as it would be merged; nobody looks at its signature here."""
    fields = {"epoch": 1, "seq": 1, "schema": 1, "tombstone": False, **change}
    body = Body(cluster=CLUSTER, owner=owner, kind=kind, key=key, payload=payload, **fields)
    return records.record_of(body, SignedRecord(owner, encode(body), bytes(64)))


def deny_record(owner: PeerId, payload: bytes) -> Record:
    """The record of a deny, whoever carries it."""
    return record_of(owner, "deny", denies.deny_key(payload), payload)


def make_trust(*chains: tuple[PeerId, list[Signed]]) -> Trust:
    """Trust that knows these chains, each with a lease of the admin for 30 days."""
    trust = Trust(CLUSTER, ROOT, verify)
    for subject, chain in chains:
        trust.apply(record_of(subject, "cert", b"", encode(chain)))
        lease = make_lease(chain, subject)
        trust.apply(record_of(ADMIN, "lease", subject, encode(lease)))
    trust.expire(T0)
    trust.take_changed()
    return trust
