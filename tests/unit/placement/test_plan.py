"""The plan as a pure function: how many, which, in proportion, and steady."""

from __future__ import annotations

import msgspec
import pytest

from pollen.core import limits
from pollen.core.ids import Hash, PeerId, hash_of
from pollen.core.placement import Need, NodeFacts, Placement, Snapshot, Standing, plan, rendezvous
from pollen.core.placement.plan import Takes
from pollen.core.policy import HOSTS
from tests.strategies import policy_of

GIB = 1 << 30
NODES = [PeerId(hash_of("test-node", bytes([i]))) for i in range(8)]
SEED = Hash(hash_of("test-seed", b"0"))
TWO = Need(copies=2)


def facts(gib: int = 1, **change: object) -> NodeFacts:
    return NodeFacts(memory_bytes=gib * GIB, **change)  # type: ignore[arg-type]


def placed(
    need: Need = TWO,
    nodes: dict[PeerId, NodeFacts] | None = None,
    standings: dict[PeerId, Standing] | None = None,
    demand: dict[PeerId, int] | None = None,
    seed: Hash = SEED,
) -> Placement:
    snapshot = Snapshot(
        nodes={node: facts() for node in NODES} if nodes is None else nodes,
        needs={seed: need},
        standings={seed: standings or {}},
        demand={seed: demand or {}},
    )
    return plan.plan(snapshot)[seed]


def seed_of(number: int) -> Hash:
    return Hash(hash_of("test-seed", number.to_bytes(2, "big")))


def test_the_minimum_is_capped_by_the_eligible_nodes() -> None:
    """Two of one is one."""
    assert placed().wanted == 2
    assert placed(nodes={NODES[0]: facts()}).wanted == 1
    assert placed(nodes={}) == plan.NOWHERE


def test_everywhere_is_every_node_that_may() -> None:
    """The host gate still holds, and a node that leaves takes nothing."""
    nodes = {node: facts(properties='{"zone": "attic"}') for node in NODES[:3]}
    nodes |= {NODES[3]: facts(), NODES[4]: facts(is_open=False)}
    assert sorted(placed(Need(copies=2, everywhere=True), nodes).chosen) == sorted(NODES[:4])
    gated = Need(copies=2, everywhere=True, gate=(("zone", "attic"),))
    assert sorted(placed(gated, nodes).chosen) == sorted(NODES[:3])


def test_a_policy_ranks_whom_it_is_true_of() -> None:
    """Beside the gate, by tier and id as well; whoever lacks what it reads is out."""
    nodes = {node: facts(properties='{"zone": "attic"}', id=node.hex()) for node in NODES[:3]}
    nodes |= {NODES[3]: facts(tier="admin"), NODES[4]: facts(properties='{"zone": 1}')}
    need = Need(copies=9, policy=policy_of('node.props.zone == "attic"', HOSTS))
    assert sorted(placed(need, nodes).chosen) == sorted(NODES[:3])
    need = Need(copies=9, policy=policy_of('!(node.props.zone == "attic")', HOSTS))
    assert placed(need, nodes).chosen == ()
    need = Need(copies=9, policy=policy_of(f'node.id == "{NODES[1].hex()}"', HOSTS))
    assert placed(need, nodes).chosen == (NODES[1],)
    need = Need(copies=9, policy=policy_of('node.tier == "admin"', HOSTS))
    assert placed(need, nodes).chosen == (NODES[3],)
    need = msgspec.structs.replace(need, gate=(("zone", "attic"),))
    assert placed(need, nodes).chosen == ()


def test_a_refused_node_is_skipped_and_the_next_rank_takes_over() -> None:
    """The Pi that cannot load does not cost a replica."""
    ranks = placed().ranks
    skipped = placed(standings={ranks[0]: Standing.SKIPPED})
    assert skipped.chosen == ranks[1:3]


@pytest.mark.parametrize("index", range(20))
def test_one_step_of_any_bucket_moves_no_incumbent(index: int) -> None:
    """Hysteresis comes from the claims: half the room here and twice the room there is noise."""
    seed = Hash(hash_of("test-seed", bytes([index])))
    chosen = placed(nodes={node: facts(4) for node in NODES}, seed=seed).chosen
    held = dict.fromkeys(chosen, Standing.INCUMBENT)
    nodes = {node: facts(2 if node in chosen else 8) for node in NODES}
    assert placed(nodes=nodes, standings=held, seed=seed).chosen == chosen


def test_a_node_takes_its_share_by_weight() -> None:
    """1, 2 and 4 GiB get 1/7, 2/7 and 4/7 of the first ranks, within 3 %."""
    nodes = {NODES[0]: facts(1), NODES[1]: facts(2), NODES[2]: facts(4)}
    counts = dict.fromkeys(nodes, 0)
    for i in range(7_000):
        counts[placed(nodes=nodes, seed=seed_of(i)).ranks[0]] += 1
    assert [round(count / 1_000) for count in counts.values()] == [1, 2, 4]
    assert all(
        abs(count - share) < 210
        for count, share in zip(counts.values(), (1_000, 2_000, 4_000), strict=True)
    )


