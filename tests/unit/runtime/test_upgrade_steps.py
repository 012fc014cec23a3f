"""The order of an upgrade, from every moment at which it may be cut off, and what health is."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from typing import Any

import pytest

from pollen.runtime.upgrade.steps import (
    Before,
    Seen,
    Step,
    Which,
    before_of,
    lacking,
    next_step,
)

ENDS = (Step.FINISH, Step.GIVE_UP)
# More steps than any way has: there, and all the way back.
MOST = 16


@dataclass(frozen=True)
class World:
    """A machine on which versions may be broken: ``starts`` come up, ``works`` are healthy."""

    seen: Seen
    starts: frozenset[Which]
    works: frozenset[Which]

    def after(self, step: Step) -> World:
        """What is seen once the step was done, with what the machine makes of it."""
        seen = self.seen
        match step:
            case Step.DRAIN:
                seen = replace(seen, is_running=False, is_own=False, is_healthy=False)
            case Step.SWITCH:
                assert not seen.is_running, "the files change under a running node"
                seen = replace(seen, held=seen.goal)
            case Step.START if seen.held in self.starts:
                assert seen.held is seen.goal and not seen.is_running
                seen = replace(seen, is_running=True, is_own=True)
            case Step.START:
                seen = replace(seen, fault="it crashed")
            case Step.LOOK if seen.held in self.works:
                seen = replace(seen, is_healthy=True)
            case Step.LOOK:
                seen = replace(seen, fault="it is not healthy")
            case Step.TURN_BACK:
                assert seen.goal is Which.NEW, "the goal turned twice"
                seen = replace(seen, goal=Which.OLD, fault="", is_own=False, is_healthy=False)
        return replace(self, seen=seen)


def ended(world: World) -> tuple[World, Step]:
    """The world at the end, and the last step; fails when there is no end."""
    for _ in range(MOST):
        step = next_step(world.seen)
        if step in ENDS:
            assert step is Step.GIVE_UP or world.seen.is_own, "nobody knows what it runs"
            return world, step
        world = world.after(step)
    raise AssertionError(f"no end: {world}")


BOTH = frozenset(Which)
FLAGS = (True, False)
# Whatever a journal and a machine may say when somebody looks at them.
MOMENTS = [
    Seen(goal, held, is_running, is_own and is_running, False)
    for goal, held, is_running, is_own in itertools.product(Which, Which, FLAGS, FLAGS)
    # A node of the goal's files is not there before those files are.
    if not (is_own and held is not goal)
]


@pytest.mark.parametrize("seen", MOMENTS, ids=str)
def test_from_every_moment_two_good_versions_end_at_the_goal(seen: Seen) -> None:
    world, step = ended(World(seen, BOTH, BOTH))
    assert step is Step.FINISH
    assert world.seen.goal is world.seen.held is seen.goal
    assert world.seen.is_running and world.seen.is_healthy


@pytest.mark.parametrize("seen", MOMENTS, ids=str)
@pytest.mark.parametrize("starts", [BOTH, frozenset({Which.OLD})], ids=["starts", "crashes"])
def test_from_every_moment_a_bad_version_is_taken_back(seen: Seen, starts: Any) -> None:
    """Whether it crashes at its start or never gets healthy."""
    world, step = ended(World(seen, starts, frozenset({Which.OLD})))
    assert (step, world.seen.goal, world.seen.held) == (Step.FINISH, Which.OLD, Which.OLD)
    assert world.seen.is_running and world.seen.is_healthy


@pytest.mark.parametrize("seen", MOMENTS, ids=str)
def test_when_neither_works_it_is_given_up_with_the_old_one_in_place(seen: Seen) -> None:
    world, step = ended(World(seen, frozenset(), frozenset()))
    running = seen.goal is Which.NEW and seen.is_own
    assert step is Step.GIVE_UP
    assert world.seen.goal is Which.OLD
    assert world.seen.held is Which.OLD or running


@pytest.mark.parametrize("seen", MOMENTS, ids=str)
@pytest.mark.parametrize("fault", ["", "it crashed"])
def test_whoever_put_a_third_version_there_has_the_last_word(seen: Seen, fault: str) -> None:
    """Neither is put in its place, and nothing is undone."""
    assert next_step(replace(seen, held=None, fault=fault)) is Step.FORSAKE


@pytest.mark.parametrize("cut", range(12))
def test_an_upgrade_cut_off_after_any_step_goes_on(cut: int) -> None:
    """Nothing but the journal and the machine outlives the cut: no fault, no health."""
    world = World(Seen(Which.NEW, Which.OLD, True, False, False), BOTH, BOTH)
    for _ in range(cut):
        if (step := next_step(world.seen)) in ENDS:
            break
        world = world.after(step)
    world = replace(world, seen=replace(world.seen, fault="", is_healthy=False))
    world, step = ended(world)
    assert step is Step.FINISH and world.seen.held is Which.NEW


NODES = [{"node": "a", "state": "self"}, *({"node": n, "state": "online"} for n in "bcd")]
SEED = {"name": "echo", "wanted": 2, "ready": 2}
STATUS: dict[str, Any] = {
    "node": "a",
    "cluster": "c",
    "version": "2",
    "nodes": NODES,
    "seeds": [SEED, {"name": "late", "wanted": 2, "ready": 1}],
}


def test_what_was_not_ready_before_is_not_asked_for() -> None:
    before = before_of(STATUS)
    assert before == Before(node="a", cluster="c", peers=["b", "c", "d"], seeds=["echo"])
    assert lacking(STATUS, before, "2") == ""


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": "1"}, "its version is 1, not 2"),
        ({"cluster": "d"}, "another cluster"),
        ({"nodes": NODES[:2]}, "1 of 3 neighbours"),
        ({"nodes": NODES[:1]}, "0 of 3 neighbours"),
        ({"seeds": []}, "does not know the seed echo"),
        ({"seeds": [{**SEED, "ready": 1}]}, "ready on 1 of 2"),
        ({"seeds": [{**SEED, "ready": 0, "wanted": 0}]}, "ready on 0 of 0"),
    ],
)
def test_a_node_that_lacks_something_is_told_what(change: dict[str, Any], said: str) -> None:
    assert said in lacking({**STATUS, **change}, before_of(STATUS), "2")


def test_one_neighbour_of_three_may_have_gone_meanwhile() -> None:
    assert lacking({**STATUS, "nodes": NODES[:3]}, before_of(STATUS), "2") == ""


def test_a_node_that_was_alone_needs_nobody() -> None:
    alone = {**STATUS, "nodes": NODES[:1], "seeds": []}
    assert lacking(alone, before_of(alone), "2") == ""
