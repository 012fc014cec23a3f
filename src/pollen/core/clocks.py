"""The two clocks of a node, and when one of them cannot be trusted.

Decides: the wall time that the core works with, and whether time went on as it should have.
Does not know: who reads a clock (each event brings both), what follows from a jump.
Invariants: the wall never falls below what was saved or below the newest verified ``not_before``.
    Time that passed unobserved is told once: by the event that ends it.
Source: PROTOCOL 1. The driver feeds an event every half second (telemetry), so a longer gap means
    that this process, or the whole machine, did not run. Refused: asking the system about sleep,
    which each platform answers otherwise, and not at all for a stopped process.
"""

from __future__ import annotations

import enum

from pollen.core import limits
from pollen.core.ids import Nanos, Now


class Jump(enum.Enum):
    """What happened to time between two events."""

    NONE = "none"
    STALLED = "stalled"
    STEPPED = "stepped"


class Clocks:
    """The readings of one run. ``saved`` is the wall time on disk."""

    def __init__(self, saved: Nanos) -> None:
        self._saved = saved
        self._floor = saved
        self._last: Now | None = None
        self.jumps = 0

    def raise_floor(self, not_before: int) -> None:
        """Something valid was signed at this wall time: it is not earlier than that."""
        self._floor = Nanos(max(self._floor, not_before))

    def read(self, raw: Now) -> tuple[Now, Jump]:
        """The clocks as the core takes them, and whether they jumped since the last event."""
        jump = Jump.NONE if self._last is None else jump_between(self._last, raw)
        self.jumps += jump is not Jump.NONE
        self._last = raw
        return Now(raw.mono, Nanos(max(raw.wall, self._floor))), jump

    def take_save(self, wall: Nanos) -> Nanos | None:
        """The wall time to write to disk, when the one there is old."""
        if wall < self._saved + limits.WALL_SAVE_NS:
            return None
        self._saved = wall
        self._floor = Nanos(max(self._floor, wall))
        return wall


def jump_between(last: Now, now: Now) -> Jump:
    """``STEPPED`` when the clocks disagree about how long it was, ``STALLED`` when it was long.

    A machine that slept shows as the first where the monotonic clock stands still meanwhile
    (Linux), as the second elsewhere.
    """
    mono, wall = now.mono - last.mono, now.wall - last.wall
    if abs(wall - mono) > limits.CLOCK_STEP_NS:
        return Jump.STEPPED
    return Jump.STALLED if mono > limits.STALL_NS else Jump.NONE
