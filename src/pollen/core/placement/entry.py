"""What a node knows of one seed that it hosts, loads or refuses, and what it decides by.

Decides: nothing.
Does not know: why any of it is so (``hosting``), what the record says of it (``claims``).
Invariants: none; ``hosting`` keeps them.
Source: docs/internals/placement.md#claims-and-hosting.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pollen.core.ids import Hash, Nanos, PeerId
from pollen.core.placement.claims import Claims, State
from pollen.core.placement.plan import Placement
from pollen.core.placement.roles import Role
from pollen.core.seeds import Seed


class Entry(msgspec.Struct, kw_only=True):
    """One seed on this node. Times are monotonic but ``until``, which the claim carries."""

    seed: Seed
    state: State = State.ABSENT
    reason: str = ""
    until: int = 0
    is_fault: bool = False
    has_elder: bool = False
    attempts: int = 0
    in_flight: bool = False
    asked: list[PeerId] = []
    retry_at: Nanos = Nanos(0)
    due_at: Nanos = Nanos(0)
    enough_since: Nanos | None = None
    stays_until: Nanos = Nanos(0)
    drain_since: Nanos = Nanos(0)
    drain: int = 0
    witnessed: list[tuple[PeerId, int]] = []
    has_served: bool = False
    timer_at: Nanos | None = None


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision about one seed reads."""

    roles: dict[Hash, Role]
    placement: Callable[[Hash], Placement | None]
    claims: Claims
    is_linked: Callable[[PeerId], bool]
