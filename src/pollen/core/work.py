"""Long work in slices, so that no turn of the brain holds it for long.

Decides: which machine with work left goes on, and for how many units in one turn.
Does not know: what the work is, or time: a unit is counted, not measured.
Invariants: one turn spends at most ``limits.WORK_SLICE_UNITS`` plus what the last step of a
    machine overdraws; a machine with work left is asked again, at once, until it has none; the
    machine that goes first changes each turn, so that a busy one starves nobody.
Source: docs/design/protocol.md#turns. Refused: a time limit, since the core has no clock
    and a run of the simulator would depend on the machine it runs on.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Protocol, TypeVar

from pollen.core import limits, timers
from pollen.core.effects import SetTimer
from pollen.core.turn import Turn

K = TypeVar("K")


def taken(waiting: dict[K, None], most: int) -> list[K]:
    """Take at most so many out, the oldest first."""
    first = list(itertools.islice(waiting, most))
    for key in first:
        del waiting[key]
    return first


class Machine(Protocol):
    """A machine with long work. A unit is about a microsecond of the slowest machine aimed at."""

    @property
    def has_work(self) -> bool:
        """True while ``advance`` has something to do."""
        ...

    def advance(self, units: int, turn: Turn) -> int:
        """Work for about so many units; returns what was spent (at least 1)."""
        ...


class Work:
    """The machines that have long work, and whose turn it is."""

    def __init__(self, machines: Sequence[Machine]) -> None:
        self._machines = list(machines)
        self._first = 0
        self.slices = 0
        self.largest_slice = 0

    def go_on(self, turn: Turn) -> None:
        """One slice of what is to do; a timer at once when some of it is left."""
        spent, count = 0, len(self._machines)
        for step in range(count):
            machine = self._machines[(self._first + step) % count]
            while machine.has_work and spent < limits.WORK_SLICE_UNITS:
                used = machine.advance(limits.WORK_SLICE_UNITS - spent, turn)
                spent += max(used, 1)
        if spent:
            self.slices += 1
            self.largest_slice = max(self.largest_slice, spent)
        if any(machine.has_work for machine in self._machines):
            self._first = (self._first + 1) % count
            turn.do(SetTimer(token=timers.token_for(timers.WORK), at=turn.now.mono))
