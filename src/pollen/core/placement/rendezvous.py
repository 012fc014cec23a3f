"""Weighted rendezvous in integers: what a node draws for a seed, and what the draw is worth.

Decides: the draw of a pair, and how draws become exponentially distributed numbers.
Does not know: nodes, seeds, weights; keys are 64-bit integers.
Invariants: integers only, so that every platform gets the same numbers; of numbers divided by
    weights the lowest belongs to a node with a chance proportional to its weight (to 0.2 %).
Source: Schindelhauer and Schomaker 2005, "Weighted distributed hash tables" (logarithmic method).
    The binary logarithm is a table with linear interpolation, the table is made by repeated
    squaring (Knuth, TAOCP 1.2.2, exercise 25). Refused: floats, whose libm differs; weights as
    numbers of virtual nodes, which cost memory and are proportional only on average.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

from pollen.core import limits
from pollen.core.ids import Hash, PeerId, hash_of

_MASK = (1 << 64) - 1
_FOLD = 0x9E3779B97F4A7C15
_ONE = 1 << 32
# log2(e) as a fraction of 2**16, rounded down: -log2(1 - x) is never below x * log2(e).
_LOG2_E = 94_548


def seed_key_of(seed: Hash) -> int:
    """64 bits of a seed for drawing."""
    return int.from_bytes(hash_of("plan-seed", seed)[:8], "big")


@functools.lru_cache(limits.KNOWN_PEERS_MAX)
def node_key_of(node: PeerId) -> int:
    """64 bits of a node for drawing."""
    return int.from_bytes(hash_of("plan-node", node)[:8], "big")


def draw_of(seed_key: int, node_key: int) -> int:
    """hash(seed, node), 64 bits: both keys are hashes, a folded product mixes them.

    Source: wyhash's ``mum``. Refused: a cache of a hash for each pair; this costs less than a
    look-up among a million entries.
    """
    product = (seed_key ^ node_key) * _FOLD
    return (product ^ (product >> 64)) & _MASK


def exponential(draw: int) -> int:
    """-log2(1 - draw / 2**64) in units of 2**-32: exponentially distributed, never too small."""
    rest = _MASK + 1 - draw
    top = rest.bit_length() - 1
    mantissa = (rest << (64 - top)) & _MASK
    index, part = mantissa >> 56, (mantissa >> 24) & (_ONE - 1)
    low = _LOG2[index]
    return ((64 - top) << 32) - low - ((_LOG2[index + 1] - low) * part >> 32)


def least_costs(seed_key: int, nodes: Sequence[tuple[int, int]]) -> list[int]:
    """For each (node key, factor) a bound that ``exponential(draw) * factor`` is never below.

    It is close for the draws that win. One expression, since it runs for every pair of a ranking.
    """
    return [
        (
            ((((product := (seed_key ^ key) * _FOLD) ^ (product >> 64)) & _MASK) >> 32) * _LOG2_E
            >> 16
        )
        * factor
        for key, factor in nodes
    ]


def _log2_table(steps: int) -> tuple[int, ...]:
    """log2(1 + i / steps) in units of 2**-32, for i from 0 to ``steps``, rounded down.

    Squaring a number between 1 and 2 doubles its logarithm: each time it passes 2 is one bit.
    """
    table = []
    for i in range(steps):
        x, result = (_ONE << 32) + ((_ONE << 32) * i) // steps, 0
        for _ in range(32):
            x = (x * x) >> 64
            result <<= 1
            if x >> 65:
                x >>= 1
                result |= 1
        table.append(result)
    return (*table, _ONE)


_LOG2 = _log2_table(256)
