"""What a discovery strategy is: a sans-IO machine that advertises this node and finds others.

Decides: the shape of a strategy, of what it asks for, and how the setting names one.
Does not know: sockets (``runtime.loop`` carries out what is asked), any one strategy.
Invariants: a strategy finds addresses only; whoever answers there proves itself by the handshake.
    Everything that a strategy does is returned as actions; it is asked again at ``due``.
Source: docs/internals/discovery.md#strategies; third parties register factories under the entry
    point group ``pollen.discovery``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from pollen.core.ids import ClusterId, Nanos, Now, PeerId, Sign, Verify
from pollen.core.rng import Rng
from pollen.errors import BadRequest

# ``seal(key, nonce, plain)`` and its inverse, None when the bytes were not sealed so. An AEAD: the
# key has 32 bytes, the nonce 24.
Seal = Callable[[bytes, bytes, bytes], bytes]
Unseal = Callable[[bytes, bytes, bytes], bytes | None]


class Action(msgspec.Struct, frozen=True, kw_only=True):
    """Base of what a strategy asks for."""


class Found(Action, frozen=True, kw_only=True):
    """A peer may be dialled at these addresses; without a peer: anybody may be there."""

    peer: PeerId | None
    addresses: list[str]


class Send(Action, frozen=True, kw_only=True):
    """One datagram; ``to`` is ``ip:port``, or empty for the strategy's group."""

    data: bytes
    to: str = ""


class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """The datagram socket that a strategy needs: its port, groups to join, on which interface."""

    port: int
    groups: list[str]
    interface: str = ""


class Context(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy is given: who we are, and the pure functions it may use."""

    node: PeerId
    cluster: ClusterId
    rng: Rng
    sign: Sign
    verify: Verify
    seal: Seal | None = None
    unseal: Unseal | None = None


class Strategy(Protocol):
    """One way to find peers. ``socket`` is None where no datagrams are needed."""

    @property
    def socket(self) -> Socket | None:
        """What to open before ``find``."""
        ...

    @property
    def due(self) -> Nanos | None:
        """When ``on_timer`` is wanted, monotonic."""
        ...

    def advertise(self, cluster: ClusterId, addresses: Sequence[str], until: Nanos) -> None:
        """Answer for this cluster with these addresses until then; none: stop answering."""
        ...

    def find(self, cluster: ClusterId, limit: int, now: Now) -> list[Action]:
        """Begin to look for about so many peers; 0 stops looking."""
        ...

    def on_timer(self, now: Now) -> list[Action]:
        """``due`` has come; too early or too late is harmless."""
        ...

    def on_datagram(self, data: bytes, sender: str, now: Now) -> list[Action]:
        """A datagram arrived at the socket."""
        ...


Factory = Callable[[str, Context], Strategy]


def parse_setting(
    setting: str | Sequence[str], known: Mapping[str, Factory], context: Context
) -> list[tuple[str, Strategy]]:
    """The strategies that the setting ``discovery`` names, in its order.

    Raises ``BadRequest`` (``config-invalid``) for an unknown scheme, listing the known ones, and
    for an argument that its scheme refuses.
    """
    words = setting.split() if isinstance(setting, str) else list(setting)
    found: list[tuple[str, Strategy]] = []
    for word in words:
        scheme, _, argument = word.partition(":")
        factory = known.get(scheme)
        if factory is None:
            near = difflib.get_close_matches(scheme, list(known), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise BadRequest(
                "config-invalid",
                f"discovery: unknown scheme {scheme[:40]!r}",
                f"{hint}known schemes: {', '.join(sorted(known))}",
            )
        found.append((scheme, factory(argument, context)))
    return found


def refuse(scheme: str, argument: str, why: str, form: str) -> BadRequest:
    """The error of an argument that a scheme cannot take."""
    return BadRequest("config-invalid", f"discovery: {scheme}:{argument[:80]}: {why}", form)
