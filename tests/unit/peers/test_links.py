"""Which links ought to be: rings, near neighbours, links on demand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pollen.core import limits
from pollen.core.events import PeerSample
from pollen.core.ids import SECOND, Nanos, PeerId
from pollen.core.peers import links
from pollen.core.peers.links import Links, Rings, plan_near
from pollen.core.rng import Rng
from tests.unit.world import make_key

VECTORS = Path(__file__).parents[2] / "vectors"
CROWD = sorted(make_key(f"link-{i}") for i in range(300))
T0 = Nanos(100 * SECOND)


def rings_of(members: list[PeerId]) -> Rings:
    rings = Rings()
    for peer in members:
        rings.add(peer)
    return rings


def view_of(own: PeerId, members: list[PeerId]) -> Links:
    view = Links(own, Rng(1))
    view.note_live(members, [])
    return view


@pytest.mark.parametrize("size", [2, 5, 9, 65, 300])
def test_ring_neighbours_are_mutual_and_at_least_eight(size: int) -> None:
    """Without a word: both sides derive it from the same members."""
    rings = rings_of(CROWD[:size])
    views = {peer: rings.neighbours_of(peer) for peer in CROWD[:size]}
    for peer, view in views.items():
        assert len(view) >= min(limits.VIEW_MIN, size - 1)
        assert [other for other in view if peer not in views[other]] == []


def test_one_that_goes_moves_only_its_neighbours() -> None:
    """Churn is slow: the others keep their views."""
    rings = rings_of(CROWD)
    before = {peer: set(rings.neighbours_of(peer)) for peer in CROWD}
    rings.remove(CROWD[7])
    moved = [p for p in CROWD if p != CROWD[7] and set(rings.neighbours_of(p)) != before[p]]
    assert set(moved) == before[CROWD[7]]
    rings.add(CROWD[7])
    assert {peer: set(rings.neighbours_of(peer)) for peer in CROWD} == before


def test_the_rings_connect_everybody_within_a_few_hops() -> None:
    """The two rings of chance are shortcuts."""
    rings = rings_of(CROWD)
    reached, hops = {CROWD[0]}, 0
    while len(reached) < len(CROWD):
        reached |= {other for peer in reached for other in rings.neighbours_of(peer)}
        hops += 1
    assert hops <= 5


@pytest.mark.parametrize(
    ("members", "expected"), [(1, 0), (2, 1), (64, 63), (65, 18), (128, 18), (129, 20), (1000, 24)]
)
def test_the_size_of_a_view(members: int, expected: int) -> None:
    """All up to 64; then about 2 log2(n) and four."""
    assert expected == links.view_size(members)


def test_a_small_cluster_wants_everybody() -> None:
    """Known or not yet: None stands for all."""
    view = view_of(CROWD[0], CROWD[: limits.FULL_MESH])
    assert view.wanted() is None
    assert view.is_wanted(make_key("somebody"))
    assert view.tell([CROWD[1]]) == []


def test_the_64th_newcomer_turns_a_mesh_into_a_view() -> None:
    """And back, when members go."""
    view = view_of(CROWD[0], CROWD[: limits.FULL_MESH + 1])
    assert sorted(view.wanted() or []) == sorted(
        rings_of(CROWD[: limits.FULL_MESH + 1]).neighbours_of(CROWD[0])
    )
    view.note_live([], [CROWD[1]])
    assert view.wanted() is None


def near_of(view: Links, count: int) -> list[PeerId]:
    for round_ in range(count):
        linked = dict.fromkeys(view.wanted() or [])
        now = Nanos(T0 + round_ * limits.NEAR_LOOK_NS)
        view.choose_near(linked, CROWD.index, now)
    ring = rings_of(CROWD).neighbours_of(CROWD[0])
    return [peer for peer in view.wanted() or [] if peer not in ring]


def test_the_rest_of_a_view_is_near() -> None:
    """Drawn members compete; after some rounds the nearest are neighbours, a quarter by chance."""
    view = view_of(CROWD[0], CROWD)
    near = near_of(view, 40)
    size = links.view_size(len(CROWD))
    assert size == len(view.wanted() or [])
    assert (size - len(near)) * 4 >= size
    assert max(CROWD.index(peer) for peer in near) < 60


@pytest.mark.parametrize(
    ("near", "others", "room", "expected"),
    [
        ([], [5, 3, 9], 2, [3, 5]),
        ([4, 8], [7], 2, [4, 8]),
        ([4, 8], [5], 2, [4, 5]),
        ([4, 8], [1, 2], 1, [1]),
        ([4, 8], [1], 0, []),
        ([4], [], 3, [4]),
    ],
)
def test_near_neighbours_move_one_at_a_time_and_only_for_a_quarter(
    near: list[int], others: list[int], room: int, expected: list[int]
) -> None:
    """Distance i + 1 stands for the id i here."""

    def ids(numbers: list[int]) -> list[PeerId]:
        return [CROWD[i] for i in numbers]

    planned = plan_near(ids(near), ids(others), room, lambda p: CROWD.index(p) + 1)
    assert ids(expected) == planned


def quiet(peer: PeerId, moved: int = 0) -> PeerSample:
    return PeerSample(peer, 1, moved, 0, True)


def outsider(view: Links) -> PeerId:
    return next(p for p in CROWD[1:] if not view.is_wanted(p))


def test_a_demanded_link_is_closed_after_a_minute_without_traffic() -> None:
    """And only then; traffic keeps it."""
    view = view_of(CROWD[0], CROWD)
    peer = outsider(view)
    assert view.on_wanted(peer, T0)
    assert not view.on_wanted(peer, T0)
    half, full = Nanos(T0 + limits.LINK_IDLE_NS // 2), Nanos(T0 + limits.LINK_IDLE_NS)
    assert view.on_telemetry([quiet(peer, 10 * limits.LINK_IDLE_BYTES)], half) == []
    assert view.on_telemetry([quiet(peer, 10 * limits.LINK_IDLE_BYTES)], full) == []
    later = Nanos(half + limits.LINK_IDLE_NS)
    assert view.on_telemetry([quiet(peer, 10 * limits.LINK_IDLE_BYTES)], later) == [peer]
    assert not view.is_wanted(peer)


def test_a_link_that_the_other_side_wants_stays() -> None:
    """Both keep it until neither needs it."""
    view = view_of(CROWD[0], CROWD)
    peer = outsider(view)
    late = Nanos(T0 + 2 * limits.LINK_IDLE_NS)
    view.on_keep(peer, True, T0)
    assert view.on_telemetry([quiet(peer)], late) == []
    view.on_keep(peer, False, late)
    assert view.on_telemetry([quiet(peer)], late) == [peer]


def test_each_wish_is_told_once_a_link() -> None:
    """Ring neighbours know without; a new link is told again."""
    view = view_of(CROWD[0], CROWD)
    peer, ring = outsider(view), (view.wanted() or [])[0]
    assert view.tell([peer, ring]) == []
    view.on_wanted(peer, T0)
    assert view.tell([peer, ring]) == [(peer, True)]
    assert view.tell([peer, ring]) == []
    view.on_closed(peer)
    assert view.tell([peer]) == [(peer, True)]


def test_a_node_is_no_peer_of_itself() -> None:
    """Whatever is asked of it."""
    view = view_of(CROWD[0], CROWD)
    assert not view.on_wanted(CROWD[0], T0)
    assert CROWD[0] not in (view.wanted() or [])


def test_the_close_codes_are_those_of_the_muscles() -> None:
    """Each is one number on both sides, and none is missing from the file."""
    shared = json.loads((VECTORS / "close.json").read_text())
    assert {n: v for n, v in vars(limits).items() if n.startswith("CLOSE_")} == shared
