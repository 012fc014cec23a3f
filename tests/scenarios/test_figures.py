"""Long and large worlds: at a tenth, and in full among the slow ones."""

from __future__ import annotations

import os

import pytest

from pollen.core.ids import SECOND
from pollen.core.rng import Rng
from pollen.sim.mischief.faults import Faults
from pollen.sim.mischief.workload import Workload
from pollen.sim.verdict import figures, living
from pollen.sim.verdict.case import Case
from pollen.sim.verdict.figures import Figures, Verdicts
from pollen.sim.world.town import found_converged
from pollen.sim.world.world import World

# ``make check`` runs ten seeds and small worlds, ``make test`` the tenth that it promises.
IS_SHORT = int(os.environ.get("POLLEN_SIM_SEEDS", "60")) < 60
SECONDS, NODES, TOWN = (60, 20, 70) if IS_SHORT else (360, 60, 100)


def check_verdicts(found: Verdicts) -> None:
    """Everybody ran, and everybody knew it; and the day was bad."""
    print(found)
    assert found.false == []
    assert found.stalls >= found.nodes * found.seconds // 120
    assert found.said > found.nodes


def check_figures(found: Figures, *, spread_ms: int, cpu_s: int) -> None:
    """The figures of a calm cluster and one kill."""
    print({**vars_of(found), "p50": found.percentile(50), "p99": found.percentile(99)})
    assert len(found.spread_ms) >= 10 * (found.nodes - 1)
    assert found.percentile(99) < spread_ms
    assert found.idle_bytes_s < 1_000
    assert 0 < found.found_ms < 10_000
    assert found.records >= 8 * found.nodes
    assert found.cpu_s < cpu_s


def vars_of(found: Figures) -> dict[str, object]:
    """All but the long list."""
    names = [name for name in found.__struct_fields__ if name != "spread_ms"]
    return {name: getattr(found, name) for name in names}


@pytest.mark.timeout(600)
def test_nobody_who_runs_is_believed_dead() -> None:
    """60 nodes, 5 % loss, 300 ms jitter, stalls of 1.5 s: a tenth of an hour."""
    check_verdicts(figures.false_verdicts(NODES, SECONDS))


@pytest.mark.timeout(600)
def test_a_change_spreads_in_a_second_and_an_idle_link_costs_little() -> None:
    """100 nodes, a tenth of the time for the run with the kill."""
    check_figures(figures.calm(TOWN, 10 if IS_SHORT else 20), spread_ms=1_000, cpu_s=12)


def test_a_large_view_is_symmetric_wide_and_in_one_piece() -> None:
    """So many nodes are no full mesh: who is beside whom follows from the records alone."""
    world = World(1, trace_depth=0, keeps_traces=False)
    found_converged(world, TOWN)
    world.run(3 * SECOND)
    case = Case(
        world,
        Faults(world, Rng(1), []),
        Workload(world, Rng(1), names=0, calls_per_second=1),
    )
    assert living.view_symmetric(case) == []
    assert living.view_wide_enough(case) == []
    ends = sum(len(list(world.network.ends_of(m))) for m in world.machines.values())
    assert ends < 40 * len(world.machines)


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_nobody_who_runs_is_believed_dead_in_an_hour() -> None:
    """The whole hour."""
    check_verdicts(figures.false_verdicts(60, 3_600))


@pytest.mark.slow
@pytest.mark.timeout(7_200)
def test_a_change_spreads_in_two_seconds_among_a_thousand() -> None:
    """30 simulated seconds with a kill take under two minutes of one core."""
    check_figures(figures.calm(1_000), spread_ms=2_000, cpu_s=120)
