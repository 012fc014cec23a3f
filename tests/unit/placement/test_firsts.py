"""A seed that runs in a runtime serves from where it was published until others are ready."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pollen.core import effects as fx
from pollen.core import limits
from pollen.core.effects import BUNDLE
from pollen.core.ids import PeerId
from pollen.core.placement import State
from pollen.core.placement.plan import Standing
from pollen.core.seeds import Seed
from tests.unit.names.test_named import A, B, C, seed
from tests.unit.placement.bench import Bench


def python(owner: PeerId = A, epoch: int = 1, **options: Any) -> Seed:
    plain = seed(owner, epoch=epoch)
    spec = msgspec.structs.replace(plain.spec, manifest={BUNDLE: plain.seed}, **options)
    return msgspec.structs.replace(plain, spec=spec)


HELLO = python()


def published(holding: Seed = HELLO, own: PeerId = A, **given: Any) -> Bench:
    bench = Bench(own, holding=holding, **given)
    bench.hosting.firsts.note(holding.seed)
    return bench


def loads(bench: Bench, of: Seed = HELLO, after: int = 0) -> bool:
    return any(isinstance(effect, fx.LoadSeed) for effect in bench.turn(after, of=of))


def test_it_is_loaded_where_it_was_published_and_goes_when_others_are_enough() -> None:
    bench = published()
    bench.plan(B, C, of=HELLO)
    assert loads(bench)
    bench.finish()
    bench.turn()
    assert bench.state() is State.READY
    bench.claim(B, State.READY)
    bench.turn(limits.LOAD_DEADLINE_NS + limits.DRAIN_HOLD_NS)
    assert bench.state() is State.READY, "one of two is not enough"
    bench.claim(C, State.READY)
    bench.turn()
    bench.turn(limits.LOAD_DEADLINE_NS + limits.ROLLOUT_TRIAL_NS)
    assert bench.state() is State.DRAINING


def test_it_waits_for_the_plan_and_is_loaded_once() -> None:
    bench = published()
    assert not loads(bench), "the plan does not know it yet"
    bench.plan(B, C, of=HELLO)
    assert loads(bench)
    claim = bench.hosting.claim(HELLO.seed)
    assert claim is not None and claim.is_beside
    bench.finish("guest-out-of-memory")
    bench.turn()
    assert bench.state() is State.REFUSED
    assert not loads(bench, after=2 * limits.REFUSED_NS)


def test_it_is_no_incumbent_until_the_plan_ranks_it() -> None:
    bench = published()
    bench.plan(B, C, of=HELLO)
    bench.turn()
    bench.finish()
    bench.turn()
    standings = {h.node: h.standing(bench.now.wall) for h in bench.claims.hosts(HELLO.seed)}
    assert standings == {A: None}
    bench.plan(A, B, of=HELLO)
    bench.turn()
    (host,) = bench.claims.hosts(HELLO.seed)
    assert host.standing(bench.now.wall) is Standing.INCUMBENT


@pytest.mark.parametrize(
    "why",
    ["another run", "ready elsewhere", "a module", "an update", "it sleeps", "the gate", "no room"],
)
def test_it_is_not_loaded(why: str) -> None:
    update = msgspec.structs.replace(python(epoch=2), previous=HELLO)
    gated = python(host=[("zone", "attic")])
    holding = {"a module": seed(A), "an update": update, "the gate": gated}.get(why, HELLO)
    bench = published(holding) if why != "another run" else Bench(holding=holding)
    if why == "ready elsewhere":
        bench.claim(B, State.READY, of=holding)
    if why == "no room":
        bench.hosting.space.free_bytes = 0
    bench.plan(B, C, wanted=0 if why == "it sleeps" else None, of=holding)
    assert not loads(bench, holding)
    assert bench.state(holding) is State.ABSENT
    bench.plan(B, C, of=holding)
    assert not loads(bench, holding), "it was looked at"


def test_of_what_the_plan_gives_to_this_node_nothing_is_remembered() -> None:
    bench = published()
    bench.plan(A, B, of=HELLO)
    assert loads(bench)
    bench.finish()
    bench.turn()
    bench.claim(B, State.READY)
    bench.plan(B, C, of=HELLO)
    bench.claim(C, State.READY)
    bench.turn(limits.ROLLOUT_TRIAL_NS + limits.DRAIN_HOLD_NS)
    assert not bench.hosting.firsts._published
