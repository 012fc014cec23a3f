"""The two clocks, read in one place."""

from __future__ import annotations

import time

from pollen.core.ids import Nanos, Now


def now() -> Now:
    """Monotonic and wall time together."""
    return Now(Nanos(time.monotonic_ns()), Nanos(time.time_ns()))
