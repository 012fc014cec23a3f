"""The members that may pass on packets to each member, and the addresses for a direct path.

Decides: what this node tells others of who is directly linked with it, the next members for packets
    to each member, and under which addresses peers may try a direct path to this node.
Does not know: packets, sockets, hole punching; whether a packet goes directly or over the mesh,
    which the muscles decide (``prefer.rs``). Whom to dial (``peers``).
Invariants: what a member says of itself goes before what others say of it. Only live members that
    relay stand between. A node that everybody reaches directly says nothing.
Source: docs/internals/paths.md.
"""

from pollen.core.paths.near import Nat
from pollen.core.paths.paths import Paths, PathState

__all__ = ["Nat", "PathState", "Paths"]
