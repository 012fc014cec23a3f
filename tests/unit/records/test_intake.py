"""What comes in: gaps wait, floods are cut, caps freeze an owner alike on every node."""

from __future__ import annotations

import itertools

import pytest

from pollen.core import limits
from pollen.core.codec import encode
from pollen.core.effects import Persist
from pollen.core.events import RecordsReceived, SignedRecord
from pollen.core.faults import Faults
from pollen.core.ids import LinkId, Nanos, PeerId
from pollen.core.kinds import CERT, SPEC
from pollen.core.messages import Part
from pollen.core.records import Intake, Record, Records
from pollen.core.timers import parse_token
from pollen.core.turn import Turn
from tests.strategies import CLUSTER, make_record
from tests.unit.turns import effects_of, turn_at
from tests.unit.world import make_key, signer

ME, PEER, OTHER, OWNER = (make_key(name) for name in ("me", "peer", "other", "owner"))
NOW = Nanos(1)


class Gate:
    """An intake with what it reads and reports."""

    def __init__(self, tier: int = 0) -> None:
        self.tier = tier
        self.records = Records(CLUSTER, ME, signer(ME, None))
        self.faults = Faults()
        self.intake = Intake(ME, CLUSTER, self.records, self._tier_of, None)

    def _tier_of(self, owner: PeerId, cert: Record | None) -> int:
        return self.tier if cert is None else int(cert.body.payload)

    def turn(self) -> Turn:
        return turn_at(NOW, faults=self.faults)

    def take(self, *records: Record, peer: PeerId = PEER, rejected: int = 0) -> None:
        signed = [record.signed for record in records]
        self.offer(signed, peer, rejected)
        while self.intake.has_work:
            self.intake.advance(1_000, self.turn())

    def offer(self, signed: list[SignedRecord], peer: PeerId, rejected: int = 0) -> None:
        event = RecordsReceived(link=LinkId(1), peer=peer, records=signed, rejected=rejected)
        self.intake.on_records(event, self.turn())

    def transfer(self, *records: Record, since: tuple[int, int] = (0, 0), whole: bool) -> None:
        self.intake.on_parts([Part(OWNER, *since, len(records), whole)], PEER)
        self.take(*records)

    def held(self) -> list[bytes]:
        return sorted(record.body.key for record in self.records.live_of(SPEC))


def spec(n: int, seq: int | None = None, size: int = 0, tombstone: bool = False) -> Record:
    return make_record(OWNER, SPEC, b"%d" % n, 1, seq or n, tombstone, b"x" * size)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "OWNER_CAPS", ((3, 3_000), (6, 6_000), (9, 9_000)))


def test_records_in_order_are_taken() -> None:
    gate = Gate()
    gate.take(spec(1), spec(2), spec(3))
    assert gate.held() == [b"1", b"2", b"3"]
    assert gate.records.peek(OWNER).version == (1, 3)


def test_a_record_after_a_gap_waits_and_names_whom_to_ask() -> None:
    gate = Gate()
    gate.take(spec(1), spec(3))
    assert (gate.held(), gate.intake.gaps) == ([b"1"], {OWNER: PEER})


def test_what_waited_follows_when_the_gap_is_filled() -> None:
    """Whoever fills it; in whatever order the rest came."""
    gate = Gate()
    gate.take(spec(4), spec(1), spec(3))
    gate.take(spec(2), peer=OTHER)
    assert gate.held() == [b"1", b"2", b"3", b"4"]


def test_a_peer_that_cannot_fill_a_gap_is_not_asked_again() -> None:
    """It is behind as well. What waits stays, and follows when somebody else fills the gap."""
    gate = Gate()
    gate.take(spec(1), spec(3))
    gate.intake.gaps.clear()
    gate.transfer(whole=False, since=(1, 1))
    assert gate.intake.gaps == {}
    gate.take(spec(2), peer=OTHER)
    assert gate.held() == [b"1", b"2", b"3"]


