"""Figures of large or long worlds: false verdicts, spread, idle cost, how fast a world runs.

Decides: what each measurement builds, lets happen and counts.
Does not know: what figure is good enough: tests and ``make accept`` say that.
Invariants: virtual figures follow from the number alone; only ``wall_s`` is of the machine.
Source: issue "Brain" (Done when, 4 and 5).
"""

from __future__ import annotations

import time

import msgspec

from pollen.core.ids import MILLISECOND, SECOND
from pollen.core.rng import Rng
from pollen.sim import observe
from pollen.sim.trial import node_names
from pollen.sim.world import World

_LOOK_NS = 100 * MILLISECOND
_WARM_NS = 15 * SECOND
# A brain stalls so often on average, each for up to the longest stall.
STALL_EACH_NS = 60 * SECOND
STALL_NS = 1_500 * MILLISECOND


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a long bad day on which nobody died."""

    nodes: int
    seconds: int
    false: list[str]
    stalls: int
    said: int
    events: int
    wall_s: float


class _Stalls:
    """Every brain stalls now and then."""

    def __init__(self, world: World, rng: Rng) -> None:
        self.world = world
        self.rng = rng
        self.count = 0
        for name in world.machines:
            self._next(name)

    def _next(self, name: str) -> None:
        self.world.schedule(self.rng.below(2 * STALL_EACH_NS), self._stall, name)

    def _stall(self, name: str) -> None:
        self.count += 1
        # Every other one is as long as it gets.
        length = STALL_NS if self.rng.below(2) else self.rng.below(STALL_NS)
        self.world.stall(name, length)
        self._next(name)


def false_verdicts(nodes: int = 60, seconds: int = 3_600, number: int = 1) -> Verdicts:
    """Loss of 5 %, jitter of 300 ms, stalls of 1.5 s: who is believed dead though it runs?"""
    began = time.monotonic()
    world = World(number, trace_depth=0, keeps_traces=False)
    weather = world.network.weather
    weather.near_ns, weather.jitter_ns = 20 * MILLISECOND, 300 * MILLISECOND
    world.found_all(node_names(nodes))
    world.run(_WARM_NS)
    weather.loss_bp = 500
    stalls = _Stalls(world, Rng(number))
    false: list[str] = []
    end = world.now + seconds * SECOND
    while world.now < end:
        world.run(_LOOK_NS)
        for machine in world.machines.values():
            live = observe.live_of(machine)
            if len(live) < nodes:
                missing = [m.name for k, m in world.by_key.items() if k not in live]
                text = f"{machine.name} believes {' '.join(missing)} dead"
                false.append(f"{text} at {world.now / SECOND:.1f} s")
    said = sum(observe.said_by(m) for m in world.machines.values())
    return Verdicts(
        nodes=nodes, seconds=seconds, false=false[:20], stalls=stalls.count,
        said=said, events=world.trace.events, wall_s=time.monotonic() - began,
    )  # fmt: skip
