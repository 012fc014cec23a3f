"""Where things should be: one pure function of what the records say.

Decides: how many copies a thing wants, which nodes rank for it, and in which order. A seed is the
    first kind of thing; whatever states a ``Need`` is placed alike.
Does not know: claims as records, links, clocks, what this node does about it (``claims``), how the
    same answer is kept up to date piece by piece (``planner``).
Invariants: equal snapshots give equal plans on every platform: integers only, ties by node id. A
    node's chance of a rank is proportional to its weight. A node that changes moves only the ranks
    that it takes or gives up. Refused and overdue nodes rank nowhere.
Source: docs/design/protocol.md#placement; ``rendezvous`` for the draws. Refused: a cache of the
    draws of all pairs, which costs more to look up among a million entries than a draw.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from pollen.core import limits
from pollen.core.ids import Hash, PeerId
from pollen.core.placement.rendezvous import draw_of, exponential, node_key_of, seed_key_of
from pollen.core.policy import Party, Policy

Pairs = tuple[tuple[str, str], ...]
# A node's place in a ranking: the lower wins, the id decides among equals.
Cost = tuple[int, PeerId]

_WEIGHT_SCALE = 1 << 24


class Standing(enum.Enum):
    """What a claim means for the ranking of its owner. ``AWAY``: it said that it leaves and has a
    copy on its disk, with which it is awaited."""

    INCUMBENT = "incumbent"
    SKIPPED = "skipped"
    AWAY = "away"


_OUT = (Standing.SKIPPED, Standing.AWAY)


class Takes(enum.Enum):
    """What a copy takes of its node, and so what nodes are weighed by."""

    MEMORY = "memory"
    DISK = "disk"
    NOTHING = "nothing"


# The order of a node's weights.
TAKES = tuple(Takes)


class NodeFacts(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What the records say of a live node. ``is_open``: it takes copies (it is not leaving).

    ``memory_bytes`` and ``disk_bytes`` are free for guests and for content, quantised; 0 is none,
    or not told. ``properties``, ``tier`` and ``id`` (hex) are what gates and policies read.
    """

    memory_bytes: int
    disk_bytes: int = 0
    slots: int = 1
    properties: str = "{}"
    tier: str = "none"
    id: str = ""
    is_open: bool = True
    is_busy: bool = False
    plan_version: int = limits.PLAN_VERSION

    @property
    def party(self) -> Party:
        """The node as policies read it."""
        return Party(self.tier, self.id, self.properties)

    def weight(self, takes: Takes) -> int:
        """A node's share of what takes this: in MiB, half of its memory while calls queue there.

        What takes nothing is spread evenly.
        """
        if takes is Takes.NOTHING:
            return 1
        free = self.disk_bytes if takes is Takes.DISK else self.memory_bytes
        weight = min(max(free >> 20, 1), limits.WEIGHT_MAX_MIB)
        is_halved = self.is_busy and takes is Takes.MEMORY
        return max(weight >> 1, 1) if is_halved else weight


