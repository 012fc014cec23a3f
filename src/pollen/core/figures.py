"""What a node does, in the few numbers that are asked for each second, and how they are asked.

Decides: the shape of the figures of one node, and the bounds that no honest node leaves.
Does not know: who asks, and how often; how the numbers are counted.
Invariants: no figure is larger than its bound, so that no one member spoils what is shown of all.
Source: docs/internals/control-api.md.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

# A member may tell anything: a number of 400 digits is no float, and ends the command line.
# A counter has 63 bits here, a name 63 characters (``core.labels``).
Count = Annotated[int, msgspec.Meta(ge=0, le=(1 << 63) - 1)]
Name = Annotated[str, msgspec.Meta(max_length=63)]
# No answer holds more: one is a message (1 MiB), and a seed takes over 70 bytes of it.
SEEDS_MAX = 16_384


class SeedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """A seed on one node: its executions there since the node began, and those under way.
    ``run_us`` is smoothed, 0 while nothing ran."""

    name: Name
    calls: Count
    failures: Count
    in_flight: Count
    queued: Count
    run_us: Count


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """One node at one moment. ``memory_bytes`` is what its guests hold."""

    uptime_ms: Count
    memory_bytes: Count
    seeds: Annotated[list[SeedFigures], msgspec.Meta(max_length=SEEDS_MAX)]
