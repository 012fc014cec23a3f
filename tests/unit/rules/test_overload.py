"""The rules of a queue, put together: calls that come faster than they are served, and retries."""

from __future__ import annotations

import heapq
from collections import deque

import pytest

from pollen.core.rules.backlog import Backlog
from pollen.core.rules.routing import is_late

SERVICE_US = 5_700
SLOTS = 2
SECONDS = 20
# A refused caller of the SDK that asks again at once.
RETRY_US = 1_500


def waits_of(rate: int, retrying: int) -> dict[int, int]:
    """The longest wait of a served call, by the second in which it came; all microseconds.

    ``rate`` calls a second come whatever happens; ``retrying`` callers ask again when answered.
    """
    backlog, queue, free = Backlog(), deque[tuple[int, bool]](), SLOTS
    waits: dict[int, int] = {}
    coming = [(n * 1_000_000 // rate, 0, False) for n in range(rate * SECONDS)]
    coming += [(n, 0, True) for n in range(retrying)]
    heapq.heapify(coming)
    while coming:
        now, ends, retries = heapq.heappop(coming)
        if ends:
            free += 1
        else:
            queue.append((now, retries))
            backlog.came(now, len(queue))
        while free and queue:
            came, retries = queue.popleft()
            late = is_late(
                waited_us=now - came,
                standing_us=backlog.standing_us(now),
                quiet_us=backlog.quiet_us(now),
                backlog=backlog.size(len(queue) + 1),
                backlog_before=backlog.before,
                service_us=SERVICE_US,
                depth=0,
            )
            backlog.left(now, len(queue))
            answered = now
            if late:
                backlog.refuse()
            else:
                free, answered = free - 1, now + SERVICE_US
                second = came // 1_000_000
                waits[second] = max(waits.get(second, 0), now - came)
                heapq.heappush(coming, (answered, 1, False))
            if retries and answered < SECONDS * 1_000_000:
                heapq.heappush(coming, (answered + RETRY_US, 0, True))
    return waits


@pytest.mark.parametrize("retrying", [0, 64, 512])
def test_an_overload_is_refused_soon_whoever_asks_again(retrying: int) -> None:
    """One and a half of what is served: after the patience of a burst nobody waits long.

    64 callers that came back at once were taken for a burst: 15 s, with waits of 7 s. With 512 of
    them nobody was refused any more, and all waited for 13 s.
    """
    waits = waits_of(rate=520, retrying=retrying)
    later = {second: wait for second, wait in waits.items() if 7 <= second < SECONDS - 1}
    assert len(later) == SECONDS - 8 and max(later.values()) < 100_000


def test_callers_who_wait_for_their_answers_are_never_late() -> None:
    """A closed loop fits beside what comes by itself: all are served."""
    waits = waits_of(rate=100, retrying=64)
    assert max(waits.values()) < 1_000_000
