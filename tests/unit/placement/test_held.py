"""Blobs on the disk, remembered from run to run."""

from __future__ import annotations

import pytest

from pollen.core import effects as fx
from pollen.core import limits
from pollen.core.codec import Rejection
from pollen.core.ids import Nanos, Now
from pollen.core.placement import State
from pollen.core.placement.held import HELD_TABLE, Held
from tests.unit.names.test_named import A, B, C
from tests.unit.placement.bench import Bench
from tests.unit.placement.test_blobs import MIB, blob
from tests.unit.turns import effects_of

FILM = blob(size=40 * MIB)


def again() -> Bench:
    """A run that begins on a disk with the film, which is nearly full."""
    bench = Bench(own=B, holding=FILM)
    assert bench.hosting.held.restore([(FILM.seed, b"")]) == []
    bench.hosting.space.disk_free_bytes = MIB
    return bench


def test_a_copy_is_remembered_from_ready_until_it_is_let_go() -> None:
    held = Held()
    now = Now(Nanos(1), Nanos(1))
    assert effects_of(now, lambda turn: held.note(FILM.seed, turn, is_held=False)) == []
    effects_of(now, lambda turn: held.note(FILM.seed, turn, is_held=True))
    assert FILM.seed in held
    effects_of(now, lambda turn: held.note(FILM.seed, turn, is_held=False))
    assert FILM.seed not in held


def test_what_the_run_before_held_is_claimed_again_wherever_the_plan_ranks_it() -> None:
    """Once, and without room: it is on the disk."""
    bench = again()
    bench.plan(A, C, of=FILM)
    assert bench.turn(of=FILM) == [fx.LoadSeed(seed=FILM.seed, holders=[])]
    bench.finish(of=FILM)
    bench.turn(of=FILM)
    assert bench.state(FILM) is State.READY


def test_it_leaves_as_any_copy_does() -> None:
    """When the others are ready and have seen it."""
    bench = again()
    bench.plan(A, C, of=FILM)
    bench.turn(of=FILM)
    bench.finish(of=FILM)
    bench.turn(limits.WOKEN_STAY_NS, of=FILM)
    assert bench.state(FILM) is State.READY
    bench.claim(A, State.READY, of=FILM)
    bench.claim(C, State.READY, of=FILM)
    bench.turn(of=FILM)
    bench.turn(limits.DRAIN_HOLD_NS, of=FILM)
    claim = bench.hosting.claim(FILM.seed)
    assert claim is not None and State(claim.state) is State.DRAINING
    for node in (A, C):
        bench.claim(node, State.READY, of=FILM, witnessed=[(B, claim.drain)])
    out = bench.turn(limits.DRAIN_SETTLE_NS, of=FILM)
    assert out == [fx.UnloadSeed(seed=FILM.seed)]
    assert FILM.seed not in bench.hosting.held


def test_what_is_not_there_any_more_is_given_up() -> None:
    """The disk was another one: the load finds nothing, and the plan has others."""
    bench = again()
    bench.linked = set()
    bench.plan(A, C, of=FILM)
    bench.turn(of=FILM)
    bench.finish("unreachable", of=FILM)
    bench.turn(limits.WOKEN_STAY_NS, of=FILM)
    assert bench.state(FILM) is State.ABSENT
    assert bench.turn(of=FILM) == []
    assert FILM.seed not in bench.hosting.held


@pytest.mark.parametrize("is_given_up", [True, False])
def test_a_file_leaves_its_publisher_when_its_user_took_it_back(is_given_up: bool) -> None:
    """It stayed for good, with each version. A name that is lost otherwise may come back."""
    bench = Bench(own=A, holding=FILM)
    bench.hosting.space.disk_free_bytes = MIB
    effects_of(bench.now, lambda turn: bench.hosting.held.note(FILM.seed, turn, is_held=True))
    bench.plan(B, C, of=FILM)
    assert bench.turn(of=FILM) == []
    if is_given_up:
        bench.hosting.held.disown(FILM.seed)
    bench.roles.clear()
    let_go = [fx.UnloadSeed(seed=FILM.seed)] if is_given_up else []
    assert bench.turn(of=FILM) == let_go
    assert (FILM.seed in bench.hosting.held) is not is_given_up
    assert (bench.hosting.seed(FILM.seed) == FILM) is is_given_up


def test_a_row_of_another_form_is_a_fault() -> None:
    held = Held()
    (fault,) = held.restore([(b"short", b""), (FILM.seed, b"")])
    assert isinstance(fault, Rejection) and fault.kind == "held-row"
    assert FILM.seed in held and HELD_TABLE == "held"


def test_what_is_not_there_any_more_is_fetched_like_anything_given_room() -> None:
    """An old image of a disk names blobs that it has not. They were fetched unasked for room."""
    bench = again()
    bench.hosting.space.disk_free_bytes = FILM.spec.size_bytes - 1
    bench.plan(A, B, of=FILM)
    assert bench.turn(of=FILM) == [fx.LoadSeed(seed=FILM.seed, holders=[])]
    bench.finish("unreachable", of=FILM)
    bench.turn(of=FILM)
    assert bench.state(FILM) is State.REFUSED
    bench.hosting.space.disk_free_bytes = FILM.spec.size_bytes
    out = bench.turn(limits.REFUSED_NS, of=FILM) + bench.turn(of=FILM)
    assert fx.LoadSeed(seed=FILM.seed, holders=[A]) in out
