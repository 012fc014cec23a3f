"""Records: who wins, what is refused, and the versions of one's own."""

from __future__ import annotations

from typing import Any

import pytest

from pollen.core import limits, records
from pollen.core.codec import Rejection, encode
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId
from pollen.core.records import CLAIM, NODE, SPEC, Body, Merge, Record, Records, decode_record
from tests.strategies import CLUSTER, make_record
from tests.unit.world import make_key, signer

ME = make_key("me")
PEER = make_key("peer")


def opened(epoch: int = 1) -> Records:
    held = Records(CLUSTER, ME, signer(ME, None))
    held.restore([], epoch - 1)
    held.open_epoch(epoch)
    return held


def own(
    kind: str, epoch: int, seq: int, payload: bytes = b"old", tombstone: bool = False
) -> Record:
    return make_record(ME, kind, b"k", epoch, seq, tombstone, payload)


def live(held: Records, kind: str) -> list[bytes]:
    return [record.body.payload for record in held.live_of(kind)]


def test_a_higher_version_wins_whenever_it_comes() -> None:
    """Version first: epoch, then sequence."""
    held = opened()
    new, old = (make_record(PEER, SPEC, b"k", *v, False, b"") for v in ((2, 1), (1, 9)))
    assert [held.merge(new, PEER), held.merge(old, PEER)] == [Merge.APPLIED, Merge.OLDER]


def test_equal_versions_with_other_bytes_are_counted() -> None:
    """The larger hash wins everywhere; a writer that did this is broken or doubled."""
    held = opened()
    held.merge(make_record(PEER, SPEC, b"k", 1, 1, False, b"x"), PEER)
    held.merge(make_record(PEER, SPEC, b"k", 1, 1, False, b"y"), PEER)
    assert held.ties == 1


def test_the_same_record_again_is_known_and_no_change() -> None:
    """So that a push among three does not go round for ever."""
    held = opened()
    record = make_record(PEER, SPEC, b"k", 1, 1, False, b"x")
    held.merge(record, PEER)
    held.take_changes()
    assert held.merge(record, PEER) == Merge.KNOWN
    assert held.take_changes() == []


def test_nothing_is_published_before_the_epoch_is_on_disk() -> None:
    """PROTOCOL 2: epoch + 1 is durable before the first publication."""
    held = Records(CLUSTER, ME, signer(ME, None))
    held.restore([], 4)
    held.publish(NODE, b"", b"hello")
    assert held.take_changes() == []
    held.open_epoch(5)
    assert [c.record.precedence[:2] for c in held.take_changes()] == [(5, 1)]


def test_a_record_on_disk_raises_the_epoch_too() -> None:
    """A store whose epoch row is older than its records still goes above both."""
    held = Records(CLUSTER, ME, signer(ME, None))
    held.restore([own(SPEC, 9, 1)], 4)
    assert held.wanted_epoch == 10


def test_the_same_value_is_not_published_twice() -> None:
    """Unchanged means nothing sent."""
    held = opened()
    assert [held.publish(CLAIM, b"k", b"v") for _ in range(2)] == [True, False]


def test_an_own_claim_of_a_dead_run_is_buried() -> None:
    """Somebody kept it; this run does not state it; so it must go."""
    held = opened(epoch=3)
    assert held.merge(own(CLAIM, 2, 8), PEER) == Merge.OWN_STALE
    assert live(held, CLAIM) == []
    assert held.take_changes()[0].record.precedence[:2] == (3, 1)


def test_an_own_claim_of_an_earlier_epoch_yields_to_the_one_stated_now() -> None:
    """What this run says stands."""
    held = opened(epoch=3)
    held.publish(CLAIM, b"k", b"new")
    assert held.merge(own(CLAIM, 2, 8), PEER) == Merge.OLDER
    assert live(held, CLAIM) == [b"new"]


