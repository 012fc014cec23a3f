"""The strategies of one node together: when they look, when multicast starts by itself.

Decides: when to search and to stop, when to advertise again, when the automatic strategies begin.
Does not know: sockets, how a strategy works, the links (it is told how many there are).
Invariants: a node with a link searches for nothing. A strategy that is on advertises until the end
    of the run, with the addresses of now. Without a link for 30 s the automatic ones are on.
Source: docs/internals/discovery.md#strategies.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from pollen.core import limits
from pollen.core.ids import ClusterId, Nanos, Now
from pollen.core.peers.discovery.contract import Action, Found, Strategy


class Running(msgspec.Struct, kw_only=True):
    """A strategy that is on; ``searched_at`` is None while it does not search."""

    scheme: str
    strategy: Strategy
    advertised: list[str] = []
    advertised_at: Nanos = Nanos(0)
    searched_at: Nanos | None = None


class Finder:
    """``named`` strategies are on from the start; ``automatic`` makes those that begin when the
    node was alone, by scheme."""

    def __init__(
        self,
        cluster: ClusterId,
        named: Sequence[tuple[str, Strategy]],
        automatic: Sequence[tuple[str, Callable[[], Strategy]]] = (),
    ) -> None:
        self._cluster = cluster
        self._automatic = list(automatic)
        self._alone_since: Nanos | None = None
        self.running = [Running(scheme=scheme, strategy=held) for scheme, held in named]

    def tick(self, linked: int, addresses: Sequence[str], now: Now) -> list[tuple[Running, Action]]:
        """Told about once a second how many links there are: what each strategy wants done."""
        self._note_links(linked, now.mono)
        out: list[tuple[Running, Action]] = []
        for held in self.running:
            self._advertise(held, list(addresses), now.mono)
            out += [(held, action) for action in self._search(held, linked, now)]
        return out

    def on_datagram(
        self, held: Running, data: bytes, sender: str, now: Now
    ) -> list[tuple[Running, Action]]:
        """A datagram for one of them."""
        return [(held, action) for action in held.strategy.on_datagram(data, sender, now)]

    @property
    def due(self) -> Nanos | None:
        """When the first strategy wants its turn."""
        return min(
            (h.strategy.due for h in self.running if h.strategy.due is not None), default=None
        )

    def _note_links(self, linked: int, now: Nanos) -> None:
        if linked:
            self._alone_since = None
            return
        if self._alone_since is None:
            self._alone_since = now
        if now >= self._alone_since + limits.ALONE_NS:
            on = [held.scheme for held in self.running]
            for scheme, make in self._automatic:
                if scheme not in on:
                    self.running.append(Running(scheme=scheme, strategy=make()))
            self._automatic = []

    def _advertise(self, held: Running, addresses: list[str], now: Nanos) -> None:
        is_old = now >= held.advertised_at + limits.ADVERTISE_NS // 2
        if addresses != held.advertised or is_old:
            until = Nanos(now + limits.ADVERTISE_NS)
            held.strategy.advertise(self._cluster, addresses, until)
            held.advertised, held.advertised_at = addresses, now

    def _search(self, held: Running, linked: int, now: Now) -> list[Action]:
        if linked:
            if held.searched_at is not None:
                held.searched_at = None
                return held.strategy.find(self._cluster, 0, now)
            return []
        out = held.strategy.on_timer(now) if held.searched_at is not None else []
        if held.searched_at is None or now.mono >= held.searched_at + limits.ALONE_NS:
            held.searched_at = now.mono
            out += held.strategy.find(self._cluster, limits.FIND_LIMIT, now)
        return out


def found_in(actions: Sequence[tuple[Running, Action]]) -> list[tuple[str, Found]]:
    """What was found, and by which scheme."""
    return [(held.scheme, a) for held, a in actions if isinstance(a, Found)]
