"""The check of a new replica: one call of a function that its seed names, before it is called.

Decides: how long a check may take, which answer counts, what a failure is called, and when the
    replica is tried again.
Does not know: the life of a claim (``hosting``), how a call is run.
Invariants: at most one check of a seed is under way on a node; the answer to one that was given up
    counts for nothing. Each failure in a row doubles the wait for the next try.
Source: docs/internals/placement.md#claims-and-hosting. Refused: a failed check as a fault of the
    version, since what it looks for may be missing on one host alone.
"""

from __future__ import annotations

from pollen.core import limits, timers
from pollen.core.effects import BeginCall, Log
from pollen.core.events import CallEnded
from pollen.core.ids import Hash, Token, short
from pollen.core.seeds import Seed
from pollen.core.turn import Turn


def has_check(seed: Seed) -> bool:
    """Whether a replica of it is checked before it is claimed ready."""
    return bool(seed.options.check)


def seed_of(event: CallEnded) -> Hash:
    """Whose check ended."""
    _, subject = timers.parse_token(event.token)
    return Hash(subject[: limits.HASH_BYTES])


def retry_wait(failures: int) -> int:
    """Nanoseconds before a replica is tried again after so many failed checks in a row."""
    shift = min(max(failures - 1, 0), 16)
    return int(min(limits.CHECK_RETRY_FIRST_NS << shift, limits.REFUSED_NS))


def budget_of(seed: Seed) -> int:
    """Milliseconds that a check may take: the seed's own time-out where that is less."""
    return min(limits.CHECK_MS, seed.options.timeout_ms)


def reason_of(seed: Seed, event: CallEnded) -> str:
    """Why a replica is refused, as its claim says it."""
    said = event.reason if event.slug == "guest-status" else f"{event.slug}: {event.reason}"
    return f"check `{seed.options.check}` failed: {said}"[: limits.REASON_MAX_CHARS]


def tell_failed(seed: Seed, reason: str, turn: Turn) -> None:
    """A failed check is a line of the node's log."""
    fields: dict[str, str | int] = {"seed": seed.name, "version": short(seed.seed)}
    turn.do(Log(level="warning", event="check-failed", fields={**fields, "reason": reason}))


class Checks:
    """The checks under way on one node, and how many of each seed failed in a row."""

    def __init__(self) -> None:
        self._begun = 0
        self._running: dict[Hash, Token] = {}
        self._failures: dict[Hash, int] = {}

    def begin(self, seed: Seed, turn: Turn) -> None:
        """Call the check, unless a call of it is under way."""
        if seed.seed in self._running:
            return
        self._begun += 1
        subject = seed.seed + self._begun.to_bytes(8, "big")
        token = self._running[seed.seed] = timers.token_for(timers.CHECK, subject)
        call = BeginCall(
            token=token,
            seed=seed.seed,
            function=seed.options.check,
            budget_ms=budget_of(seed),
            here=True,
        )
        turn.do(call)

    def take(self, event: CallEnded) -> bool:
        """A check ended. False when it was given up before, and the answer counts for nothing."""
        key = seed_of(event)
        if self._running.get(key) != event.token:
            return False
        del self._running[key]
        if event.slug:
            self._failures[key] = self._failures.get(key, 0) + 1
        else:
            self._failures.pop(key, None)
        return True

    def give_up(self, key: Hash) -> None:
        """The replica is not here any more, or is not to be."""
        self._running.pop(key, None)

    def forget(self, key: Hash) -> None:
        """Nobody needs the seed any more."""
        self._running.pop(key, None)
        self._failures.pop(key, None)

    def wait(self, key: Hash) -> int:
        """Nanoseconds before the next try."""
        return retry_wait(self._failures.get(key, 0))
