"""The plan kept up to date: the answer of ``plan``, change by change and in slices.

Decides: which ranks a change can touch, and touches only those.
Does not know: records, clocks, what follows from a placement.
Invariants: with no work left, ``placements`` equals ``plan`` of the same snapshot. A seed keeps the
    first of its ranks and a bound: every candidate with a cost up to the bound is kept, so a
    change of one pair is one insertion or removal. ``advance(units)`` looks at about ``units``
    pairs of seed and node.
Source: docs/design/protocol.md#placement. Refused: ranking every seed again when a node changes.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left, insort
from collections.abc import Iterator

import msgspec

from pollen.core import limits
from pollen.core.ids import Hash, PeerId
from pollen.core.placement.plan import (
    NOWHERE,
    TAKES,
    Cost,
    Need,
    NodeFacts,
    Placement,
    Snapshot,
    Standing,
    count_wanted,
    discounted,
    inverse_weight,
    may_rank,
)
from pollen.core.placement.rendezvous import (
    draw_of,
    exponential,
    least_costs,
    node_key_of,
    seed_key_of,
)

# What ranking a seed from scratch costs, in pairs looked at one by one: so many, and a pair is then
# cheaper. Measured.
_SCRATCH_UNITS = 20
_SCRATCH_DIVISOR = 8
# From this share of changed nodes on (one in n) all seeds are ranked from scratch instead.
_SCRATCH_SHARE = 8


class _Row(msgspec.Struct, frozen=True, gc=False):
    """A live node as the ranking loop reads it. ``mark`` names what an ungated ranking reads.

    ``inverses`` are its inverse weights in the order of ``TAKES``.
    """

    node: PeerId
    key: int
    inverses: tuple[int, ...]
    facts: NodeFacts
    mark: int


class _Ranking(msgspec.Struct, kw_only=True):
    """One seed: ``kept`` are all candidates up to ``bound``, or all there are when it is None."""

    need: Need
    key: int
    standings: dict[PeerId, Standing] = {}
    demand: dict[PeerId, int] = {}
    kept: list[Cost] = []
    costs: dict[PeerId, int] = {}
    bound: Cost | None = None
    depth: int = 0
    is_ranked: bool = False
    placement: Placement = NOWHERE


class Planner:
    """The placements of all seeds."""

    def __init__(self) -> None:
        self._rows: dict[PeerId, _Row] = {}
        self._mark = 0
        self._rankings: dict[Hash, _Ranking] = {}
        # The open nodes, once for all rankings between two changes of a node.
        self._open: _Field | None = None
        self._changed_nodes: dict[PeerId, None] = {}
        self._sweep: tuple[list[PeerId], Iterator[Hash]] | None = None
        self._unsettled: dict[Hash, None] = {}
        self._changed: dict[Hash, None] = {}
        self.pairs = 0

    # -- what is so -----------------------------------------------------------------------------

    def set_node(self, node: PeerId, facts: NodeFacts | None) -> None:
        """A node is live and so, or not live."""
        held = self._rows.get(node)
        if (None if held is None else held.facts) == facts:
            return
        if held is not None:
            self._mark ^= held.mark
            del self._rows[node]
        if facts is not None:
            row = self._rows[node] = _row_of(node, facts)
            self._mark ^= row.mark
        self._open = None
        self._changed_nodes[node] = None

    def set_need(self, seed: Hash, need: Need | None) -> None:
        """A seed is to be placed, or no more."""
        held = self._rankings.get(seed)
        if need is None:
            if held is not None:
                del self._rankings[seed]
                self._changed[seed] = None
            return
        if held is None:
            self._rankings[seed] = _Ranking(need=need, key=seed_key_of(seed))
        elif held.need == need:
            return
        else:
            held.need, held.is_ranked = need, False
        self._unsettled[seed] = None

    def set_standing(self, seed: Hash, node: PeerId, standing: Standing | None) -> None:
        """What a node's claim on a needed seed means now."""
        ranking = self._rankings.get(seed)
        if ranking is None or ranking.standings.get(node) is standing:
            return
        if standing is None:
            del ranking.standings[node]
        else:
            ranking.standings[node] = standing
        self._touch(seed, ranking, node)

    def set_demand(self, seed: Hash, origin: PeerId, milli: int | None) -> None:
        """Calls of a needed seed begin at this node and keep so many thousandths of a slot busy."""
        ranking = self._rankings.get(seed)
        if ranking is None or ranking.demand.get(origin) == milli:
            return
        if milli is None:
            del ranking.demand[origin]
        else:
            ranking.demand[origin] = milli
        self._touch(seed, ranking, origin)

    def _touch(self, seed: Hash, ranking: _Ranking, node: PeerId) -> None:
        if ranking.is_ranked:
            self._rank_pair(ranking, node)
        self._unsettled[seed] = None

    # -- work -----------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """True while some placement may be out of date."""
        return bool(self._unsettled or self._changed_nodes or self._sweep)

    def advance(self, units: int) -> None:
        """Look at about this many pairs, at least at one seed."""
        while units > 0 and self.has_work:
            if self._sweep is not None:
                units -= self._sweep_seed(*self._sweep)
            elif self._changed_nodes:
                self._begin_sweep()
            else:
                seed = next(iter(self._unsettled))
                del self._unsettled[seed]
                ranking = self._rankings.get(seed)
                if ranking is not None:
                    units -= self._settle(seed, ranking)

    def take_changed(self) -> list[Hash]:
        """The seeds whose placement changed since the last call."""
        changed, self._changed = self._changed, {}
        return list(changed)

    def placement(self, seed: Hash) -> Placement | None:
        """Where a needed seed should run; None for one that is not needed."""
        ranking = self._rankings.get(seed)
        return None if ranking is None else ranking.placement

    def snapshot_of(self, seed: Hash) -> Snapshot | None:
        """Everything that the placement of one needed seed is a function of."""
        ranking = self._rankings.get(seed)
        if ranking is None:
            return None
        return Snapshot(
            nodes={node: row.facts for node, row in self._rows.items()},
            needs={seed: ranking.need},
            standings={seed: dict(ranking.standings)},
            demand={seed: dict(ranking.demand)},
        )

    def _begin_sweep(self) -> None:
        nodes, self._changed_nodes = list(self._changed_nodes), {}
        if len(nodes) * _SCRATCH_SHARE <= len(self._rows):
            self._sweep = nodes, iter(list(self._rankings))
            return
        for seed, ranking in self._rankings.items():
            ranking.is_ranked = False
            self._unsettled[seed] = None

    def _sweep_seed(self, nodes: list[PeerId], seeds: Iterator[Hash]) -> int:
        """One seed of a sweep; one that was not ranked yet sees the nodes as they are then."""
        seed = next(seeds, None)
        ranking = None if seed is None else self._rankings.get(seed)
        if seed is None:
            self._sweep = None
        if seed is None or ranking is None or not ranking.is_ranked:
            return 1
        for node in nodes:
            if self._rank_pair(ranking, node):
                self._unsettled[seed] = None
        return len(nodes)

    # -- one seed -------------------------------------------------------------------------------

    def _rank_pair(self, ranking: _Ranking, node: PeerId) -> bool:
        """Bring one node's place up to date. True when it is, or was, among those kept."""
        self.pairs += 1
        held = ranking.costs.pop(node, None)
        if held is not None:
            del ranking.kept[bisect_left(ranking.kept, (held, node))]
        row = self._rows.get(node)
        standing = ranking.standings.get(node)
        if row is None or not may_rank(ranking.need, row.facts, standing):
            return held is not None
        base = _cost(ranking.key, row, ranking.need)
        cost = discounted(base, standing, node in ranking.demand)
        if ranking.bound is not None and (cost, node) > ranking.bound:
            return held is not None
        insort(ranking.kept, (cost, node))
        ranking.costs[node] = cost
        return True

    def _settle(self, seed: Hash, ranking: _Ranking) -> int:
        """Rank when that is needed, count, and note a placement that changed. Returns its units."""
        units = 1
        if not ranking.is_ranked:
            self._rank(ranking, ranking.depth)
            units += self._scratch_units()
        while True:
            wanted = self._count(ranking)
            depth = wanted + limits.WAKE_RANKS
            if ranking.bound is None or len(ranking.kept) >= depth:
                break
            self._rank(ranking, 2 * wanted)
            units += self._scratch_units()
        self._trim(ranking, depth)
        placement = Placement(wanted, tuple(node for _, node in ranking.kept[:depth]))
        if placement != ranking.placement:
            ranking.placement = placement
            self._changed[seed] = None
        return units

    def _scratch_units(self) -> int:
        return _SCRATCH_UNITS + len(self._rows) // _SCRATCH_DIVISOR

    def _trim(self, ranking: _Ranking, depth: int) -> None:
        """Nodes that came since may have made the list of candidates long."""
        most = depth + limits.RANKS_SPARE
        if ranking.need.everywhere or len(ranking.kept) <= 4 * most:
            return
        ranking.bound = ranking.kept[most - 1]
        for _, node in ranking.kept[most:]:
            del ranking.costs[node]
        del ranking.kept[most:]

    def _count(self, ranking: _Ranking) -> int:
        """``count_wanted`` over the nodes kept. At the end of these it may be short, see above."""
        # A node that a sweep has still to take away has no row any more.
        rows = (self._rows.get(node) for _, node in ranking.kept)
        slots = [0 if row is None else row.facts.slots for row in rows]
        incumbents = sum(
            standing is Standing.INCUMBENT and self._is_candidate(ranking, node)
            for node, standing in ranking.standings.items()
        )
        away = sum(standing is Standing.AWAY for standing in ranking.standings.values())
        # One more of unknown slots: being told to take it means that too few are kept.
        slots += [] if ranking.bound is None else [0]
        return count_wanted(ranking.need, slots, incumbents, ranking.demand.values(), away)

    def _is_candidate(self, ranking: _Ranking, node: PeerId) -> bool:
        row = self._rows.get(node)
        return row is not None and may_rank(ranking.need, row.facts, ranking.standings.get(node))

    def _rank(self, ranking: _Ranking, depth: int) -> None:
        """Keep the first ``depth`` and some more, by a bound that is cheap for every node.

        Only nodes whose least possible cost is not above the cost of the last one needed are
        looked at closely. Those with a bonus are ranked one by one afterwards.
        """
        need, ranking.depth = ranking.need, depth
        special = {*ranking.standings, *ranking.demand}
        least = limits.WAKE_RANKS + limits.RANKS_SPARE + max(depth, need.copies)
        size = len(self._rows) if need.everywhere else least + len(special)
        first = self._first(ranking.key, need, size)
        ranking.bound = first.bound
        kept = [cost for cost in first.costs if cost[1] not in special]
        ranking.kept, ranking.costs = kept, {node: cost for cost, node in kept}
        ranking.is_ranked = True
        for node in sorted(special):
            self._rank_pair(ranking, node)

    def _first(self, seed_key: int, need: Need, size: int) -> _First:
        """The lowest costs without bonus.

        Of an ungated seed they are remembered by what they follow from: many nodes of one process
        rank the same seeds among the same nodes.
        """
        self.pairs += len(self._rows)
        asked = (seed_key, self._mark, size, TAKES.index(need.takes))
        if need.is_gated:
            return _rank_first(seed_key, need, self._candidates(need), size)
        held = _remembered.get(asked)
        if held is None:
            held = _rank_first(seed_key, need, self._candidates(need), size)
            if len(_remembered) >= limits.RANKINGS_REMEMBERED:
                _remembered.clear()
            _remembered[asked] = held
        return held

    def _candidates(self, need: Need) -> _Field:
        if self._open is None:
            self._open = _Field([row for row in self._rows.values() if row.facts.is_open])
        if not need.is_gated:
            return self._open
        able = [r for r in self._open.rows if need.lets(r.facts.party)]
        return _Field(able)


