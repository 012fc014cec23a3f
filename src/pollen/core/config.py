"""What a node is told once, at its start.

Decides: nothing.
Does not know: where it came from (files, keys, command line).
Invariants: never changes while the node lives; keys are named, never held.
Source: docs/ARCHITECTURE.md#the-brain.
"""

from __future__ import annotations

import msgspec

from pollen.core import limits
from pollen.core.ids import ClusterId, PeerId

# What a node passes on for others at most. Guess: 100 Mbit/s, a good line of a home.
RELAY_BYTES_PER_S = 12_500_000


class NodeConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a node is from its start to its end. ``has_root``: the root key can be asked to sign,
    that of ``successor`` where the first root was succeeded. ``root`` is the cluster's first root;
    ``chain`` the credentials that the node began with. ``slots``: how many calls can burn at once,
    a core each. ``idle_ns``: a seed without a call from here for so long is in no demand from here.
    ``relays``: packets of other members are passed on here, ``relay_bytes_per_s`` in all.
    ``blob_bytes``: disk for copies of blobs; 0 is all that is free.
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
    idle_ns: int = limits.DEMAND_KEEP_NS
    successor: PeerId | None = None
    relays: bool = True
    relay_bytes_per_s: int = RELAY_BYTES_PER_S
    blob_bytes: int = 0

    @property
    def signing_root(self) -> PeerId | None:
        """The root whose key can be asked to sign, or None."""
        return (self.successor or self.root) if self.has_root else None
