"""The reference of attempts: the life of a call at its caller, from one attempt to the next.

Decides: where an attempt goes, for what and until when a call waits, to which node a link is
    wanted, whether it is tried again, and how it ends.
Does not know: tables, links, guests, clocks, chance: its driver says what it sees and how an
    attempt ended, and does what the answer says.
Invariants: a place that may know the call's id is not tried again, unless the way to it broke and
    the call may run twice; then it is, when no other is left. A call that may have run is
    tried again only if it may run twice, and never when a part of its output was handed on. A rank
    is asked once and costs no retry.
Source: docs/internals/seam.md#the-rules-of-a-request; docs/decisions/one-attempt-loop.md. The crate
    of the muscles does the same; ``tests/vectors/attempts.json`` holds both.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import msgspec

from pollen.core import limits
from pollen.core.rules import numbers, routing

N = TypeVar("N")


class Place(msgspec.Struct, Generic[N], frozen=True, kw_only=True):
    """One replica, or one rank that would wake the seed, as the caller sees it.

    ``price_us``: 0 for the caller's own node. ``ejected``: not to be called; it is no member, has
    no link, is silent although asked, or its brain is dead. ``unlinked``: it is a member, and all
    that it lacks is a link. ``silent``: it is a member, and its link is silent although asked: it
    may go on, by another way.
    """

    node: N
    price_us: int = 0
    in_flight: int = 0
    service_us: int = 0
    ejected: bool = False
    saturated: bool = False
    unlinked: bool = False
    silent: bool = False


class View(msgspec.Struct, Generic[N], frozen=True, kw_only=True):
    """What a caller sees of a seed at one moment.

    ``cold``: the seed runs nowhere, and the places are the ranks that would wake it, in their
    order. ``places``: in the row's order. ``changed``: the row is another one than that of the last
    attempt. ``draw``: 64 random bits.
    """

    places: Sequence[Place[N]]
    cold: bool = False
    idempotent: bool = False
    changed: bool = False
    draw: int = 0


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt failed.

    ``remote``: another host answered, or this one no longer has the seed. ``streamed``: a part of
    its output was handed on to the caller. ``cut``: no answer came, as the way to the place broke,
    or there was none.
    """

    slug: str
    may_have_executed: bool = False
    remote: bool = False
    streamed: bool = False
    cut: bool = False


class End(enum.Enum):
    """How a call ends: as its last attempt did, or without one: nobody, or no time."""

    LAST = "last"
    NOBODY = "nobody"
    DEADLINE = "deadline"


class Try(msgspec.Struct, frozen=True):
    """Try the place of this index in the view."""

    index: int


class Wait(msgspec.Struct, frozen=True):
    """Look again when the tables change, when a link comes, or at this time."""

    until: int


class Look(msgspec.Struct, frozen=True):
    """Look again now."""


class Over(msgspec.Struct, frozen=True):
    """It is over."""

    end: End


Action = Try | Wait | Look | Over


class Step(msgspec.Struct, frozen=True):
    """What to do. ``wanted``: to this place of the view a link is wanted, which the brain hears."""

    action: Action
    wanted: int | None = None


class Aim(msgspec.Struct, frozen=True):
    """Where to. ``wanted``: the first place that lacks only a link, if calls would go there rather
    than to the target. ``may_come``: some place that may be tried lacks only a link, or is silent.
    """

    target: int | None = None
    wanted: int | None = None
    may_come: bool = False


def aim(view: View[N], tried: Sequence[N], cut: Sequence[N]) -> Aim:
    """Of replicas the nearest by price and one drawn; of ranks the first. A full one is better than
    none: it says itself that it is. One to which the way broke (``cut``) is better than none, too,
    when it is there again.
    """
    places = view.places[: limits.ROW_REPLICAS]
    order = list(range(len(places)))
    if not view.cold:
        # Stable: at one price the row's order decides.
        order.sort(key=lambda index: places[index].price_us)
    left = [at for at, index in enumerate(order) if places[index].node not in tried]
    unlinked = [at for at in left if places[order[at]].unlinked]
    chosen = _choose(view, order, [*tried, *cut])
    if chosen is None and cut:
        chosen = _choose(view, order, tried)
    is_wanted = bool(unlinked) and (chosen is None or unlinked[0] < chosen)
    return Aim(
        target=None if chosen is None else order[chosen],
        wanted=order[unlinked[0]] if is_wanted else None,
        may_come=bool(unlinked) or any(places[order[at]].silent for at in left),
    )


def _choose(view: View[N], order: Sequence[int], met: Sequence[N]) -> int | None:
    seen = [_candidate(view.places[index], met) for index in order]
    chosen = routing.choose(seen, view.draw, wake=view.cold)
    if chosen is None and any(candidate.saturated for candidate in seen):
        seen = [msgspec.structs.replace(candidate, saturated=False) for candidate in seen]
        chosen = routing.choose(seen, view.draw, wake=view.cold)
    return chosen


