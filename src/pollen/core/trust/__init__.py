"""Who belongs to the cluster, with which authority, and until when.

Decides: whether a chain, a lease, a deny, a succession holds, and what counts of all of them.
Does not know: links, tokens, who asks.
Invariants: the certificates that count are a function of the records held, whatever their order.
Source: docs/internals/trust.md.
"""

from pollen.core.trust.authority import Trust
from pollen.core.trust.certs import Certificate, Chain, Tier, issue_certificate
from pollen.core.trust.denies import ProvenDeny
from pollen.core.trust.leases import HeldLease, lend
from pollen.core.trust.members import Member, Members, NodeInfo
from pollen.core.trust.papers import RootRequest

__all__ = [
    "Certificate",
    "Chain",
    "HeldLease",
    "Member",
    "Members",
    "NodeInfo",
    "ProvenDeny",
    "RootRequest",
    "Tier",
    "Trust",
    "issue_certificate",
    "lend",
]
