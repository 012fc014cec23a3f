"""What hosts say about seeds: the claim, its life, and the claims that count.

Decides: how a claim changes state, which claims count, what they mean for the plan, and when a
    version is halted.
Does not know: why a cue came (``hosting``), links, tables.
Invariants: ``step`` is total. A claim counts only in the epoch in which its owner is live: what a
    dead run said is void. ``halted`` is a function of the counted claims.
Source: docs/design/protocol.md#placement.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterable

import msgspec

from pollen.core import limits
from pollen.core.codec import U8, U32, U64, Rejection, WirePeerId, decode
from pollen.core.ids import Hash, Nanos, PeerId
from pollen.core.placement.plan import Standing
from pollen.core.records import Record


class State(enum.IntEnum):
    """What a host says about one seed. ``ABSENT`` is to say nothing and is never on the wire."""

    LOADING = 0
    READY = 1
    DRAINING = 2
    REFUSED = 3
    ABSENT = 4

    @property
    def label(self) -> str:
        """The word that users read."""
        return self.name.lower()


class Cue(enum.Enum):
    """What can happen to a claim."""

    WANT = "want"  # the plan ranks this node, and its turn has come
    SPARE = "spare"  # the plan does not, and others are enough
    DROP = "drop"  # nobody needs the seed any more, or this node may not host it
    LOADED = "loaded"
    WOKEN = "woken"  # the muscles loaded it for a call that asked for that
    CHECK = "check"  # the muscles hold it, and its check begins
    UNFIT = "unfit"  # its check failed
    UNFETCHED = "unfetched"  # the content was out of reach: try again soon
    REFUSE = "refuse"  # this node cannot, or the version fails here
    LATE = "late"  # the deadline of loading passed
    AGAIN = "again"  # the time of a retry has come, or a refusal has run out
    RELEASE = "release"  # ready ones have witnessed the drain


class Act(enum.Enum):
    """What the muscles must do about it."""

    NONE = "none"
    LOAD = "load"
    UNLOAD = "unload"


_S, _N, _L, _U = State, Act.NONE, Act.LOAD, Act.UNLOAD

# The whole life of a claim: a cue that stands in no row changes nothing.
_STEPS: dict[tuple[State, Cue], tuple[State, Act]] = {
    (_S.ABSENT, Cue.WANT): (_S.LOADING, _L),
    (_S.ABSENT, Cue.REFUSE): (_S.REFUSED, _N),
    (_S.ABSENT, Cue.LOADED): (_S.ABSENT, _U),
    (_S.ABSENT, Cue.WOKEN): (_S.READY, _N),
    (_S.LOADING, Cue.WOKEN): (_S.READY, _N),
    (_S.ABSENT, Cue.CHECK): (_S.LOADING, _N),
    (_S.LOADING, Cue.UNFIT): (_S.REFUSED, _U),
    (_S.LOADING, Cue.SPARE): (_S.ABSENT, _U),
    (_S.LOADING, Cue.DROP): (_S.ABSENT, _U),
    (_S.LOADING, Cue.LOADED): (_S.READY, _N),
    (_S.LOADING, Cue.REFUSE): (_S.REFUSED, _N),
    (_S.LOADING, Cue.LATE): (_S.REFUSED, _U),
    (_S.LOADING, Cue.AGAIN): (_S.LOADING, _L),
    (_S.READY, Cue.SPARE): (_S.DRAINING, _N),
    (_S.READY, Cue.DROP): (_S.ABSENT, _U),
    (_S.READY, Cue.REFUSE): (_S.REFUSED, _U),
    (_S.DRAINING, Cue.WANT): (_S.READY, _N),
    (_S.DRAINING, Cue.DROP): (_S.ABSENT, _U),
    (_S.DRAINING, Cue.REFUSE): (_S.REFUSED, _U),
    (_S.DRAINING, Cue.RELEASE): (_S.ABSENT, _U),
    (_S.REFUSED, Cue.DROP): (_S.ABSENT, _N),
    (_S.REFUSED, Cue.AGAIN): (_S.ABSENT, _N),
    (_S.REFUSED, Cue.LOADED): (_S.REFUSED, _U),
    (_S.REFUSED, Cue.WOKEN): (_S.REFUSED, _U),
    (_S.REFUSED, Cue.CHECK): (_S.REFUSED, _U),
}


def step(state: State, cue: Cue) -> tuple[State, Act]:
    """The state after a cue, and what the muscles must do. Defined for every pair."""
    return _STEPS.get((state, cue), (state, Act.NONE))


class Claim(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """The payload of a claim record; its key is the seed's hash. Positional, only appended.

    ``until``: unix ns, the deadline of ``loading`` and the end of ``refused``; of a ``ready`` blob
    the end of an absence that its host announces. ``is_fault``: the
    refusal speaks of the version, not of this node. ``drain``: numbers the drains of this run.
    ``witnessed``: (host, its ``drain``) of the drains that this host saw while it was ready.
    ``has_served``: a call of a version on trial ended well here. ``is_beside``: the plan does not
    rank this node, which serves until others do (``firsts``).
    """

    state: U8
    reason: str = ""
    until: U64 = 0
    is_fault: bool = False
    drain: U32 = 0
    witnessed: list[tuple[WirePeerId, U32]] = []
    has_served: bool = False
    is_beside: bool = False

    @property
    def is_announced(self) -> bool:
        """Whether its host leaves, with a copy of a blob on its disk."""
        return self.state == State.READY and self.until > 0

    def is_away(self, wall: Nanos) -> bool:
        """Whether its host is awaited now; one that would be for longer than it may is not."""
        longest = limits.REPAIR_DELAY_NS + limits.CLOCK_TOLERANCE_NS
        return self.is_announced and 0 < self.until - wall <= longest


class Host(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One counted claim."""

    node: PeerId
    state: State
    claim: Claim

    @property
    def reason(self) -> str:
        """Why it refuses, or why it still loads."""
        return self.claim.reason

    def has_witnessed(self, node: PeerId, drain: int) -> bool:
        """True when this host was ready after that drain of ``node`` had begun."""
        return self.state is State.READY and (node, drain) in self.claim.witnessed

    def standing(self, wall: Nanos) -> Standing | None:
        """What the claim means for the ranking; overdue loading is judged by the wall clock."""
        if self.state is State.REFUSED:
            return Standing.SKIPPED
        if self.state is State.LOADING and wall >= self.claim.until + limits.OVERDUE_GRACE_NS:
            return Standing.SKIPPED
        if self.claim.is_away(wall):
            return Standing.AWAY
        is_passing = self.state is State.DRAINING or self.claim.is_beside
        return None if is_passing else Standing.INCUMBENT


