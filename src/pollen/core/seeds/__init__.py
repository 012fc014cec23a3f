"""What a seed is, and what publishing one takes.

Decides: whether options and a module make a spec, and the record that states it.
Does not know: where a seed runs, links, tables.
Invariants: nothing is published that the rules of specs or of names refuse.
Source: docs/internals/placement.md#formats.
"""

from pollen.core.seeds.descriptions import read_description
from pollen.core.seeds.former import versions_of
from pollen.core.seeds.publishing import Writer
from pollen.core.seeds.requests import SeedRequests
from pollen.core.seeds.specs import Seed, decode_seed, options_view

__all__ = [
    "Seed",
    "SeedRequests",
    "Writer",
    "decode_seed",
    "options_view",
    "read_description",
    "versions_of",
]
