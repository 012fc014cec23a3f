"""The ways between machines: how long a packet takes, whether it is lost, what is cut off.

Decides: latency, jitter, loss and duplication of single packets, and which directions are cut.
Does not know: links, frames; who is a machine's peer.
Invariants: the calm one-way time of two machines never changes. A rule stands until it is taken
    away; several rules may stand at once. Loss of chance draws from this object's own generator.
Source: turmoil-net's rules; docs/design/protocol.md#liveness (what the muscles' probes see).
"""

from __future__ import annotations

from dataclasses import dataclass

from pollen.core.ids import MILLISECOND, SECOND
from pollen.core.rng import Rng
from pollen.sim.world.machine import Machine

_AGAIN_NS = 75 * MILLISECOND
_AGAIN_MAX_NS = 4 * SECOND


@dataclass(slots=True, frozen=True, eq=False)
class Cut:
    """Nothing passes from ``sources`` to ``targets`` (names) while this rule stands."""

    sources: frozenset[str]
    targets: frozenset[str]
    is_symmetric: bool

    def blocks(self, source: str, target: str) -> bool:
        """Whether a packet of this direction is lost."""
        if source in self.sources and target in self.targets:
            return True
        return self.is_symmetric and source in self.targets and target in self.sources


class Weather:
    """What holds for every way, and the rules that stand now.

    ``zones_ns``: one-way times by pair of zones. ``slow``: extra time of all that a machine sends
    or gets. Loss and duplication in basis points.
    """

    def __init__(self, rng: Rng) -> None:
        self._rng = rng
        self._zones: dict[str, int] = {}
        self.near_ns = 500_000
        self.zones_ns: list[list[int]] = []
        self.jitter_ns = 0
        self.loss_bp = 0
        self.duplicates_bp = 0
        self.slow: dict[str, int] = {}
        self.cuts: list[Cut] = []
        self.lost = 0
        self.doubled = 0

    def settle(self, machine: Machine, zone: int) -> None:
        """A machine lives in this zone from now on."""
        self._zones[machine.name] = zone

    def way_ns(self, one: Machine, other: Machine) -> int:
        """The one-way time between two machines on a calm day."""
        if not self.zones_ns:
            return self.near_ns
        base = self.zones_ns[self._zones[one.name]][self._zones[other.name]]
        # Two machines of a pair of zones are not equally far: a fixed spread by their indices.
        spread = ((one.index * 2_654_435_761) ^ (other.index * 2_654_435_761)) % 64
        return base * (64 + spread) // 96

    def is_cut(self, source: Machine, target: Machine) -> bool:
        """Whether packets of this direction are lost now, all of them."""
        return any(cut.blocks(source.name, target.name) for cut in self.cuts)

    def is_lost(self) -> bool:
        """Whether one packet is lost by chance."""
        if not self.loss_bp or self._rng.below(10_000) >= self.loss_bp:
            return False
        self.lost += 1
        return True

    def is_doubled(self) -> bool:
        """Whether one datagram arrives twice."""
        if not self.duplicates_bp or self._rng.below(10_000) >= self.duplicates_bp:
            return False
        self.doubled += 1
        return True

    def once_ns(self, source: Machine, target: Machine, way_ns: int) -> int:
        """How long one datagram takes that is not lost."""
        way = way_ns
        if self.slow:
            way += self.slow.get(source.name, 0) + self.slow.get(target.name, 0)
        if self.jitter_ns:
            way += self._rng.below(self.jitter_ns)
        return way

    def delay(self, source: Machine, target: Machine, way_ns: int) -> int:
        """How long a piece of a stream takes, sent again whenever it is lost."""
        way = self.once_ns(source, target, way_ns)
        if self.loss_bp:
            again = 2 * way + _AGAIN_NS
            while self.is_lost():
                way += again
                again = min(2 * again, _AGAIN_MAX_NS)
        return way
