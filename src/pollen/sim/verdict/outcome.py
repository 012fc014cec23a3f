"""What a run came to, second by second, as a hash that a refactoring must not change.

Decides: what of a run is behaviour: who is live, what names mean, who claims what, which routes the
    muscles hold, what users were answered and how their calls ended.
Does not know: how any of it is represented. Only words, hashes and machine names go in, never the
    bytes or the fields of a struct, so that a struct may change its layout.
Invariants: nothing here changes a node or draws a number: a run with it and without it is the same.
Source: docs/decisions/rooms.md#two-hashes-for-every-run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

from pollen.core.effects import Effect, Reply
from pollen.core.events import Event
from pollen.core.ids import SECOND
from pollen.sim.muscles.calls import Call
from pollen.sim.verdict import observe
from pollen.sim.world.engine import Engine
from pollen.sim.world.machine import Machine

_SHORT = 12


class Outcome:
    """Watches one world from now on. ``lines`` is kept only when asked for, to compare two runs."""

    def __init__(self, world: Engine, *, keeps_lines: bool = False) -> None:
        self._world = world
        self._state = hashlib.blake2b(digest_size=16)
        self._keeps_lines = keeps_lines
        self._answered: list[str] = []
        self.lines: list[str] = []
        world.watchers.append(self._watch)
        world.call_ended.append(self._note_call)
        world.schedule(SECOND, self._look)

    def digest(self) -> str:
        """32 hex digits: everything until the last whole second."""
        return self._state.hexdigest()

    def _watch(self, machine: Machine, event: Event, out: Sequence[Effect]) -> None:
        for effect in out:
            if isinstance(effect, Reply):
                seed = str(getattr(effect.result, "seed", ""))[:_SHORT]
                self._answered.append(f"{machine.name} {effect.slug or 'ok'} {seed}")

    def _note_call(self, call: Call) -> None:
        self._answered.append(f"{call.origin} calls {call.name}: {call.slug or 'ok'}")

    def _look(self) -> None:
        self._write(f"second {self._world.now // SECOND}")
        for name, machine in self._world.machines.items():
            if machine.node is None:
                self._write(f"{name} is down")
                continue
            self._write(f"{name} live {' '.join(self._labels(observe.live_of(machine)))}")
            for line in (*_names(machine), *self._claims(machine), *self._routes(machine)):
                self._write(f"{name} {line}")
        for line in sorted(self._answered):
            self._write(line)
        self._answered.clear()
        self._world.schedule(SECOND, self._look)

    def _labels(self, peers: Iterable[bytes]) -> list[str]:
        return sorted(observe.label_of(self._world.by_key, peer) for peer in peers)

    def _claims(self, machine: Machine) -> list[str]:
        return [
            f"claim {seed.hex()[:_SHORT]} {' '.join(self._labels([node]))} {state}"
            for seed, node, state in observe.claims_of(machine)
        ]

    def _routes(self, machine: Machine) -> list[str]:
        return [
            f"route {name} {seed[:_SHORT]} {' '.join(self._labels(map(bytes.fromhex, replicas)))}"
            for name, (seed, replicas) in observe.routes_of(machine).items()
        ]

    def _write(self, line: str) -> None:
        self._state.update(line.encode() + b"\n")
        if self._keeps_lines:
            self.lines.append(line)


def _names(machine: Machine) -> list[str]:
    return [
        f"name {name} {held.holder.seed.hex()[:_SHORT]} {'live' if held.is_live else 'withdrawn'}"
        + "".join(f" over {lost.seed.hex()[:_SHORT]}" for lost in held.shadowed)
        for name, held in sorted(observe.names_of(machine).items())
    ]
