"""Hosting: load, serve, hand over without a gap, roll out by rank, refuse with a reason."""

from __future__ import annotations

import msgspec
import pytest

from pollen.core import effects as fx
from pollen.core import limits
from pollen.core.events import SeedSample, SeedWoken
from pollen.core.ids import SECOND, PeerId
from pollen.core.placement import State, roles
from pollen.core.placement.claims import Claim
from pollen.core.placement.roles import plan_holders
from pollen.core.policy import Party
from tests.unit.names.test_named import A, B, C, seed
from tests.unit.placement.bench import ECHO, NEXT, NONE, Bench
from tests.unit.turns import effects_of, turn_at


def test_a_ranked_node_loads_from_the_publisher_first_and_is_ready_at_last() -> None:
    """Loading is claimed with its deadline."""
    bench = Bench()
    bench.claim(B, State.READY)
    bench.plan(A, B)
    assert bench.turn() == [fx.LoadSeed(seed=ECHO.seed, holders=[A, B])]
    claim = bench.hosting.claim(ECHO.seed)
    assert claim == Claim(int(State.LOADING), until=bench.mono + limits.LOAD_DEADLINE_NS)
    bench.finish()
    assert bench.state() is State.READY


def test_holders_are_those_who_have_it_loaded_and_are_linked() -> None:
    """A host that loads has nothing to give."""
    bench = Bench()
    bench.claim(B, State.READY)
    bench.claim(C, State.LOADING)
    hosts = bench.claims.hosts(ECHO.seed)
    assert plan_holders(ECHO, hosts, lambda peer: True) == [A, B]
    assert plan_holders(ECHO, hosts, lambda peer: peer != A) == [B]


def test_a_node_that_the_plan_does_not_rank_loads_nothing() -> None:
    """Whoever published."""
    bench = Bench()
    bench.plan(B, C)
    assert bench.turn() == []
    assert bench.state() is State.ABSENT


def test_a_fetch_that_failed_is_tried_again_at_once_with_a_new_holder() -> None:
    """Else after a wait that doubles."""
    bench = Bench(own=B)
    bench.linked = set()
    bench.plan(B)
    bench.turn()
    bench.finish("unreachable")
    assert bench.turn(1) == []
    assert len(bench.turn(limits.LOAD_RETRY_FIRST_NS)) == 1
    bench.finish("unreachable")
    bench.linked = {A}
    assert bench.turn(1) == [fx.LoadSeed(seed=ECHO.seed, holders=[A])]


def test_a_load_that_takes_too_long_is_refused() -> None:
    """The rank goes to somebody else."""
    bench = Bench()
    bench.plan(A)
    bench.turn()
    assert bench.turn(limits.LOAD_DEADLINE_NS) == [fx.UnloadSeed(seed=ECHO.seed)]
    assert bench.state() is State.REFUSED


def test_a_refusal_is_claimed_with_its_reason_and_stands_for_a_while() -> None:
    """The Pi that cannot load says so instead of trying in a loop."""
    bench = Bench()
    bench.plan(A)
    bench.turn()
    bench.finish("guest-out-of-memory")
    claim = bench.hosting.claim(ECHO.seed)
    until = bench.mono + limits.REFUSED_NS
    assert claim == Claim(int(State.REFUSED), "guest-out-of-memory: because", until)
    assert bench.turn(SECOND) == []
    bench.turn(limits.REFUSED_NS)
    assert bench.state() is State.ABSENT
    assert len(bench.turn()) == 1


def test_a_seed_without_room_is_refused_before_it_is_fetched() -> None:
    """Memory is checked by the candidate."""
    bench = Bench()
    bench.hosting.space.free_bytes = 16 << 20
    bench.plan(A)
    assert bench.turn() == []
    claim = bench.hosting.claim(ECHO.seed)
    assert claim is not None
    assert (claim.reason, claim.is_fault) == ("no room: needs 64 MiB, 16 MiB are free", False)


def test_a_seed_is_hosted_only_where_its_host_gate_lets_it() -> None:
    """Also when the plan, of a staler view, says otherwise; what is loaded goes at once."""
    spec = msgspec.structs.replace(ECHO.spec, host=[("zone", "attic")])
    gated = msgspec.structs.replace(ECHO, spec=spec)
    assert roles.may_host(gated, Party(properties='{"zone": "attic"}'))
    assert not roles.may_host(gated, Party(properties="{}"))
    bench = Bench()
    bench.serve()
    bench.hold(gated)
    assert bench.turn() == [fx.UnloadSeed(seed=ECHO.seed)]


