"""What a name stands for: one name space for whatever has a name.

Decides: which version of a name counts, who may write the next one, what a user's text means.
Does not know: what has the name, where it runs, links.
Invariants: the meaning of a name is a function of what was published and of the certificates that
    count.
Source: docs/internals/placement.md#names.
"""

from pollen.core.names.named import (
    MIN_PREFIX_HEX,
    Holding,
    Named,
    check_may_hold,
    check_may_seed,
    find_named,
    has_authority,
    near_names,
    next_epoch,
    resolve,
)

__all__ = [
    "MIN_PREFIX_HEX",
    "Holding",
    "Named",
    "check_may_hold",
    "check_may_seed",
    "find_named",
    "has_authority",
    "near_names",
    "next_epoch",
    "resolve",
]
