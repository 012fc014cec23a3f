"""What a program has shipped: each function once, under a name that its content gives.

Decides: when something is published, and when it is looked for again.
Does not know: how a call is made (``running``, ``executor``).
Invariants: one thread publishes at a time. A function whose constants, or other names that it
    reads, stand for something else than before is shipped again. What was not used for so long that
    the node may have withdrawn it is asked for first.
Source: docs/design/functions.md#publishing.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

from pollen.errors import PollenError
from pollen.paths import Paths
from pollen.sdk.control import Control
from pollen.sdk.functions import frames
from pollen.sdk.functions.ship import Shipment, gather, seed_name
from pollen.sdk.functions.slices import unwrapped
from pollen.sdk.functions.tagged import Unfit
from pollen.sdk.python.publish import Made, publish

# A seed of a function is withdrawn when nobody called it for so long, ms; guess: a lunch break.
UNUSED_MS: Final = 60 * 60 * 1000
# After so many seconds without a call it is looked for, and published if it is gone.
_LOOK_AFTER: Final = UNUSED_MS / 1000 - 300
# The publisher alone, unless the user says who else.
_PUBLISHER: Final = "caller.id == seed.owner"


@dataclass(frozen=True)
class Options:
    """How functions run: those of ``pollen.remote``."""

    requirements: tuple[str, ...] = ()
    timeout: float = 60.0
    memory: int = 0
    replicas: int = 2
    idempotent: bool = False
    isolate: bool = False
    allow: str = ""
    with_keys: bool = False

    def of_seed(self) -> dict[str, Any]:
        """As the node takes them."""
        given: dict[str, Any] = {
            "timeout_ms": max(1, round(self.timeout * 1000)),
            "min_replicas": self.replicas,
            "idempotent": self.idempotent,
            "isolate": self.isolate,
            "allow_if": f"{_PUBLISHER} || ({self.allow})" if self.allow else _PUBLISHER,
            "withdraw_unused_ms": UNUSED_MS,
        }
        return {**given, "memory_bytes": self.memory} if self.memory else given


@dataclass(frozen=True)
class Wish:
    """A function as a program gives it: below its decorators and partial arguments."""

    function: Callable[..., Any]
    options: Options
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)

    @property
    def who(self) -> str:
        """How errors call it."""
        return f"{getattr(unwrapped(self.function), '__qualname__', self.function)}()"


def wish_of(given: Any, options: Options | None = None) -> Wish:
    """What is meant by a function, a ``Remote`` or a partial of one. Raises ``TypeError``."""
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = {}
    while isinstance(given, functools.partial):
        args, kwargs = given.args + args, {**given.keywords, **kwargs}
        given = given.func
    if not callable(given):
        kind = type(given).__name__
        raise TypeError(f"a function is expected, not {kind}: give it and its arguments apart")
    own = getattr(given, "options", None)
    if options is None:
        options = own if isinstance(own, Options) else Options()
    inner = getattr(given, "local", given) if isinstance(own, Options) else given
    return Wish(inner, options, args, kwargs)


@dataclass
class Ready:
    """A function that can be called: its seed, its name there, and how values are written."""

    seed: str
    shipment: Shipment
    first: frames.First | None
    extra: tuple[Any, ...]
    used: float

    @property
    def export(self) -> str:
        """The function of our glue that calls it."""
        return "acall" if self.shipment.is_async else "call"


class Shelf:
    """The functions that were shipped to one node."""

    def __init__(self, paths: Paths) -> None:
        self._paths = paths
        self._turn = threading.Lock()
        self._held: dict[tuple[Any, ...], Ready] = {}
        self._node = ""

    def at_hand(self, wish: Wish, first: Callable[..., Any] | None = None) -> Ready | None:
        """What is shipped already and is as it was; None else. No I/O."""
        ready = self._held.get((wish.function, wish.options, first))
        now = time.monotonic()
        if ready is None or now > ready.used + _LOOK_AFTER or not ready.shipment.is_current():
            return None
        ready.used = now
        return ready

    def ready(
        self,
        wish: Wish,
        first: Callable[..., Any] | None = None,
        first_args: Sequence[Any] = (),
        extra: Sequence[Any] = (),
    ) -> Ready:
        """Ship it unless it is there; waits for that. ``extra``: classes that its arguments have.

        Raises ``TypeError`` for what cannot be shipped, and what publishing raises.
        """
        with self._turn:
            ready = self.at_hand(wish, first)
            if ready is not None and set(extra) <= set(ready.extra):
                return ready
            key = wish.function, wish.options, first
            old = self._held.get(key)
            extra = tuple(dict.fromkeys([*(old.extra if old is not None else ()), *extra]))
            ready = self._publish(wish, first, tuple(first_args), extra)
            self._held[key] = ready
            return ready

    def forget(self, wish: Wish, first: Callable[..., Any] | None = None) -> None:
        """It is not there any more."""
        self._held.pop((wish.function, wish.options, first), None)

    def _publish(
        self, wish: Wish, first: Any, first_args: tuple[Any, ...], extra: tuple[Any, ...]
    ) -> Ready:
        control, options = Control(self._paths), wish.options.of_seed()
        if not self._node:
            # Who may publish nothing is told so before packages are fetched.
            control.check("fn-check", options)
            self._node = control.get("/v1/status")["node"]
        roots = [wish.function, *([] if first is None else [first]), *extra]
        wants, with_keys = wish.options.requirements, wish.options.with_keys
        shipment = gather(roots, wants, with_keys=with_keys)
        name = seed_name(shipment, self._node, options)
        state = control.get(f"/v1/seeds/{quote(name, safe='')}")
        if state.get("seed") is None:
            publish(control, Made(name, bundle=shipment.bundle), name, options)
        deed = None
        if first is not None:
            deed = (name, shipment.targets[1], first_args)
        return Ready(name, shipment, deed, extra, time.monotonic())

    def encoded(
        self,
        wish: Wish,
        ready: Ready,
        args: Sequence[Any],
        kwargs: dict[str, Any],
        first: Callable[..., Any] | None = None,
    ) -> tuple[Ready, bytes]:
        """The bytes of a call; when an argument has a class of the program's own that was not
        shipped yet, that is shipped now. Raises ``TypeError`` with the place."""
        return self._encoded(
            wish,
            ready,
            first,
            lambda names, target, deed: frames.request(
                target, [*wish.args, *args], {**wish.kwargs, **kwargs}, names, deed
            ),
        )

    def encoded_many(
        self,
        wish: Wish,
        ready: Ready,
        many: Sequence[Sequence[Any]],
        first: Callable[..., Any] | None = None,
    ) -> tuple[Ready, bytes]:
        """As ``encoded``, of several calls in one, by place alone."""
        rows = [[*wish.args, *args] for args in many]
        return self._encoded(
            wish,
            ready,
            first,
            lambda names, target, deed: frames.requests(target, rows, names, deed),
        )

    def _encoded(
        self, wish: Wish, ready: Ready, first: Any, write: Callable[..., bytes]
    ) -> tuple[Ready, bytes]:
        while True:
            names = ready.shipment.names
            try:
                return ready, write(names, ready.shipment.targets[0], ready.first)
            except Unfit as error:
                new = error.unknown
                if new is None or new in ready.extra:
                    raise TypeError(str(error)) from None
            deed = ready.first[2] if ready.first is not None else ()
            try:
                ready = self.ready(wish, first, deed, [*ready.extra, new])
            except PollenError:
                raise
            except TypeError as error:
                raise TypeError(
                    f"{wish.who} got an argument that cannot be sent: {error}"
                ) from None