def test_a_late_load_of_something_gone_is_unloaded() -> None:
    """The name was withdrawn while the muscles compiled."""
    assert Bench().finish() == [fx.UnloadSeed(seed=ECHO.seed)]


def test_what_nobody_needs_is_unloaded_at_once() -> None:
    """Withdrawn: no drain, nobody may call it."""
    bench = Bench()
    bench.serve()
    bench.roles.clear()
    assert bench.turn() == [fx.UnloadSeed(seed=ECHO.seed)]
    assert bench.state() is State.ABSENT


# -- drain --------------------------------------------------------------------------------------


def dropped() -> Bench:
    """A serves, and the plan says B and C from now on."""
    bench = Bench()
    bench.serve()
    bench.plan(B, C)
    return bench


def test_a_replica_that_fell_out_serves_until_the_minimum_of_others_was_ready_for_long() -> None:
    """Phase one: one suspicion period, started again when one of them is lost."""
    bench = dropped()
    bench.claim(B, State.READY)
    bench.turn(limits.DRAIN_HOLD_NS)
    bench.claim(C, State.READY)
    bench.turn(SECOND)
    bench.turn(limits.DRAIN_HOLD_NS - 1)
    bench.claim(C, State.LOADING)
    bench.turn(1)
    bench.claim(C, State.READY)
    bench.turn()
    assert bench.state() is State.READY
    bench.turn(limits.DRAIN_HOLD_NS)
    assert bench.state() is State.DRAINING


def test_who_drains_unloads_when_the_minimum_has_witnessed_it() -> None:
    """Phase two: this very drain, not an earlier one."""
    bench = dropped()
    for node in (B, C):
        bench.claim(node, State.READY)
    bench.turn()
    bench.turn(limits.DRAIN_HOLD_NS)
    claim = bench.hosting.claim(ECHO.seed)
    assert claim is not None
    bench.claim(B, State.READY, witnessed=[(A, claim.drain)])
    bench.claim(C, State.READY, witnessed=[(A, claim.drain + 1)])
    assert bench.turn(limits.DRAIN_SETTLE_NS) == []
    bench.claim(C, State.READY, witnessed=[(A, claim.drain)])
    assert bench.turn() == [fx.UnloadSeed(seed=ECHO.seed, keep=True)]


def test_a_drain_that_the_plan_takes_back_is_ready_again() -> None:
    """Somebody died meanwhile; the next drain has another number."""
    bench = dropped()
    for node in (B, C):
        bench.claim(node, State.READY)
    bench.turn()
    bench.turn(limits.DRAIN_HOLD_NS)
    bench.plan(A, B)
    bench.turn()
    assert bench.state() is State.READY


def test_the_first_ranks_witness_a_drain_while_they_are_ready() -> None:
    """Whoever drains itself is no witness, nor is one that the plan does not want."""
    bench = Bench(own=B)
    bench.serve()
    bench.plan(B, C)
    bench.claim(A, State.DRAINING, drain=4)
    bench.turn()
    claim = bench.hosting.claim(ECHO.seed)
    assert claim is not None
    assert claim.witnessed == [(A, 4)]
    bench.plan(C)
    bench.turn()
    claim = bench.hosting.claim(ECHO.seed)
    assert claim is not None
    assert claim.witnessed == []


def test_the_last_ready_replica_stays_though_it_is_not_wanted_here() -> None:
    """Of a seed with a minimum nobody goes while nobody else is ready."""
    bench = dropped()
    for _ in range(5):
        bench.turn(limits.DRAIN_HOLD_NS)
    assert bench.state() is State.READY


def test_a_seed_that_may_be_zero_goes_when_nobody_calls_it() -> None:
    """The only case in which the last one goes."""
    bench = Bench(own=C, holding=NONE)
    bench.serve()
    bench.plan(A, B, wanted=0)
    bench.turn()
    bench.turn(limits.DRAIN_HOLD_NS)
    # Nobody else has it loaded: the content is kept for the next call.
    assert bench.turn(limits.DRAIN_SETTLE_NS) == [fx.UnloadSeed(seed=ECHO.seed, keep=True)]


def test_content_that_was_kept_goes_with_the_last_name_that_needs_it() -> None:
    """Once."""
    bench = Bench(own=C, holding=NONE)
    bench.serve()
    bench.plan(A, wanted=0)
    for after in (0, limits.DRAIN_HOLD_NS, limits.DRAIN_SETTLE_NS):
        bench.turn(after)
    bench.roles.clear()
    assert bench.turn() == [fx.UnloadSeed(seed=ECHO.seed)]
    assert bench.turn() == []


