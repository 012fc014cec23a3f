"""When a copy of a seed may go: whether others are enough, and what they have seen of it.

Decides: who takes the place of a copy on this node, how many of those are needed, whether a
    content that nobody claims here is needed by a name, and which version gives way to which.
Does not know: what this node does then (``hosting``).
Invariants: pure functions of what the records say and of this node's id.
Source: docs/internals/placement.md#claims-and-hosting; docs/internals/content.md#former-versions.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollen.core.ids import Hash, PeerId
from pollen.core.placement.claims import State
from pollen.core.placement.entry import Entry, View
from pollen.core.placement.plan import NOWHERE
from pollen.core.placement.roles import Role, minimum_of


def successors(own: PeerId, key: Hash, role: Role, view: View) -> list[PeerId]:
    """The nodes that are ready to serve in the place of a copy here."""
    ready = view.claims.nodes_in(role.heir, State.READY)
    return [node for node in ready if role.heir != key or node != own]


def minimum_of_heir(role: Role, view: View) -> int:
    """So many of them there must be."""
    heir = view.roles[role.heir].seed
    return minimum_of(heir, view.placement(role.heir) or NOWHERE)


def are_others_enough(own: PeerId, key: Hash, role: Role, view: View) -> bool:
    """Whether there are."""
    return are_enough(successors(own, key, role, view), key, role, view)


def are_enough(others: Sequence[PeerId], key: Hash, role: Role, view: View) -> bool:
    """Whether a copy here may go when these others stay."""
    return len(others) >= others_needed(key, role, view)


def others_needed(key: Hash, role: Role, view: View) -> int:
    """How many others must be ready before a copy goes that the plan does not rank. One on a disk
    stays for as many as were asked for: where too few nodes are open, none takes its place."""
    minimum = minimum_of_heir(role, view)
    if role.heir != key or not role.seed.is_blob:
        return minimum
    return max(minimum, role.seed.spec.min_replicas)


def is_replaced_by(own: PeerId, key: Hash, role: Role, view: View) -> bool:
    """Whether a user of this node published another version under the name since."""
    return role.leads != key and view.roles[role.leads].seed.owner == own


def is_past(own: PeerId, key: Hash, role: Role, view: View) -> bool:
    """Whether a version was replaced that is not kept, and the new one is where it is to be."""
    if role.heir == key or role.is_kept:
        return False
    return are_others_enough(own, key, role, view)


def runs_no_more(key: Hash, role: Role, view: View) -> bool:
    """Whether it is a former version that is kept without copies of its own, and not the one that
    serves until the newest does."""
    return role.is_kept and role.heir != key and view.roles[role.leads].elder != key


def is_newest_due(own: PeerId, role: Role, view: View) -> bool:
    """Whether the version that is to serve is still to be tried on this node, where the one before
    would take its room."""
    newest = view.claims.host(role.leads, own)
    is_refused = newest is not None and newest.state is State.REFUSED
    return not is_refused and own in (view.placement(role.leads) or NOWHERE).chosen


def witnessed_by(
    own: PeerId, key: Hash, entry: Entry, role: Role | None, view: View
) -> list[tuple[PeerId, int]]:
    """The drains that the replica here, ready and among the first of the plan, has seen begin."""
    if entry.state is not State.READY or role is None:
        return []
    placement = view.placement(key) or NOWHERE
    if own not in placement.chosen[: minimum_of(role.seed, placement) + 1]:
        return []
    hosts = view.claims.hosts(key)
    return [(host.node, host.claim.drain) for host in hosts if host.state is State.DRAINING]
