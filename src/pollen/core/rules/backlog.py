"""The reference of backlog: since when there is a queue for slots, and whether it grows.

Decides: what ``routing.is_late`` compares: the backlog now, and the one before.
Does not know: who waits; the clock is an argument.
Invariants: a backlog that comes back within the gap was never gone; a burst begins a new one, and
    so does a rise after a long rest. The crate of the muscles computes the same;
    ``tests/vectors/backlog.json`` holds both.
Source: docs/internals/seam.md#the-rules-of-a-request;
    docs/decisions/few-fresh-calls-a-core.md.
"""

from __future__ import annotations

from dataclasses import dataclass

from pollen.core.rules import numbers
from pollen.core.rules.routing import U64_MAX


@dataclass(slots=True)
class Backlog:
    """The backlog is the calls that came since there is a queue and were not served: those waiting
    and those refused. Times are microseconds of any steady clock.

    ``earlier``: the highest backlog before the last mark but one; the marks are at 1, 2, 4, ...
    seconds. ``last_step``, ``this_step``: the most that waited in the second before and in this
    one.
    ``rose``: when the backlog was last higher than ever before.
    """

    since: int | None = None
    emptied: int | None = None
    refused: int = 0
    earlier: int = 0
    later: int = 0
    highest: int = 0
    rose: int = 0
    next_us: int = numbers.QUEUE_STANDING_US // 2
    this_step: int = 0
    last_step: int = U64_MAX
    step_us: int = numbers.BURST_STEP_US

    def came(self, now_us: int, waiting: int) -> None:
        """A call came; with it so many wait."""
        if waiting <= 1:
            gap = U64_MAX if self.emptied is None else now_us - self.emptied
            if gap >= numbers.QUEUE_GAP_US or self.since is None:
                self._begin(now_us)
        self._note(now_us, waiting)

    def left(self, now_us: int, waiting: int) -> None:
        """A call left the queue; so many wait now."""
        self._note(now_us, waiting)
        if waiting == 0:
            self.emptied = now_us

    def refuse(self) -> None:
        """A call was refused: for want of room, or because it waited too long."""
        self.refused += 1

    def standing_us(self, now_us: int) -> int:
        """How long there is a queue, short gaps included."""
        return 0 if self.since is None else now_us - self.since

    def quiet_us(self, now_us: int) -> int:
        """How long ago the backlog was last higher than ever before: a loop that all of its callers
        have joined is quiet, however long its queue."""
        return now_us - self.rose

    def size(self, waiting: int) -> int:
        """With so many waiting."""
        return waiting + self.refused

    @property
    def before(self) -> int:
        """The same when the queue stood for a half to a quarter of the time."""
        return self.earlier

    def _begin(self, now_us: int) -> None:
        fresh = Backlog(since=now_us, emptied=self.emptied, rose=now_us)
        for name in Backlog.__slots__:
            setattr(self, name, getattr(fresh, name))

    def _note(self, now_us: int, waiting: int) -> None:
        age, backlog = self.standing_us(now_us), self.size(waiting)
        if age >= self.step_us:
            self.step_us = age + numbers.BURST_STEP_US
            self.last_step, self.this_step = self.this_step, 0
        self.this_step = max(self.this_step, waiting)
        # Who waits: callers who come back after a refusal are no new ones.
        is_burst = waiting > self.last_step * numbers.BURST_TIMES
        rests = min(max(age // 2, numbers.QUEUE_STANDING_US), numbers.QUEUE_REST_MAX_US)
        joins = backlog > self.highest and self.quiet_us(now_us) >= rests
        if age >= numbers.QUEUE_STANDING_US and (is_burst or joins):
            # More callers came at once, or came to those that there were: they wait in full.
            self._begin(now_us)
            self.highest, self.this_step = backlog, waiting
            return
        if backlog > self.highest:
            self.highest, self.rose = backlog, now_us
        while age >= self.next_us:
            # Not that of this moment: callers in a loop may all be served for an instant.
            self.earlier, self.later = self.later, self.highest
            self.next_us *= 2