def test_a_host_that_others_replaced_for_good_keeps_nothing() -> None:
    """It did not publish it, and the plan would not have it woken here."""
    bench = Bench(own=C)
    bench.serve()
    bench.plan(A, B)
    for node in (A, B):
        bench.claim(node, State.READY)
    bench.turn()
    bench.turn(limits.DRAIN_HOLD_NS)
    for node in (A, B):
        bench.claim(node, State.READY, witnessed=[(C, 1)])
    assert bench.turn(limits.DRAIN_SETTLE_NS) == [fx.UnloadSeed(seed=ECHO.seed)]


# -- waking -------------------------------------------------------------------------------------


def woken(bench: Bench) -> list[fx.Effect]:
    woke, view = SeedWoken(seed=ECHO.seed), bench.view
    return effects_of(bench.now, lambda turn: bench.hosting.on_woken(woke, view, turn))


def test_a_woken_seed_is_ready_and_stays_until_demand_had_time_to_come() -> None:
    """Nobody has told of the call yet; without any demand it goes again."""
    bench = Bench(own=C, holding=NONE)
    bench.plan(A, B, C, wanted=0)
    assert woken(bench) == []
    bench.turn()
    assert bench.state() is State.READY
    bench.turn(limits.WOKEN_STAY_NS - 1)
    assert bench.state() is State.READY
    bench.turn(1)
    assert bench.state() is State.DRAINING


def test_the_plan_keeps_what_a_call_woke() -> None:
    """The demand came: nothing is loaded again."""
    bench = Bench(own=C, holding=NONE)
    bench.plan(C, A, B, wanted=0)
    woken(bench)
    bench.plan(C, A, B, wanted=1)
    for _ in range(3):
        assert bench.turn(limits.WOKEN_STAY_NS) == []
    assert bench.state() is State.READY


def test_a_call_that_wakes_what_the_plan_loads_ends_the_loading() -> None:
    """The end of the plan's own load changes nothing then."""
    bench = Bench(holding=NONE)
    bench.plan(A)
    assert len(bench.turn()) == 1
    assert woken(bench) == []
    assert bench.finish() == []
    assert bench.turn() == []
    assert bench.state() is State.READY


@pytest.mark.parametrize("why", ["withdrawn", "gate", "leaving"])
def test_what_must_not_be_hosted_is_unloaded_though_a_call_woke_it(why: str) -> None:
    """The brain decides; the row that allowed it was a moment older."""
    bench = Bench(own=C, holding=NONE)
    if why == "withdrawn":
        bench.roles.clear()
    elif why == "leaving":
        bench.hosting.leave(bench.now)
    else:
        gated = msgspec.structs.replace(NONE.spec, host=[("disk", "ssd")])
        bench.hold(msgspec.structs.replace(NONE, spec=gated))
    assert woken(bench) == [fx.UnloadSeed(seed=ECHO.seed)]
    assert bench.state() is State.ABSENT


def test_a_version_that_was_refused_here_is_not_woken_here() -> None:
    """Its refusal stands until it is over."""
    bench = Bench(holding=NONE)
    bench.plan(A)
    bench.turn()
    bench.finish("module-invalid")
    assert woken(bench) == [fx.UnloadSeed(seed=ECHO.seed)]
    assert bench.state() is State.REFUSED


def test_a_leaving_node_drains_without_waiting_but_not_without_witnesses() -> None:
    """``down`` hands over first."""
    bench = dropped()
    for node in (B, C):
        bench.claim(node, State.READY)
    bench.hosting.leave(bench.now)
    bench.turn()
    assert bench.state() is State.DRAINING
    assert bench.turn(limits.DRAIN_SETTLE_NS) == []


# -- rollout ------------------------------------------------------------------------------------


def rolling(own: PeerId) -> Bench:
    """The old version serves on A; the new one is to run on A, B and C in this order."""
    bench = Bench(own=own, holding=NEXT)
    bench.claim(A, State.READY, of=ECHO)
    bench.plan(A, B, C, of=NEXT)
    return bench


def test_a_rollout_goes_by_rank() -> None:
    """Rank k starts when k-1 is ready."""
    assert len(rolling(A).turn(of=NEXT)) == 1
    second = rolling(B)
    assert second.turn(of=NEXT) == []
    second.claim(A, State.READY, of=NEXT)
    assert len(second.turn(of=NEXT)) == 1


def test_a_first_version_starts_everywhere_at_once() -> None:
    """There is nothing to fall back on, and nothing to wait for."""
    bench = Bench(own=C)
    bench.plan(A, B, C)
    assert len(bench.turn()) == 1