def test_a_peer_that_filled_a_part_of_a_gap_is_asked_for_the_rest() -> None:
    gate = Gate()
    gate.take(spec(1), spec(4))
    gate.intake.gaps.clear()
    gate.transfer(spec(2), whole=False, since=(1, 1))
    assert gate.intake.gaps == {OWNER: PEER}


def test_what_waits_is_bounded() -> None:
    """By owner; what is over is found by the pull for the gap."""
    gate = Gate()
    gate.take(*[spec(n) for n in range(2, limits.ASIDE_OWNER_MAX + 12)])
    assert gate.intake.dropped == 10


def test_copies_are_told_by_the_peer_that_brought_them() -> None:
    """The owner's own push is none: it goes to every link."""
    gate = Gate()
    gate.take(spec(1))
    gate.take(spec(1), peer=OTHER)
    gate.take(spec(1), peer=OWNER)
    assert gate.intake.duplicates == {OTHER: 1}


def test_what_is_missing_below_the_version_does_not_come_back() -> None:
    """It was replaced or deleted: that is what the version says."""
    gate = Gate()
    gate.transfer(spec(1, 9), whole=True, since=(1, 9))
    gate.take(spec(5, 5))
    assert gate.held() == [b"1"]


def test_a_transfer_claims_no_more_than_its_records_prove() -> None:
    """A peer that says a version that nobody signed makes nobody deaf for the next record."""
    gate = Gate()
    gate.transfer(spec(1), spec(2), whole=True, since=(99, 99))
    gate.take(spec(3))
    assert gate.held() == [b"1", b"2", b"3"]


def test_a_transfer_that_does_not_follow_is_left() -> None:
    gate = Gate()
    gate.take(spec(1))
    gate.transfer(spec(5), whole=False, since=(1, 4))
    assert gate.held() == [b"1"]


def test_a_transfer_with_records_of_somebody_else_is_broken_off() -> None:
    """The peer is at fault; the record stands for itself."""
    gate = Gate()
    gate.intake.on_parts([Part(OWNER, 0, 0, 2, True)], PEER)
    gate.take(make_record(OTHER, SPEC, b"k", 1, 1, False, b""))
    assert (gate.faults.counts, gate.held()) == ({"delta-broken": 1}, [b"k"])


def test_a_forged_record_breaks_off_what_its_peer_sends() -> None:
    """Its transfer is not whole, whatever it said."""
    gate = Gate()
    gate.intake.on_parts([Part(OWNER, 1, 2, 2, True)], PEER)
    gate.take(spec(2), rejected=1)
    assert (gate.faults.counts, gate.held()) == ({"record-signature": 1}, [])


def test_a_flood_is_cut_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "INBOX_BYTES_MAX", 1_000)
    gate = Gate()
    gate.offer([spec(1, size=600).signed], PEER)
    gate.offer([spec(2, size=600).signed], PEER)
    assert (gate.faults.counts, gate.intake.dropped) == ({"records-flood": 1}, 1)


def test_a_flood_of_one_peer_delays_only_itself() -> None:
    """Peers take turns."""
    gate = Gate()
    gate.offer([spec(n).signed for n in range(1, 500)], PEER)
    gate.offer([make_record(OTHER, SPEC, b"other", 1, 1, False, b"").signed], OTHER)
    gate.intake.advance(1_500, gate.turn())
    assert b"other" in gate.held()


@pytest.mark.usefixtures("small")
def test_an_owner_over_its_cap_stays_at_its_last_valid_set() -> None:
    gate = Gate()
    gate.take(*[spec(n) for n in range(1, 6)])
    assert (gate.held(), list(gate.intake.frozen)) == ([b"1", b"2", b"3"], [OWNER])
    assert gate.faults.counts["owner-over-cap"] == 1


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("order", list(itertools.permutations(range(1, 6)))[::7])
def test_the_last_valid_set_does_not_depend_on_the_order(order: tuple[int, ...]) -> None:
    """Content decides: every order of arrival freezes the owner at the same records."""
    gate = Gate()
    gate.take(*[spec(n) for n in order])
    gate.take(*[spec(n) for n in range(1, 6)])
    assert gate.held() == [b"1", b"2", b"3"]


