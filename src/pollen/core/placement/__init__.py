"""Who should host what, what this node does about it, and what the muscles are told.

Decides: how many replicas a seed has and on which nodes (``plan``); claims, loads and drains; the
    rows of the tables.
Does not know: how records spread; who is alive is told to it.
Invariants: the plan is a function of the records: the same on every node that holds the same.
Source: docs/internals/placement.md.
"""

from pollen.core.placement.claims import Host, State
from pollen.core.placement.lanes import Lane
from pollen.core.placement.placing import Placing
from pollen.core.placement.plan import (
    Need,
    NodeFacts,
    Placement,
    Snapshot,
    Standing,
    bid_of,
    may_rank,
)
from pollen.core.placement.situation import Situation

__all__ = [
    "Host",
    "Lane",
    "Need",
    "NodeFacts",
    "Placement",
    "Placing",
    "Situation",
    "Snapshot",
    "Standing",
    "State",
    "bid_of",
    "may_rank",
]
