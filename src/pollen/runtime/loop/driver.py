"""The loop between the core and the world: events in, effects out, timers, the heartbeat.

One exception in ``Node.handle`` is logged with its event and counted, and the node goes on: a
daemon that dies of one bad event takes its guests with it. After ``FAULTS_MAX`` of them within a
minute, or one broken invariant, it shuts down in order (drain, flush the store) and exits with 70,
so that its supervisor starts it from disk (docs/decisions/exceptions-in-the-driver.md).
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import gc
import heapq
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.commands import Command
from pollen.core.disk import must_last
from pollen.core.ids import RequestId, Token
from pollen.core.node import Node
from pollen.core.servicewords import Checks
from pollen.errors import InvariantError, PollenError, error_from
from pollen.runtime.loop import clock
from pollen.runtime.loop.native import Drained, LogLine, Muscles, Port, as_error, slug_of
from pollen.runtime.loop.store import Store
from pollen.runtime.loop.timings import Timings

DRAIN_MAX = 512
BEAT_SECONDS = 1.0
# A full collection of the interpreter looks at everything that the brain holds (10 ms for 10,000
# records, measured), and would do so in the midst of a turn. What a node holds makes no cycles, so
# it has one in an hour, between turns; the young generations are collected as ever.
COLLECT_BEATS = 3_600
COLLECT_NEVER = 1 << 30
RETRY_SECONDS = 0.005
COMMAND_SECONDS = 60.0
# How long a command waits for a write that failed to be tried once more. Guess.
STORE_SECONDS = 5.0
SLOW_HANDLE_NS = 10_000_000
FAULTS_MAX = 10
FAULTS_WITHIN_NS = 60_000_000_000
EXIT_SOFTWARE = 70


class Driver:
    """Drives one ``Node`` over one ``Muscles`` and one ``Store`` on the running loop."""

    def __init__(
        self, node: Node, muscles: Muscles, store: Store, log: Any, timings: Timings
    ) -> None:
        self._node = node
        self._muscles = muscles
        self._store = store
        self._log = log
        self._port = Port(muscles, lambda event, fields: log.warning(event, **fields))
        self._loop = asyncio.get_running_loop()
        self._timers: dict[Token, int] = {}
        self._heap: list[tuple[int, Token]] = []
        self._alarm: asyncio.TimerHandle | None = None
        self._retrying: asyncio.TimerHandle | None = None
        self._beating: asyncio.TimerHandle | None = None
        self._replies: dict[RequestId, asyncio.Future[msgspec.Struct]] = {}
        self._requests = 0
        self._beats = 0
        self._collecting = gc.get_threshold()
        self._faults: collections.deque[int] = collections.deque()
        self._is_closed = False
        # What the disk was last said to suffer from, and who waits for its next write to end.
        self._trouble: PollenError | None = None
        self._retried: asyncio.Event | None = None
        self.counters = {"events": 0, "slow_handles": 0, "faults": 0, "store_failures": 0}
        self._timings = timings
        self.failed: asyncio.Future[int] = self._loop.create_future()
        self._running: set[asyncio.Task[None]] = set()
        # What admins elsewhere may have done here, by verb; the daemon fills it.
        self.verbs: dict[str, Callable[[bytes], Awaitable[bytes]]] = {}

    def start(self, addresses: list[str]) -> None:
        """Begin: watch the muscles, start the store's writer, tell the node."""
        commit = self._timings.commit.observe
        self._store.start(self._on_stored, self._on_store_failed, commit)
        self._loop.add_reader(self._muscles.event_fd(), self._on_readable)
        gc.set_threshold(*self._collecting[:2], COLLECT_NEVER)
        self._beat()
        self.feed(ev.Started(addresses=addresses))
        self._look_at_disk()
        self._on_readable()

    async def command(self, command: Command, timeout: float = COMMAND_SECONDS) -> msgspec.Struct:
        """The result of a command, or the ``PollenError`` that refuses it."""
        if must_last(command):
            await self._retry_store()
            self._look_at_disk()
        if self._is_closed:
            raise error_from("unreachable", "the daemon is shutting down", "start it: pln up -d")
        self._requests += 1
        request = RequestId(self._requests)
        future: asyncio.Future[msgspec.Struct] = self._loop.create_future()
        self._replies[request] = future
        self.feed(ev.Commanded(request=request, command=command))
        try:
            return await asyncio.wait_for(future, timeout)
        except TimeoutError:
            name = type(command).__name__
            raise error_from("deadline", f"no answer to {name} in {timeout:.0f} s") from None
        finally:
            self._replies.pop(request, None)

    def linked(self) -> int:
        """How many peers are linked now."""
        return self._port.linked

    def figures(self) -> tuple[dict[str, float], dict[str, int], dict[str, int], Checks]:
        """Our numbers and the node's by metric, peers' faults by kind, packets through the mesh by
        their way, and the checks of services."""
        counted, rejections, mesh, checks = self._node.figures()
        own = {
            "pollen_brain_events_total": self.counters["events"],
            "pollen_brain_slow_handles_total": self.counters["slow_handles"],
            "pollen_brain_faults_total": self.counters["faults"],
            "pollen_commands_waiting": self._port.waiting,
            "pollen_commands_refused_total": self._port.refused,
            "pollen_store_batches_waiting": self._store.waiting,
            "pollen_store_failures_total": self.counters["store_failures"],
        }
        return {**counted, **own}, rejections, mesh, checks

    # -- events in ------------------------------------------------------------------------------

    def feed(self, event: ev.Event) -> None:
        """Hand one event to the node and carry out what comes of it."""
        self.counters["events"] += 1
        began = time.monotonic_ns()
        try:
            effects = self._node.handle(event, clock.now())
        except Exception as error:
            self._on_fault(event, error)
            return
        spent = time.monotonic_ns() - began
        self._timings.handle.observe(spent / 1e9)
        if spent > SLOW_HANDLE_NS:
            self.counters["slow_handles"] += 1
        for effect in effects:
            self._carry_out(effect)
        if self._port.is_stale:
            self._port.is_stale = False
            self._loop.call_soon(self.feed, ev.TablesStale())
        if self._port.has_backlog and self._retrying is None:
            self._retrying = self._loop.call_later(RETRY_SECONDS, self._retry)

    def _on_readable(self) -> None:
        """Drain once and yield to the loop; come back at once when the queue was not emptied."""
        if self._is_closed:
            return
        self._muscles.beat()
        if self._drain() >= DRAIN_MAX:
            self._loop.call_soon(self._on_readable)

    def _drain(self) -> int:
        try:
            events = self._port.drain()
        except Exception as error:
            self._on_fault(None, error)
            return 0
        for event in events:
            self._take(event)
        return len(events)

    def _take(self, event: Drained) -> None:
        if isinstance(event, LogLine):
            level = event.level if event.level in ("debug", "info", "warning", "error") else "info"
            fields = {"source": event.source, "seed": event.seed, "call": event.call}
            fields |= {"trace_id": event.trace_id, "span_id": event.span_id}
            named = {key: value for key, value in fields.items() if value}
            getattr(self._log, level)("log", text=event.text, **named)
            return
        if isinstance(event, ev.Telemetry):
            event = msgspec.structs.replace(event, disk_bytes=self._store.free_bytes)
            self._look_at_disk()
        self.feed(event)

    def _on_fault(self, event: ev.Event | None, error: Exception) -> None:
        """Log, count, go on; give up in order when it happens again and again."""
        self.counters["faults"] += 1
        self._log.error("fault", input=repr(event)[:2_000], exc_info=error)
        now = time.monotonic_ns()
        self._faults.append(now)
        while self._faults and self._faults[0] < now - FAULTS_WITHIN_NS:
            self._faults.popleft()
        is_broken = isinstance(error, InvariantError) or len(self._faults) >= FAULTS_MAX
        if is_broken and not self.failed.done():
            self._log.critical("giving-up", faults=self.counters["faults"])
            self.failed.set_result(EXIT_SOFTWARE)
        if isinstance(event, ev.Commanded):
            self._fail_reply(event.request, error)

    def _fail_reply(self, request: RequestId, error: Exception) -> None:
        future = self._replies.get(request)
        if future is not None and not future.done():
            reason = f"this is a bug in pollen: {type(error).__name__}: {error}"
            future.set_exception(PollenError("internal", reason, "see the log: pln logs"))

    # -- effects out ----------------------------------------------------------------------------

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.SetTimer(token=token, at=at):
                self._timers[token] = at
                heapq.heappush(self._heap, (at, token))
                self._arm()
            case fx.Persist(token=token, batch=batch):
                self._store.submit(token, batch)
            case fx.Reply():
                self._answer(effect)
            case fx.AskJoin():
                self._ask_join(effect)
            case fx.RunVerb():
                task = self._loop.create_task(self._run_verb(effect))
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            case fx.Log(level=level, event=event, fields=fields):
                getattr(self._log, level)(event, **fields)
            case _:
                self._port.carry_out(effect)

    def _answer(self, reply: fx.Reply) -> None:
        future = self._replies.get(reply.request)
        if future is None or future.done():
            return
        if reply.slug:
            future.set_exception(error_from(reply.slug, reply.reason, reply.remedy))
        elif reply.result is not None:
            future.set_result(reply.result)

    def _ask_join(self, effect: fx.AskJoin) -> None:
        """One exchange, which blocks, in a thread of its own."""

        def ask() -> ev.JoinAnswered:
            try:
                body = self._muscles.ask_join(
                    effect.addresses, effect.peer, effect.body, limits.ASK_JOIN_MS
                )
            except Exception as error:
                return ev.JoinAnswered(peer=effect.peer, body=b"", slug=slug_of(error))
            return ev.JoinAnswered(peer=effect.peer, body=body)

        future = self._loop.run_in_executor(None, ask)
        future.add_done_callback(lambda done: self._on_join_answered(done.result()))

    def _on_join_answered(self, event: ev.JoinAnswered) -> None:
        if not self._is_closed:
            self.feed(event)

    async def _run_verb(self, effect: fx.RunVerb) -> None:
        ended = ev.VerbEnded(peer=effect.peer, key=effect.key)
        try:
            body = await self.verbs[effect.verb](effect.args)
            ended = msgspec.structs.replace(ended, body=body)
        except Exception as error:
            known = error if isinstance(error, PollenError) else as_error(error)
            said = {"slug": known.slug, "reason": known.reason, "remedy": known.remedy}
            ended = msgspec.structs.replace(ended, **said)
        if not self._is_closed:
            self.feed(ended)

    def _retry(self) -> None:
        self._retrying = None
        if self._is_closed:
            return
        self._port.retry()
        if self._port.has_backlog:
            self._retrying = self._loop.call_later(RETRY_SECONDS, self._retry)

    # -- timers, heartbeat, disk ----------------------------------------------------------------

    def _arm(self) -> None:
        """Keep one alarm at the loop for the earliest timer that still stands."""
        while self._heap and self._timers.get(self._heap[0][1]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._heap and not self._is_closed:
            wait = (self._heap[0][0] - time.monotonic_ns()) / 1e9
            self._alarm = self._loop.call_later(max(wait, 0.0), self._on_alarm)

    def _on_alarm(self) -> None:
        self._alarm = None
        now = time.monotonic_ns()
        due = []
        while self._heap and self._heap[0][0] <= now:
            at, token = heapq.heappop(self._heap)
            if self._timers.get(token) == at:
                del self._timers[token]
                due.append(token)
        for token in due:
            self.feed(ev.TimerFired(token=token))
        self._arm()

    def _beat(self) -> None:
        if self._is_closed:
            return
        self._muscles.beat()
        self._beats += 1
        if self._beats % COLLECT_BEATS == 0:
            gc.collect()
        self._beating = self._loop.call_later(BEAT_SECONDS, self._beat)

    def _on_stored(self, tokens: list[Token]) -> None:
        self._from_thread(self._feed_stored, tokens)

    def _feed_stored(self, tokens: list[Token]) -> None:
        self._tell_retried()
        self._look_at_disk()
        for token in tokens:
            self.feed(ev.Persisted(token=token))

    def _on_store_failed(self, reason: str) -> None:
        self._from_thread(self._note_store_failure, reason)

    def _note_store_failure(self, reason: str) -> None:
        self.counters["store_failures"] += 1
        self._log.error("store-failed", reason=reason, remedy="free space on the disk")
        self._tell_retried()
        self._look_at_disk(is_failed=True)

    def _look_at_disk(self, *, is_failed: bool = False) -> None:
        """Tell the node when its disk begins or ends to refuse, and of each write that failed."""
        trouble = self._store.trouble
        told, self._trouble = self._trouble, trouble
        if trouble is None:
            if told is not None:
                self.feed(ev.StoreTroubled())
        elif is_failed or told is None or told.slug != trouble.slug:
            said = {"slug": trouble.slug, "reason": trouble.reason, "remedy": trouble.remedy}
            self.feed(ev.StoreTroubled(**said, is_failed=is_failed))

    async def _retry_store(self) -> None:
        """Wait for the next attempt of a write that failed: there may be room by now."""
        if not self._store.is_failing:
            return
        if self._retried is None:
            self._retried = asyncio.Event()
        waited = self._retried
        self._store.try_now()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(waited.wait(), STORE_SECONDS)

    def _tell_retried(self) -> None:
        if self._retried is not None:
            self._retried.set()
            self._retried = None

    def _from_thread(self, callback: Callable[..., None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, argument)
        except RuntimeError:
            return  # the loop is closed: nobody waits any more

    # -- end ------------------------------------------------------------------------------------

    async def close(self, grace_ms: int) -> None:
        """Calls in flight end, then the muscles, then the store. Idempotent.

        The reader is removed before the muscles close their end of the pair. What they still have
        to say is not heard: a peer says it again on the next link.
        """
        if self._is_closed:
            return
        self._loop.remove_reader(self._muscles.event_fd())
        self._drain()
        self._is_closed = True
        gc.set_threshold(*self._collecting)
        for handle in (self._alarm, self._retrying, self._beating):
            if handle is not None:
                handle.cancel()
        try:
            await self._loop.run_in_executor(None, self._muscles.close, grace_ms)
        except Exception as error:
            self._log.error("close-failed", reason=str(error))
        for task in self._running:
            task.cancel()
        for request in list(self._replies):
            self._fail_reply(request, PollenError("unreachable", "the daemon was stopped"))
        await self._loop.run_in_executor(None, self._store.close)
