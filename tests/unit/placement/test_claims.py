"""The life of a claim, which claims count, and when a version is halted."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from pollen.core import limits
from pollen.core.codec import Rejection, encode
from pollen.core.ids import Hash, Nanos, PeerId
from pollen.core.placement import Host, Standing, State, claims
from pollen.core.placement.claims import Act, Claim, Claims, Cue, is_halted, is_homeless, step
from pollen.core.records import Record
from tests.strategies import make_record
from tests.unit.names.test_named import A, B, C

SEED = Hash(b"\5" * 32)
READY = Claim(int(State.READY))


def record(owner: PeerId, claim: Claim | None, epoch: int = 1, seq: int = 1) -> Record:
    payload = b"" if claim is None else encode(claim)
    return make_record(owner, "claim", SEED, epoch, seq, claim is None, payload)


def host(node: PeerId, state: State, is_fault: bool = False, until: int = 0) -> Host:
    return Host(node=node, state=state, claim=Claim(int(state), "", until, is_fault))


@pytest.mark.parametrize(("state", "cue"), list(itertools.product(State, Cue)))
def test_every_state_takes_every_cue(state: State, cue: Cue) -> None:
    """Total; whoever stops serving unloads, whoever begins to load says so."""
    after, act = step(state, cue)
    serving, unloaded = (State.READY, State.DRAINING), (State.ABSENT, State.REFUSED)
    if state in serving and after in unloaded:
        assert act is Act.UNLOAD
    if act is Act.LOAD:
        assert after is State.LOADING
    if state not in serving and after in serving:
        assert cue in (Cue.LOADED, Cue.WOKEN)
    if state is State.DRAINING and after is State.ABSENT:
        assert cue in (Cue.RELEASE, Cue.DROP)
    assert (state is State.READY and after is State.ABSENT) <= (cue is Cue.DROP)


def test_a_claim_of_another_epoch_does_not_count() -> None:
    """What a dead run said is void, and counts when its owner is live in its epoch."""
    held = Claims()
    held.apply(record(A, READY, epoch=2))
    held.set_live(A, 3)
    assert held.hosts(SEED) == []
    held.set_live(A, 2)
    assert held.hosts(SEED) == [Host(node=A, state=State.READY, claim=READY)]
    held.set_live(A, None)
    assert held.hosts(SEED) == []


@pytest.mark.parametrize("payload", [b"", encode(Claim(9)), encode(Claim(4)), b"\xc1"])
def test_an_unreadable_claim_does_not_count(payload: bytes) -> None:
    """A newer state or garbage is no host; the state that is never on the wire neither."""
    held = Claims()
    held.set_live(A, 1)
    held.apply(record(A, READY))
    assert isinstance(held.apply(make_record(A, "claim", SEED, 1, 2, False, payload)), Rejection)
    assert held.hosts(SEED) == []


def test_a_buried_claim_is_gone_and_only_changes_are_told() -> None:
    """The reader of ``changed`` hears of a pair once, and only when what counts changed."""
    held = Claims()
    held.set_live(A, 1)
    held.apply(record(A, READY))
    held.apply(record(B, READY))
    assert list(held.changed) == [(SEED, A)]
    held.changed.clear()
    held.apply(record(A, READY, seq=2))
    assert list(held.changed) == []
    held.apply(record(A, None, seq=3))
    assert (list(held.changed), held.hosts(SEED)) == ([(SEED, A)], [])


def test_what_a_claim_means_for_the_ranking() -> None:
    """Loading counts until it is overdue, draining neither way, refused against."""
    late = Nanos(5 + limits.OVERDUE_GRACE_NS)
    states = [(state, host(A, state, until=5).standing(late)) for state in list(State)[:4]]
    assert states == [
        (State.LOADING, Standing.SKIPPED),
        (State.READY, Standing.INCUMBENT),
        (State.DRAINING, None),
        (State.REFUSED, Standing.SKIPPED),
    ]
    assert host(A, State.LOADING, until=5).standing(Nanos(late - 1)) is Standing.INCUMBENT


@pytest.mark.parametrize(
    ("faults", "ready", "halted"),
    [(0, 0, False), (0, 3, False), (1, 0, True), (1, 3, True), (1, 4, False), (2, 50, True)],
)
def test_a_version_is_halted_by_two_nodes_or_a_quarter(
    faults: int, ready: int, halted: bool
) -> None:
    """The share is one of those that tried."""
    hosts = [host(A, State.REFUSED, is_fault=True)] * faults + [host(B, State.READY)] * ready
    assert is_halted(hosts) is halted


@pytest.mark.parametrize(("state", "halted"), [(State.READY, False), (State.REFUSED, True)])
def test_a_host_that_served_acquits_a_version(state: State, halted: bool) -> None:
    """Any caller can make a version fail; nobody can make a bad one succeed."""
    served = msgspec.structs.replace(host(B, state), claim=Claim(state=int(state), has_served=True))
    assert is_halted([host(A, State.REFUSED, is_fault=True)] * 3 + [served]) is halted


def test_lack_of_room_halts_nothing() -> None:
    """It speaks of the node; the version may do well elsewhere."""
    assert not is_halted([host(A, State.REFUSED), host(B, State.REFUSED), host(C, State.READY)])


@pytest.mark.parametrize(
    ("states", "homeless"),
    [
        ([], False),
        ([State.LOADING], False),
        ([State.REFUSED], True),
        ([State.REFUSED, State.LOADING], True),
        ([State.REFUSED, State.READY], False),
        ([State.REFUSED, State.DRAINING], False),
    ],
)
def test_a_version_is_homeless_that_is_refused_and_serves_nowhere(
    states: list[State], homeless: bool
) -> None:
    """One that nobody tried yet may still find its place."""
    assert is_homeless([host(A, state) for state in states]) is homeless


def test_an_unknown_state_is_malformed() -> None:
    """Data, never an exception."""
    assert claims.decode_claim(encode(Claim(7))) == Rejection("claim-state", "7")