class Need(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """What a thing asks of the plan: so many copies at least, on nodes that pass gate and policy.

    What takes memory runs: it grows with its load over the slots of its nodes. Of what takes disk
    or nothing, demand says only where it is wanted. ``readers``: a policy on callers that a host
    has to pass as well, since it can read what it holds.
    """

    copies: int
    everywhere: bool = False
    gate: Pairs = ()
    policy: Policy | None = None
    readers: Policy | None = None
    takes: Takes = Takes.MEMORY

    @property
    def is_gated(self) -> bool:
        """Whether some live node may be no candidate for what its certificate says."""
        return bool(self.gate) or self.policy is not None or self.readers is not None

    @property
    def is_on_disk(self) -> bool:
        """Whether a copy takes disk, and not memory."""
        return self.takes is Takes.DISK

    def lets(self, node: Party) -> bool:
        """Whether a node passes the gate and the policies."""
        return node.meets(self.gate, self.policy) and node.meets((), self.readers)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a plan is a function of.

    ``nodes``: the live ones. ``standings``: by seed, of nodes whose claim counts for or against
    them. ``demand``: by seed and origin, thousandths of a slot kept busy; 0 is a call now and then.
    """

    nodes: Mapping[PeerId, NodeFacts]
    needs: Mapping[Hash, Need]
    standings: Mapping[Hash, Mapping[PeerId, Standing]]
    demand: Mapping[Hash, Mapping[PeerId, int]]


class Placement(msgspec.Struct, frozen=True, gc=False):
    """The plan of one seed: ``ranks`` are the chosen, then those that are next in line."""

    wanted: int
    ranks: tuple[PeerId, ...]

    @property
    def chosen(self) -> tuple[PeerId, ...]:
        """The nodes that should serve."""
        return self.ranks[: self.wanted]

    @property
    def wake(self) -> tuple[PeerId, ...]:
        """The first ranks, to be woken when nobody serves (docs/design/protocol.md#placement)."""
        return self.ranks[: limits.WAKE_RANKS]


NOWHERE = Placement(0, ())


def plan(snapshot: Snapshot) -> dict[Hash, Placement]:
    """The placement of every seed that is needed. ``planner`` keeps the same answer."""
    placements = {}
    for seed in snapshot.needs:
        standings = snapshot.standings.get(seed, {})
        demand = snapshot.demand.get(seed, {})
        need, seed_key = snapshot.needs[seed], seed_key_of(seed)
        ranked = sorted(
            (cost_of(seed_key, node, facts, need, standings.get(node), node in demand), node)
            for node, facts in snapshot.nodes.items()
            if may_rank(need, facts, standings.get(node))
        )
        ranks = [node for _, node in ranked]
        slots = [snapshot.nodes[node].slots for node in ranks]
        incumbents = sum(standings.get(node) is Standing.INCUMBENT for node in ranks)
        away = sum(standing is Standing.AWAY for standing in standings.values())
        wanted = count_wanted(need, slots, incumbents, demand.values(), away)
        placements[seed] = Placement(wanted, tuple(ranks[: wanted + limits.WAKE_RANKS]))
    return placements


def effective_version(versions: Iterable[int]) -> int:
    """The plan version in force: the lowest among live nodes, so that all plan alike."""
    return max(min(versions, default=limits.PLAN_VERSION), limits.PLAN_VERSION_MIN)


# -- who may rank ---------------------------------------------------------------------------------


def may_rank(need: Need, facts: NodeFacts, standing: Standing | None) -> bool:
    """Whether a node is a candidate at all."""
    if not facts.is_open or standing in _OUT:
        return False
    return not need.is_gated or need.lets(facts.party)


# -- how many -------------------------------------------------------------------------------------


def count_wanted(
    need: Need, slots: Sequence[int], incumbents: int, demand: Iterable[int], away: int = 0
) -> int:
    """How many of the ranked nodes should serve. ``slots``: those of the ranked, in their order.

    ``away``: copies on the disks of those who are awaited. They are not made again, as long as one
    is here; and what is here stays.

    Grows when the load passes 75 % of what the first ranks have, shrinks when it would stay under
    35 % with one less; in between as many as there are (``incumbents``) stay.
    """
    if need.everywhere:
        return len(slots)
    milli, is_called = 0, False
    for part in demand:
        milli, is_called = milli + part, True
    grown = count_for(milli, slots, limits.GROW_BP)
    shrunk = count_for(milli, slots, limits.SHRINK_BP)
    by_load = min(max(incumbents, grown), shrunk) if need.takes is Takes.MEMORY else 0
    copies = need.copies
    if away and need.is_on_disk:
        copies = min(copies, max(copies - away, incumbents, 1))
    floor = max(copies, 1 if is_called else 0)
    return min(max(floor, by_load), len(slots))


def count_for(milli: int, slots: Sequence[int], share_bp: int) -> int:
    """The least number of first ranks of whose slots this share carries the load."""
    room = 0
    for count, own in enumerate(slots):
        if room * share_bp >= milli * 10_000:
            return count
        room += own * 1_000
    return len(slots)


# -- which ----------------------------------------------------------------------------------------


def inverse_weight(facts: NodeFacts, takes: Takes) -> int:
    """What a draw is multiplied by: the lighter a node, the dearer its draws."""
    return _WEIGHT_SCALE // facts.weight(takes)


def cost_of(
    key: int,
    node: PeerId,
    facts: NodeFacts,
    need: Need,
    standing: Standing | None,
    is_origin: bool,
) -> int:
    """What a node bids for a thing: the lowest serve. Incumbents and origins of demand bid less."""
    inverse = inverse_weight(facts, need.takes)
    return discounted(exponential(draw_of(key, node_key_of(node))) * inverse, standing, is_origin)


def bid_of(
    seed: Hash,
    node: PeerId,
    facts: NodeFacts,
    need: Need,
    standing: Standing | None,
    is_origin: bool,
) -> int:
    """``cost_of`` for somebody who has the thing's hash and asks once."""
    return cost_of(seed_key_of(seed), node, facts, need, standing, is_origin)


def discounted(cost: int, standing: Standing | None, is_origin: bool) -> int:
    """The incumbency bonus is the plan's hysteresis: a challenger must be better by that much."""
    shift = limits.INCUMBENT_SHIFT if standing is Standing.INCUMBENT else 0
    return cost >> (shift + (limits.ORIGIN_SHIFT if is_origin else 0))
