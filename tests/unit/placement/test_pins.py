"""Pins: a copy that is kept whatever the plan says, and what is said of one that cannot be."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pollen.core import effects as fx
from pollen.core import limits
from pollen.core.codec import Rejection
from pollen.core.commands import PinCommand, Pinned
from pollen.core.ids import Nanos, Now, RequestId
from pollen.core.names import Holding
from pollen.core.placement import State
from pollen.core.placement.pins import PIN_TABLE, Pins
from pollen.core.policy import Party
from pollen.core.seeds import Seed
from pollen.core.turn import Asked
from tests.unit.names.test_named import A, B, C, seed
from tests.unit.placement.bench import Bench
from tests.unit.placement.test_blobs import MIB, RED, blob
from tests.unit.turns import turn_at, written

FILM = msgspec.structs.replace(blob(size=40 * MIB))
NOW = Now(Nanos(1), Nanos(1))


def asked(pins: Pins, holder: Seed | None, *, is_pinned: bool = True, party: Party = RED) -> Any:
    """What a user hears who pins the name of this seed, and the rows that are written."""
    name = "gone" if holder is None else holder.spec.name
    names = {} if holder is None else {name: Holding(name=name, holder=holder, shadowed=[])}
    wish = Asked(RequestId(7), PinCommand(target=name, is_pinned=is_pinned))
    turn = turn_at(NOW)
    pins.on_pin(wish, names, party, lambda holding: holding.holder, turn)
    said = [effect for effect in turn.effects() if isinstance(effect, fx.Reply)]
    return (said[0] if said else None), written(turn)


def pinned_bench() -> Bench:
    """A node that the plan does not rank, with a user who wants a copy there."""
    bench = Bench(own=B, holding=FILM)
    bench.hosting.space.disk_free_bytes = 50 * MIB
    name = next(iter(bench.roles.values())).name
    assert bench.hosting.pins.restore([(name.encode(), b"")]) == []
    bench.plan(A, C, of=FILM)
    return bench


def test_a_pinned_blob_is_held_whatever_the_plan_says() -> None:
    bench = pinned_bench()
    assert bench.turn(of=FILM) == [fx.LoadSeed(seed=FILM.seed, holders=[A])]
    bench.finish(of=FILM)
    for other in (A, C):
        bench.claim(other, State.READY, of=FILM)
    for _ in range(3):
        bench.turn(10 * limits.DRAIN_HOLD_NS, of=FILM)
    assert bench.state(FILM) is State.READY


def test_without_its_pin_it_is_a_copy_too_many() -> None:
    bench = pinned_bench()
    bench.turn(of=FILM)
    bench.finish(of=FILM)
    for other in (A, C):
        bench.claim(other, State.READY, of=FILM)
    bench.turn(of=FILM)
    bench.hosting.pins = Pins()
    bench.turn(of=FILM)
    bench.turn(limits.DRAIN_HOLD_NS, of=FILM)
    assert bench.state(FILM) is State.DRAINING


def test_a_pin_makes_no_room() -> None:
    bench = pinned_bench()
    bench.hosting.space.disk_free_bytes = 39 * MIB
    bench.turn(of=FILM)
    claim = bench.hosting.claim(FILM.seed)
    assert claim is not None and "39 MiB are free on the disk" in claim.reason


def test_a_pin_is_on_disk_before_it_is_said() -> None:
    pins = Pins()
    said, rows = asked(pins, FILM)
    assert said is None and rows == [(PIN_TABLE, b"film", b"")] and "film" in pins
    said, rows = asked(pins, FILM)
    assert rows == []
    said, rows = asked(pins, FILM, is_pinned=False)
    assert rows == [(PIN_TABLE, b"film", None)] and "film" not in pins


@pytest.mark.parametrize(
    ("holder", "slug"),
    [
        (None, "seed-not-found"),
        (seed(A), "bad-request"),
        (blob(allow=[("team", "blue")]), "denied"),
    ],
)
def test_what_cannot_be_pinned_is_refused(holder: Seed | None, slug: str) -> None:
    pins = Pins()
    said, rows = asked(pins, holder)
    assert said is not None and said.slug == slug and rows == []


def test_a_row_that_is_no_name_makes_the_state_unusable() -> None:
    assert Pins().restore([(b"\xff", b"")]) == [Rejection("pin-row", "ff")]


def test_a_name_that_is_gone_can_be_let_go() -> None:
    pins = Pins()
    pins.restore([(b"gone", b"")])
    said, rows = asked(pins, None, is_pinned=False)
    assert said is None and rows == [(PIN_TABLE, b"gone", None)]
    assert Pinned(name="gone", is_pinned=False, was_pinned=True).was_pinned
