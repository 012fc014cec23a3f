"""Long work in slices: nobody holds a turn, nobody starves, nothing is left lying."""

from __future__ import annotations

from pollen.core import limits, timers
from pollen.core.effects import SetTimer
from pollen.core.ids import Nanos, Now
from pollen.core.turn import Turn
from pollen.core.work import Work
from tests.unit.turns import effects_of, turn_at

NOW = Now(Nanos(7), Nanos(9))


class Pile:
    """So many steps of so many units; each is noted in a common log."""

    def __init__(self, name: str, steps: int, cost: int, log: list[str]) -> None:
        self.name, self.steps, self.cost, self.log = name, steps, cost, log

    @property
    def has_work(self) -> bool:
        return self.steps > 0

    def advance(self, units: int, turn: Turn) -> int:
        self.steps -= 1
        self.log.append(self.name)
        return self.cost


def test_one_turn_spends_its_slice_and_asks_for_the_next() -> None:
    """The largest slice is told, and a timer at once goes on with the rest."""
    log: list[str] = []
    work = Work([Pile("a", 12, 700, log)])
    out = effects_of(NOW, work.go_on)
    assert out == [SetTimer(token=timers.token_for(timers.WORK), at=NOW.mono)]
    assert (len(log), work.largest_slice) == (5, limits.WORK_SLICE_UNITS)


def test_work_that_is_done_sets_no_timer() -> None:
    log: list[str] = []
    work = Work([Pile("a", 2, 10, log)])
    assert effects_of(NOW, work.go_on) == []
    assert effects_of(NOW, work.go_on) == []
    assert (log, work.slices) == (["a", "a"], 1)


def test_a_busy_machine_starves_nobody() -> None:
    """The one that goes first changes each turn."""
    log: list[str] = []
    work = Work([Pile("a", 99, 5_000, log), Pile("b", 99, 5_000, log)])
    for _ in range(4):
        effects_of(NOW, work.go_on)
    assert log == ["a", "b", "a", "b"]


def test_a_machine_that_reports_nothing_spent_still_ends() -> None:
    """At least one unit a step is counted, so that a turn is bounded whatever a machine says."""
    log: list[str] = []
    Work([Pile("a", 1_000_000, 0, log)]).go_on(turn_at(NOW))
    assert len(log) == limits.WORK_SLICE_UNITS
