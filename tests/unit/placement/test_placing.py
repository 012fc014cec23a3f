"""Placement on one node: what a record changes, and nothing else; in slices."""

from __future__ import annotations

import time

import pytest

from pollen.core import effects as fx
from pollen.core import limits
from pollen.core.events import PeerSample, Telemetry
from pollen.core.ids import MILLISECOND, Nanos, Now
from pollen.core.placement import State
from pollen.core.placement.demand import DemandRow, bucket_of
from pollen.core.seeds import Seed
from tests.unit.flood import without_full_collections
from tests.unit.town import GIB, Town
from tests.unit.turns import turn_at

FOUR = ["a", "b", "c", "d"]


def placed(town: Town, seed: Seed) -> tuple[bytes, ...]:
    found = town.situation.placement(seed.seed)
    return () if found is None else found.chosen


def state(town: Town, seed: Seed) -> State:
    claim = town.hosting.claim(seed.seed)
    return State.ABSENT if claim is None else State(claim.state)


def seeded(**options: object) -> tuple[Town, Seed]:
    """A seed that this node is to host, loaded and ready."""
    town = Town(FOUR)
    for i in range(20):
        seed = town.spec(f"echo-{i}", **options)
        town.turn()
        if town.own in placed(town, seed)[:1]:
            town.load(seed)
            assert state(town, seed) is State.READY
            return town, seed
    raise AssertionError("none of twenty seeds is placed here first")


def test_a_seed_is_loaded_where_the_plan_puts_it() -> None:
    """On both nodes of the plan, and nowhere else; its row names whom to wake meanwhile."""
    for own in range(4):
        town = Town(FOUR[own:] + FOUR[:own])
        seed = town.spec("echo")
        loads = [e.seed for e in town.turn() if isinstance(e, fx.LoadSeed)]
        assert (loads == [seed.seed]) == (town.own in placed(town, seed))
        wake = town.tables[seed.seed].wake
        assert tuple(wake[:2]) == placed(town, seed)
        assert len(wake) == limits.WAKE_RANKS


def test_one_changed_claim_touches_one_row() -> None:
    """The muscles hear of that seed and of no other."""
    town = Town(FOUR)
    seeds = [town.spec(f"echo-{i}") for i in range(20)]
    town.turn()
    town.claim(town.peers[2], seeds[3], State.READY)
    pushes = [e for e in town.slice() if isinstance(e, fx.PushTables)]
    rows = [row.seed for push in pushes for row in push.lanes[fx.SEEDS].rows]
    assert [seeds[3].seed] == rows
    assert town.tables[seeds[3].seed].replicas == [town.peers[2]]


def test_a_host_that_died_is_replaced() -> None:
    """Its claims count no more, its rows go, and the next rank loads."""
    town, seed = seeded()
    second = next(peer for peer in placed(town, seed) if peer != town.own)
    town.claim(second, seed, State.READY)
    town.turn()
    town.live(second, False)
    town.turn()
    assert second not in placed(town, seed)
    assert len(placed(town, seed)) == 2
    assert town.tables[seed.seed].replicas == [town.own]


def test_a_node_that_left_may_end_what_it_has_in_flight() -> None:
    """Its row goes with its link; that of a dead one goes at once, and its calls are retried."""
    town = Town(FOUR)
    _, left, dead, _ = town.peers
    town.folk.left += [left, town.own]
    for peer in (town.own, left, dead):
        town.live(peer, False)
    town.turn()
    assert (town.own in town.known, left in town.known, dead in town.known) == (True, True, False)
    town.linked.remove(left)
    town.placing.note_unlinked(left)
    town.turn()
    assert left not in town.known


def test_a_host_that_loads_for_too_long_is_skipped() -> None:
    """By the deadline in its claim and a grace, on everybody's wall clock."""
    town, seed = seeded()
    second = next(peer for peer in placed(town, seed) if peer != town.own)
    town.claim(second, seed, State.LOADING, until=town.mono + 5)
    town.turn()
    assert second in placed(town, seed)
    town.turn(limits.OVERDUE_GRACE_NS + 5)
    assert second not in placed(town, seed)


