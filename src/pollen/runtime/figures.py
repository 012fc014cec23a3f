"""What nodes do, in the few numbers that ``pln top`` shows: the shapes, and one node's own.

Decides: what of a status goes over a link each second. A status of 1,000 nodes has 500 KB, and
    asking each node for its own would be the square of that.
Does not know: who asks, and how often.
Invariants: what another node tells is within bounds that no honest node leaves, so that no one
    member spoils what is shown of all.
Source: docs/internals/control-api.md.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from pollen.core import commands as cmd

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


def figures_of(status: cmd.Status) -> Figures:
    """The figures in a node's own status; seeds that it never ran are left out."""
    seeds = [
        SeedFigures(
            name=seed.name,
            calls=seed.calls,
            failures=seed.failures,
            in_flight=seed.in_flight,
            queued=seed.queued,
            run_us=seed.run_us,
        )
        for seed in status.seeds
        if seed.calls or seed.failures or seed.in_flight or seed.queued
    ]
    return Figures(uptime_ms=status.uptime_ms, memory_bytes=status.memory_bytes, seeds=seeds)
