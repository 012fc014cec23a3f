"""Figures of large or long worlds: false verdicts, spread, idle cost, how fast a world runs.

Decides: what each measurement builds, lets happen and counts.
Does not know: what figure is good enough: tests and ``make accept`` say that.
Invariants: virtual figures follow from the number alone; only ``cpu_s`` is of the machine.
Source: docs/internals/simulator.md#figures.
"""

from __future__ import annotations

import time

import msgspec

from pollen.core.ids import MILLISECOND, SECOND
from pollen.core.kinds import SPEC
from pollen.core.rng import Rng
from pollen.sim.verdict import observe
from pollen.sim.world.machine import Machine
from pollen.sim.world.town import found_converged
from pollen.sim.world.world import World

_LOOK_NS = 100 * MILLISECOND
# Links come to rest: near neighbours are chosen after ten seconds.
_WARM_NS = 15 * SECOND
# A brain stalls so often on average, each for up to the longest stall.
STALL_EACH_NS = 60 * SECOND
STALL_NS = 1_500 * MILLISECOND
# The spread of a change is looked at so often, and given up after so long.
_STEP_NS = 10 * MILLISECOND
_PATIENCE_NS = 10 * SECOND
_IDLE_NS = 10 * SECOND


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a long bad day on which nobody died. ``said``: records of all nodes."""

    nodes: int
    seconds: int
    false: list[str]
    stalls: int
    said: int
    events: int
    cpu_s: float


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A calm large cluster: ``spread_ms`` of single changes to all nodes, sorted.

    ``idle_bytes_s``: each way of a link. ``found_ms``: from a kill until everybody knew.
    """

    nodes: int
    records: int
    links: int
    idle_bytes_s: int
    spread_ms: list[int]
    found_ms: int
    build_cpu_s: float
    seconds: int
    cpu_s: float
    events: int

    def percentile(self, share: int) -> int:
        """The spread that so many of a hundred arrivals stay within, in milliseconds."""
        return self.spread_ms[min(len(self.spread_ms) * share // 100, len(self.spread_ms) - 1)]


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
    began = time.process_time()
    world = World(number, trace_depth=0, keeps_traces=False)
    weather = world.network.weather
    weather.near_ns = 20 * MILLISECOND
    found_converged(world, nodes)
    world.run(_WARM_NS)
    weather.loss_bp, weather.jitter_ns = 500, 300 * MILLISECOND
    stalls = _Stalls(world, Rng(number))
    false: list[str] = []
    end = world.now + seconds * SECOND
    while world.now < end:
        world.run(_LOOK_NS)
        for machine in world.machines.values():
            if len(observe.live_of(machine)) < nodes:
                false.append(_who(world, machine))
    return Verdicts(
        nodes=nodes,
        seconds=seconds,
        false=false[:20],
        stalls=stalls.count,
        said=sum(observe.said_by(machine) for machine in world.machines.values()),
        events=world.trace.events,
        cpu_s=time.process_time() - began,
    )


def _who(world: World, machine: Machine) -> str:
    live = observe.live_of(machine)
    missing = [m.name for m in world.machines.values() if m.key not in live]
    return f"{machine.name} believes {' '.join(missing)} dead at {world.now / SECOND:.1f} s"


def calm(nodes: int = 1_000, changes: int = 20, seconds: int = 30, number: int = 1) -> Figures:
    """Loss of 1 %, 10 ms one way: idle cost, single changes, then one kill in some seconds."""
    began = time.process_time()
    world = World(number, trace_depth=0, keeps_traces=False)
    weather = world.network.weather
    weather.near_ns, weather.jitter_ns = 10 * MILLISECOND, 5 * MILLISECOND
    names = found_converged(world, nodes)
    weather.loss_bp = 100
    world.run(_WARM_NS)
    built = time.process_time() - began
    rng = Rng(number)
    idle, links = _idle(world)
    spread: list[int] = []
    for change in range(changes):
        spread += _spread(world, names[rng.below(nodes)], f"news-{change}")
    events, began = world.trace.events, time.process_time()
    end = world.now + seconds * SECOND
    world.run(seconds * SECOND // 10)
    found = _kill(world, names[1 + rng.below(nodes - 1)], end)
    world.run(end - world.now)
    return Figures(
        nodes=nodes,
        records=len(observe.records_of(world.machines[names[0]])),
        links=links,
        idle_bytes_s=idle,
        spread_ms=sorted(spread),
        found_ms=found,
        build_cpu_s=built,
        seconds=seconds,
        cpu_s=time.process_time() - began,
        events=world.trace.events - events,
    )


def _idle(world: World) -> tuple[int, int]:
    """Bytes that one way of a link carries in a second when nobody wants anything, and links."""
    ends = [end for m in world.machines.values() for end in world.network.ends_of(m)]
    before = sum(end.bytes_out for end in ends)
    world.run(_IDLE_NS)
    moved = sum(end.bytes_out for end in ends) - before
    return moved * SECOND // _IDLE_NS // max(len(ends), 1), len(ends) // 2


def _spread(world: World, name: str, seed: str) -> list[int]:
    """Milliseconds until each other node had a spec that one publishes."""
    source = world.machines[name]
    command = world.seed_command(name, seed, min_replicas=1)
    world.ask_later(name, command)
    key = seed.encode()
    world.run_until(lambda: observe.has_record(source, source.key, SPEC, key), SECOND, MILLISECOND)
    began = world.now
    waiting = [m for m in world.machines.values() if m is not source]
    found: list[int] = []
    while waiting and world.now < began + _PATIENCE_NS:
        world.run(_STEP_NS)
        late = [m for m in waiting if not observe.has_record(m, source.key, SPEC, key)]
        found += [(world.now - began) // MILLISECOND] * (len(waiting) - len(late))
        waiting = late
    return found + [_PATIENCE_NS // MILLISECOND] * len(waiting)


def _kill(world: World, name: str, end: int) -> int:
    """Milliseconds until nobody believes a killed node alive; 0 when that never came."""
    victim = world.machines[name]
    world.crash(name)
    began = world.now

    def is_found() -> bool:
        up = world.up()
        return not any(victim.key in observe.live_of(machine) for machine in up)

    held = world.run_until(is_found, end - began)
    return (world.now - began) // MILLISECOND if held else 0
