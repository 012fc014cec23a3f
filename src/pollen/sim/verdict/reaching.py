"""Whether packets between all who live find their way, seen from outside.

Decides: which pairs have no path, which go through others without need, and which packets would
    run in a circle.
Does not know: how a node chooses its hops (``core.paths``).
Invariants: a look changes nothing.
Source: docs/internals/paths.md#invariants.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, permutations

from pollen.sim.muscles.network import Network
from pollen.sim.world.machine import Machine


def pairs_without_a_path(machines: Sequence[Machine], network: Network) -> list[str]:
    """``every-live-pair-has-a-path``: all who live are linked, and what they say arrives."""
    found = []
    for one, other in combinations(machines, 2):
        ends = [network.routed(one, other.key), network.routed(other, one.key)]
        if None in ends:
            found.append(f"{one.name} and {other.name} are not linked")
        elif any(end is not None and not network.is_heard(end) for end in ends):
            found.append(f"{one.name} and {other.name} do not hear each other")
    return found


def pairs_on_the_wrong_way(
    machines: Sequence[Machine], network: Network, may_be_direct: Callable[[Machine, Machine], bool]
) -> list[str]:
    """Pairs that go through others where a direct path is open, or directly where none is."""
    found = []
    for one, other in combinations(machines, 2):
        end = network.routed(one, other.key)
        if end is not None and end.is_meshed == may_be_direct(one, other):
            way = "through others" if end.is_meshed else "directly"
            found.append(f"{one.name} and {other.name} are linked {way}")
    return found


def circles(machines: Sequence[Machine], network: Network) -> list[str]:
    """``no-forwarding-loop``: by the rows of all muscles as they stand no packet that is passed on
    for ever comes to a machine twice. The ttl ends what turns while rows change."""
    found = []
    for source, target in permutations(machines, 2):
        seen = {source.name: None}
        for step in network.ways.steps(network, source, target):
            if step.name in seen:
                names = " ".join(seen)
                found.append(f"packets from {source.name} to {target.name} turn: {names}")
                break
            seen[step.name] = None
    return found
