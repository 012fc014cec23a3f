"""What planted bugs do: each takes the right thing and returns the wrong one.

Decides: the wrong thing.
Does not know: where it is planted, and what must tell of it (``mutants``).
Invariants: none of its own: each breaks one.
Source: docs/internals/simulator.md#planted-bugs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import msgspec

from pollen.core.effects import Effect, PeerRow, Persist, PushTables, SeedRow
from pollen.core.ids import Nanos
from pollen.core.peers import Verdict
from pollen.core.policy import judge
from pollen.core.records import Record
from pollen.core.records.owners import Merge
from pollen.core.services.records import key_of


def judged_by(keeps: Callable[[Record, Record], bool]) -> Callable[[Any], Any]:
    """``OwnerSet.judge`` with another idea of which record stays: ``keeps(held, new)``."""

    def make(true: Any) -> Any:
        def judge(self: Any, record: Record) -> Merge:
            held = self.rows.get(record.slot)
            if held is None or held.digest == record.digest:
                return cast(Merge, true(self, record))
            return Merge.OLDER if keeps(held, record) else Merge.APPLIED

        return judge

    return make


def tombstone_dropped(true: Any) -> Any:
    def merge(self: Any, record: Record, source: Any, **named: Any) -> Any:
        if source is not None and not record.is_live:
            return Merge.OLDER
        return true(self, record, source, **named)

    return merge


def always(value: Any) -> Callable[[Any], Any]:
    def make(true: Any) -> Any:
        def same(*args: Any, **named: Any) -> Any:
            return value

        return same

    return make


def one_copy(true: Any) -> Any:
    """A blob asks for one copy, whatever its publisher asked for."""

    def need_of(seed: Any) -> Any:
        need = true(seed)
        return msgspec.structs.replace(need, copies=1) if need.is_on_disk else need

    return need_of


def none_kept(true: Any) -> Any:
    """Nobody holds a version that another one replaced."""

    def roles_of(*args: Any) -> Any:
        return [role for role in true(*args) if not role.is_kept]

    return roles_of


def refreshed_once(true: Any) -> Any:
    """What is served here follows its record the first time only."""

    def refresh(self: Any) -> None:
        for name in list(self._directory.touched):
            if key_of(name) in self._lane._rows:
                del self._directory.touched[name]
        true(self)

    return refresh


def all_who_served(self: Any, name: str) -> list[Any]:
    """Whatever the epoch of the name."""
    return [held for held in self._known.get(name, {}).values() if not held.is_withdrawn]


def lease_not_renewed(true: Any) -> Any:
    def push(self: Any, turn: Any, *, is_urgent: bool) -> None:
        true(self, turn, is_urgent=is_urgent)
        turn._effects = [e for e in turn._effects if not _renews(e)]

    return push


def _renews(effect: Effect) -> bool:
    return isinstance(effect, PushTables) and effect.base > 0 and not effect.lanes


def row_after_load(true: Any) -> Any:
    def push(self: Any, turn: Any, *, is_urgent: bool) -> None:
        if not is_urgent:
            true(self, turn, is_urgent=False)

    return push


def said_before_persisted(true: Any) -> Any:
    def flush(self: Any) -> None:
        true(self)
        for effect in self.effects():
            if isinstance(effect, Persist):
                self.do(*self._durability.release(effect.token))

    return flush


def withdrawn_forgotten(true: Any) -> Any:
    return property(lambda self: True)


def others_only(true: Any) -> Any:
    def note_member(self: Any, peer: Any, facts: Any, now: Nanos) -> None:
        if peer != self._own:
            true(self, peer, facts, now)

    return note_member


def own_view(true: Any) -> Any:
    def rejudge(self: Any, now: Nanos) -> Any:
        moved = true(self, now)
        self._verdicts = {**self._verdicts, self._own: Verdict.LIVE}
        return moved

    return rejudge


def epoch_not_raised(true: Any) -> Any:
    def restore(self: Any, epoch: int, leased: int, top: Any) -> None:
        true(self, max(0, epoch - 1), 0, (0, 0))

    return restore


def one_at_most(true: Any) -> Any:
    return lambda *args: min(true(*args), 1)


def rows_kept(true: Any) -> Any:
    def set_row(self: Any, key: Any, row: Any) -> None:
        held = self._rows.get(key)
        if row is None or not isinstance(held, SeedRow) or not held.replicas:
            true(self, key, row)

    return set_row


def nameless(true: Any) -> Any:
    def seed_row(*args: Any) -> Any:
        row = true(*args)
        return None if row is None else msgspec.structs.replace(row, name="")

    return seed_row


def members_kept(true: Any) -> Any:
    def set_row(self: Any, key: Any, row: Any) -> None:
        if row is not None or not isinstance(self._rows.get(key), PeerRow):
            true(self, key, row)

    return set_row


def peers_untold(true: Any) -> Any:
    def set_row(self: Any, key: Any, row: Any) -> None:
        if not isinstance(row, PeerRow):
            true(self, key, row)

    return set_row


def oldest_wins(true: Any) -> Any:
    return lambda seed, members: (-seed.spec.name_epoch, *true(seed, members)[1:])


def never_in_doubt(true: Any) -> Any:
    def fail(self: Any, failure: Any, now: int) -> Any:
        return true(self, msgspec.structs.replace(failure, may_have_executed=False), now)

    return fail


def faultless(held: Any) -> Any:
    """A part with a fault counts as false, so that a negation of it is true."""
    return lambda kind, values: held(
        kind, [False if isinstance(value, judge._Fault) else value for value in values]
    )


def once_proven(true: Any) -> Any:
    """What held once holds for ever, at those nodes where it did."""

    def judge_again(self: Any, roots: Any) -> Any:
        before = self._proven
        moved = true(self, roots)
        for subject, kept in before.items():
            self._proven[subject] = {**kept, **self._proven.get(subject, {})}
        return moved

    return judge_again
