"""Next hops: from what members say of who is near them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollen.core.ids import PeerId
from pollen.core.paths.routes import BETWEEN_MAX, HOPS_MAX, Atlas


def peer(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


OWN, A, B, C, D, E = (peer(n) for n in range(6))


def atlas(*live: PeerId, unwilling: tuple[PeerId, ...] = ()) -> Atlas:
    made = Atlas(OWN, lambda each: each not in unwilling)
    made.note_live([OWN, *live])
    return made


def test_a_member_that_said_nothing_is_between_where_the_other_names_it() -> None:
    """One public member, two homes."""
    held = atlas(A, B)
    held.note_said(B, [A])
    assert held.hops(B, {A: 300}) == [A]


def test_who_is_hard_itself_reaches_the_others_by_who_is_near_it() -> None:
    """B said nothing: whoever said nothing reaches it."""
    held = atlas(A, B)
    held.note_said(OWN, [A])
    assert held.hops(B, {A: 300}) == [A]


def test_a_chain_is_found() -> None:
    """A reaches D only through two others, one after the other."""
    held = atlas(A, B, D)
    held.note_said(OWN, [A])
    held.note_said(A, [OWN, B])
    held.note_said(B, [A, D])
    held.note_said(D, [B])
    assert held.hops(D, {A: 300}) == [A]


def test_a_chain_of_more_than_three_between_is_none() -> None:
    """The packets' ttl ends it."""
    row = [OWN, *(peer(n) for n in range(10, 16))]
    for length, found in ((BETWEEN_MAX + 1, [row[1]]), (BETWEEN_MAX + 2, [])):
        held = atlas(*row[1:])
        for number, each in enumerate(row):
            held.note_said(each, row[max(0, number - 1) : number] + row[number + 1 : number + 2])
        assert held.hops(row[length], {row[1]: 300}) == found


@pytest.mark.parametrize("why", ["dead", "unwilling"])
def test_only_the_living_and_willing_stand_between(why: str) -> None:
    """Whoever does not relay, or is gone, is passed over."""
    held = atlas(B, C) if why == "dead" else atlas(A, B, C, unwilling=(A,))
    held.note_said(B, [A, C])
    assert held.hops(B, {A: 1, C: 90_000}) == [C]


def test_what_the_other_end_says_goes_before_rumour() -> None:
    """A member that claims to be near somebody attracts nothing while that one names others."""
    held = atlas(A, B, C)
    held.note_said(B, [C])
    held.note_said(A, [B])
    assert held.hops(B, {A: 1, C: 90_000}) == [C, A]


def test_the_nearer_level_goes_first_then_the_nearer_member() -> None:
    """Round trips within a power of two are alike."""
    held = atlas(A, B, C, D, E)
    held.note_said(B, [C, D])
    held.note_said(E, [C])
    assert held.hops(B, {C: 80_000, D: 900, E: 100}) == [D, C, E]


def test_a_round_trip_about_a_border_turns_no_order_round() -> None:
    """It leaves its class when it is a quarter beyond."""
    held = atlas(A, B, C)
    held.note_said(C, [A, B])
    first = held.hops(C, {A: 2_000, B: 2_000})
    near, far = first
    assert held.hops(C, {near: 2_500, far: 2_000}) == first
    assert held.hops(C, {near: 2_700, far: 2_000}) == [far, near]
    assert held.hops(C, {near: 1_600, far: 2_000}) == [far, near]
    assert held.hops(C, {near: 1_500, far: 2_000}) == first


def test_both_ends_prefer_the_same_member_and_pairs_spread() -> None:
    """Rendezvous hashing: no pair is told, and no member carries all."""
    between = [peer(n) for n in range(100, 104)]
    counts = dict.fromkeys(between, 0)
    direct = dict.fromkeys(between, 500)
    for number in range(10, 90):
        here, there = Atlas(OWN, lambda _: True), Atlas(peer(number), lambda _: True)
        for held in (here, there):
            held.note_live([OWN, peer(number), *between])
            held.note_said(OWN, between)
            held.note_said(peer(number), between)
        first = here.hops(peer(number), direct)[0]
        assert first == there.hops(OWN, direct)[0]
        counts[first] += 1
    assert min(counts.values()) >= 10


def test_what_is_taken_back_is_forgotten() -> None:
    """A member that all reach again has no hops by what it said before."""
    held = atlas(A, B)
    held.note_said(B, [A])
    held.note_said(B, None)
    assert not held.is_hard(B)
    assert held.hard() == []


SMALL = st.integers(1, 7)


@given(
    said=st.dictionaries(SMALL, st.lists(SMALL, max_size=5), max_size=7),
    near=st.dictionaries(SMALL, st.integers(0, 200_000), max_size=6),
    live=st.sets(SMALL),
)
def test_hops_are_near_live_few_and_never_an_end(
    said: dict[int, list[int]], near: dict[int, int], live: set[int]
) -> None:
    """Whatever members say."""
    held = atlas(*(peer(n) for n in live))
    for number, neighbours in said.items():
        held.note_said(peer(number), [peer(n) for n in neighbours])
    direct = {peer(n): rtt for n, rtt in near.items()}
    for number in range(1, 8):
        hops = held.hops(peer(number), direct)
        assert len(hops) == len(set(hops)) <= HOPS_MAX
        assert all(h in direct and h != peer(number) and h[0] in live for h in hops)
