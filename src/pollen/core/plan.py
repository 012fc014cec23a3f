"""Where seeds run: in this first form every member that may hosts every live seed.

Decides: what this node loads and unloads, from whom it fetches, what it claims, and which hosts of
    a seed count.
Does not know: links and clocks beyond its arguments, the muscles, other nodes' reasons.
Invariants: the seed that a name's new one replaced stays loaded until the new one is ready here.
    A claim counts only in the epoch of its owner's node record: what a dead run said is void.
    A refusal is claimed with its reason and tried again after a while, never in a loop.
Source: PROTOCOL 5 (claims). The Brain issue replaces "every member" by the ranked plan.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence

import msgspec

from pollen.core import limits, timers
from pollen.core.codec import U8, Rejection, decode, encode
from pollen.core.effects import Effect, LoadSeed, SetTimer, UnloadSeed
from pollen.core.events import LoadFinished
from pollen.core.ids import Hash, Nanos, PeerId
from pollen.core.names import Holding
from pollen.core.records import Record
from pollen.core.routing import match_gate
from pollen.core.specs import Seed

# Slugs of a load that speak of the way to the content, not of this host: try again soon.
_FETCH_SLUGS = frozenset({"unreachable", "blob-not-found", "overloaded", "deadline"})


class State(enum.IntEnum):
    """What a host says about one seed."""

    LOADING = 0
    READY = 1
    DRAINING = 2
    REFUSED = 3

    @property
    def label(self) -> str:
        """The word that users read."""
        return self.name.lower()


class Claim(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a claim record; its key is the seed's hash."""

    state: U8
    reason: str = ""


class Host(msgspec.Struct, frozen=True, kw_only=True):
    """One counted claim."""

    node: PeerId
    state: State
    reason: str


class Hosted(msgspec.Struct, kw_only=True):
    """One seed on this node."""

    seed: Seed
    state: State = State.LOADING
    reason: str = ""
    attempts: int = 0
    retry_at: Nanos = Nanos(0)
    in_flight: bool = False
    asked: list[PeerId] = []


def decode_claim(payload: bytes) -> Claim | Rejection:
    """A claim; an unknown state is malformed."""
    claim = decode(Claim, payload, "claim")
    if isinstance(claim, Claim) and claim.state > State.REFUSED:
        return Rejection("claim-state", str(claim.state))
    return claim


def hosts_view(claims: Sequence[Record], epochs: Mapping[PeerId, int]) -> dict[Hash, list[Host]]:
    """The claims that count, by seed: those made in their owner's epoch in ``epochs``.

    ``epochs`` holds the live members only: a peer without a link has no say about hosting.
    """
    found: dict[Hash, list[Host]] = {}
    for record in claims:
        if epochs.get(record.body.owner) != record.body.epoch:
            continue
        claim = decode_claim(record.body.payload)
        if isinstance(claim, Claim):
            host = Host(node=record.body.owner, state=State(claim.state), reason=claim.reason)
            found.setdefault(Hash(record.body.key), []).append(host)
    return found


def plan_hosting(
    names: Mapping[str, Holding], hosted: Mapping[Hash, State], properties: str = "{}"
) -> tuple[list[Seed], list[Hash]]:
    """What to load and what to unload so that every live seed that we may host is hosted here.

    ``properties`` are this node's own, which the seed's host gate asks for. A replaced seed that
    is already here stays until its successor is ready.
    """
    wanted: dict[Hash, Seed] = {}
    for holding in names.values():
        if not holding.is_live or not may_host(holding.seed, properties):
            continue
        wanted[holding.seed.seed] = holding.seed
        previous = holding.seed.previous
        is_new_ready = hosted.get(holding.seed.seed) == State.READY
        if previous is not None and previous.seed in hosted and not is_new_ready:
            wanted[previous.seed] = previous
    load = [seed for key, seed in wanted.items() if key not in hosted]
    return load, sorted(key for key in hosted if key not in wanted)