def _candidate(place: Place[N], tried: Sequence[N]) -> routing.Candidate:
    return routing.Candidate(
        price_us=place.price_us,
        in_flight=place.in_flight,
        service_us=place.service_us,
        ejected=place.ejected,
        saturated=place.saturated,
        tried=place.node in tried,
    )


@dataclass(slots=True)
class _Trying(Generic[N]):
    """The attempt under way."""

    node: N
    cold: bool
    idempotent: bool


@dataclass(slots=True, kw_only=True)
class Attempts(Generic[N]):
    """One call of one seed. Times are nanoseconds of any steady clock.

    ``tried``: replicas where the call's id may be known. ``cut``: replicas to which the way broke,
    of a call that may run again. ``gone``: replicas that had let the seed go; until ``again``, or
    another row, they are not tried. ``asked``: ranks that did not wake the seed. ``last``: whether
    the last attempt met an old row; None before its end. ``reach`` and ``patience``: until when it
    waits for a way, and for a row.
    """

    deadline: int
    idempotent: bool = False
    retries: int = numbers.RETRIES
    tried: list[N] = field(default_factory=list)
    cut: list[N] = field(default_factory=list)
    gone: list[N] = field(default_factory=list)
    again: int = 0
    asked: list[N] = field(default_factory=list)
    trying: _Trying[N] | None = None
    in_doubt: bool = False
    last: bool | None = None
    reach: int | None = None
    patience: int | None = None

    def poll(self, event: View[N] | Failure, now: int) -> Step:
        """What to do after a look or after a failed attempt.

        A driver looks when the call begins, the tables changed, a link came, or a time that was
        waited for is here. An attempt that is answered ends the call, as does a name that the
        tables do not have: there is nothing to decide.
        """
        if isinstance(event, Failure):
            return Step(self._fail(event, now))
        return self._look(event, now)

    def _look(self, view: View[N], now: int) -> Step:
        idempotent = self.idempotent or view.idempotent
        if self.in_doubt and not idempotent:
            # The old version was idempotent, so a retry was allowed. The version that replaced it
            # is not.
            return Step(self._give_up())
        if view.changed:
            self.again = 0
        gone = self.gone if now < self.again else []
        tried, cut = (self.asked, ()) if view.cold else (self.tried + gone, self.cut)
        found = aim(view, tried, cut)
        if found.target is None:
            until = self._wait(found.may_come, view.cold, now)
            if until is None:
                return Step(self._give_up(), found.wanted)
            # A replica that let the seed go may have it again by the same row.
            return Step(
                Wait(min(until, self.again) if gone and not view.cold else until), found.wanted
            )
        if now >= self.deadline:
            return Step(Over(End.DEADLINE if self.last is None else End.LAST), found.wanted)
        self.trying = _Trying(view.places[found.target].node, view.cold, idempotent)
        return Step(Try(found.target), found.wanted)

    def _wait(self, may_come: bool, cold: bool, now: int) -> int | None:
        if may_come:
            if self.reach is None:
                self.reach = min(self.deadline, now + numbers.REACH_NS)
            if now < self.reach:
                return self.reach
        # The plan finds a host, or the row that named one is about to change.
        if cold or self.last:
            if self.patience is None:
                self.patience = min(self.deadline, now + numbers.COLD_NS)
            if now < self.patience:
                return self.patience
        return None

    def _give_up(self) -> Action:
        return Over(End.NOBODY if self.last is None else End.LAST)

    def _fail(self, failure: Failure, now: int) -> Action:
        # What was handed on has run.
        executed = failure.may_have_executed or failure.streamed
        self.in_doubt = self.in_doubt or executed
        self.last = not executed and failure.slug == "seed-not-found"
        trying, self.trying = self.trying, None
        if trying is None or failure.streamed:
            # A second run would begin its output again behind the first one's.
            return Over(End.LAST)
        # Ranks are few and each is asked once: that takes nothing from the tree's retries.
        is_gone = self.last and trying.node in self.gone
        is_free = not executed and (trying.cold or is_gone)
        judged = routing.classify_retry(
            slug=failure.slug,
            may_have_executed=executed,
            idempotent=trying.idempotent,
            remote=failure.remote,
            retries=max(self.retries, 1) if is_free else self.retries,
            budget_us=max(0, self.deadline - now) // 1_000,
        )
        if judged is routing.Retry.GIVE_UP:
            return Over(End.LAST)
        if trying.cold:
            self.asked.append(trying.node)
        if not is_free:
            self.retries = max(0, self.retries - 1)
        # Who refused the call forgot it, and may serve it later.
        if self.last and not trying.cold:
            if trying.node not in self.gone:
                self.gone.append(trying.node)
            self.again = now + numbers.ROW_AGAIN_NS
        elif not is_free:
            (self.cut if failure.cut and not trying.cold else self.tried).append(trying.node)
        return Look()
