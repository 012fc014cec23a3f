"""Who is there: known addresses, wanted links, silence, verdicts, the map of round trips.

Decides: whom to dial, which links stay, who is alive to this node.
Does not know: who is a member (``trust``); what a peer hosts.
Invariants: an accusation is answered or believed; no peer that is wanted is ever given up.
Source: docs/internals/liveness.md.
"""

from pollen.core.peers.known import PEER_TABLE, KnownPeer, Peers, host_of, is_dialable
from pollen.core.peers.liveness import Facts, Phase, Verdict
from pollen.core.peers.membership import Membership
from pollen.core.peers.mesh import Mesh

__all__ = [
    "PEER_TABLE",
    "Facts",
    "KnownPeer",
    "Membership",
    "Mesh",
    "Peers",
    "Phase",
    "Verdict",
    "host_of",
    "is_dialable",
]
