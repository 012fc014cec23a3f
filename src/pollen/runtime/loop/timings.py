"""What the loop measures about itself, for the metrics.

Decides: nothing; it names the durations.
Does not know: histograms, pages (``watch``).
Source: docs/guide/observe.md.
"""

from __future__ import annotations

from typing import Protocol


class Durations(Protocol):
    """Durations of one kind."""

    def observe(self, amount: float) -> None:
        """One more, in seconds. Safe from any thread."""


class Timings(Protocol):
    """The durations of a brain's turns and of the store's commits."""

    @property
    def handle(self) -> Durations:
        """One turn of the brain."""

    @property
    def commit(self) -> Durations:
        """One commit of the store."""
