"""What a user means by ``NAME`` and ``NAME@NODE``.

Decides: which provider a node's name, or the first digits of an id, stands for.
Does not know: who asks, and what for.
Invariants: a name and digits that mean different providers mean none.
Source: docs/design/services.md#names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pollen.core.codec import Refusal
from pollen.core.ids import PeerId
from pollen.core.names import MIN_PREFIX_HEX
from pollen.core.services.records import Service


def parted(text: str) -> tuple[str, str] | Refusal:
    """The name and the node; an empty one when any will do."""
    name, at, node = text.partition("@")
    if at and not node:
        return Refusal("usage", f"{text[:80]!r} names no node", "write NAME or NAME@NODE")
    return name, node


def choose(
    name: str, node: str, found: Sequence[Service], name_of: Callable[[PeerId], str]
) -> Service | Refusal:
    """The provider that a node's name or the first digits of an id means, of those found."""
    digits = node.lower()
    is_id = len(digits) >= MIN_PREFIX_HEX and all(c in "0123456789abcdef" for c in digits)
    named = [
        s for s in found if name_of(s.owner) == node or (is_id and s.owner.hex().startswith(digits))
    ]
    if len(named) == 1:
        return named[0]
    ways = "\n".join(f"say: {name}@{s.owner.hex()[:16]}" for s in named or found)
    if named:
        return Refusal("ambiguous", f"{len(named)} nodes {node!r} serve {name!r}", ways)
    return Refusal("service-not-found", f"node {node[:80]!r} does not serve {name!r}", ways)
