"""What every contender of ``functions`` is given: a task of so much processor time, plain Python.

It stands in a module of its own, which Ray's workers and those of ProcessPoolExecutor import and
Pollen ships. Rounds are counted once, natively, so that all do the same work.
"""

from __future__ import annotations

import time


def task(rounds: int) -> int:
    """Work that no interpreter can leave out."""
    total = 0
    for number in range(rounds):
        total = (total * 31 + number) % 1_000_003
    return total


def rounds_for(milliseconds: int) -> int:
    """How many rounds take so long here; the best of five, since others take time away."""
    if not milliseconds:
        return 0
    probe, best = 20_000, float("inf")
    for _ in range(5):
        begun = time.perf_counter()
        task(probe)
        best = min(best, time.perf_counter() - begun)
    return round(probe * milliseconds / 1000 / best)
