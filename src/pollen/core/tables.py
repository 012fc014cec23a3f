"""The leased tables: what the muscles route, gate and run by, and the deltas that keep them so.

Decides: the rows that follow from names, hosts, members and prices; when to push and what.
Does not know: how rows are used; records; the muscles' state beyond the last generation sent.
Invariants: a row is a pure function of its arguments; generations rise by one; a push is whole when
    nothing is known to be held, else a delta on the last one. A lease is renewed in good time even
    when nothing changed. A seed's row stands in a push before its ``LoadSeed``.
Source: PROTOCOL 5 (tables are leases, deltas, at most 10 Hz, urgent ones at once).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pollen.core import limits, timers
from pollen.core.certs import Certificate
from pollen.core.effects import Effect, PeerRow, PushTables, SeedRow, SetTimer
from pollen.core.ids import Hash, Nanos, PeerId
from pollen.core.names import Holding
from pollen.core.plan import Host, State
from pollen.core.specs import (
    IDEMPOTENT,
    ISOLATE,
    NO_TAIL_CALL,
    PUBLIC,
    SHARED,
    Seed,
)


def seed_rows(
    names: Mapping[str, Holding],
    hosts: Mapping[Hash, Sequence[Host]],
    hosted: Sequence[Seed],
    prices: Mapping[PeerId, int],
) -> dict[Hash, SeedRow]:
    """A row for every live seed, for what it replaced while that still serves, and for what is
    loaded here. A name belongs to the new seed as soon as one host is ready, else to the old one.
    """
    rows: dict[Hash, SeedRow] = {}
    for holding in names.values():
        if not holding.is_live:
            continue
        current, previous = holding.seed, holding.seed.previous
        ready = replicas_of(current.seed, hosts, prices)
        old_ready = [] if previous is None else replicas_of(previous.seed, hosts, prices)
        is_old_named = bool(old_ready) and not ready
        rows[current.seed] = _row("" if is_old_named else holding.name, current, ready)
        if previous is not None and old_ready:
            old_name = holding.name if is_old_named else ""
            rows[previous.seed] = _row(old_name, previous, old_ready)
    for seed in hosted:
        if seed.seed not in rows:
            rows[seed.seed] = _row("", seed, replicas_of(seed.seed, hosts, prices))
    return rows


def replicas_of(
    seed: Hash, hosts: Mapping[Hash, Sequence[Host]], prices: Mapping[PeerId, int]
) -> list[PeerId]:
    """The ready hosts that have a price, nearest first, by id among equals."""
    ready = [h.node for h in hosts.get(seed, ()) if h.state is State.READY and h.node in prices]
    return sorted(ready, key=lambda peer: (prices[peer], peer))[: limits.ROW_REPLICAS]


def _row(name: str, seed: Seed, replicas: list[PeerId]) -> SeedRow:
    spec = seed.spec
    return SeedRow(
        name=name,
        seed=seed.seed,
        content=spec.content,
        functions=spec.functions,
        replicas=replicas,
        wake=[],
        gate=spec.allow,
        memory_bytes=spec.memory_bytes,
        timeout_ms=spec.timeout_ms,
        config=spec.config,
        env=spec.env,
        allow_hosts=spec.allow_hosts,
        idempotent=bool(spec.flags & IDEMPOTENT),
        isolate=bool(spec.flags & ISOLATE),
        shared=bool(spec.flags & SHARED),
        public=bool(spec.flags & PUBLIC),
        tail_call=not spec.flags & NO_TAIL_CALL,
    )


def peer_rows(
    live: Sequence[PeerId],
    members: Mapping[PeerId, Certificate],
    node_names: Mapping[PeerId, str],
    prices: Mapping[PeerId, int],
) -> dict[PeerId, PeerRow]:
    """A row for every live member, this node included."""
    return {
        peer: PeerRow(
            peer=peer,
            name=node_names.get(peer, ""),
            properties=members[peer].properties,
            price_us=prices[peer],
        )
        for peer in live
        if peer in members and peer in prices
    }


def quantised_price(rtt_us: int, held: int | None) -> int:
    """The price of a peer: its round-trip time, moved only past the hysteresis."""
    if held is None or held == limits.PRICE_UNKNOWN_US:
        return max(rtt_us, 1)
    apart = abs(rtt_us - held) * 10_000
    return max(rtt_us, 1) if apart > held * limits.PRICE_HYSTERESIS_BP else held


class Tables:
    """What the muscles were told last, and what they must be told next."""

    def __init__(self) -> None:
        self._generation = 0
        self._is_held = False
        self._seeds: dict[Hash, SeedRow] = {}
        self._peers: dict[PeerId, PeerRow] = {}
        self._next_seeds: dict[Hash, SeedRow] = {}
        self._next_peers: dict[PeerId, PeerRow] = {}
        self._is_staged = False
        self._is_waiting = False
        self.pushed_at = Nanos(0)

    def forget(self) -> None:
        """The muscles hold something else: the next push is whole."""
        self._is_held = False
        self._is_staged = True

    def stage(self, seeds: dict[Hash, SeedRow], peers: dict[PeerId, PeerRow]) -> None:
        """These rows are what the muscles must hold."""
        self._next_seeds, self._next_peers = seeds, peers
        self._is_staged = True

    def push(self, now: Nanos, *, is_urgent: bool) -> list[Effect]:
        """Tell the muscles what changed: at once when urgent or overdue, else by a timer soon.

        Losing or gaining a row is urgent: calls hang on the one, loads and fetches on the other.
        """
        delta = self._delta() if self._is_staged else None
        self._is_staged = delta is not None
        is_renewal = self._generation == 0 or now >= self.pushed_at + limits.TABLE_RENEW_NS
        if delta is None and not is_renewal:
            return []
        is_urgent = is_urgent or (
            delta is not None and _cannot_wait(delta, self._seeds, self._peers)
        )
        if not (is_urgent or is_renewal or now >= self.pushed_at + limits.TABLE_PUSH_NS):
            if self._is_waiting:
                return []
            self._is_waiting = True
            at = Nanos(self.pushed_at + limits.TABLE_PUSH_NS)
            return [SetTimer(token=timers.token_for(timers.TABLES), at=at)]
        push = delta if delta is not None else self._push(self._generation, [], [], [], [])
        self._generation, self._is_held = push.generation, True
        self._seeds, self._peers = self._next_seeds, self._next_peers
        self.pushed_at, self._is_waiting, self._is_staged = now, False, False
        renew = timers.token_for(timers.RENEW)
        return [push, SetTimer(token=renew, at=Nanos(now + limits.TABLE_RENEW_NS))]

    def _delta(self) -> PushTables | None:
        seeds, peers = self._next_seeds, self._next_peers
        if not self._is_held:
            return self._push(0, list(seeds.values()), [], list(peers.values()), [])
        new_seeds = [row for key, row in seeds.items() if self._seeds.get(key) != row]
        new_peers = [row for key, row in peers.items() if self._peers.get(key) != row]
        gone_seeds = [key for key in self._seeds if key not in seeds]
        gone_peers = [key for key in self._peers if key not in peers]
        if not (new_seeds or new_peers or gone_seeds or gone_peers):
            return None
        return self._push(self._generation, new_seeds, gone_seeds, new_peers, gone_peers)

    def _push(
        self,
        base: int,
        seeds: list[SeedRow],
        gone_seeds: list[Hash],
        peers: list[PeerRow],
        gone_peers: list[PeerId],
    ) -> PushTables:
        return PushTables(
            generation=self._generation + 1,
            base=base,
            seeds=seeds,
            gone_seeds=gone_seeds,
            peers=peers,
            gone_peers=gone_peers,
            lease_ms=limits.TABLE_LEASE_MS,
        )


def _cannot_wait(
    delta: PushTables, seeds: Mapping[Hash, SeedRow], peers: Mapping[PeerId, PeerRow]
) -> bool:
    return (
        delta.base == 0
        or bool(delta.gone_peers)
        or bool(delta.gone_seeds)
        or any(row.seed not in seeds for row in delta.seeds)
        or any(row.peer not in peers for row in delta.peers)
    )
