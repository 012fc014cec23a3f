"""Where a node is on the map of round trips, so that unlinked peers have a price.

Decides: this node's coordinate, when it has moved enough to be told, and the estimate between two.
Does not know: links, records (``bundle`` carries what is told), who asks.
Invariants: floats live here and nowhere else in the core, and leave as integers of microseconds. A
    sample over a relayed path moves nothing: it measures the relay. What a peer tells is clamped,
    so that no lie moves this node far at once; the height never falls under its floor. What is told
    is the mean of the recent places, so that a node that trembles on the spot tells nothing.
Source: Vivaldi (Dabek, Cox, Kaashoek, Morris 2004): height vectors, cc = ce = 0.25; told apart from
    felt: Ledlie, Gardner, Seltzer, "Network Coordinates in the Wild" (2007). Refused: a landmark or
    a measured matrix, which need somebody that everybody can reach.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from pollen.core import limits
from pollen.core.events import PeerSample
from pollen.core.ids import PeerId
from pollen.core.rng import Rng

_CC = 0.25
_CE = 0.25
# The share of a new place in the mean that is told: about 16 samples, 8 s.
_STEADY = 1 / 16
_DIMENSIONS = 2


class Coordinate(msgspec.Struct, frozen=True, array_like=True):
    """A place as it is told: all in microseconds, but for the error in parts of a thousand."""

    x: int
    y: int
    height: int
    error: int

    def told(self) -> list[int]:
        """The plain integers that the bundle carries."""
        return [self.x, self.y, self.height, self.error]


def read_coordinate(told: Sequence[int]) -> Coordinate | None:
    """A peer's coordinate; None while it has none, or when no map of this world holds it."""
    if len(told) < _DIMENSIONS + 2:
        return None
    x, y, height, error = told[: _DIMENSIONS + 2]
    bound = limits.COORDINATE_MAX_US
    is_sane = abs(x) <= bound and abs(y) <= bound and 0 < height <= bound and 0 <= error <= 1_000
    return Coordinate(x, y, height, error) if is_sane else None


def estimate_us(one: Coordinate, other: Coordinate) -> int:
    """The round trip between two places, in microseconds, at least 1."""
    dx, dy = float(one.x - other.x), float(one.y - other.y)
    return max(1, int(math.sqrt(dx * dx + dy * dy)) + one.height + other.height)


class Coords:
    """This node's place."""

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._place = [0.0] * _DIMENSIONS
        self._height = float(limits.COORDINATE_HEIGHT_MIN_US)
        self._error = 1.0
        self._mean = [*self._place, self._height]
        # Of the mean: asked for once a peer in each row of the tables, and moved twice a second.
        self._here: Coordinate | None = None
        self._turn = 0
        self._rtt = 0.0
        self.told: list[int] = []

    def note(
        self, samples: Sequence[PeerSample], told_by: Callable[[PeerId], Sequence[int]]
    ) -> None:
        """One of the links in turn moves us: the one sample a call keeps peers from outvoting the
        others by being measured more often."""
        usable = [s for s in samples if s.direct and s.rtt_us > 0]
        for _ in range(len(usable)):
            self._turn = (self._turn + 1) % len(usable)
            sample = usable[self._turn]
            other = read_coordinate(told_by(sample.peer))
            if other is not None:
                self._move(other, sample.rtt_us)
                break
        if (not self.told and usable) or self._has_moved():
            self.told = self.coordinate().told()

    def coordinate(self) -> Coordinate:
        """Where we have been lately, quantised."""
        if self._here is None:
            x, y, height = (round(value) for value in self._mean)
            self._here = Coordinate(x, y, max(1, height), round(self._error * 1_000))
        return self._here

    def estimate(self, told: Sequence[int]) -> int | None:
        """The round trip to a peer that tells this; None while either hardly knows its place."""
        own = self.coordinate()
        if own.error > limits.COORDINATE_ERROR_MAX:
            return None
        other = read_coordinate(told)
        if other is None or other.error > limits.COORDINATE_ERROR_MAX:
            return None
        return estimate_us(own, other)

    def _move(self, other: Coordinate, rtt_us: int) -> None:
        """One step of the paper's figure 3, with heights."""
        rtt = float(min(rtt_us, limits.COORDINATE_MAX_US))
        self._rtt = rtt if not self._rtt else self._rtt + (rtt - self._rtt) / 16
        apart = [self._place[0] - other.x, self._place[1] - other.y]
        plane = math.sqrt(sum(part * part for part in apart))
        distance = plane + self._height + other.height
        other_error = max(other.error, 1) / 1_000
        weight = self._error / (self._error + other_error)
        wrong = abs(distance - rtt) / rtt
        share = _CE * weight
        self._error = min(1.0, max(0.001, wrong * share + self._error * (1 - share)))
        force = _CC * weight * (rtt - distance)
        force = max(-limits.COORDINATE_STEP_US, min(limits.COORDINATE_STEP_US, force))
        lift = self._height + other.height
        if plane < 1.0:
            apart, lift, distance = self._direction(), 0.0, 1.0
        # The unit vector of a height vector: the difference of the planes, the sum of the heights.
        self._place = [
            self._clamped(at + force * part / distance)
            for at, part in zip(self._place, apart, strict=True)
        ]
        height = self._height + force * lift / distance
        floor, top = limits.COORDINATE_HEIGHT_MIN_US, limits.COORDINATE_MAX_US
        self._height = min(max(height, float(floor)), float(top))
        # Who hardly knows its place follows it at once.
        share = max(_STEADY, self._error)
        felt = [*self._place, self._height]
        self._mean = [m + (at - m) * share for m, at in zip(self._mean, felt, strict=True)]
        self._here = None

    def _clamped(self, value: float) -> float:
        return max(-float(limits.COORDINATE_MAX_US), min(float(limits.COORDINATE_MAX_US), value))

    def _direction(self) -> list[float]:
        """Two that stand on one place part in a direction by chance: a vector of length 1."""
        parts = [float(self._rng.below(2_001) - 1_000) for _ in range(_DIMENSIONS)]
        length = math.sqrt(sum(part * part for part in parts)) or 1.0
        return [part / length for part in parts]

    def _has_moved(self) -> bool:
        """Past the hysteresis: a quarter of the usual round trip, or twice as sure as told."""
        if not self.told:
            return False
        was, now = Coordinate(*self.told), self.coordinate()
        dx, dy = float(was.x - now.x), float(was.y - now.y)
        moved = math.sqrt(dx * dx + dy * dy) + abs(was.height - now.height)
        is_surer = was.error > max(2 * now.error, limits.COORDINATE_ERROR_MAX // 4)
        return is_surer or moved > max(limits.COORDINATE_MOVE_MIN_US, self._rtt / 4)
