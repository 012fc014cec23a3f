"""The core's only source of chance: a small seeded integer generator.

Decides: the sequence that follows from a seed, and how a list is shuffled.
Does not know: entropy; the runtime or the simulator hands in the seed.
Invariants: the same seed gives the same sequence on every platform and Python; integers only.
Source: SplitMix64 (Steele, Lea, Flood 2014). Refused: ``random.Random``, whose shuffle and floats
are not promised to stay the same, and whose import reads the operating system's entropy.
"""

from __future__ import annotations

from collections.abc import MutableSequence
from typing import TypeVar

T = TypeVar("T")

_MASK = (1 << 64) - 1


class Rng:
    """A SplitMix64 generator. Not for secrets: nonces come from outside as bytes."""

    def __init__(self, seed: int) -> None:
        self._state = seed & _MASK

    def draw(self) -> int:
        """The next 64-bit integer."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & _MASK
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
        return z ^ (z >> 31)

    def below(self, n: int) -> int:
        """An integer in ``0 .. n-1``; the bias of the remainder is under 2**-32 for n < 2**32."""
        return self.draw() % n

    def shuffle(self, items: MutableSequence[T]) -> None:
        """Fisher-Yates in place."""
        for i in range(len(items) - 1, 0, -1):
            j = self.below(i + 1)
            items[i], items[j] = items[j], items[i]

    def jittered(self, base: int) -> int:
        """``base`` spread evenly over half to one and a half of itself."""
        return base // 2 + self.below(base + 1)
