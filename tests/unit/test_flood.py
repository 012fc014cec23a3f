"""Everything of a large cluster comes at once: it is taken in quickly, and no turn is long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import pytest

from pollen.core import limits
from pollen.core.codec import encode
from pollen.core.commands import Status, StatusCommand
from pollen.core.effects import Reply
from pollen.core.events import Commanded, PeerSample, SeedSample, Telemetry
from pollen.core.ids import SECOND, Nanos, Now, PeerId, RequestId
from pollen.core.kinds import NODE
from pollen.core.peers import Phase
from pollen.core.placement import planner
from tests.unit.flood import (
    EACH,
    WALL,
    Ring,
    Turns,
    framed,
    info_of,
    make_flood,
    make_node,
    make_writers,
    records_in,
)
from tests.unit.world import make_key, sign_with, verify

T = TypeVar("T")


def key(number: int) -> PeerId:
    return make_key(f"flood-{number}")


RING = Ring(key, lambda number, data: sign_with(key(number), data), verify)


def taken(members: int) -> Turns:
    turns = Turns(make_node(RING))
    turns.take(make_flood(RING, members))
    assert records_in(turns.node) == members * EACH
    assert len(turns.node._members.all_members()) == members + 1
    assert len(turns.node._situation.names) == members * 7
    return turns


def test_a_thousand_records_are_taken_in_slices() -> None:
    """The counter of units proves it, whatever the machine: at least so many turns."""
    turns = taken(20)
    work = turns.node._work
    assert work.largest_slice <= limits.WORK_SLICE_UNITS + 100
    assert work.slices >= 20 * EACH * 40 // limits.WORK_SLICE_UNITS


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_ten_thousand_records_merge_in_time_and_no_turn_takes_10_ms() -> None:
    """Without the signatures: tests/native adds those."""
    turns = taken(200)
    total, longest = sum(turns.seconds), max(turns.seconds)
    print(f"10,000 records: {total:.2f} s in {len(turns.seconds)} turns, {longest * 1e3:.1f} ms")
    assert total < 2
    assert longest < 0.010


def replanned(members: int) -> tuple[list[float], list[float]]:
    """A node that hears of so many members with a seed each, then that one left: its turns."""
    planner._remembered.clear()
    writers = make_writers(RING, members, 1, 0)
    turns = Turns(make_node(RING))
    turns.take(framed(writers))
    everything, turns.seconds = turns.seconds, []
    writers[5].say(NODE, b"", encode(info_of(writers[5].number, Phase.LEFT)))
    turns.take(framed(writers))
    situation = turns.node._situation
    assert (len(situation.live), len(situation.names)) == (members, members)
    assert turns.node._work.largest_slice <= limits.WORK_SLICE_UNITS + 100
    return everything, turns.seconds


def test_a_node_learns_of_a_hundred_members_with_a_seed_each() -> None:
    """A tenth of each; how much a turn plans is counted, not timed."""
    everything, after = replanned(100)
    assert (sum(everything) < 0.5, sum(after) < 0.02) == (True, True)


class Samples(list[T]):
    """A list that knows how often somebody went through it."""

    rounds = 0

    def __iter__(self) -> Iterator[T]:
        self.rounds += 1
        return super().__iter__()


def test_a_status_goes_through_the_counters_once() -> None:
    """Not once a node and once a seed, which takes 10 ms more with a thousand of each."""
    turns = Turns(make_node(RING))
    writers = make_writers(RING, 20, 1, 0)
    turns.take(framed(writers))
    seeds = Samples(
        SeedSample(held.holder.seed, 9, 2, 0, 0, 100, 5, 0)
        for held in turns.node._situation.names.values()
    )
    peers = Samples(PeerSample(writer.key, 300, 1, 1, True) for writer in writers)
    told = Telemetry(peers=peers, seeds=seeds, memory_bytes=0, events_dropped=0, control_stalls=0)
    now = Now(Nanos(SECOND), Nanos(WALL + SECOND))
    turns.node.handle(told, now)
    peers.rounds = seeds.rounds = 0
    out = turns.node.handle(Commanded(request=RequestId(1), command=StatusCommand()), now)
    (status,) = [e.result for e in out if isinstance(e, Reply)]
    assert isinstance(status, Status)
    assert (peers.rounds, seeds.rounds) == (1, 1)
    assert {view.calls for view in status.seeds} == {7}
    assert sorted(view.rtt_us for view in status.nodes) == [0] + [300] * 20


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_node_learns_of_a_thousand_members_and_plans_a_thousand_seeds() -> None:
    """In a whole node, tables included, no turn takes 10 ms."""
    everything, after = replanned(1_000)
    longest = max(*everything, *after)
    print(
        f"all {sum(everything):.2f} s, a change {sum(after) * 1e3:.1f} ms, {longest * 1e3:.1f} ms"
    )
    assert sum(everything) < 2
    assert sum(after) < 0.020
    assert longest < 0.010
