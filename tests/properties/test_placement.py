"""Laws of placement: one plan for all, the same by piece, steady, and never without a replica."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from pollen.core.ids import SECOND, Hash, PeerId
from pollen.core.placement import Need, NodeFacts, Snapshot, Standing, State
from pollen.core.placement.plan import plan
from pollen.core.placement.planner import Planner
from tests import strategies as own
from tests.unit.names.test_named import A, B, C
from tests.unit.placement.bench import ECHO, Bench

NAMES = [A, B, C]
GIB = 1 << 30


class Model:
    """A planner, and the snapshot that it was told."""

    def __init__(self) -> None:
        self.planner = Planner()
        self.nodes: dict[PeerId, NodeFacts] = {}
        self.needs: dict[Hash, Need] = {}
        self.standings: dict[Hash, dict[PeerId, Standing]] = {}
        self.demand: dict[Hash, dict[PeerId, int]] = {}

    def take(self, kind: str, *args: Any) -> None:
        if kind == "advance":
            self.planner.advance(args[0])
            return
        getattr(self.planner, f"set_{kind}")(*args)
        *path, value = args
        table: Any = {"node": self.nodes, "need": self.needs}.get(kind)
        if table is None:
            if path[0] not in self.needs:
                return
            tables: Any = self.standings if kind == "standing" else self.demand
            table = tables.setdefault(path.pop(0), {})
        if kind == "need" and (path[0] not in self.needs or value is None):
            self.standings.pop(path[0], None)
            self.demand.pop(path[0], None)
        if value is None:
            table.pop(path[0], None)
        else:
            table[path[0]] = value

    def snapshot(self) -> Snapshot:
        return Snapshot(
            nodes=self.nodes, needs=self.needs, standings=self.standings, demand=self.demand
        )

    def settle(self) -> dict[Hash, Any]:
        while self.planner.has_work:
            self.planner.advance(7)
        return {seed: self.planner.placement(seed) for seed in self.needs}


@given(st.lists(own.plan_changes, max_size=40))
def test_the_plan_by_piece_is_the_plan(changes: list[tuple[Any, ...]]) -> None:
    """Whatever changed in whatever order and slice, the planner ends at ``plan``."""
    model = Model()
    for change in changes:
        model.take(*change)
    assert model.settle() == plan(model.snapshot())


@given(st.lists(own.plan_changes, max_size=20), st.randoms(use_true_random=False))
def test_every_node_of_one_snapshot_plans_alike(changes: list[tuple[Any, ...]], rng: Any) -> None:
    """The order in which the records came, and so of every mapping, does not matter."""
    model = Model()
    for change in changes:
        model.take(*change)

    def shuffled(table: Any) -> Any:
        keys = list(table)
        rng.shuffle(keys)
        return {k: shuffled(v) if isinstance(v := table[k], dict) else v for k in keys}

    held = model.snapshot()
    other = Snapshot(**{name: shuffled(getattr(held, name)) for name in held.__struct_fields__})
    assert plan(other) == plan(held)


def is_able(need: Need, facts: NodeFacts) -> bool:
    """Whether a node passes gate and policy, said otherwise than by the plan."""
    is_attic = "attic" in facts.properties
    asked = "" if need.policy is None else need.policy.text
    held = {"": True, "tier": facts.tier == "admin", "has": not is_attic, "zone": is_attic}
    word = next(word for word in ("tier", "has", "zone", "") if word in asked)
    return held[word] and (is_attic or not need.gate)


@given(st.dictionaries(own.plan_nodes, own.node_facts), own.plan_seeds, own.needs)
def test_the_plan_keeps_its_rules(nodes: dict[PeerId, NodeFacts], seed: Hash, need: Need) -> None:
    """Enough, never more than may, nobody twice, and nobody who may not."""
    (placed,) = plan(Snapshot(nodes=nodes, needs={seed: need}, standings={}, demand={})).values()
    eligible = [n for n, facts in nodes.items() if facts.is_open and is_able(need, facts)]
    least = len(eligible) if need.everywhere else min(need.copies, len(eligible))
    assert placed.wanted == least
    assert len(set(placed.ranks)) == len(placed.ranks)
    assert set(placed.ranks) <= set(eligible)


@given(own.plan_seeds, st.integers(1, 4), st.lists(st.booleans(), min_size=6, max_size=6))
def test_noise_moves_no_incumbent(seed: Hash, minimum: int, halved: list[bool]) -> None:
    """Any node's capacity may fall or rise by one bucket: whoever serves goes on serving."""
    nodes = {PeerId(bytes([i]) * 32): NodeFacts(memory_bytes=4 * GIB) for i in range(6)}
    needs = {seed: Need(copies=minimum)}
    before = plan(Snapshot(nodes=nodes, needs=needs, standings={}, demand={}))[seed].chosen
    held = {seed: dict.fromkeys(before, Standing.INCUMBENT)}
    noisy = {
        node: NodeFacts(memory_bytes=(2 if is_less else 8) * GIB)
        if (node in before) == is_less
        else facts
        for (node, facts), is_less in zip(nodes.items(), halved, strict=True)
    }
    after = plan(Snapshot(nodes=noisy, needs=needs, standings=held, demand={}))[seed].chosen
    assert sorted(before) == sorted(after)


