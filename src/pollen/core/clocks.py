"""The two clocks of a node, and when one of them cannot be trusted.

Decides: the wall time that the core works with, whether time went on as it should have, and when
    the floor under the wall is given up because other members contradict it.
Does not know: who reads a clock (each event brings both), how members tell their time, what follows
    from a jump.
Invariants: the wall never falls below what was saved or below the newest verified ``not_before``,
    unless the machine's own clock and a quorum of members agree that it is earlier. One member
    alone never moves the floor, except the only other one. Time that passed unobserved is told
    once: by the event that ends it.
Source: docs/decisions/a-floor-that-members-contradict.md. The driver feeds an event every half
    second (telemetry), so a longer gap means that this process, or the whole machine, did not run.
    Refused: asking the system about sleep, which each platform answers otherwise, and not at all
    for a stopped process.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from pollen.core import limits
from pollen.core.ids import Nanos, Now, PeerId


class Jump(enum.Enum):
    """What happened to time between two events."""

    NONE = "none"
    STALLED = "stalled"
    STEPPED = "stepped"


class _Heard(NamedTuple):
    """How far a member's clock is ahead of ours, and when on the monotonic clock we heard it."""

    ahead: int
    at: Nanos


class Clocks:
    """The readings of one run."""

    def __init__(self) -> None:
        self._saved = Nanos(0)
        self._floor = Nanos(0)
        self._refuted = Nanos(0)
        self._last: Now | None = None
        self._heard: dict[PeerId, _Heard] = {}
        self._given_up = 0
        self._must_save = False
        self.jumps = 0

    def restore(self, saved: Nanos) -> None:
        """The wall time on disk: it was at least that late when the last run ended."""
        self._saved = self._floor = saved

    def raise_floor(self, not_before: int) -> None:
        """Something valid was signed at this wall time: it is not earlier than that.

        Up to the last floor that was given up such dates prove nothing.
        """
        if not_before > self._refuted:
            self._floor = Nanos(max(self._floor, not_before))

    def note_member(self, peer: PeerId, wall: int) -> None:
        """A member said, just now, what its own clock shows; 0 says nothing."""
        if not wall or self._last is None:
            return
        self._heard.pop(peer, None)
        if len(self._heard) >= limits.CLOCK_VOTERS_MAX:
            del self._heard[next(iter(self._heard))]
        self._heard[peer] = _Heard(wall - self._last.wall, self._last.mono)

    def read(self, raw: Now, others: int) -> tuple[Now, Jump]:
        """The clocks as the core takes them, and whether they jumped since the last event.

        ``others`` is how many other members the cluster has.
        """
        jump = Jump.NONE if self._last is None else jump_between(self._last, raw)
        self.jumps += jump is not Jump.NONE
        if jump is Jump.STEPPED:
            self._heard.clear()
        self._last = raw
        if self.is_in_doubt and self._is_contradicted(others):
            self._give_up(raw.wall)
        return Now(raw.mono, Nanos(max(raw.wall, self._floor))), jump

    @property
    def raw_wall(self) -> Nanos:
        """What the machine's own clock showed at the last event; 0 before the first."""
        return Nanos(0) if self._last is None else self._last.wall

    @property
    def is_in_doubt(self) -> bool:
        """Whether the machine's clock is further behind the floor than clocks differ."""
        return self.raw_wall + limits.CLOCK_TOLERANCE_NS < self._floor

    def heard(self) -> list[int]:
        """By how much the members heard lately are ahead of this machine's clock, ascending."""
        since = 0 if self._last is None else self._last.mono - limits.CLOCK_FRESH_NS
        return sorted(heard.ahead for heard in self._heard.values() if heard.at >= since)

    def _is_contradicted(self, others: int) -> bool:
        heard = self.heard()
        agreeing = sum(abs(ahead) <= limits.CLOCK_TOLERANCE_NS for ahead in heard)
        return agreeing >= min(others, 2) and 2 * agreeing > len(heard)

    def _give_up(self, wall: Nanos) -> None:
        self._given_up = self._floor - wall
        self._refuted = self._floor
        self._floor = self._saved = wall
        self._must_save = True

    def take_given_up(self) -> int:
        """By how many nanoseconds the floor fell since the last call; 0 when it did not."""
        given_up, self._given_up = self._given_up, 0
        return given_up

    def take_save(self, wall: Nanos) -> Nanos | None:
        """The wall time to write to disk, when the one there is old or was given up."""
        if not self._must_save and wall < self._saved + limits.WALL_SAVE_NS:
            return None
        self._must_save = False
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
