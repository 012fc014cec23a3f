"""Functions of a program as calls of a mesh, awaited and blocking.

Decides: when a call ships its function first, and that it does so again when that was withdrawn.
Does not know: frames and connections; the mesh calls.
Invariants: ``results`` keeps the order of its inputs, takes them as it needs them, has at most
    ``in_flight`` under way, and cancels the rest when it is left. Shipping never blocks a loop.
Source: docs/design/functions.md#calls.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from pollen.errors import NotFound
from pollen.sdk.functions import frames, progress
from pollen.sdk.functions.shelf import Ready, Shelf, Wish, wish_of
from pollen.sdk.functions.tagged import Unfit

if TYPE_CHECKING:
    from pollen.sdk.blocking import SyncFunction, SyncMesh
    from pollen.sdk.client import Function, Mesh


async def run(
    mesh: Mesh, shelf: Shelf, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """One call."""
    wish = wish_of(function)
    ready = await _ready(shelf, wish)
    try:
        return await _run(mesh, shelf, wish, ready, args, kwargs)
    except NotFound as error:
        if error.slug != "seed-not-found":
            raise
    # Withdrawn by somebody meanwhile; nothing ran.
    shelf.forget(wish)
    ready = await _ready(shelf, wish)
    return await _run(mesh, shelf, wish, ready, args, kwargs)


async def _ready(shelf: Shelf, wish: Wish) -> Ready:
    held = shelf.at_hand(wish)
    return await asyncio.to_thread(shelf.ready, wish) if held is None else held


async def _run(
    mesh: Mesh,
    shelf: Shelf,
    wish: Wish,
    ready: Ready,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    ready, data = await _encoded(shelf, wish, ready, args, kwargs)
    reply = await _handle(mesh, wish, ready)(data)
    return frames.value_of(reply.data, ready.shipment.names, wish.who)


def _handle(mesh: Mesh, wish: Wish, ready: Ready) -> Function:
    options = wish.options
    return mesh.function(
        ready.seed, ready.export, timeout=options.timeout, idempotent=options.idempotent
    )


async def _encoded(
    shelf: Shelf, wish: Wish, ready: Ready, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Ready, bytes]:
    """The bytes of a call. Only what must be shipped first leaves the loop's thread."""
    try:
        return ready, _request(wish, ready, args, kwargs)
    except TypeError:
        return await asyncio.to_thread(shelf.encoded, wish, ready, args, kwargs)


def _request(wish: Wish, ready: Ready, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    target, names = ready.shipment.targets[0], ready.shipment.names
    given = {**wish.kwargs, **kwargs} if wish.kwargs else kwargs
    return frames.request(target, (*wish.args, *args), given, names, ready.first)


def _requests(wish: Wish, ready: Ready, inputs: Iterator[Any]) -> Iterator[bytes]:
    """The bytes of each call, when it is its turn; its classes are those of the first one."""
    for value in inputs:
        try:
            yield _request(wish, ready, (value,), {})
        except Unfit as error:
            raise TypeError(str(error)) from None


async def results(
    mesh: Mesh,
    shelf: Shelf,
    function: Any,
    inputs: Iterable[Any],
    in_flight: int,
    *,
    has_progress: bool,
) -> AsyncIterator[Any]:
    """The result for each input, in their order."""
    wish, whole, rest = wish_of(function), progress.count_of(inputs), iter(inputs)
    ready = await _ready(shelf, wish)
    for value in islice(rest, 1):
        ready, first = await _encoded(shelf, wish, ready, (value,), {})
        calls = chain([first], _requests(wish, ready, rest))
        replies = _handle(mesh, wish, ready).map(calls, in_flight=in_flight)
        with progress.shown(wish.who, whole, is_wanted=has_progress) as step:
            async with contextlib.aclosing(replies):  # type: ignore[type-var]
                async for reply in replies:
                    step()
                    yield frames.value_of(reply.data, ready.shipment.names, wish.who)


def run_sync(
    mesh: SyncMesh, shelf: Shelf, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """One call."""
    wish = wish_of(function)
    ready = shelf.at_hand(wish) or shelf.ready(wish)
    try:
        return _run_sync(mesh, shelf, wish, ready, args, kwargs)
    except NotFound as error:
        if error.slug != "seed-not-found":
            raise
    shelf.forget(wish)
    return _run_sync(mesh, shelf, wish, shelf.ready(wish), args, kwargs)


def _run_sync(
    mesh: SyncMesh,
    shelf: Shelf,
    wish: Wish,
    ready: Ready,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    ready, data = shelf.encoded(wish, ready, args, kwargs)
    reply = _handle_sync(mesh, wish, ready)(data)
    return frames.value_of(reply.data, ready.shipment.names, wish.who)


def _handle_sync(mesh: SyncMesh, wish: Wish, ready: Ready) -> SyncFunction:
    options = wish.options
    return mesh.function(
        ready.seed, ready.export, timeout=options.timeout, idempotent=options.idempotent
    )


def results_sync(
    mesh: SyncMesh,
    shelf: Shelf,
    function: Any,
    inputs: Iterable[Any],
    in_flight: int,
    *,
    has_progress: bool,
) -> Iterator[Any]:
    """The result for each input, in their order."""
    wish, whole, rest = wish_of(function), progress.count_of(inputs), iter(inputs)
    ready = shelf.at_hand(wish) or shelf.ready(wish)
    for value in islice(rest, 1):
        ready, first = shelf.encoded(wish, ready, (value,), {})
        calls = chain([first], _requests(wish, ready, rest))
        replies = _handle_sync(mesh, wish, ready).map(calls, in_flight=in_flight)
        shown = progress.shown(wish.who, whole, is_wanted=has_progress)
        with shown as step, contextlib.closing(replies):  # type: ignore[type-var]
            for reply in replies:
                step()
                yield frames.value_of(reply.data, ready.shipment.names, wish.who)
