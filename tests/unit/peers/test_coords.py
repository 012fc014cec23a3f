"""The map of round trips: it converges, it is told in integers, and lies move it little."""

from __future__ import annotations

import math

import pytest

from pollen.core import limits
from pollen.core.events import PeerSample
from pollen.core.ids import PeerId
from pollen.core.peers import coords
from pollen.core.peers.coords import Coordinate, Coords, read_coordinate
from pollen.core.rng import Rng

PLACES = [(0, 0), (30_000, 0), (0, 40_000), (30_000, 40_000), (15_000, 20_000), (60_000, 10_000)]
LAST_MILE = 1_000


def rtt_between(one: int, other: int) -> int:
    (ax, ay), (bx, by) = PLACES[one], PLACES[other]
    return int(math.dist((ax, ay), (bx, by))) + 2 * LAST_MILE


def peer(number: int) -> PeerId:
    return PeerId(bytes([number]) * 32)


def sample(number: int, rtt_us: int, direct: bool = True) -> PeerSample:
    return PeerSample(peer(number), rtt_us, 0, 0, direct)


def settled(rounds: int) -> list[Coords]:
    """A world of a few cities in which everybody measures everybody in turn."""
    rng = Rng(1)
    world = [Coords(rng) for _ in PLACES]
    for _ in range(rounds):
        for own, machine in enumerate(world):
            others = [n for n in range(len(PLACES)) if n != own]
            samples = [sample(n, rtt_between(own, n)) for n in others]
            machine.note(samples, lambda p: world[p[0]].coordinate().told())
    return world


def test_estimates_come_close_to_measured_round_trips() -> None:
    """Within a sixth on the mean, after some minutes of samples twice a second."""
    world = settled(400)
    pairs = [(i, j) for i in range(len(PLACES)) for j in range(i)]
    wrong = [
        abs((world[i].estimate(world[j].coordinate().told()) or 0) - rtt_between(i, j))
        / rtt_between(i, j)
        for i, j in pairs
    ]
    assert sum(wrong) / len(wrong) < 1 / 6


def test_a_map_at_rest_is_told_once() -> None:
    """Hysteresis: nothing is published while nobody moves."""
    world = settled(400)
    told = [list(machine.told) for machine in world]
    for own, machine in enumerate(world):
        others = [n for n in range(len(PLACES)) if n != own]
        for _ in range(20):
            samples = [sample(n, rtt_between(own, n) + 100) for n in others]
            machine.note(samples, lambda p: world[p[0]].coordinate().told())
    assert told == [machine.told for machine in world]
    assert all(isinstance(value, int) for value in told[0])


def test_a_relayed_path_moves_nothing() -> None:
    """It measures the relay."""
    machine = Coords(Rng(1))
    machine.note([sample(1, 90_000, direct=False)], lambda _: [5_000, 0, 100, 100])
    assert (machine.told, machine.coordinate()) == ([], Coordinate(0, 0, 50, 1_000))


def test_one_lie_moves_a_node_by_a_bounded_step() -> None:
    """However far the liar says it is, however slow it answers."""
    machine = Coords(Rng(1))
    edge = limits.COORDINATE_MAX_US
    machine.note([sample(1, edge)], lambda _: [0, 0, 100, 0])
    place = machine.coordinate()
    moved = math.dist((0, 0), (place.x, place.y)) + place.height
    assert 0 < moved <= 2 * limits.COORDINATE_STEP_US


@pytest.mark.parametrize(
    "told",
    [
        [],
        [1, 2, 3],
        [limits.COORDINATE_MAX_US + 1, 0, 1, 0],
        [0, -limits.COORDINATE_MAX_US - 1, 1, 0],
        [0, 0, 0, 0],
        [0, 0, 1, 1_001],
        [0, 0, 1, -1],
    ],
)
def test_no_coordinate_is_read_from_nonsense(told: list[int]) -> None:
    """Whatever a bundle carries."""
    assert read_coordinate(told) is None


def test_who_does_not_know_its_place_prices_nothing() -> None:
    """At the start everybody stands on one spot: that is no estimate."""
    machine = Coords(Rng(1))
    machine.note([sample(1, 20_000)], lambda _: [0, 0, 50, 1_000])
    assert machine.told != []
    assert machine.estimate([0, 0, 50, 1_000]) is None


def test_an_estimate_is_plane_distance_and_both_heights() -> None:
    """Symmetric, and never nothing."""
    one, other = Coordinate(3_000, 0, 10, 0), Coordinate(0, 4_000, 20, 0)
    assert coords.estimate_us(one, other) == coords.estimate_us(other, one) == 5_030


def test_a_node_that_trembles_on_the_spot_tells_nothing() -> None:
    """Noise of a third of each round trip, for ten minutes: what is told is the mean place."""
    world = settled(400)
    rng = Rng(2)
    told = 0
    for _ in range(1_200):
        for own, machine in enumerate(world):
            before = machine.told
            others = [n for n in range(len(PLACES)) if n != own]
            noisy = [rtt_between(own, n) * (70 + rng.below(61)) // 100 for n in others]
            samples = [sample(n, rtt) for n, rtt in zip(others, noisy, strict=True)]
            machine.note(samples, lambda p: world[p[0]].told)
            told += machine.told != before
    assert told <= 2 * len(PLACES)
