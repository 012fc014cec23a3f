"""A seed as an object: ``mesh.use("hello").greet(name="world")`` gives the value that came back.

Decides: how arguments become an input and an output a value, by the signatures that the seed
    published.
Does not know: connections; ``client`` and ``blocking`` call.
Invariants: the signatures are asked for once, by the first call of an object. A seed without any is
    called with JSON, and its output read as JSON. The node of the function checks all again.
Source: docs/design/sdk.md#typed-handles.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from pollen.errors import BadRequest, NotFound
from pollen.paths import Paths
from pollen.sdk.control import Control

if TYPE_CHECKING:
    from pollen.sdk.blocking import SyncMesh
    from pollen.sdk.client import Mesh


def described(paths: Paths, seed: str) -> dict[str, Any]:
    """The signatures of a seed by function; empty for one that published none. Raises
    ``seed-not-found``, ``unreachable``."""
    state = Control(paths).get(f"/v1/seeds/{quote(seed, safe='')}")
    if state.get("seed") is None:
        raise NotFound("seed-not-found", f'no seed named "{seed}"', "try: pln status seeds")
    functions = state.get("description", {}).get("functions", {})
    return functions if isinstance(functions, dict) else {}


class Called:
    """One function: what it takes and gives. No I/O."""

    def __init__(self, seed: str, name: str, functions: dict[str, Any]) -> None:
        name = _spelled(name, functions)
        if functions and name not in functions:
            reason = f'seed "{seed}" has no function "{name}"'
            raise NotFound("function-not-found", reason, f"name one of: {', '.join(functions)}")
        signature = functions.get(name, {})
        self.name, self.what = name, f"{seed}/{name}"
        self.takes = signature.get("takes", "json")
        self.gives = signature.get("gives", "json")
        self._order = signature.get("order")
        self._known = signature.get("input", {}).get("properties", {})

    def payload(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, bool]:
        """The input, and whether it is JSON. Raises ``bad-argument``, ``TypeError``."""
        if self.takes == "bytes":
            given = [*args, *kwargs.values()]
            if len(given) != 1 or not isinstance(given[0], bytes | bytearray | memoryview):
                raise TypeError(f"{self.what} takes bytes, and nothing else")
            return given[0], False
        if not kwargs:
            return list(args), True
        kwargs = {_spelled(name, self._known): value for name, value in kwargs.items()}
        if args and (not isinstance(self._order, list) or len(args) > len(self._order)):
            reason = f"{self.what} takes no more arguments by place than it has names for"
            raise BadRequest("bad-argument", reason, "give all of them by name")
        named = dict(zip(self._order or (), args, strict=False))
        if twice := named.keys() & kwargs.keys():
            raise TypeError(f"{self.what} got two values for the argument {min(twice)!r}")
        return {**named, **kwargs}, True

    def value(self, data: bytes) -> Any:
        """What came back."""
        if self.gives == "bytes":
            return data
        if self.gives == "stream":
            return list(self.items([data]))
        return self._json(data) if data else None

    def items(self, pieces: list[bytes]) -> Iterator[Any]:
        """The items of a stream in pieces that end with a line each."""
        for line in b"".join(pieces).splitlines():
            yield self._json(line)

    def _json(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except ValueError:
            reason = f"the output of {self.what} is not JSON"
            raise BadRequest("bad-request", reason, "take its bytes: mesh.call(...)") from None


def _spelled(name: str, known: Any) -> str:
    """A name as the seed has it: components have hyphens where Python has low lines."""
    hyphened = name.replace("_", "-")
    return hyphened if name not in known and hyphened in known else name


class Use:
    """A seed: each attribute is a function of it."""

    def __init__(self, mesh: Mesh, seed: str, timeout: float) -> None:
        self._mesh, self._seed, self._timeout = mesh, seed, timeout
        self._functions: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> UsedFunction:
        if name.startswith("_"):
            raise AttributeError(name)
        return UsedFunction(self, name)

    def __repr__(self) -> str:
        return f"<seed {self._seed}>"


class UsedFunction:
    """``await hello.greet(name="world")``; ``async for item in hello.count.stream(n=3)``."""

    def __init__(self, use: Use, name: str) -> None:
        self._use, self._name = use, name

    async def _called(self) -> Called:
        use = self._use
        if use._functions is None:
            use._functions = await asyncio.to_thread(described, use._mesh._paths, use._seed)
        return Called(use._seed, self._name, use._functions)

    async def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The value. Raises ``CallError``: ``bad-argument`` before anything ran."""
        called, use = await self._called(), self._use
        data, is_json = called.payload(args, kwargs)
        given: dict[str, Any] = {"json": data} if is_json else {"data": data}
        reply = await use._mesh.call(use._seed, called.name, timeout=use._timeout, **given)
        return called.value(reply.data)

    async def stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        """The items of a generator, each when it comes; bytes for one that yields bytes."""
        called, use = await self._called(), self._use
        data, is_json = called.payload(args, kwargs)
        given: dict[str, Any] = {"json": data} if is_json else {"data": data}
        rest = b""
        stream = use._mesh.stream(use._seed, called.name, timeout=use._timeout, **given)
        async with stream as pieces:
            async for piece in pieces:
                *lines, rest = (rest + piece).split(b"\n")
                for item in called.items([line + b"\n" for line in lines]):
                    yield item
        for item in called.items([rest] if rest else []):
            yield item

    def __repr__(self) -> str:
        return f"<function {self._use._seed}/{self._name}>"


class SyncUse:
    """The blocking twin of ``Use``."""

    def __init__(self, mesh: SyncMesh, seed: str, timeout: float) -> None:
        self._mesh, self._seed, self._timeout = mesh, seed, timeout
        self._functions: dict[str, Any] | None = None

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("_"):
            raise AttributeError(name)

        def call(*args: Any, **kwargs: Any) -> Any:
            if self._functions is None:
                self._functions = described(self._mesh._paths, self._seed)
            called = Called(self._seed, name, self._functions)
            data, is_json = called.payload(args, kwargs)
            given: dict[str, Any] = {"json": data} if is_json else {"data": data}
            reply = self._mesh.call(self._seed, called.name, timeout=self._timeout, **given)
            return called.value(reply.data)

        return call

    def __repr__(self) -> str:
        return f"<seed {self._seed}>"
