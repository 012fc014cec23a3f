"""What a node is told once, at its start.

Decides: nothing.
Does not know: where it came from (files, keys, command line).
Invariants: never changes while the node lives; keys are named, never held.
Source: DESIGN 2.
"""

from __future__ import annotations

import msgspec

from pollen.core.certs import Certificate
from pollen.core.ids import ClusterId, PeerId
from pollen.core.invites import Issuer


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is from its start to its end. ``has_root``: the root key can be asked to sign.
    ``slots``: how many calls can burn at once, a core each.
    """

    node: PeerId
    cluster: ClusterId
    root: PeerId
    chain: bytes
    boot: bytes
    name: str
    version: str
    memory_bytes: int
    has_root: bool
    slots: int = 1

    def issuer(self, certificate: Certificate) -> Issuer:
        """This node as invites need it."""
        return Issuer(
            node=self.node,
            cluster=self.cluster,
            root=self.root,
            certificate=certificate,
            has_root=self.has_root,
        )
