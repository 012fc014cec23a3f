"""Users who wait until a seed is where it is to be.

Decides: when that is so, and when to wait no longer.
Does not know: where a seed is to be (``placement``), how a state is worded (``views``).
Invariants: each wait is answered once, with the state at that moment: when as many hosts as are
    wanted are ready, when another version holds the name, or when the time is over: all of it, or
    what the user gives the others once one host is ready. A wait changes nothing. At most
    ``limits.WAITS_MAX`` wait at a time.
Source: docs/internals/control-api.md. Refused: a client that asks for the whole status twenty times
    a second, which costs the brain as much as all else that it does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from pollen.core import limits, timers
from pollen.core.codec import Refusal
from pollen.core.commands import SeedState, WaitSeedCommand
from pollen.core.desk.views import Screen, seed_state
from pollen.core.effects import SetTimer
from pollen.core.ids import Nanos, Now, RequestId
from pollen.core.turn import Asked, Handler, Room, Turn

_FULL = Refusal("overloaded", "too many wait for seeds already", "ask again soon")


class Wait(msgspec.Struct, kw_only=True):
    """One wait. ``seed`` is the version that is waited for in hex; empty for any. ``rest_ns``: how
    long for the others, once one host is ready."""

    request: RequestId
    name: str
    seed: str
    looks_until: Nanos
    until: Nanos
    rest_ns: int


class Waits(Room):
    """Who waits. ``screen`` is what the node knows of itself now."""

    def __init__(self, screen: Callable[[Now], Screen]) -> None:
        self._screen = screen
        self._waiting: dict[bytes, Wait] = {}

    def commands(self) -> Mapping[type[object], Handler]:
        """To be told when a seed is ready."""
        return {WaitSeedCommand: self.on_wait}

    def timers(self) -> Mapping[str, Handler]:
        """When a wait ends; the look of the same turn answers it."""
        return {timers.WAIT: lambda key, turn: None}

    def on_wait(self, asked: Asked, turn: Turn) -> None:
        """Somebody waits; the look at the end of this turn may answer at once."""
        if len(self._waiting) >= limits.WAITS_MAX:
            turn.answer(asked.request, _FULL)
            return
        command, now = asked.command, turn.now.mono
        key = asked.request.to_bytes(8, "big")
        until = Nanos(now + min(command.wait_ms * 1_000_000, limits.WAIT_MAX_NS))
        looks_until = min(Nanos(now + limits.WAIT_LOOK_NS), until)
        self._waiting[key] = Wait(
            request=asked.request,
            name=command.name,
            seed=command.seed,
            looks_until=looks_until,
            until=until,
            rest_ns=command.rest_ms * 1_000_000,
        )
        for end, at in ((b"look", looks_until), (b"end", until)):
            turn.do(SetTimer(token=timers.token_for(timers.WAIT, key + end), at=at))

    def settle(self, turn: Turn) -> None:
        """Answer those whose wait is over. After names, claims and plan are up to date."""
        if not self._waiting:
            return
        screen = self._screen(turn.now)
        for key, wait in list(self._waiting.items()):
            state = seed_state(screen, wait.name)
            if wait.rest_ns and state.seed is not None and state.seed.ready:
                # From now on; another look finds nothing that it would change.
                wait.until = min(wait.until, Nanos(turn.now.mono + wait.rest_ns))
                wait.rest_ns = 0
                turn.do(SetTimer(token=timers.token_for(timers.WAIT, key + b"rest"), at=wait.until))
            if _is_over(wait, state, turn.now.mono):
                del self._waiting[key]
                turn.answer(wait.request, state)


def _is_over(wait: Wait, state: SeedState, now: Nanos) -> bool:
    view = state.seed
    if now >= wait.until or view is None or (wait.seed and view.seed != wait.seed):
        return True
    # Nobody may host it, or it sleeps until it is called: the first look may come too early.
    return view.wanted <= view.ready if view.wanted else now >= wait.looks_until
