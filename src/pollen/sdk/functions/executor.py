"""``pollen.Executor``: the mesh behind the interface of ``concurrent.futures``.

Decides: which call is sent when, and what a future is told.
Does not know: what is shipped (``shelf``), how a call is written (``frames``).
Invariants: a future is answered once. At most ``max_workers`` calls are under way; the others can
    be cancelled. Arguments are written when they are submitted, so the executor holds none of them.
    One thread of its own runs the loop; it ends with ``shutdown``, and with the program.
Source: docs/guide/run-functions.md#instead-of-a-pool.
"""

from __future__ import annotations

import asyncio
import atexit
import itertools
import logging
import math
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any, Final, ParamSpec, TypeVar

from pollen.errors import NotFound, Overloaded
from pollen.sdk.client import Function, Mesh
from pollen.sdk.functions import frames
from pollen.sdk.functions.remote import remote
from pollen.sdk.functions.shelf import Options, Ready, Shelf, Wish, wish_of
from pollen.sdk.hosts import connecting

P = ParamSpec("P")
R = TypeVar("R")
# Calls under way unless the program says how many. Guess: more than the slots of a small cluster.
WORKERS: Final = 64
_log = logging.getLogger("concurrent.futures")
_live: weakref.WeakSet[Executor] = weakref.WeakSet()


class BrokenExecutor(futures.BrokenExecutor):
    """The initializer failed in an instance, so no call can succeed."""


class _Work:
    """A call that was submitted. ``is_many``: its answer holds several values."""

    __slots__ = ("data", "future", "is_many", "ready", "wish")

    def __init__(
        self, future: futures.Future[Any], wish: Wish, ready: Ready, data: bytes, *, is_many: bool
    ) -> None:
        self.future, self.wish, self.ready = future, wish, ready
        self.data, self.is_many = data, is_many


