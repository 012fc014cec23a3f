"""Where others see this node, and what a lying member can do about it."""

from __future__ import annotations

import pytest

from pollen.core.codec import Rejection, encode
from pollen.core.ids import Nanos, PeerId
from pollen.core.paths import Nat
from pollen.core.paths.near import NEIGHBOURS_MAX, NearRecord, choose_neighbours, decode_near
from pollen.core.paths.seen import ADDRESSES_MAX, KEEP_NS, Sightings

OWN = ["192.168.1.7:60611"]
HERE, THERE = "203.0.113.9:60611", "198.51.100.4:7"


def peer(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


def sightings(*addresses: str) -> Sightings:
    held = Sightings()
    for number, address in enumerate(addresses):
        assert held.note(peer(number), address, OWN)
    return held


def test_what_two_say_goes_before_what_one_says() -> None:
    """A member that lies alone aims nobody anywhere."""
    assert sightings(HERE, THERE, HERE).addresses() == [HERE]


def test_what_one_says_counts_while_there_is_nothing_better() -> None:
    """One public member is enough for two homes."""
    assert sightings(THERE).addresses() == [THERE]
    assert sightings(HERE, THERE).addresses() == sorted([HERE, THERE])


def test_no_more_than_four_count() -> None:
    """Members that lie together aim one attempt at four places."""
    many = [f"203.0.113.{n}:1" for n in range(30)]
    assert len(sightings(*many).addresses()) == ADDRESSES_MAX


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ([], Nat.NONE),
        ([HERE], Nat.BEHIND),
        ([HERE, HERE], Nat.SAME),
        ([HERE, HERE, THERE], Nat.SAME),
        ([HERE, THERE], Nat.OTHER),
    ],
)
def test_the_kind_of_nat_follows_from_what_they_say(said: list[str], kind: Nat) -> None:
    """RFC 4787, 4.1."""
    assert sightings(*said).nat(linked=2) is kind


def test_nothing_is_known_without_a_link() -> None:
    assert Sightings().nat(linked=0) is Nat.UNKNOWN


def test_an_address_that_is_known_already_takes_the_sighting_back() -> None:
    """The path moved into the same network."""
    held = sightings(HERE)
    assert held.note(peer(0), OWN[0], OWN)
    assert held.addresses() == []


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1:1", "[::1]:1", "169.254.1.1:1", "224.0.0.1:1", "0.0.0.0:1", "home:1", "", "1.2.3.4",
     "203.0.113.9:0", "[fe80::1]:1"],
)  # fmt: skip
def test_what_no_other_machine_has_is_not_believed(address: str) -> None:
    assert not Sightings().note(peer(1), address, OWN)


def test_what_a_member_said_outlives_its_link_by_two_minutes() -> None:
    """As a mapping does."""
    held = sightings(HERE)
    held.note_unlinked(peer(0), Nanos(5))
    held.forget_old(Nanos(KEEP_NS + 4))
    assert held.addresses() == [HERE]
    held.forget_old(Nanos(KEEP_NS + 5))
    assert held.addresses() == []


def test_a_neighbour_that_is_named_stays_and_the_nearest_fill_up() -> None:
    """So that the record changes seldom."""
    direct = {peer(n): n for n in range(1, 40)}
    named = [peer(39), peer(200)]
    chosen = choose_neighbours(direct, named)
    assert chosen == sorted([peer(39), *(peer(n) for n in range(1, NEIGHBOURS_MAX))])
    assert choose_neighbours(direct, chosen) == chosen


@pytest.mark.parametrize(
    "payload",
    [b"", b"\xc0", encode([[b"short"], 1]), encode([[peer(1), peer(1)], 1]),
     encode([[peer(n) for n in range(17)], 1])],
)  # fmt: skip
def test_a_record_of_another_form_is_refused(payload: bytes) -> None:
    assert isinstance(decode_near(payload), Rejection)


def test_a_kind_of_nat_that_is_not_known_says_nothing() -> None:
    """A newer node may tell more kinds apart."""
    said = decode_near(encode([[], 77, "more"]))
    assert isinstance(said, NearRecord)
    assert said.nat_kind is Nat.UNKNOWN