def test_demand_grows_the_replicas_and_its_end_shrinks_them() -> None:
    """What one node's calls keep busy, against the slots of the ranks; and the minimum stays."""
    town, seed = seeded()
    row = DemandRow(seed.seed, bucket_of(4_000_000), bucket_of(1_000))
    for peer in town.peers:
        town.fast(peer, memory=bucket_of(GIB), slots=2, demand=[row])
    town.turn()
    assert len(placed(town, seed)) == 4
    for peer in town.peers:
        town.fast(peer, memory=bucket_of(GIB), slots=2)
    town.turn()
    assert len(placed(town, seed)) == 2


def test_a_node_that_leaves_hands_over_and_says_when_it_is_done() -> None:
    """Not before another one is ready and has witnessed the drain."""
    town, seed = seeded(min_replicas=1)
    del town.folk.able[town.own]
    town.situation.note_member(town.own)
    assert town.placing.leave(turn_at(town.mono)) == len(town.hosting._entries)
    town.turn()
    (heir,) = placed(town, seed)
    town.claim(heir, seed, State.READY)
    town.turn()
    assert (state(town, seed), town.placing.is_gone) == (State.DRAINING, False)
    claim = town.hosting.claim(seed.seed)
    assert claim is not None
    town.claim(heir, seed, State.READY, witnessed=[(town.own, claim.drain)])
    town.turn(limits.DRAIN_SETTLE_NS)
    assert (state(town, seed), town.tables[seed.seed].replicas) == (State.ABSENT, [heir])


def test_a_node_alone_leaves_at_once() -> None:
    """There is nobody to hand over to."""
    town = Town(["a"])
    seed = town.spec("echo")
    town.turn()
    town.load(seed)
    del town.folk.able[town.own]
    town.situation.note_member(town.own)
    town.placing.leave(turn_at(town.mono))
    town.turn()
    assert town.placing.is_gone


def test_a_halted_version_leaves_the_name_to_the_one_before() -> None:
    """One node found it at fault before any served it: none loads it, the old one serves."""
    town, old = seeded(min_replicas=1)
    new = town.spec(old.spec.name, previous=old, timeout_ms=7)
    town.turn()
    assert town.tables[old.seed].name == old.spec.name
    first = placed(town, new)[0]
    town.claim(first, new, State.REFUSED, is_fault=True, reason="guest-trapped: unreachable")
    town.turn()
    assert list(town.situation.halted) == [new.seed]
    assert (placed(town, new), placed(town, old)) == ((), (town.own,))
    assert town.tables[old.seed].name == old.spec.name
    assert state(town, new) is State.ABSENT


def test_a_halt_is_lifted_by_a_new_version() -> None:
    """Another name_epoch is another seed, and what it replaces is the newest one not halted."""
    town, old = seeded(min_replicas=1)
    new = town.spec(old.spec.name, previous=old, timeout_ms=7)
    town.turn()
    town.claim(placed(town, new)[0], new, State.REFUSED, is_fault=True)
    town.turn()
    again = town.spec(old.spec.name, previous=old, timeout_ms=8, min_replicas=1)
    town.turn()
    assert list(town.situation.halted) == []
    assert len(placed(town, again)) == 1
    assert town.tables[old.seed].name == old.spec.name


def test_a_withdrawn_seed_is_gone_at_once() -> None:
    """Row, replica and claim."""
    town, seed = seeded()
    town.say(town.peers[-1], "spec", seed.spec.name.encode(), b"")
    unloads = [e.seed for e in town.turn() if isinstance(e, fx.UnloadSeed)]
    assert (unloads, seed.seed in town.tables) == ([seed.seed], False)