class Executor(futures.Executor):
    """Runs functions on the mesh: ``with pollen.Executor() as pool: pool.map(score, xs)``.

    ``place`` is as for ``pollen.connect``. ``max_workers``: calls under way at once. The keywords
    are those of ``pollen.remote``, for functions that it does not decorate. ``initializer`` is
    called once in each instance, before its first call. Raises ``ValueError``.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        initializer: Callable[..., Any] | None = None,
        initargs: tuple[Any, ...] = (),
        *,
        place: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        if max_workers is not None and max_workers <= 0:
            raise ValueError("max_workers must be greater than 0")
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        self._max_workers = max_workers or WORKERS
        self._first, self._first_args = initializer, initargs
        self._options: Options | None = remote(**options)(_nothing).options if options else None
        self._paths = connecting(place)
        self._shelf = Shelf(self._paths)
        self._lock = threading.Lock()
        # Under the lock: what waits, what the loop is to begin, and how many are under way.
        self._pending: deque[_Work] = deque()
        self._begun: deque[_Work] = deque()
        self._active = 0
        self._handles: dict[str, Function] = {}
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stirring: asyncio.Event | None = None
        self._is_stirred = False
        self._is_shut = False
        self._broken: str | bool = False
        _live.add(self)

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> futures.Future[R]:
        """As ``concurrent.futures``. The first call of a function ships it, and waits for that.

        What cannot be shipped or sent is the future's error, a ``TypeError``.
        """
        return self._submit(
            fn,
            lambda wish, ready: self._shelf.encoded(wish, ready, args, kwargs, self._first),
            is_many=False,
        )

    def _submit(
        self,
        fn: Any,
        write: Callable[[Wish, Ready], tuple[Ready, bytes]],
        *,
        is_many: bool,
    ) -> futures.Future[Any]:
        self._check_open()
        future: futures.Future[Any] = futures.Future()
        try:
            wish = wish_of(fn, None if hasattr(fn, "options") else self._options)
            ready = self._shelf.at_hand(wish, self._first)
            if ready is None:
                ready = self._shelf.ready(wish, self._first, self._first_args)
            ready, data = write(wish, ready)
        except TypeError as error:
            future.set_running_or_notify_cancel()
            # Its traceback would hold this frame, and so the future and the function.
            future.set_exception(error.with_traceback(None))
            return future
        with self._lock:
            self._check_open()
            work = _Work(future, wish, ready, data, is_many=is_many)
            if self._active < self._max_workers:
                self._active += 1
                future.set_running_or_notify_cancel()
                self._begun.append(work)
            else:
                self._pending.append(work)
            if self._thread is None:
                # Not a thread that the interpreter waits for before `atexit`: see ``_leave``.
                name = f"pollen-executor-{id(self):x}"
                began = threading.Event()
                self._thread = threading.Thread(
                    target=self._serve, args=(began,), name=name, daemon=True
                )
                self._thread.start()
                began.wait()
        self._stir()
        return future

    def _check_open(self) -> None:
        if self._broken:
            raise BrokenExecutor(self._broken)
        if self._is_shut:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def map(
        self,
        fn: Callable[..., R],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[R]:
        """As ``concurrent.futures``; ``chunksize`` inputs go in one call."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout)
        end = math.inf if timeout is None else time.monotonic() + timeout
        rows = iter(zip(*iterables, strict=False))
        chunks = iter(lambda: list(itertools.islice(rows, chunksize)), [])
        return self._drawn(deque(self._chunk(fn, chunk) for chunk in chunks), end)

    def _chunk(self, fn: Any, chunk: Sequence[Sequence[Any]]) -> futures.Future[Any]:
        return self._submit(
            fn,
            lambda wish, ready: self._shelf.encoded_many(wish, ready, chunk, self._first),
            is_many=True,
        )

    @staticmethod
    def _drawn(chunks: deque[futures.Future[Any]], end: float) -> Iterator[Any]:
        try:
            while chunks:
                left = None if end == math.inf else max(0.0, end - time.monotonic())
                values, error = chunks[0].result(left)
                chunks.popleft()
                values.reverse()
                while values:
                    yield values.pop()
                if error is not None:
                    raise error
        finally:
            for future in chunks:
                future.cancel()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more; ``wait`` until what was taken is done. Idempotent."""
        with self._lock:
            self._is_shut = True
            dropped = list(self._pending) if cancel_futures else []
            if cancel_futures:
                self._pending.clear()
        for work in dropped:
            work.future.cancel()
            work.future.set_running_or_notify_cancel()
        self._stir()
        thread = self._thread
        if wait and thread is not None and thread is not threading.current_thread():
            thread.join()

    # -- the thread of the loop -----------------------------------------------------------------

    def _stir(self) -> None:
        """Have the loop look at what is pending; once is enough until it does."""
        loop = self._loop
        if loop is not None and not self._is_stirred:
            self._is_stirred = True
            try:
                loop.call_soon_threadsafe(self._on_stirred)
            except RuntimeError:
                self._is_stirred = False  # it ended meanwhile, with nothing left to do

    def _on_stirred(self) -> None:
        self._is_stirred = False
        if self._stirring is not None:
            self._stirring.set()

    def _serve(self, began: threading.Event) -> None:
        asyncio.run(self._serving(began))

    async def _serving(self, began: threading.Event) -> None:
        self._loop, self._stirring = asyncio.get_running_loop(), asyncio.Event()
        began.set()
        under_way: set[asyncio.Task[None]] = set()
        mesh = Mesh(self._paths)
        try:
            while not self._is_over():
                while self._begun:
                    task = asyncio.ensure_future(self._do(mesh, self._begun.popleft()))
                    under_way.add(task)
                    task.add_done_callback(under_way.discard)
                    del task
                await self._stirring.wait()
                self._stirring.clear()
        finally:
            self._loop = None
            await mesh.close()

    def _is_over(self) -> bool:
        with self._lock:
            return self._is_shut and not self._active

    def _end_one(self) -> None:
        """A call ended: another one begins in its place, unless no more can succeed."""
        given_up = []
        with self._lock:
            self._active -= 1
            while self._pending and self._active < self._max_workers:
                work = self._pending.popleft()
                if not work.future.set_running_or_notify_cancel():
                    continue
                if self._broken:
                    given_up.append(work.future)
                else:
                    self._active += 1
                    self._begun.append(work)
        for future in given_up:
            # Without the lock: what waits for a future may submit again.
            future.set_exception(BrokenExecutor(self._broken))
        self._on_stirred()

    async def _do(self, mesh: Mesh, work: _Work) -> None:
        try:
            data = await self._called(mesh, work)
            names, who = work.ready.shipment.names, work.wish.who
            read = frames.values_of if work.is_many else frames.value_of
            value: Any = read(data, names, who)
            if work.is_many and isinstance(value[1], frames.FirstFailed):
                raise value[1]
        except frames.FirstFailed as error:
            self._break(error, work.future)
        except BaseException as error:
            work.future.set_exception(error)
        else:
            work.future.set_result(value)
        finally:
            del work
            self._end_one()

    def _break(self, error: frames.FirstFailed, future: futures.Future[Any]) -> None:
        _log.critical("Exception in initializer:", exc_info=error.cause)
        self._broken = "the initializer failed in an instance, so no more calls are taken"
        future.set_exception(BrokenExecutor(self._broken))

    def _handle(self, mesh: Mesh, work: _Work) -> Function:
        """One for each seed: making it costs as much as a tenth of a call."""
        seed, options = work.ready.seed, work.wish.options
        held = self._handles.get(seed)
        if held is None:
            held = self._handles[seed] = mesh.function(
                seed, work.ready.export, timeout=options.timeout, idempotent=options.idempotent
            )
        return held

    async def _called(self, mesh: Mesh, work: _Work) -> bytes:
        """One call: what is refused for load is asked again until its time is over."""
        left, is_again = work.wish.options.timeout, False
        end = time.monotonic() + left
        while True:
            try:
                return (await self._handle(mesh, work)(work.data, timeout=left)).data
            except Overloaded as error:
                left = end - time.monotonic() - (error.retry_after or math.inf)
                if left <= 0:
                    raise
                await asyncio.sleep(error.retry_after or 0)
            except NotFound as error:
                if error.slug != "seed-not-found" or is_again:
                    raise
                is_again = True
                self._shelf.forget(work.wish, self._first)
                again = (work.wish, self._first, self._first_args, work.ready.extra)
                work.ready = await asyncio.to_thread(self._shelf.ready, *again)


def _nothing() -> None:
    """Stands for a function while options are checked."""


def _leave() -> None:
    """The program ends: what was submitted is done, then each loop ends. Threads that the
    interpreter waits for would wait for ``shutdown``, which nobody calls any more."""
    for executor in list(_live):
        executor.shutdown(wait=True)


atexit.register(_leave)
