"""Policies: who may, as an expression that brain and muscles evaluate alike.

Decides: what a text means, and whether a policy is true for one caller or one host.
Does not know: seeds, members, records; who asks.
Invariants: whatever cannot be read or evaluated is false as a whole.
Source: docs/design/policy.md.
"""

from pollen.core.policy.judge import STRANGER, Part, Party, Policy, read_policy
from pollen.core.policy.parse import parse
from pollen.core.policy.tree import CALLERS, HOSTS, PUBLISHERS, Node, Scope, packed

__all__ = [
    "CALLERS",
    "HOSTS",
    "PUBLISHERS",
    "STRANGER",
    "Node",
    "Part",
    "Party",
    "Policy",
    "Scope",
    "packed",
    "parse",
    "read_policy",
]