@pytest.mark.parametrize("own", [A, B])
def test_the_old_version_serves_until_the_new_one_has_proved_itself(own: PeerId) -> None:
    """The minimum of the new one was ready for the trial. Its publisher keeps the old one."""
    bench, (one, two) = Bench(own=own), (peer for peer in (A, B, C) if peer != own)
    bench.serve()
    bench.hold(NEXT)
    del bench.placements[ECHO.seed]
    bench.plan(one, two, of=NEXT)
    bench.claim(one, State.READY, of=NEXT)
    bench.turn(limits.ROLLOUT_TRIAL_NS)
    bench.claim(two, State.READY, of=NEXT)
    bench.turn()
    bench.turn(limits.ROLLOUT_TRIAL_NS - 1)
    assert bench.state() is State.READY
    bench.turn(1)
    assert bench.state() is State.DRAINING
    gone = [fx.UnloadSeed(seed=ECHO.seed, keep=own == ECHO.owner)]
    assert bench.turn(limits.DRAIN_SETTLE_NS) == gone


@pytest.mark.parametrize(("slug", "is_fault"), [("guest-trapped", True), ("no-space", False)])
def test_a_version_at_fault_is_refused_for_good(slug: str, is_fault: bool) -> None:
    """While an older one serves it is not tried again; another reason passes."""
    bench = rolling(A)
    bench.turn(of=NEXT)
    bench.finish(slug, of=NEXT)
    bench.turn(limits.REFUSED_NS, of=NEXT)
    assert (bench.state(NEXT) is State.REFUSED) is is_fault


def test_a_version_of_which_all_calls_fail_is_refused() -> None:
    """Several failed here and none succeeded: the others halt it by this claim.

    What did not run, or is a stranger's, fails too and says nothing.
    """
    bench = rolling(A)
    bench.turn(of=NEXT)
    bench.finish(of=NEXT)
    few, many = (
        SeedSample(NEXT.seed, 9, 99, 0, 0, 7, 0, faults)
        for faults in (limits.FAULT_CALLS - 1, limits.FAULT_CALLS)
    )
    turn, note = turn_at(bench.now), bench.hosting.note_samples
    assert (note([few], turn), turn.effects()) == ([], [])
    assert (note([many], turn), turn.effects()) == ([NEXT.seed], [fx.UnloadSeed(seed=NEXT.seed)])
    claim = bench.hosting.claim(NEXT.seed)
    assert claim is not None
    assert (claim.state, claim.is_fault) == (State.REFUSED, True)


def test_a_version_of_which_one_call_succeeded_is_acquitted() -> None:
    """The claim says so, once, and no number of failures takes it back."""
    bench = rolling(A)
    bench.turn(of=NEXT)
    bench.finish(of=NEXT)
    good = SeedSample(NEXT.seed, 9, 99, 0, 0, 7, 1, 99)
    turn, note = turn_at(bench.now), bench.hosting.note_samples
    assert (note([good], turn), note([good], turn), turn.effects()) == ([NEXT.seed], [], [])
    claim = bench.hosting.claim(NEXT.seed)
    assert claim and (claim.state, claim.has_served) == (State.READY, True)


def test_a_halted_version_gives_way_to_the_one_before() -> None:
    """The old one is the seed to serve again, and the new one goes when it does."""
    bench = Bench(own=A, holding=NEXT)
    bench.serve(of=NEXT)
    bench.hold(NEXT, is_halted=True)
    assert bench.roles[ECHO.seed].heir == ECHO.seed
    del bench.placements[NEXT.seed]
    bench.plan(B, C, of=ECHO)
    bench.claim(B, State.READY, of=ECHO)
    bench.claim(C, State.READY, of=ECHO)
    bench.turn(of=NEXT)
    bench.turn(limits.ROLLOUT_TRIAL_NS, of=NEXT)
    assert bench.state(NEXT) is State.DRAINING


@pytest.mark.parametrize("own", [A, B])
def test_a_version_before_the_one_before_runs_no_more(own: PeerId) -> None:
    """Where it was published its content stays, as long as it is kept."""
    third = msgspec.structs.replace(seed(A, epoch=3), previous=NEXT, older=(ECHO,))
    bench = Bench(own=own)
    bench.serve()
    bench.hold(third)
    keep = own == ECHO.owner
    assert bench.turn() == [fx.UnloadSeed(seed=ECHO.seed, keep=keep)]
    assert bench.turn() == []
    bench.hold(msgspec.structs.replace(seed(A, epoch=4), previous=third))
    assert bench.turn() == ([fx.UnloadSeed(seed=ECHO.seed)] if keep else [])
