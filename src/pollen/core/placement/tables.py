"""The leased tables: what the muscles route, gate and run by, and the deltas that keep them so.

Decides: the rows that follow from roles, claims, the plan, members and prices; when to push what.
Does not know: how rows are used; records; the muscles' state beyond the last generation sent.
Invariants: a row is a pure function of its arguments; generations rise by one; a push is whole when
    nothing is known to be held, else a delta on the last one, and carries all that is known: rows,
    peers and gates of one push belong together. ``urgent-never-waits``: a row or peer that comes or
    goes, and a name, gate or property that changes, leaves in the turn in which it became known;
    only replicas and prices wait for the 10 Hz tick. The replicas of a seed with a check do not
    wait: its host opens by its own row. A price moves no seed row. A lease is renewed in good time
    even when nothing changed. A seed's row stands in a push before its ``LoadSeed``.
Source: docs/design/protocol.md#tables (tables are leases, deltas, at most 10 Hz, urgent ones at
once).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from pollen.core import limits, timers
from pollen.core.effects import (
    PEERS,
    SEEDS,
    SERVED,
    SERVICES,
    LaneRows,
    PeerRow,
    PolicyRow,
    PushTables,
    SeedRow,
    ServedRow,
    ServiceRow,
    SetTimer,
)
from pollen.core.ids import Hash, Nanos, PeerId
from pollen.core.placement.claims import Claims, State
from pollen.core.placement.lanes import Lane
from pollen.core.placement.roles import Role
from pollen.core.policy import STRANGER, Policy
from pollen.core.seeds import Seed
from pollen.core.trust import Certificate
from pollen.core.turn import Turn
from pollen.options import SeedOptions


def seed_row(
    key: Hash,
    roles: Mapping[Hash, Role],
    claims: Claims,
    wake: Sequence[PeerId],
    price_of: Callable[[PeerId], int],
    hosted: Seed | None,
) -> SeedRow | None:
    """The row of one seed, or None when there is none: it is live, it still serves while another
    takes over from it, or it is on this node (``hosted``).

    A name belongs to the seed that is to serve as soon as one host is ready, and until then to the
    one that it takes over from, while that has any. So one row has the name, whoever is ready.
    """
    role = roles.get(key)
    servers = servers_of(key, claims)
    if role is None or (role.heir != key and not servers):
        return None if hosted is None else _row("", hosted, _nearest(servers, price_of))
    if role.leads == key:
        is_named = bool(servers) or role.elder is None or not servers_of(role.elder, claims)
    else:
        is_elder = roles[role.leads].elder == key
        is_named = is_elder and bool(servers) and not servers_of(role.leads, claims)
    name = role.name if is_named else ""
    nearest, wake = _nearest(servers, price_of), () if servers else wake
    return _row(name, role.seed, nearest, wake, role.former if is_named else ())


def servers_of(seed: Hash, claims: Claims) -> list[PeerId]:
    """The hosts to call: those that are ready, else those that drain and serve until others do."""
    ready = claims.nodes_in(seed, State.READY)
    return ready or claims.nodes_in(seed, State.DRAINING)


def _nearest(servers: Sequence[PeerId], price_of: Callable[[PeerId], int]) -> list[PeerId]:
    """The nearest first as prices are when the row is made; the muscles order by the peer table."""
    return sorted(servers, key=lambda peer: (price_of(peer), peer))[: limits.ROW_REPLICAS]


def _row(
    name: str,
    seed: Seed,
    replicas: list[PeerId],
    wake: Sequence[PeerId] = (),
    former: Sequence[Hash] = (),
) -> SeedRow:
    spec = seed.spec
    return SeedRow(
        name=name,
        seed=seed.seed,
        publisher=seed.owner,
        content=spec.content,
        functions=spec.functions,
        replicas=replicas,
        wake=list(wake),
        options=_options_row(seed.options),
        policy=_policy_row(seed.allow_if),
        kind=seed.form,
        size=spec.size_bytes,
        manifest=sorted((role, Hash(content)) for role, content in spec.manifest.items()),
        former=list(former),
        host=[] if seed.is_blob else [(key, value) for key, value in spec.host],
        host_policy=None if seed.is_blob else _policy_row(seed.host_if),
    )


def _options_row(options: SeedOptions) -> SeedOptions:
    """The options as the muscles obey them. A seed whose pairs no stranger has is not public: the
    muscles ask for pairs of members only."""
    if options.public and not STRANGER.meets(tuple(options.allow), None):
        return msgspec.structs.replace(options, public=False)
    return options


def _policy_row(policy: Policy | None) -> PolicyRow | None:
    """What the muscles evaluate at each call or fetch; None lets everybody pass."""
    if policy is None:
        return None
    passes = policy.passes(STRANGER)
    return PolicyRow(tree=policy.packed, seed=policy.words, lets_strangers=passes)


def peer_row(
    peer: PeerId, certificate: Certificate, name: str, price_us: int, hops: list[PeerId]
) -> PeerRow:
    """The row of one live member, this node included."""
    party = certificate.party
    return PeerRow(
        peer=peer,
        name=name,
        words=party.words,
        properties=party.properties,
        price_us=price_us,
        hops=hops,
    )


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
        self.seeds: Lane[Hash, SeedRow] = Lane(_meaning_moved)
        self.peers: Lane[PeerId, PeerRow] = Lane(_is_other_peer)
        self.services: Lane[Hash, ServiceRow] = Lane(_providers_moved)
        self.served: Lane[Hash, ServedRow] = Lane(_always)
        self._lanes: dict[str, Lane[Any, Any]] = {
            SEEDS: self.seeds,
            PEERS: self.peers,
            SERVICES: self.services,
            SERVED: self.served,
        }
        self._is_waiting = False
        self.pushed_at = Nanos(0)

    def forget(self) -> None:
        """The muscles hold something else: the next push is whole."""
        self._is_held = False

    def push(self, turn: Turn, *, is_urgent: bool) -> None:
        """Tell the muscles what changed: at once when urgent or overdue, else by a timer soon."""
        now = turn.now.mono
        delta = self._delta()
        is_renewal = self._generation == 0 or now >= self.pushed_at + limits.TABLE_RENEW_NS
        if delta is None and not is_renewal:
            return
        is_urgent = is_urgent or any(lane.is_urgent for lane in self._lanes.values())
        is_urgent = delta is not None and (is_urgent or delta.base == 0)
        if not (is_urgent or is_renewal or now >= self.pushed_at + limits.TABLE_PUSH_NS):
            if not self._is_waiting:
                self._is_waiting = True
                at = Nanos(self.pushed_at + limits.TABLE_PUSH_NS)
                turn.do(SetTimer(token=timers.token_for(timers.TABLES), at=at))
            return
        push = delta if delta is not None else self._push(self._generation, {})
        self._generation, self._is_held = push.generation, True
        self._settle()
        self.pushed_at, self._is_waiting = now, False
        renew = timers.token_for(timers.RENEW)
        turn.do(push, SetTimer(token=renew, at=Nanos(now + limits.TABLE_RENEW_NS)))

    def _delta(self) -> PushTables | None:
        if not self._is_held:
            return self._push(0, {name: lane.whole() for name, lane in self._lanes.items()})
        deltas = {name: lane.delta() for name, lane in self._lanes.items()}
        deltas = {name: delta for name, delta in deltas.items() if not delta.is_empty}
        if not deltas:
            # Whatever changed changed back before it was told.
            self._settle()
            return None
        return self._push(self._generation, deltas)

    def _settle(self) -> None:
        for lane in self._lanes.values():
            lane.settle()

    def _push(self, base: int, lanes: dict[str, LaneRows]) -> PushTables:
        return PushTables(
            generation=self._generation + 1,
            base=base,
            lanes=lanes,
            lease_ms=limits.TABLE_LEASE_MS,
        )


def _is_other_peer(row: PeerRow, held: PeerRow) -> bool:
    """What gates read of a member, and the members by whom it is reached."""
    before = held.properties, held.words, held.hops
    return (row.properties, row.words, row.hops) != before


def _providers_moved(row: ServiceRow, held: ServiceRow) -> bool:
    """Who serves a name; the order among them follows prices and may wait."""
    return set(row.providers) != set(held.providers) or row.datagrams != held.datagrams


def _always(row: ServedRow, held: ServedRow) -> bool:
    """Where a service is and whom it lets in: whoever may no more is cut at once."""
    return True


def _meaning_moved(row: SeedRow, held: SeedRow) -> bool:
    """What a name leads to, who may call it, or whether a replica that was checked is open."""
    options, before = row.options, held.options
    if options.check and row.replicas != held.replicas:
        return True
    gate = (row.name, options.allow, options.public)
    return gate != (held.name, before.allow, before.public)
