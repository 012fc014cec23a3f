"""What a node knows of one seed that it hosts, loads or refuses, and what it decides by.

Decides: for how long a state holds that a seed came to.
Does not know: why any of it is so (``hosting``), what the record says of it (``claims``).
Invariants: none; ``hosting`` keeps them.
Source: docs/internals/placement.md#claims-and-hosting.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from pollen.core import limits
from pollen.core.ids import Hash, Nanos, Now, PeerId
from pollen.core.placement.claims import Claims, State
from pollen.core.placement.plan import Placement
from pollen.core.placement.roles import Role, load_deadline
from pollen.core.seeds import Seed

NEVER = Nanos(1 << 62)


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
    # It serves from where it was published, and the plan gives it to others.
    is_beside: bool = False
    timer_at: Nanos | None = None
    # Refused as the disk has no room, and looked at again from then on.
    lacks_room: bool = False
    room_at: Nanos = NEVER

    def is_over(self, now: Nanos) -> bool:
        """Of a load that nobody ranks: it is waited for no longer."""
        return self.state is State.LOADING and now >= self.stays_until

    def enter(self, before: State, now: Now, *, is_leaving: bool) -> None:
        """Note until when the state holds that it came to now, and what is void by that."""
        self.enough_since = None
        self.lacks_room = self.lacks_room and self.state is State.REFUSED
        self.room_at = Nanos(now.mono + limits.ROOM_AGAIN_NS) if self.lacks_room else NEVER
        if self.state is State.LOADING:
            deadline = load_deadline(self.seed)
            self.due_at = Nanos(now.mono + deadline)
            self.until = now.wall + deadline
            self.reason, self.attempts = "", 0
        elif self.state is State.REFUSED:
            if before is State.LOADING and now.mono >= self.due_at:
                self.reason, self.is_fault = f"not loaded in time; {self.reason}", False
            self.retry_at = Nanos(now.mono + limits.REFUSED_NS)
            self.until = now.wall + limits.REFUSED_NS
            self.in_flight = False
        elif self.state is State.READY:
            is_awaited = is_leaving and self.seed.is_blob
            self.reason, self.attempts = "", 0
            self.until = now.wall + limits.REPAIR_DELAY_NS if is_awaited else 0


class View(msgspec.Struct, frozen=True, kw_only=True):
    """What a decision about one seed reads."""

    roles: dict[Hash, Role]
    placement: Callable[[Hash], Placement | None]
    claims: Claims
    is_linked: Callable[[PeerId], bool]
