"""Figures of the clock: `make test` allows twice the bar, `make accept` allows the bar itself.

On a machine that does other work, too, a bar that the product keeps is missed now and then. Within
twice the bar a test still tells the product's way from its absence. ``POLLEN_STRICT`` is set by
`make accept`, which runs each test marked ``figure`` again on an otherwise idle machine.
"""

from __future__ import annotations

import os

LOOSE = 2.0
IS_STRICT = os.environ.get("POLLEN_STRICT") == "1"


def within(bar: float) -> float:
    """What a test asserts of a figure with this bar, in the bar's own unit."""
    return bar if IS_STRICT else LOOSE * bar
