"""``@pollen.remote``: a function that may run on the mesh, and here as before.

Decides: which options a function may have.
Does not know: connections (``running``), what is shipped (``ship``).
Invariants: a decorated function stays a function: called plainly it runs here, with its own types.
Source: docs/design/functions.md.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, Generic, ParamSpec, TypeVar, overload

from pollen.errors import BadRequest
from pollen.sdk.functions.shelf import Options
from pollen.sdk.functions.ship import gather

P = ParamSpec("P")
R = TypeVar("R")


class Remote(Generic[P, R]):
    """A function and how it runs on the mesh: ``await mesh.run(score, 1.0)``."""

    def __init__(self, function: Callable[P, R], options: Options) -> None:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(
                f"{function.__qualname__} is a generator: publish its file as a seed and read"
                " mesh.use(NAME).stream, or return a list"
            )
        functools.update_wrapper(self, function)
        self.local = function
        self.options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run it here."""
        return self.local(*args, **kwargs)

    def files(self) -> list[str]:
        """The files of yours that would be shipped, by their path. Raises what shipping would."""
        options = self.options
        return gather([self.local], options.requirements, with_keys=options.with_keys).files

    def __repr__(self) -> str:
        return f"<remote function {self.local.__qualname__}>"


@overload
def remote(function: Callable[P, R], /) -> Remote[P, R]: ...
@overload
def remote(
    *,
    requirements: Sequence[str] = (),
    timeout: float = 60.0,
    memory: int | None = None,
    replicas: int = 2,
    idempotent: bool = False,
    isolate: bool = False,
    allow: str = "",
    with_keys: bool = False,
) -> Callable[[Callable[P, R]], Remote[P, R]]: ...
def remote(
    function: Callable[..., Any] | None = None,
    /,
    *,
    requirements: Sequence[str] = (),
    timeout: float = 60.0,
    memory: int | None = None,
    replicas: int = 2,
    idempotent: bool = False,
    isolate: bool = False,
    allow: str = "",
    with_keys: bool = False,
) -> Any:
    """Let a function run on the mesh: ``@pollen.remote`` or ``@pollen.remote(requirements=[...])``.

    ``requirements``: packages of pure Python, as pip takes them. ``timeout``: seconds of a call.
    ``memory``: bytes that a guest may have. ``replicas``: how many nodes have it at least.
    ``idempotent``: it may run twice. ``isolate``: a fresh instance for each call. ``allow``: an
    expression for who may call it beside you. ``with_keys``: text that looks like a key may go.
    Raises ``TypeError`` for a generator.
    """
    if isinstance(requirements, str):
        raise TypeError(f'requirements is a list of texts: requirements=["{requirements}"]')
    if isinstance(memory, int) and memory < 32 << 20:
        reason = f"memory is a number of bytes; {memory} is less than Python takes"
        raise BadRequest("bad-request", reason, "give 32 MiB or more: memory=64 << 20")
    options = Options(
        requirements=tuple(requirements),
        timeout=timeout,
        memory=memory or 0,
        replicas=replicas,
        idempotent=idempotent,
        isolate=isolate,
        allow=allow,
        with_keys=with_keys,
    )
    if function is not None:
        return Remote(function, options)
    return lambda inner: Remote(inner, options)