@pytest.mark.usefixtures("small")
def test_bytes_count_like_records() -> None:
    gate = Gate()
    gate.take(spec(1, size=2_000), spec(2, size=2_000))
    assert gate.held() == [b"1"]


@pytest.mark.usefixtures("small")
def test_a_frozen_owner_is_free_again_when_its_whole_set_fits() -> None:
    """It gave up what was too much; a gc_version makes room."""
    gate = Gate()
    gate.take(*[spec(n) for n in range(1, 6)])
    gate.take(spec(9, 9))
    assert gate.intake.gaps == {}
    gate.transfer(spec(1, 8), spec(2, 9), whole=True, since=(1, 9))
    assert (gate.records.peek(OWNER).version, gate.intake.frozen) == ((1, 9), {})


@pytest.mark.usefixtures("small")
def test_the_tier_decides_the_cap_and_may_come_with_the_set() -> None:
    """A publisher whose certificate comes after its records is not judged as a leaf."""
    gate = Gate(tier=-1)
    cert = make_record(OWNER, CERT, b"", 1, 6, False, b"1")
    gate.transfer(*[spec(n) for n in range(1, 6)], cert, whole=True, since=(1, 6))
    assert len(gate.held()) == 5


@pytest.mark.usefixtures("small")
def test_our_own_cap_is_seen_before_it_is_broken() -> None:
    """What replaces a record of ours fits where one more would not."""
    gate = Gate()
    gate.records.restore([], 0)
    gate.records.open_lease(lease_of(gate.records))
    for n in range(3):
        assert gate.intake.has_room((SPEC, b"%d" % n), 1)
        gate.records.publish(SPEC, b"%d" % n, b"v")
    assert not gate.intake.has_room((SPEC, b"3"), 1)
    assert gate.intake.has_room((SPEC, b"0"), 1)
    assert not gate.intake.has_room((SPEC, b"0"), 3_000)


def lease_of(records: Records) -> bytes:
    (effect,) = effects_of(NOW, records.ask_lease)
    assert isinstance(effect, Persist)
    return parse_token(effect.token)[1]


def test_owners_that_nobody_vouches_for_are_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """A member that makes up owners is stopped; a known owner is let in all the same."""
    monkeypatch.setattr(limits, "STRANGERS_MAX", 2)
    gate = Gate(tier=-1)
    for name in ("x", "y", "z"):
        gate.take(make_record(make_key(name), SPEC, name.encode(), 1, 1, False, b""))
    assert (gate.held(), gate.faults.counts) == ([b"x", b"y"], {"owner-unknown": 1})
    gate.tier = 0
    gate.take(make_record(make_key("z"), SPEC, b"z", 1, 1, False, b""))
    assert len(gate.held()) == 3


def test_noise_in_a_batch_is_refused_and_the_rest_is_taken() -> None:
    gate = Gate()
    noise = SignedRecord(OWNER, encode(["noise"]), b"s" * 64)
    gate.offer([spec(1).signed, noise, spec(2).signed], PEER)
    while gate.intake.has_work:
        gate.intake.advance(1_000, gate.turn())
    assert (gate.held(), gate.faults.counts) == ([b"1", b"2"], {"record-malformed": 1})


def test_no_slice_takes_much_more_than_it_was_given() -> None:
    """10,000 records come in one go; each turn takes its share of them."""
    gate = Gate(tier=2)
    gate.offer([spec(n).signed for n in range(1, 2_000)], PEER)
    spent = [gate.intake.advance(5_000, gate.turn()) for _ in range(5)]
    assert all(5_000 <= units < 5_100 for units in spent)
