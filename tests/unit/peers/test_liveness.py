"""Verdicts from records: precedence over every pair, quorums, halves that accuse each other."""

from __future__ import annotations

import itertools

import pytest

from pollen.core import limits
from pollen.core.codec import Rejection, encode
from pollen.core.ids import PeerId
from pollen.core.peers import Facts, Phase, Verdict, liveness
from pollen.core.peers.liveness import Accusation, Charge, Evidence, Refutation, judge
from tests.strategies import make_record
from tests.unit.world import make_key

EPOCH, INCARNATION = 5, 3


def peers(count: int) -> list[PeerId]:
    return sorted(make_key(f"peer-{i}") for i in range(count))


def accuse(
    evidence: Evidence, accuser: PeerId, subject: PeerId, charge: Charge = Charge.SILENT,
    epoch: int = EPOCH, incarnation: int = 0, tombstone: bool = False,
) -> Rejection | None:  # fmt: skip
    payload = b"" if tombstone else encode(Accusation(epoch, incarnation, int(charge)))
    record = make_record(accuser, "accuse", subject, 1, 1, tombstone, payload)
    return evidence.note_accusation(record)


def refute(evidence: Evidence, peer: PeerId, epoch: int, incarnation: int) -> None:
    payload = encode(Refutation(incarnation))
    evidence.note_refutation(make_record(peer, "refute", b"", epoch, 1, False, payload))


def cluster(members: list[PeerId]) -> Evidence:
    evidence = Evidence()
    for peer in members:
        evidence.note_member(peer, Facts(epoch=EPOCH))
    return evidence


PAIRS = list(itertools.product((-1, 0, 1), (-1, 0, 1), (False, True)))


@pytest.mark.parametrize(("epoch", "incarnation", "tombstone"), PAIRS)
def test_an_accusation_stands_only_for_the_exact_pair(
    epoch: int, incarnation: int, tombstone: bool
) -> None:
    """Older is refuted, newer is unheard of, withdrawn is withdrawn: every pair of precedence."""
    one, two = peers(2)
    evidence = cluster([one, two])
    refute(evidence, two, EPOCH, INCARNATION)
    named = {"epoch": EPOCH + epoch, "incarnation": INCARNATION + incarnation}
    accuse(evidence, one, two, tombstone=tombstone, **named)
    stands = (epoch, incarnation, tombstone) == (0, 0, False)
    assert stands == (evidence.charge_of(one, two) is Charge.SILENT)
    assert judge(evidence).get(two, Verdict.LIVE) is (Verdict.DEAD if stands else Verdict.LIVE)


@pytest.mark.parametrize("epoch", [EPOCH - 1, EPOCH + 1])
def test_a_refutation_holds_in_its_own_epoch_only(epoch: int) -> None:
    """A new run begins at incarnation 0, whatever an earlier one said."""
    one, two = peers(2)
    evidence = cluster([one, two])
    refute(evidence, two, epoch, 9)
    assert evidence.incarnation_of(two) == 0


PHASES = list(itertools.product(Phase, (0, 5), (None, *Charge)))


@pytest.mark.parametrize(("phase", "restarts", "charge"), PHASES)
def test_the_verdict_of_each_phase_restart_count_and_charge(
    phase: Phase, restarts: int, charge: Charge | None
) -> None:
    """Left beats dead, dead beats drained, drained beats live."""
    one, two = peers(2)
    evidence = cluster([one, two])
    evidence.note_member(two, Facts(epoch=EPOCH, phase=phase, restarts=restarts))
    if charge is not None:
        accuse(evidence, one, two, charge)
    if phase is Phase.LEFT:
        expected = Verdict.LEFT
    elif charge is not None and charge >= Charge.SILENT:
        expected = Verdict.DEAD
    elif phase is Phase.LEAVING or restarts or charge is Charge.STALLED:
        expected = Verdict.DRAINED
    else:
        expected = Verdict.LIVE
    assert expected is judge(evidence).get(two, Verdict.LIVE)


@pytest.mark.parametrize(("members", "needed"), [(2, 1), (3, 2), (4, 3), (5, 3), (60, 3)])
def test_a_death_takes_three_accusers_or_all(members: int, needed: int) -> None:
    """min(3, number of others)."""
    subject, *others = peers(members)
    for count in range(needed + 1):
        evidence = cluster([subject, *others])
        for accuser in others[:count]:
            accuse(evidence, accuser, subject)
        assert (count == needed) == (judge(evidence) == {subject: Verdict.DEAD})


def test_strangers_accuse_nobody_and_nobody_accuses_itself() -> None:
    """Only members count; an accusation of oneself is malformed."""
    one, two, stranger = peers(3)
    evidence = cluster([one, two])
    accuse(evidence, stranger, two)
    assert isinstance(accuse(evidence, two, two), Rejection)
    assert isinstance(accuse(evidence, one, PeerId(b"short")), Rejection)
    assert judge(evidence) == {}


