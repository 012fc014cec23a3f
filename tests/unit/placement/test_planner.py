"""The planner: the answer of the plan, kept by piece, in slices, and quick."""

from __future__ import annotations

import time

import msgspec
import pytest

from pollen.core import limits
from pollen.core.ids import Hash, PeerId, hash_of
from pollen.core.placement import Need, NodeFacts, Placement, Snapshot, Standing, roles
from pollen.core.placement import planner as planner_of_all
from pollen.core.placement.plan import Takes, may_rank, plan
from pollen.core.placement.planner import Planner
from pollen.core.policy import CALLERS, HOSTS, Party
from tests.strategies import policy_of
from tests.unit.flood import without_full_collections
from tests.unit.placement.bench import ECHO

MANY = 1_000


def node(i: int) -> PeerId:
    return PeerId(hash_of("test-node", i.to_bytes(2, "big")))


def seed(i: int) -> Hash:
    return hash_of("test-seed", i.to_bytes(2, "big"))


def facts(i: int, **change: object) -> NodeFacts:
    return NodeFacts(memory_bytes=1 << (28 + i % 8), slots=1 + i % 4, **change)  # type: ignore[arg-type]


def settle(planner: Planner) -> int:
    """Slices until no work is left."""
    slices = 0
    while planner.has_work:
        planner.advance(limits.PLAN_SLICE_PAIRS)
        slices += 1
    return slices


def filled(nodes: int, seeds: int) -> Planner:
    planner = Planner()
    for i in range(nodes):
        planner.set_node(node(i), facts(i))
    for i in range(seeds):
        planner.set_need(seed(i), Need(copies=2))
    settle(planner)
    planner.take_changed()
    return planner


def reference(nodes: dict[PeerId, NodeFacts], key: Hash) -> Placement:
    snapshot = Snapshot(nodes=nodes, needs={key: Need(copies=2)}, standings={}, demand={})
    return plan(snapshot)[key]


def test_a_death_changes_only_the_seeds_that_were_there() -> None:
    """Whoever did not rank the dead keeps its placement."""
    planner = filled(50, 40)
    before = {i: planner.placement(seed(i)) for i in range(40)}
    planner.set_node(node(7), None)
    settle(planner)
    changed = planner.take_changed()
    ranked = [seed(i) for i, held in before.items() if held is not None and node(7) in held.ranks]
    assert sorted(ranked) == sorted(changed)
    nodes = {node(i): facts(i) for i in range(50) if i != 7}
    assert [planner.placement(seed(i)) for i in range(40)] == [
        reference(nodes, seed(i)) for i in range(40)
    ]


def test_a_change_that_changes_nothing_is_no_work() -> None:
    """The same facts, needs and standings again cost a comparison."""
    planner = filled(10, 10)
    planner.set_node(node(1), facts(1))
    planner.set_need(seed(1), Need(copies=2))
    planner.set_standing(seed(1), node(1), None)
    assert not planner.has_work


def test_deaths_one_by_one_end_where_the_plan_does() -> None:
    """The kept ranks run out and are filled again."""
    planner = filled(40, 5)
    for i in range(38):
        planner.set_node(node(i), None)
        settle(planner)
    nodes = {node(i): facts(i) for i in (38, 39)}
    for i in range(5):
        assert planner.placement(seed(i)) == reference(nodes, seed(i))


def test_a_cluster_that_grows_keeps_short_lists() -> None:
    """A thousand nodes that came one by one are not all kept for each seed."""
    planner = filled(3, 1)
    for i in range(3, 300):
        planner.set_node(node(i), facts(i))
        settle(planner)
    (ranking,) = planner._rankings.values()
    assert len(ranking.kept) < 60
    nodes = {node(i): facts(i) for i in range(300)}
    assert planner.placement(seed(0)) == reference(nodes, seed(0))


def test_a_seed_with_a_policy_is_ranked_for_itself() -> None:
    """Two seeds of one draw are remembered together only when every node may host both."""
    planner = Planner()
    for i in range(20):
        planner.set_node(node(i), facts(i, tier="admin" if i % 5 == 0 else "leaf"))
    policy = policy_of('node.tier == "admin"', HOSTS)
    for need in (Need(copies=4), Need(copies=4, policy=policy), Need(copies=4)):
        planner.set_need(seed(1), need)
        settle(planner)
        placement = planner.placement(seed(1))
        assert placement is not None
        admins = {node(i) for i in range(0, 20, 5)}
        assert (set(placement.chosen) == admins) is (need.policy is not None)
    planner.set_need(seed(1), Need(copies=4, policy=policy))
    planner.set_node(node(0), facts(0, tier="leaf"))
    settle(planner)
    placement = planner.placement(seed(1))
    assert placement is not None
    assert node(0) not in placement.ranks


