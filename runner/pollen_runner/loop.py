"""asyncio on the node's ``start`` and ``wait``: requests are all that a seed can wait for.

There are no threads: what asyncio would do in one is done at once.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.events
import math
from collections.abc import Callable, Coroutine
from typing import Any

from pollen_runner.port import Refused, port


class Selector:
    """Stands where asyncio expects one: waits for the node, and settles what it answered."""

    def __init__(self) -> None:
        self.waiting: dict[int, asyncio.Future[bytes]] = {}

    def select(self, timeout: float | None) -> tuple[()]:
        wait_ms = None if timeout is None else max(0, math.ceil(timeout * 1000))
        if wait_ms == 0 and not self.waiting:
            return ()
        for number, result in port.host.wait(wait_ms):
            future = self.waiting.pop(number, None)
            if future is None or future.done():
                continue
            answer = port.answer(result)
            if isinstance(answer, str):
                future.set_exception(Refused(answer))
            else:
                future.set_result(answer)
        return ()

    def close(self) -> None:
        """Answers that nobody waits for any more are dropped when they come."""
        self.waiting.clear()


class Loop(asyncio.base_events.BaseEventLoop):
    """An event loop without sockets, signals and threads."""

    def __init__(self) -> None:
        super().__init__()
        self._selector = Selector()

    def begin(self, uri: str, data: bytes) -> asyncio.Future[bytes]:
        """A request under way; its error is ``Refused``."""
        future: asyncio.Future[bytes] = self.create_future()
        self._selector.waiting[port.host.start(uri, data)] = future
        return future

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """Done at once, since there is no thread to do it in."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as error:
            future.set_exception(error)
        return future

    def _process_events(self, event_list: Any) -> None:
        """``Selector.select`` settled all."""

    def _write_to_self(self) -> None:
        """Nobody else could wake it."""


def install() -> None:
    """``asyncio.run`` and ``asyncio.new_event_loop`` give this loop."""
    asyncio.events.new_event_loop = asyncio.new_event_loop = Loop  # type: ignore[assignment]


_held: list[Loop] = []


def run(awaitable: Coroutine[Any, Any, Any]) -> Any:
    """Run to its end on the loop that this instance keeps; tasks left over are cancelled."""
    if not _held:
        _held.append(Loop())
    loop = _held[0]
    try:
        return loop.run_until_complete(awaitable)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
