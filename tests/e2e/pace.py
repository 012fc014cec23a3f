"""How fast the machine divides while a test loads it: an anchor that has nothing of the product.

A virtual machine's two cores are at times one real core's two threads. Division, which is what the
example ``primes`` does, then takes twice as long. A bare C program of two threads went from 5.4 to
10.2 ms a piece of work for 0.5 to 20 s, several times a minute. Its cores slept between the pieces;
without sleep it never did.
"""

from __future__ import annotations

import statistics
import threading
import time
from types import TracebackType

# The window of one figure, seconds, and the pieces of work in it.
WINDOW = 0.5
PIECES = 8
# Times the usual, from which a window is slow. Twice is what a shared core does.
SLOW = 1.3
# About 1 ms of division.
_NUMBER = 1 << 1_500_000


class Pace:
    """Samples in a thread of its own from entry to exit, about 2 % of one core.

    ``windows`` are the times at which a window ended, ``time.monotonic()``, and the mean processor
    time of a piece of work in it, seconds.
    """

    def __init__(self) -> None:
        self.windows: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="pace", daemon=True)

    def __enter__(self) -> Pace:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        took: list[float] = []
        while not self._over.wait(WINDOW / PIECES):
            began = time.thread_time()
            _ = _NUMBER // 7
            took.append(time.thread_time() - began)
            if len(took) == PIECES:
                self.windows.append((time.monotonic(), statistics.fmean(took)))
                took = []

    def usual(self) -> float:
        """The lower quartile of all windows, seconds: what a piece takes on a core of its own."""
        return statistics.quantiles([piece for _, piece in self.windows], n=4)[0]

    def slow(self, since: float, until: float) -> bool:
        """Whether a window that overlaps this time was slow, or the time was not seen at all."""
        seen = [piece for at, piece in self.windows if at >= since and at - WINDOW <= until]
        return not seen or max(seen) > SLOW * self.usual()