def test_every_small_case_of_standings() -> None:
    """Exhaustively: four nodes, each incumbent, skipped, away or neither; two are wanted.

    The refused and the awaited rank nowhere, and an incumbent loses its place only to one that bids
    less than a quarter of what it would bid as a newcomer.
    """
    seed, nodes = Hash(b"\5" * 32), [PeerId(bytes([i]) * 32) for i in range(4)]
    facts = {node: NodeFacts(memory_bytes=GIB) for node in nodes}
    for combination in itertools.product([None, *Standing], repeat=4):
        standings = {n: s for n, s in zip(nodes, combination, strict=True) if s is not None}
        snapshot = Snapshot(
            nodes=facts,
            needs={seed: Need(copies=2)},
            standings={seed: standings},
            demand={},
        )
        placed = plan(snapshot)[seed]
        out = (Standing.SKIPPED, Standing.AWAY)
        able = [node for node in nodes if standings.get(node) not in out]
        assert sorted(placed.ranks) == able
        assert placed.wanted == min(2, len(able))


# -- drain --------------------------------------------------------------------------------------


class Drains:
    """Three nodes, each with its own view of claims, plan and life; nothing is in step."""

    def __init__(self, minimum: int) -> None:
        spec = msgspec.structs.replace(ECHO.spec, min_replicas=minimum)
        self.seed = msgspec.structs.replace(ECHO, spec=spec)
        self.nodes = [Bench(own=name, holding=self.seed) for name in NAMES]
        self.said: list[list[Any]] = [[], [], []]
        self.heard = [[0] * 3 for _ in NAMES]
        for node in self.nodes:
            node.plan(*NAMES, wanted=2)

    def take(self, kind: str, *args: Any) -> None:
        getattr(self, kind)(*args)

    def turn(self, who: int, seconds: int) -> None:
        bench = self.nodes[who]
        before = bench.claims.host(self.seed.seed, bench.own)
        bench.turn(seconds * SECOND)
        after = bench.claims.host(self.seed.seed, bench.own)
        if after != before:
            self.said[who].append(after)

    def hear(self, who: int, of: int, count: int) -> None:
        """Hear of some more of what a node said, in its order."""
        if who == of:
            return
        upto = min(self.heard[who][of] + count, len(self.said[of]))
        if upto == self.heard[who][of]:
            return
        self.heard[who][of] = upto
        host, bench = self.said[of][upto - 1], self.nodes[who]
        is_live = NAMES[of] in bench.claims._live
        if host is None:
            bench.bury(NAMES[of])
        else:
            fields = {f: getattr(host.claim, f) for f in host.claim.__struct_fields__[1:]}
            bench.claim(NAMES[of], host.state, **fields)
        if not is_live:
            bench.claims.set_live(NAMES[of], None)

    def loaded(self, who: int) -> None:
        if self.nodes[who].state() is State.LOADING:
            self.nodes[who].finish()

    def plan(self, who: int, ranks: list[int], wanted: int) -> None:
        wanted = max(wanted, self.seed.spec.min_replicas)
        self.nodes[who].plan(*(NAMES[rank] for rank in ranks), wanted=wanted)

    def live(self, who: int, of: int, is_live: bool) -> None:
        if who != of:
            self.nodes[who].claims.set_live(NAMES[of], 1 if is_live else None)

    def everybody_hears_all(self) -> None:
        for who, of in itertools.permutations(range(3), 2):
            self.live(who, of, True)
            self.hear(who, of, len(self.said[of]))

    def serving(self) -> int:
        return sum(node.state() in (State.READY, State.DRAINING) for node in self.nodes)


def begun(minimum: int) -> Drains:
    """All three serve and everybody knows."""
    drains = Drains(minimum)
    for bench in drains.nodes:
        bench.plan(*NAMES)
    for who in range(3):
        drains.turn(who, 0)
        drains.loaded(who)
        drains.turn(who, 0)
    drains.everybody_hears_all()
    assert drains.serving() == 3
    return drains


@settings(max_examples=200)
@given(st.integers(1, 2), own.drain_steps)
def test_stale_views_never_drain_below_the_minimum(
    minimum: int, steps: list[tuple[Any, ...]]
) -> None:
    """``last-ready-stays``: nor the last of the minimum, whatever each node believes, and when."""
    drains = begun(minimum)
    for step in steps:
        drains.take(*step)
        assert drains.serving() >= minimum


@given(st.integers(1, 2), own.drain_steps)
def test_drains_end_when_views_meet(minimum: int, steps: list[tuple[Any, ...]]) -> None:
    """Then the plan is served, by those that it names and by nobody else."""
    drains = begun(minimum)
    for step in steps:
        drains.take(*step)
    for who in range(3):
        drains.plan(who, [2, 0, 1], 2)
    for _ in range(12):
        drains.everybody_hears_all()
        for who in range(3):
            drains.turn(who, 4)
            drains.loaded(who)
    states = [node.state() for node in drains.nodes]
    assert states == [State.READY, State.ABSENT, State.READY]