def test_who_may_not_read_a_blob_takes_no_rank_of_it() -> None:
    """The planner asked the host's policy alone, and gave ranks to nodes that refuse the copy."""
    nodes = {node(i): facts(i, tier="admin" if i % 5 == 0 else "leaf") for i in range(20)}
    readers = policy_of('caller.tier == "admin"', CALLERS)
    need = Need(copies=4, readers=readers, takes=Takes.DISK)
    planner = Planner()
    for peer, row in nodes.items():
        planner.set_node(peer, row)
    planner.set_need(seed(1), need)
    settle(planner)
    snapshot = Snapshot(nodes=nodes, needs={seed(1): need}, standings={}, demand={})
    assert planner.placement(seed(1)) == plan(snapshot)[seed(1)]
    assert set(plan(snapshot)[seed(1)].ranks) == {node(i) for i in range(0, 20, 5)}


def test_host_plan_and_planner_ask_one_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a gate and a policy mean for a party is decided in one place (docs/design/policy.md)."""
    facts = NodeFacts(memory_bytes=1 << 30, properties='{"zone":"attic"}')
    needs = [
        Need(copies=1, gate=(("zone", "attic"),)),
        Need(copies=1, policy=policy_of('node.props.zone == "attic"', HOSTS)),
    ]
    node, key = PeerId(hash_of("node", b"1")), hash_of("seed", b"1")

    def decided(need: Need) -> tuple[bool, bool, bool]:
        held = Planner()
        held.set_node(node, facts)
        held.set_need(key, need)
        held.advance(1_000)
        placed = held.placement(key)
        spec = msgspec.structs.replace(ECHO.spec, host=list(need.gate))
        seed = msgspec.structs.replace(ECHO, spec=spec, host_if=need.policy)
        return (
            roles.may_host(seed, facts.party),
            may_rank(need, facts, None),
            placed is not None and placed.chosen == (node,),
        )

    assert [decided(need) for need in needs] == [(True, True, True)] * 2
    monkeypatch.setattr(Party, "meets", lambda party, gate, policy: False)
    assert [decided(need) for need in needs] == [(False, False, False)] * 2


def test_a_slice_looks_at_a_bounded_number_of_pairs() -> None:
    """No turn plans for long: the counter of pairs proves it, whatever the machine."""
    planner = Planner()
    for i in range(MANY):
        planner.set_node(node(i), facts(i))
    for i in range(200):
        planner.set_need(seed(i), Need(copies=2))
    largest, slices = 0, 0
    while planner.has_work:
        before = planner.pairs
        planner.advance(limits.PLAN_SLICE_PAIRS)
        largest, slices = max(largest, planner.pairs - before), slices + 1
    # A pair of a ranking from scratch costs an eighth of one that is looked at alone.
    assert largest <= 9 * limits.PLAN_SLICE_PAIRS
    assert slices >= 200 * MANY // largest


@pytest.mark.parametrize("change", ["death", "seed", "claim", "weight"])
def test_one_change_of_a_large_cluster_touches_few_pairs(change: str) -> None:
    """1,000 nodes: a change looks at one pair a seed at most, or ranks one seed."""
    planner = filled(MANY, 100)
    before = planner.pairs
    if change == "death":
        planner.set_node(node(3), None)
    elif change == "weight":
        planner.set_node(node(3), facts(4))
    elif change == "seed":
        planner.set_need(seed(3), Need(copies=5))
    else:
        planner.set_standing(seed(3), node(3), Standing.SKIPPED)
    settle(planner)
    expected = {"death": 100, "weight": 100, "seed": MANY, "claim": 1}
    assert planner.pairs - before == expected[change]


def seconds_of(planner: Planner) -> tuple[float, float]:
    """Processor time until no work is left, and that of the longest slice. As in a daemon no full
    collection comes meanwhile."""
    slices: list[float] = []
    with without_full_collections():
        while planner.has_work:
            began = time.thread_time()
            planner.advance(limits.PLAN_SLICE_PAIRS)
            slices.append(time.thread_time() - began)
    return sum(slices), max(slices)


def planned(seeds: int) -> tuple[float, float, float]:
    """1,000 nodes: seconds from scratch, for a death after it, and of the longest slice."""
    planner_of_all._remembered.clear()
    planner = Planner()
    for i in range(MANY):
        planner.set_node(node(i), facts(i))
    for i in range(seeds):
        planner.set_need(seed(i), Need(copies=2))
    scratch, longest = seconds_of(planner)
    planner.set_node(node(3), None)
    change, last = seconds_of(planner)
    return scratch, change, max(longest, last)


def test_a_hundred_seeds_on_a_thousand_nodes_are_planned_in_time() -> None:
    """A tenth of what is promised, loosely, for a busy host."""
    scratch, change, _ = planned(100)
    assert (scratch < 0.6, change < 0.02) == (True, True)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_thousand_seeds_on_a_thousand_nodes_are_planned_in_time() -> None:
    """Cold under 2 s, one change under 20 ms, no slice near 10 ms."""
    scratch, change, longest = planned(MANY)
    print(f"scratch {scratch:.2f} s, change {change * 1e3:.1f} ms, slice {longest * 1e3:.1f} ms")
    assert scratch < 2
    assert change < 0.020
    assert longest < 0.010