def may_host(seed: Seed, properties: str) -> bool:
    """Whether a node with these properties passes the seed's host gate."""
    return match_gate(seed.spec.host, properties)


def plan_holders(seed: Seed, hosts: Sequence[Host], linked: Sequence[PeerId]) -> list[PeerId]:
    """Whom to ask for the content: the publisher first, then the ready hosts by id."""
    ready = [h.node for h in hosts if h.state in (State.READY, State.DRAINING)]
    wish = [seed.owner, *sorted(ready)]
    return [peer for peer in dict.fromkeys(wish) if peer in linked]


def load_wait(attempts: int) -> int:
    """Nanoseconds before a failed fetch is tried again: doubled each time up to the cap."""
    return int(min(limits.LOAD_RETRY_FIRST_NS << min(attempts, 16), limits.LOAD_RETRY_MAX_NS))


class Hosting:
    """The seeds on this node, from wanted to ready."""

    def __init__(self, properties: str = "{}") -> None:
        self._properties = properties
        self._hosted: dict[Hash, Hosted] = {}
        self._is_draining = False

    def converge(
        self,
        names: Mapping[str, Holding],
        hosts: Mapping[Hash, Sequence[Host]],
        linked: Sequence[PeerId],
        now: Nanos,
    ) -> list[Effect]:
        """Move towards the plan: unload what fell out, load what is missing or due."""
        out: list[Effect] = []
        states = {key: entry.state for key, entry in self._hosted.items()}
        load, unload = plan_hosting(names, states, self._properties)
        for key in unload:
            del self._hosted[key]
            out.append(UnloadSeed(seed=key))
        if self._is_draining:
            return out
        for seed in load:
            self._hosted[seed.seed] = Hosted(seed=seed)
        for key, entry in self._hosted.items():
            holders = plan_holders(entry.seed, hosts.get(key, ()), linked)
            if self._is_due(entry, holders, now):
                entry.in_flight, entry.asked, entry.state = True, holders, State.LOADING
                out.append(LoadSeed(seed=key, holders=holders))
        return out

    def _is_due(self, entry: Hosted, holders: Sequence[PeerId], now: Nanos) -> bool:
        """Not while one is under way; at once for a new holder, else when the wait is over."""
        if entry.in_flight or entry.state in (State.READY, State.DRAINING):
            return False
        has_new_holder = any(peer not in entry.asked for peer in holders)
        return now >= entry.retry_at or (entry.state is State.LOADING and has_new_holder)

    def on_load_finished(self, event: LoadFinished, now: Nanos) -> list[Effect]:
        """Ready, or wait and try again: soon when the content was out of reach, else later."""
        entry = self._hosted.get(event.seed)
        if entry is None:
            return [] if event.slug else [UnloadSeed(seed=event.seed)]
        entry.in_flight = False
        if not event.slug:
            entry.state = State.DRAINING if self._is_draining else State.READY
            entry.reason, entry.attempts = "", 0
            return []
        entry.reason = f"{event.slug}: {event.reason}"[:200]
        if event.slug in _FETCH_SLUGS:
            entry.state, wait = State.LOADING, load_wait(entry.attempts)
        else:
            entry.state, wait = State.REFUSED, limits.REFUSED_NS
        entry.attempts += 1
        entry.retry_at = Nanos(now + wait)
        return [SetTimer(token=timers.token_for(timers.LOAD, event.seed), at=entry.retry_at)]

    def drain(self) -> int:
        """Stop being chosen: every ready seed drains. Returns how many."""
        self._is_draining = True
        count = 0
        for entry in self._hosted.values():
            if entry.state is State.READY:
                entry.state = State.DRAINING
                count += 1
        return count

    def claims_view(self) -> dict[Hash, bytes]:
        """The payload of the claim that each hosted seed deserves now."""
        return {
            key: encode(Claim(int(entry.state), entry.reason))
            for key, entry in self._hosted.items()
        }

    def seeds_view(self) -> list[Seed]:
        """The seeds that the muscles must have a row for, whatever the names say."""
        return [entry.seed for entry in self._hosted.values()]
