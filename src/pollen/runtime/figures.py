"""What all nodes do, in the few numbers that ``pln top`` shows: the shapes.

Decides: what of a status goes over a link each second. A status of 1,000 nodes has 500 KB, and
    asking each node for its own would be the square of that.
Does not know: who asks, and how often.
Invariants: what another node tells is within bounds that no honest node leaves, so that no one
    member spoils what is shown of all.
Source: docs/internals/control-api.md.
"""

from __future__ import annotations

import msgspec

from pollen.core.figures import Count, Figures, Name


class NodeFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A node and what it told. Without figures ``problem`` says why: the slug and the reason.

    ``memory_bytes`` is what its guests may take in all; ``state`` as in ``NodeView``.
    """

    node: str
    name: Name
    state: str
    ready: Count
    memory_bytes: Count
    problem: str = ""
    figures: Figures | None = None


class FiguresList(msgspec.Struct, frozen=True, kw_only=True):
    """All nodes that are online, in the order of ``Status.nodes``."""

    nodes: list[NodeFigures]