def test_one_confused_node_kills_nobody() -> None:
    """It accuses all and confirms it; the first to refute takes its last word away."""
    first, *others = peers(10)
    evidence = cluster([first, *others])
    for other in others:
        accuse(evidence, first, other)
    assert judge(evidence) == {}
    for other in others:
        refute(evidence, other, EPOCH, 1)
        accuse(evidence, first, other, Charge.CONFIRMED)
    assert judge(evidence) == {}


def test_a_sole_survivor_buries_the_others_after_it_confirmed() -> None:
    """Nobody is left to agree: those who could are accused themselves and do not answer."""
    first, *others = peers(5)
    evidence = cluster([first, *others])
    for other in others:
        accuse(evidence, first, other)
    assert judge(evidence) == {}
    for other in others:
        accuse(evidence, first, other, Charge.CONFIRMED)
    assert judge(evidence) == dict.fromkeys(others, Verdict.DEAD)


@pytest.mark.parametrize(("left", "right"), [(2, 2), (1, 3), (3, 7), (2, 9), (30, 30)])
def test_a_half_buries_the_other_one(left: int, right: int) -> None:
    """Each side of a partition goes on with its own members."""
    members = peers(left + right)
    here, there = members[:left], members[left:]
    evidence = cluster(members)
    for subject in there:
        for accuser in here[: limits.ACCUSERS_WANTED]:
            accuse(evidence, accuser, subject, Charge.CONFIRMED)
    assert judge(evidence) == dict.fromkeys(there, Verdict.DEAD)


@pytest.mark.parametrize(("left", "right"), [(1, 1), (2, 2), (1, 3), (3, 7), (2, 58), (30, 30)])
def test_of_two_halves_that_meet_one_lives(left: int, right: int) -> None:
    """Never both, never none, and the one with more accusers: what the dead said is void."""
    members = peers(left + right)
    here, there = members[:left], members[left:]
    evidence = cluster(members)
    for side, other in ((here, there), (there, here)):
        for subject in side:
            for accuser in other[: limits.ACCUSERS_WANTED]:
                accuse(evidence, accuser, subject, Charge.CONFIRMED)
    dead = sorted(judge(evidence))
    assert dead in ([here, there] if left == right else [here])


def test_the_dead_stay_dead_when_accusers_die() -> None:
    """The quorum falls with the living; what is said to spare covers the rest."""
    subject, *others = peers(8)
    evidence = cluster([subject, *others])
    for accuser in others[: limits.ACCUSERS_WANTED]:
        accuse(evidence, accuser, subject)
    for dead in others[:3]:
        for accuser in others[3:]:
            accuse(evidence, accuser, dead)
    assert judge(evidence) == dict.fromkeys([subject, *others[:3]], Verdict.DEAD)


def test_a_member_that_is_forgotten_counts_no_longer() -> None:
    """Neither as subject nor as accuser."""
    one, two, three = peers(3)
    evidence = cluster([one, two, three])
    accuse(evidence, one, three)
    accuse(evidence, two, three)
    evidence.forget_member(two)
    evidence.note_member(two, Facts(epoch=EPOCH))
    assert judge(evidence) == {three: Verdict.DEAD}
    evidence.forget_member(three)
    assert judge(evidence) == {}


def test_an_unknown_charge_is_of_a_newer_version() -> None:
    """Counted as a fault, never applied."""
    one, two = peers(2)
    record = make_record(one, "accuse", two, 1, 1, False, encode(Accusation(EPOCH, 0, 9)))
    assert liveness.decode_accusation(record) == Rejection("accusation-charge", "9")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_who_is_accused_by_the_dead_alone_lives(order: tuple[int, int, int]) -> None:
    """One accuses a second, which accused a third: the second is dead, and its word with it."""
    known = peers(3)
    first, second, third = (known[index] for index in order)
    evidence = Evidence()
    for peer in known:
        evidence.note_member(peer, Facts(epoch=EPOCH, phase=Phase.UP))
    accuse(evidence, first, second, Charge.CONFIRMED)
    accuse(evidence, second, third, Charge.CONFIRMED)
    assert judge(evidence) == {second: Verdict.DEAD}


def test_a_node_alone_goes_on_however_often_it_began_again() -> None:
    """Nobody else could serve instead; with a second member it is drained as any other."""
    one, other = peers(2)
    evidence = Evidence()
    often = Facts(epoch=EPOCH, phase=Phase.UP, restarts=limits.RESTARTS_QUARANTINE)
    evidence.note_member(one, often)
    assert judge(evidence) == {}
    evidence.note_member(other, Facts(epoch=EPOCH, phase=Phase.UP))
    assert judge(evidence) == {one: Verdict.DRAINED}
    evidence.forget_member(other)
    evidence.note_member(one, Facts(epoch=EPOCH, phase=Phase.LEAVING))
    assert judge(evidence) == {one: Verdict.DRAINED}
