"""What a seed is, and what publishing one takes.

Decides: whether options and a module make a spec, and the record that states it.
Does not know: where a seed runs, links, tables.
Invariants: nothing is published that the rules of specs or of names refuse.
Source: docs/internals/records.md.
"""

from pollen.core.seeds.publishing import (
    REFUSED_FULL,
    Publication,
    Writer,
    check_seed,
    plan_seed,
    plan_unseed,
)
from pollen.core.seeds.specs import Flag, Seed, decode_seed, options_view

__all__ = [
    "REFUSED_FULL",
    "Flag",
    "Publication",
    "Seed",
    "Writer",
    "check_seed",
    "decode_seed",
    "options_view",
    "plan_seed",
    "plan_unseed",
]