def test_an_own_spec_that_the_disk_lost_is_adopted() -> None:
    """It was acknowledged once; an old disk image must not undo it."""
    held = opened(epoch=2)
    assert held.merge(own(SPEC, 1, 5, b"kept"), PEER) == Merge.APPLIED
    assert live(held, SPEC) == [b"kept"]


def test_an_own_version_from_the_future_makes_us_jump_above_it() -> None:
    """A restored disk image or a purge: the epoch is raised, durably, and all is said again."""
    held = opened(epoch=2)
    held.publish(CLAIM, b"k", b"now")
    held.merge(own(CLAIM, 7, 3), PEER)
    assert (held.wanted_epoch, held.is_open) == (8, False)
    held.take_changes()
    held.open_epoch(8)
    assert live(held, CLAIM) == [b"now"]
    assert all(c.record.body.epoch == 8 for c in held.take_changes())


def test_a_late_epoch_is_harmless() -> None:
    """``Persisted`` for an epoch that was overtaken opens nothing."""
    held = opened(epoch=2)
    held.merge(own(CLAIM, 7, 3), PEER)
    held.open_epoch(2)
    assert not held.is_open


def test_a_newer_schema_is_kept_and_not_applied() -> None:
    """PROTOCOL 2: opaque bytes are forwarded, never read."""
    body = encode(Body(CLUSTER, PEER, SPEC, b"k", 1, 1, limits.SCHEMA + 1, False, b"?"))
    record = decode_record(SignedRecord(PEER, body, b"s" * 64), CLUSTER)
    assert isinstance(record, Record)
    held = opened()
    assert held.merge(record, PEER) == Merge.APPLIED
    assert (held.live_of(SPEC), len(list(held.all_records()))) == ([], 1)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"owner": b"x" * 32}, "record-wrong-owner"),
        ({"cluster": ClusterId(b"x" * 32)}, "record-of-another-cluster"),
        ({"key": b"k" * 256}, "record-key-too-long"),
        ({"payload": b"p" * limits.RECORD_MAX_BYTES}, "record-too-large"),
        ({"epoch": 1 << 32}, "record-malformed"),
        ({"seq": -1}, "record-malformed"),
        ({"kind": b"spec"}, "record-malformed"),
    ],
)
def test_a_record_out_of_bounds_is_refused(change: dict[str, Any], kind: str) -> None:
    """Each by a reason of its own, which is counted."""
    fields: dict[str, Any] = {
        "cluster": CLUSTER, "owner": PEER, "kind": SPEC, "key": b"k", "epoch": 1, "seq": 1,
        "schema": 1, "tombstone": False, "payload": b"",
    }  # fmt: skip
    raw = encode(list({**fields, **change}.values()))
    judged = decode_record(SignedRecord(PEER, raw, b"s" * 64), CLUSTER)
    assert isinstance(judged, Rejection)
    assert kind == judged.kind


def test_an_owner_over_its_cap_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known keys still change; a new one is refused."""
    monkeypatch.setattr(limits, "OWNER_RECORDS_MAX", 2)
    held = opened()
    for key in (b"a", b"b"):
        held.merge(make_record(PEER, CLAIM, key, 1, 1, False, b""), PEER)
    refused = held.merge(make_record(PEER, CLAIM, b"c", 1, 1, False, b""), PEER)
    assert isinstance(refused, Rejection)
    assert held.merge(make_record(PEER, CLAIM, b"a", 1, 2, False, b""), PEER) == Merge.APPLIED


def test_frames_hold_everything_in_order_and_none_is_too_large() -> None:
    """A control frame is at most 1 MiB."""
    signed = [SignedRecord(PEER, bytes([n]) * 60_000, b"s" * 64) for n in range(40)]
    frames = records.in_frames(signed)
    assert signed == [record for frame in frames for record in frame]
    assert all(sum(len(r.body) for r in frame) <= limits.RECORDS_FRAME_BYTES for frame in frames)
