"""An absence that a node announced: its copies of blobs are awaited, and not made again at once."""

from __future__ import annotations

import pytest

from pollen.core import effects as fx
from pollen.core import limits
from pollen.core.codec import encode
from pollen.core.ids import MINUTE, Nanos
from pollen.core.placement import Need, Standing, State
from pollen.core.placement.claims import Claim, Claims
from pollen.core.placement.plan import Takes, count_wanted
from tests.strategies import make_record
from tests.unit.names.test_named import A, B, C
from tests.unit.placement.bench import ECHO, Bench
from tests.unit.placement.test_blobs import MIB, blob

FILM = blob()
NOW = Nanos(1_000 * MINUTE)
BACK = NOW + limits.REPAIR_DELAY_NS


def said(seq: int, claim: Claim | None, epoch: int = 1) -> Claims:
    claims = Claims()
    claims.set_live(A, epoch)
    say(claims, seq, claim, epoch)
    return claims


def say(claims: Claims, seq: int, claim: Claim | None, epoch: int = 1) -> None:
    body = b"" if claim is None else encode(claim)
    claims.apply(make_record(A, "claim", FILM.seed, epoch, seq, claim is None, body))


def serving() -> Bench:
    bench = Bench(own=B, holding=FILM)
    bench.hosting.space.disk_free_bytes = MIB
    bench.serve(of=FILM)
    return bench


# -- how many copies are wanted -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("copies", "here", "away", "wanted"),
    [
        (2, 1, 0, 2),
        (2, 1, 1, 1),  # its copy is awaited
        (2, 0, 1, 1),  # none is here: one is made at once
        (2, 0, 2, 1),
        (3, 1, 1, 2),  # the third one died, and nobody awaits it
        (3, 2, 1, 2),
        (2, 2, 1, 2),  # what is here stays
        (1, 0, 1, 1),
    ],
)
def test_the_awaited_are_not_replaced_while_one_copy_is_here(
    copies: int, here: int, away: int, wanted: int
) -> None:
    need = Need(copies=copies, takes=Takes.DISK)
    assert count_wanted(need, [1] * 5, here, [], away) == wanted


def test_what_runs_is_replaced_at_once() -> None:
    """Nobody calls a replica on a disk."""
    assert count_wanted(Need(copies=2), [1] * 5, 1, [], 1) == 2


# -- what a claim says ----------------------------------------------------------------------------


def test_who_leaves_with_a_copy_is_away_until_the_time_that_it_said() -> None:
    """Also when it has left, and in its next run until it says anything of the blob."""
    claims = said(1, Claim(int(State.READY), until=BACK))
    assert claims.standing(FILM.seed, A, NOW) is Standing.AWAY
    claims.set_live(A, None)
    assert claims.host(FILM.seed, A) is None
    assert claims.standing(FILM.seed, A, NOW) is Standing.AWAY
    assert claims.changes_at(FILM.seed, A) == BACK
    assert claims.standing(FILM.seed, A, Nanos(BACK)) is None
    claims.end_run(make_record(A, "claim", FILM.seed, 1, 1, False, b""))
    claims.set_live(A, 2)
    assert claims.standing(FILM.seed, A, NOW) is Standing.AWAY
    say(claims, 1, Claim(int(State.LOADING), until=NOW + MINUTE), epoch=2)
    assert claims.standing(FILM.seed, A, NOW) is Standing.INCUMBENT


def test_who_dies_without_a_word_is_awaited_by_nobody() -> None:
    claims = said(1, Claim(int(State.READY)))
    claims.set_live(A, None)
    assert claims.standing(FILM.seed, A, NOW) is None
    assert claims.nodes_of(FILM.seed) == []


def test_who_takes_its_word_back_is_away_no_more() -> None:
    claims = said(1, Claim(int(State.READY), until=BACK))
    claims.set_live(A, None)
    claims.changed.clear()
    say(claims, 2, None)
    assert claims.standing(FILM.seed, A, NOW) is None
    assert (FILM.seed, A) in claims.changed


def test_nobody_is_awaited_for_longer_than_the_delay() -> None:
    """A claim from far ahead would keep a blob short of copies for ever."""
    late = BACK + limits.CLOCK_TOLERANCE_NS + 1
    claims = said(1, Claim(int(State.READY), until=late))
    assert claims.standing(FILM.seed, A, NOW) is Standing.INCUMBENT
    claims.set_live(A, None)
    assert claims.standing(FILM.seed, A, NOW) is None


# -- what the leaving node does -------------------------------------------------------------------


def test_a_leaving_node_keeps_its_copies_and_says_until_when() -> None:
    """Others are enough, and yet it lets nothing go: it comes back with the disk."""
    bench = serving()
    bench.hosting.leave(bench.now)
    bench.plan(A, C, of=FILM)
    for node in (A, C):
        bench.claim(node, State.READY, of=FILM)
    until = bench.now.wall + limits.REPAIR_DELAY_NS
    for _ in range(3):
        assert bench.turn(limits.DRAIN_HOLD_NS, of=FILM) == []
    assert bench.hosting.claim(FILM.seed) == Claim(int(State.READY), until=until)


def test_it_waits_only_for_another_copy_of_what_it_alone_has() -> None:
    bench = serving()
    bench.hosting.leave(bench.now)
    bench.plan(A, of=FILM)
    bench.turn(of=FILM)
    assert bench.hosting.count_leaving(bench.view) == 1
    bench.claim(A, State.READY, of=FILM)
    assert bench.hosting.count_leaving(bench.view) == 0


def test_a_copy_that_comes_while_it_leaves_is_announced_as_well() -> None:
    bench = Bench(own=B, holding=FILM)
    bench.hosting.space.disk_free_bytes = MIB
    bench.plan(B, of=FILM)
    bench.turn(of=FILM)
    bench.hosting.leave(bench.now)
    bench.finish(of=FILM)
    claim = bench.hosting.claim(FILM.seed)
    assert claim is not None and claim.is_announced


def test_what_runs_is_handed_over_as_before() -> None:
    bench = Bench(own=B)
    bench.serve()
    bench.hosting.leave(bench.now)
    bench.plan(A, C)
    for node in (A, C):
        bench.claim(node, State.READY)
    bench.turn()
    assert bench.state() is State.DRAINING
    claim = bench.hosting.claim(ECHO.seed)
    assert claim is not None and not claim.is_announced
    assert not [e for e in bench.turn() if isinstance(e, fx.LoadSeed)]
