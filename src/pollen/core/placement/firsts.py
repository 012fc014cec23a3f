"""Seeds that serve from where they were published, until others have what they run in.

Decides: whether this node serves a seed that the plan gives to others.
Does not know: how it is loaded, when it goes again (``hosting``: as any replica that the plan does
    not rank, when others are enough).
Invariants: each publication is looked at once, when the plan knows it. Its claim is marked as
    beside the plan: it is not an incumbent, so the plan is the same as without it. Only the first
    version of a name serves this way: the one before serves until an update is ready.
Source: docs/internals/placement.md#claims-and-hosting. Refused: to compile the runtime on every
    node when it starts, which takes 9 s of a core and 250 MiB of those who never use it. Refused: a
    discount in the plan for who has it compiled, since all must plan alike.
"""

from __future__ import annotations

from collections.abc import Callable

from pollen.core.effects import BUNDLE
from pollen.core.ids import Hash
from pollen.core.placement.claims import State
from pollen.core.placement.entry import Entry, View
from pollen.core.placement.roles import Role
from pollen.core.seeds import Seed


class Firsts:
    """What was published here in this run and was not looked at yet."""

    def __init__(self) -> None:
        self._published: set[Hash] = set()

    def note(self, seed: Hash) -> None:
        """It was published here: the node has described it, and so has its runtime compiled."""
        self._published.add(seed)

    def forget(self, seed: Hash) -> None:
        """No name needs it, or the plan gives it to this node."""
        self._published.discard(seed)

    def serves(
        self, key: Hash, entry: Entry, role: Role, view: View, lack: Callable[[Seed], str]
    ) -> bool:
        """Whether this node is to load it to serve it at first. Asked again, it is not. ``lack``
        says what a seed needs and this node has not: then others load it as the plan has it."""
        placement = view.placement(key)
        if key not in self._published or placement is None or entry.state is not State.ABSENT:
            return False
        self._published.discard(key)
        if placement.wanted == 0 or entry.seed.unknown or lack(entry.seed):
            return False
        is_first = role.leads == key and role.elder is None and BUNDLE in role.seed.spec.manifest
        return is_first and not view.claims.nodes_in(key, State.READY, State.DRAINING)