def test_a_busy_node_weighs_half() -> None:
    """New replicas go elsewhere while calls queue there."""
    busy = facts(2, is_busy=True)
    assert busy.weight(Takes.MEMORY) == facts(1).weight(Takes.MEMORY)


def test_what_takes_disk_goes_where_disk_is_free() -> None:
    """Memory, slots and a queue of calls do not matter to it; 1 and 4 GiB get a fifth and four."""
    crowded = facts(64, disk_bytes=GIB, slots=64)
    roomy = facts(1, disk_bytes=4 * GIB, is_busy=True)
    need = Need(copies=1, takes=Takes.DISK)
    first = [
        placed(need, {NODES[0]: crowded, NODES[1]: roomy}, seed=seed_of(i)).chosen
        for i in range(2_000)
    ]
    assert abs(first.count((NODES[1],)) - 1_600) < 100


def test_what_takes_nothing_is_spread_evenly() -> None:
    """A node of 64 GiB gets no more of it than one of 1 GiB."""
    nodes = {NODES[0]: facts(64, disk_bytes=GIB), NODES[1]: facts(1)}
    need = Need(copies=1, takes=Takes.NOTHING)
    first = [placed(need, nodes, seed=seed_of(i)).chosen for i in range(2_000)]
    assert abs(first.count((NODES[0],)) - 1_000) < 100


@pytest.mark.parametrize("takes", [Takes.DISK, Takes.NOTHING])
def test_what_does_not_run_has_as_many_copies_as_it_asks_for(takes: Takes) -> None:
    """A thousand busy slots of demand make no copy of a blob; incumbents beyond its need go."""
    need, held = Need(copies=2, takes=takes), dict.fromkeys(NODES[:5], Standing.INCUMBENT)
    assert placed(need, standings=held, demand={NODES[0]: 1_000_000}).wanted == 2
    assert placed(Need(copies=0, takes=takes), demand={NODES[0]: 0}).wanted == 1


@pytest.mark.parametrize("dead", NODES)
def test_a_death_moves_only_what_was_there(dead: PeerId) -> None:
    """The others keep their order: the plan of the rest is the old one without the dead."""
    nodes = {node: facts() for node in NODES if node != dead}
    before = [node for node in placed(Need(copies=8)).ranks if node != dead]
    assert list(placed(Need(copies=8), nodes).ranks) == before


@pytest.mark.parametrize(
    ("milli", "incumbents", "wanted"),
    [
        (0, 0, 2), (0, 5, 2), (1_500, 2, 2), (1_501, 2, 3), (4_000, 0, 6), (4_000, 7, 7),
        (1_000, 3, 3), (1_000, 4, 3), (1_000_000, 0, 8),
    ],
)  # fmt: skip
def test_replicas_follow_load_with_a_hysteresis(milli: int, incumbents: int, wanted: int) -> None:
    """Grow past 75 % of the slots, shrink when one less stays under 35 %, else stay."""
    assert plan.count_wanted(TWO, [1] * 8, incumbents, [milli]) == wanted


def test_larger_nodes_carry_more() -> None:
    """Slots are counted in the order of the ranks."""
    assert plan.count_for(9_000, [8, 8, 8], limits.GROW_BP) == 2
    assert plan.count_for(9_000, [1, 16, 8], limits.GROW_BP) == 2
    assert plan.count_for(9_000, [1, 1, 1, 16], limits.GROW_BP) == 4


def test_nothing_is_wanted_of_a_seed_that_may_be_zero_and_is_not_called() -> None:
    """Its first ranks are still named, to be woken."""
    none = placed(Need(copies=0))
    assert (none.wanted, len(none.wake)) == (0, limits.WAKE_RANKS)
    assert placed(Need(copies=0), demand={NODES[0]: 0}).wanted == 1


def test_the_plan_version_in_force_is_the_lowest() -> None:
    """All plan alike, and none below what this code can."""
    assert plan.effective_version([3, 2, 7]) == 2
    assert plan.effective_version([0, 2]) == limits.PLAN_VERSION_MIN
    assert plan.effective_version([]) == limits.PLAN_VERSION


def test_the_logarithm_is_that_of_the_mathematicians() -> None:
    """-log2 of 1, 1/2, 1/4 and 2**-64 exactly; between them it falls nowhere."""
    draws = [0, 1 << 63, 3 << 62, (1 << 64) - 1]
    assert [rendezvous.exponential(d) >> 32 for d in draws] == [0, 1, 2, 64]
    steps = [rendezvous.exponential(i << 51) for i in range(1 << 13)]
    assert steps == sorted(steps)


def test_the_cheap_bound_is_never_above_the_cost() -> None:
    """What is out by the bound is out."""
    keys = [(rendezvous.node_key_of(node), 3) for node in NODES]
    for i in range(100):
        seed_key = rendezvous.seed_key_of(Hash(hash_of("test-seed", bytes([i]))))
        draws = [rendezvous.draw_of(seed_key, key) for key, _ in keys]
        bounds = rendezvous.least_costs(seed_key, keys)
        for bound, draw in zip(bounds, draws, strict=True):
            assert bound <= 3 * rendezvous.exponential(draw)