@functools.lru_cache(limits.DECODED_REMEMBERED)
def decode_claim(payload: bytes) -> Claim | Rejection:
    """A claim; an unknown state is malformed."""
    claim = decode(Claim, payload, "claim")
    if isinstance(claim, Claim) and claim.state > State.REFUSED:
        return Rejection("claim-state", str(claim.state))
    return claim


def is_halted(hosts: Iterable[Host]) -> bool:
    """Whether a version must not go on: refused for its own fault on 2 nodes, or on 25 % of those
    that tried (docs/design/protocol.md#placement). A node that lacks room says nothing about the
    version, and one that served with it acquits it: a caller can make any version fail.
    """
    tried = faults = 0
    for host in hosts:
        if host.claim.has_served and host.state in (State.READY, State.DRAINING):
            return False
        is_fault = host.state is State.REFUSED and host.claim.is_fault
        faults += is_fault
        tried += is_fault or host.state in (State.READY, State.DRAINING)
    return faults >= limits.HALT_FAULTS or faults * 10_000 >= limits.HALT_SHARE_BP * max(tried, 1)


def is_homeless(hosts: Iterable[Host]) -> bool:
    """Whether a version is refused where it was tried, and serves nowhere."""
    states = {host.state for host in hosts}
    return State.REFUSED in states and not states & {State.READY, State.DRAINING}


class _Said(msgspec.Struct, frozen=True, gc=False):
    """A claim as its record says, whether or not it counts."""

    epoch: int
    claim: Claim