class _Field:
    """Nodes to rank among. ``pairs`` are their keys and inverse weights as ``least_costs`` wants
    them, made once for each of ``TAKES``."""

    def __init__(self, rows: list[_Row]) -> None:
        self.rows = rows
        self._pairs: dict[int, list[tuple[int, int]]] = {}

    def pairs(self, column: int) -> list[tuple[int, int]]:
        """Of each node its key and its inverse weight."""
        held = self._pairs.get(column)
        if held is None:
            held = self._pairs[column] = [(row.key, row.inverses[column]) for row in self.rows]
        return held


class _First(msgspec.Struct, frozen=True, gc=False):
    """The lowest costs in order, and the last of them when there are more."""

    costs: list[Cost]
    bound: Cost | None


_remembered: dict[tuple[int, int, int, int], _First] = {}


def _row_of(node: PeerId, facts: NodeFacts) -> _Row:
    key, inverses = node_key_of(node), tuple(inverse_weight(facts, takes) for takes in TAKES)
    mark = 0
    if facts.is_open:
        mark = key >> 1
        for inverse in inverses:
            mark = draw_of(mark, inverse)
        mark = draw_of(key, mark)
    return _Row(node, key, inverses, facts, mark)


def _rank_first(seed_key: int, need: Need, field: _Field, size: int) -> _First:
    """The ``size`` lowest costs without bonus."""
    rows, size = field.rows, min(size, len(field.rows))
    if size == 0:
        return _First([], None)
    bounds = least_costs(seed_key, field.pairs(TAKES.index(need.takes)))
    limit = heapq.nsmallest(size, bounds)[-1]
    # The costs of these are at least ``size`` costs; whoever cannot be under them is out.
    first = [at for at, low in enumerate(bounds) if low <= limit]
    limit = max(_cost(seed_key, rows[at], need) for at in first)
    close = [at for at, low in enumerate(bounds) if low <= limit]
    costs = sorted((_cost(seed_key, rows[at], need), rows[at].node) for at in close)[:size]
    return _First(costs, costs[-1] if size < len(rows) else None)


def _cost(seed_key: int, row: _Row, need: Need) -> int:
    return exponential(draw_of(seed_key, row.key)) * row.inverses[TAKES.index(need.takes)]
