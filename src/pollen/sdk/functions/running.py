"""``run`` and ``map`` of a mesh: functions of the program that holds it.

Decides: nothing; the types of what ``calling`` does. That is loaded by the first use, since it
    costs as much as the rest of the SDK.
Source: docs/design/functions.md#calls.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar, cast, overload

from pollen.sdk.asking import check_in_flight

if TYPE_CHECKING:
    from pollen.paths import Paths
    from pollen.sdk.blocking import SyncMesh
    from pollen.sdk.client import Mesh
    from pollen.sdk.functions.shelf import Shelf

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


class _Shelved:
    """A mesh that has a shelf once it needs one."""

    _paths: Paths
    _shelf: Shelf | None = None

    def _shipped(self) -> Shelf:
        if self._shelf is None:
            from pollen.sdk.functions.shelf import Shelf

            self._shelf = Shelf(self._paths)
        return self._shelf


class Running(_Shelved):
    """For asyncio."""

    @overload
    async def run(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    async def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    async def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run a function of this program on the mesh: ``await mesh.run(score, 1.0)``.

        Its source is shipped when it is first called. Options are those of ``pollen.remote``.
        Raises what the function raises, ``TypeError`` for what cannot travel, ``CallError``.
        """
        from pollen.sdk.functions import calling

        return await calling.run(cast("Mesh", self), self._shipped(), function, args, kwargs)

    @overload
    def map(
        self,
        function: Callable[[T], Awaitable[R]],
        inputs: Iterable[T],
        /,
        *,
        in_flight: int = 64,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    @overload
    def map(
        self,
        function: Callable[[T], R],
        inputs: Iterable[T],
        /,
        *,
        in_flight: int = 64,
        progress: bool = False,
    ) -> AsyncIterator[R]: ...
    def map(
        self,
        function: Callable[[Any], Any],
        inputs: Iterable[Any],
        /,
        *,
        in_flight: int = 64,
        progress: bool = False,
    ) -> AsyncIterator[Any]:
        """The results in the order of the inputs: ``async for y in mesh.map(score, xs)``.

        Inputs are taken when they are needed; at most ``in_flight`` calls are under way. The first
        error is raised in its place; leaving the loop cancels what is under way. ``progress`` draws
        a line on a terminal and in a notebook.
        """
        from pollen.sdk.functions import calling

        check_in_flight(in_flight)
        shelf = self._shipped()
        return calling.results(
            cast("Mesh", self), shelf, function, inputs, in_flight, has_progress=progress
        )


class SyncRunning(_Shelved):
    """The blocking twin."""

    @overload
    def run(
        self, function: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> R: ...
    @overload
    def run(self, function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def run(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """As ``Running.run``, without ``await``."""
        from pollen.sdk.functions import calling

        return calling.run_sync(cast("SyncMesh", self), self._shipped(), function, args, kwargs)

    @overload
    def map(
        self,
        function: Callable[[T], Awaitable[R]],
        inputs: Iterable[T],
        /,
        *,
        in_flight: int = 64,
        progress: bool = False,
    ) -> Iterator[R]: ...
    @overload
    def map(
        self,
        function: Callable[[T], R],
        inputs: Iterable[T],
        /,
        *,
        in_flight: int = 64,
        progress: bool = False,
    ) -> Iterator[R]: ...
    def map(
        self,
        function: Callable[[Any], Any],
        inputs: Iterable[Any],
        /,
        *,
        in_flight: int = 64,
        progress: bool = False,
    ) -> Iterator[Any]:
        """As ``Running.map``: ``for y in mesh.map(score, xs)``."""
        from pollen.sdk.functions import calling

        check_in_flight(in_flight)
        shelf = self._shipped()
        return calling.results_sync(
            cast("SyncMesh", self), shelf, function, inputs, in_flight, has_progress=progress
        )