class Claims:
    """All claims by seed and by owner, and those that count."""

    def __init__(self) -> None:
        self._said: dict[PeerId, dict[Hash, _Said]] = {}
        self._live: dict[PeerId, int] = {}
        self._counted: dict[Hash, dict[PeerId, Host]] = {}
        # What hosts announced before they left, beyond their run and until they say anything else.
        self._announced: dict[Hash, dict[PeerId, Claim]] = {}
        # The pairs whose counted claim changed and was not looked at: their reader takes them out.
        self.changed: dict[tuple[Hash, PeerId], None] = {}

    def apply(self, record: Record) -> Rejection | None:
        """A claim record changed."""
        owner, seed = record.body.owner, Hash(record.body.key)
        claim = decode_claim(record.body.payload) if record.is_live else None
        if record.is_opaque or len(seed) != limits.HASH_BYTES:
            return None
        said = self._said.setdefault(owner, {})
        if isinstance(claim, Claim):
            said[seed] = _Said(record.body.epoch, claim)
        else:
            said.pop(seed, None)
        self._note_announced(seed, owner, claim if isinstance(claim, Claim) else None)
        self._count(seed, owner)
        return claim if isinstance(claim, Rejection) else None

    def _note_announced(self, seed: Hash, owner: PeerId, claim: Claim | None) -> None:
        held = self._announced.get(seed, {})
        if claim is not None and claim.is_announced:
            held[owner] = claim
            self._announced[seed] = held
        elif held.pop(owner, None) is None:
            return
        elif not held:
            del self._announced[seed]
        self.changed[seed, owner] = None

    def end_run(self, record: Record) -> None:
        """The run that said this is over: it counts no more, but that its host is awaited."""
        owner, seed = record.body.owner, Hash(record.body.key)
        if self._said.get(owner, {}).pop(seed, None) is not None:
            self._count(seed, owner)

    def look_again(self, peer: PeerId) -> None:
        """It is a member no more, or again: what it announced counts otherwise."""
        for seed, held in self._announced.items():
            if peer in held:
                self.changed[seed, peer] = None

    def set_live(self, peer: PeerId, epoch: int | None) -> None:
        """A peer is live in this epoch, or not live."""
        if self._live.get(peer) == epoch:
            return
        if epoch is None:
            del self._live[peer]
        else:
            self._live[peer] = epoch
        for seed in self._said.get(peer, ()):
            self._count(seed, peer)

    def _count(self, seed: Hash, owner: PeerId) -> None:
        said = self._said.get(owner, {}).get(seed)
        hosts = self._counted.setdefault(seed, {})
        held = hosts.pop(owner, None)
        host = None
        if said is not None and self._live.get(owner) == said.epoch:
            host = Host(node=owner, state=State(said.claim.state), claim=said.claim)
            hosts[owner] = host
        if not hosts:
            del self._counted[seed]
        if host != held:
            self.changed[seed, owner] = None

    # -- views ----------------------------------------------------------------------------------

    def host(self, seed: Hash, node: PeerId) -> Host | None:
        """The counted claim of one node on one seed."""
        return self._counted.get(seed, {}).get(node)

    def standing(self, seed: Hash, node: PeerId, wall: Nanos) -> Standing | None:
        """What the claim of a node means for the ranking, also when it has left."""
        host = self.host(seed, node)
        if host is not None:
            return host.standing(wall)
        claim = self._announced.get(seed, {}).get(node)
        return Standing.AWAY if claim is not None and claim.is_away(wall) else None

    def changes_at(self, seed: Hash, node: PeerId) -> int | None:
        """The wall time at which that changes by itself, if it does."""
        host, claim = self.host(seed, node), self._announced.get(seed, {}).get(node)
        if host is not None and host.state is State.LOADING:
            return host.claim.until + limits.OVERDUE_GRACE_NS
        return None if claim is None else claim.until

    def nodes_of(self, seed: Hash) -> list[PeerId]:
        """The nodes with a counted claim on a seed, and those that are awaited with it, by id."""
        return sorted({*self._counted.get(seed, {}), *self._announced.get(seed, {})})

    def hosts(self, seed: Hash) -> list[Host]:
        """The counted claims on a seed, by node."""
        held = self._counted.get(seed)
        return [] if held is None else [held[node] for node in sorted(held)]

    def nodes_in(self, seed: Hash, *states: State) -> list[PeerId]:
        """The nodes whose counted claim on a seed is in one of these states, by id."""
        held = self._counted.get(seed, {})
        return sorted(node for node, host in held.items() if host.state in states)

    def count(self, node: PeerId, state: State) -> int:
        """How many counted claims of a node are in a state."""
        epoch = self._live.get(node)
        said = self._said.get(node, {}).values()
        return sum(s.epoch == epoch and s.claim.state == state for s in said)