@pytest.mark.parametrize("count", [500])
def test_many_specs_at_once_are_taken_in_slices(count: int) -> None:
    """No turn takes long, however much came: the counter of pairs and the time agree."""
    town = Town([f"n{i}" for i in range(300)])
    town.turn()
    seeds = [town.spec(f"echo-{i}") for i in range(count)]
    longest, turns = 0.0, 0
    with without_full_collections():
        while town.placing.has_work or town.changes:
            before, began = town.situation.planner.pairs, time.thread_time()
            town.slice()
            longest = max(longest, time.thread_time() - began)
            turns += 1
            assert town.situation.planner.pairs - before <= 9 * limits.PLAN_SLICE_PAIRS
    assert turns >= count / limits.PLACE_SLICE_SEEDS
    assert all(len(placed(town, seed)) == 2 for seed in seeds)
    assert longest * 1_000 * MILLISECOND < 100 * MILLISECOND, f"{longest * 1e3:.1f} ms"


def test_a_peer_that_was_never_linked_has_the_price_of_its_place() -> None:
    """It says where it is after its row was made: the row follows."""
    town = Town(FOUR)
    town.turn()
    far = town.peers[2]
    assert town.known[far].price_us == limits.PRICE_UNKNOWN_US
    town.estimates[far] = 40_000
    town.fast(far, coordinate=[30_000, 9_000, 50, 100])
    town.turn()
    assert town.known[far].price_us == 40_000


def test_the_unmeasured_are_priced_anew_when_this_node_moves_on_the_map() -> None:
    """In slices, and not those whose links were measured."""
    town = Town([f"n{i}" for i in range(limits.PLACE_SLICE_SEEDS + 20)])
    town.turn()
    town.estimates.update(dict.fromkeys(town.peers[1:], 7_000))
    near = PeerSample(town.peers[1], 300, bytes_out=0, bytes_in=0, direct=True)
    told = Telemetry(peers=[near], seeds=[], memory_bytes=0, events_dropped=0, control_stalls=0)
    town.placing.note_telemetry(told, turn_at(town.now, town.records), is_level=True)
    town.placing.note_coordinate([1, 2, 50, 100])
    town.slice()
    priced = sum(row.price_us == 7_000 for row in town.known.values())
    assert 0 < priced < limits.PLACE_SLICE_SEEDS + 18
    town.turn()
    assert {town.known[peer].price_us for peer in town.peers[2:]} == {7_000}
    assert town.known[near.peer].price_us == 300


def test_others_have_been_heard_two_seconds_after_the_first_link() -> None:
    """While records are known of that are not here the wait goes on, for ten seconds at most."""
    town = Town(FOUR)
    told = Telemetry(peers=[], seeds=[], memory_bytes=0, events_dropped=0, control_stalls=0)
    space = town.hosting.space

    def has_heard(after: int, *, is_level: bool = True) -> bool:
        turn = turn_at(Now(Nanos(town.now.mono + after), town.now.wall), town.records)
        town.placing.note_telemetry(told, turn, is_level=is_level)
        return space.has_heard

    assert not has_heard(0) and not has_heard(limits.HEAR_NS)
    town.placing.note_link(Nanos(town.now.mono + limits.HEAR_NS))
    assert not has_heard(2 * limits.HEAR_NS - 1)
    assert not has_heard(2 * limits.HEAR_NS, is_level=False)
    assert has_heard(2 * limits.HEAR_NS)
    assert has_heard(limits.HEAR_MAX_NS, is_level=False)


def test_a_node_without_links_waits_no_longer_than_ten_seconds() -> None:
    """It says then that no holder is to be reached."""
    town = Town(FOUR)
    told = Telemetry(peers=[], seeds=[], memory_bytes=0, events_dropped=0, control_stalls=0)
    for after, heard in ((0, False), (limits.HEAR_MAX_NS - 1, False), (limits.HEAR_MAX_NS, True)):
        turn = turn_at(Now(Nanos(town.now.mono + after), town.now.wall), town.records)
        town.placing.note_telemetry(told, turn, is_level=True)
        assert town.hosting.space.has_heard is heard
