"""Records: who wins, what is refused, and the versions of one's own."""

from __future__ import annotations

from typing import Any

import pytest

from pollen.core import kinds, limits
from pollen.core.codec import Rejection, encode
from pollen.core.effects import Persist, SetTimer
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId
from pollen.core.kinds import CLAIM, NODE, SPEC
from pollen.core.records import Interned, Record, Records, decode_record
from pollen.core.records import record as records
from pollen.core.records.owners import Merge
from pollen.core.records.record import Body, gc_key
from pollen.core.timers import parse_token
from tests.strategies import CLUSTER, make_record
from tests.unit.turns import effects_of
from tests.unit.world import make_key, signer

ME = make_key("me")
PEER = make_key("peer")


def lease(held: Records, at: int = 0) -> bytes:
    """What is asked to be on disk, as it comes back in the token."""
    (effect,) = effects_of(at, held.ask_lease)
    assert isinstance(effect, Persist)
    return parse_token(effect.token)[1]


def opened(epoch: int = 1) -> Records:
    held = Records(CLUSTER, ME, signer(ME, None))
    held.restore([], epoch - 1)
    assert held.open_lease(lease(held))
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
    """Epoch + 1 is durable before the first publication."""
    held = Records(CLUSTER, ME, signer(ME, None))
    held.restore([], 4)
    held.publish(NODE, b"", b"hello")
    assert held.take_changes() == []
    held.open_lease(lease(held))
    assert [c.record.version for c in held.take_changes()] == [(5, 1)]


def test_a_record_on_disk_raises_the_epoch_too() -> None:
    """A store whose epoch row is older than its records still goes above both."""
    held = Records(CLUSTER, ME, signer(ME, None))
    held.restore([own(SPEC, 9, 1)], 4)
    assert held.wanted_epoch == 10


def test_the_same_value_is_not_published_twice() -> None:
    """Unchanged means nothing sent."""
    held = opened()
    assert [held.publish(CLAIM, b"k", b"v") for _ in range(2)] == [True, False]


def test_an_own_claim_of_a_dead_run_is_void() -> None:
    """Somebody kept it; the first record of this run's epoch voids it there as well."""
    held = opened(epoch=3)
    held.publish(NODE, b"", b"me")
    assert held.merge(own(CLAIM, 2, 8), PEER) == Merge.OWN_STALE
    assert live(held, CLAIM) == []


def test_an_own_claim_of_an_earlier_epoch_yields_to_the_one_stated_now() -> None:
    """What this run says stands."""
    held = opened(epoch=3)
    held.publish(CLAIM, b"k", b"new")
    assert held.merge(own(CLAIM, 2, 8), PEER) == Merge.OWN_STALE
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
    held.open_lease(lease(held, at=limits.EPOCH_JUMP_NS))
    assert live(held, CLAIM) == [b"now"]
    assert all(c.record.body.epoch == 8 for c in held.take_changes() if not c.is_gone)


def test_a_version_of_this_epoch_that_we_did_not_write_is_a_twin() -> None:
    """Two live processes with one key: it is noted, and this one leaves the epoch."""
    held = opened(epoch=2)
    held.publish(CLAIM, b"k", b"now")
    held.merge(own(SPEC, 2, 1), PEER)
    assert (held.wanted_epoch, held.forked()) == (3, [ME])
    held.open_lease(lease(held, at=limits.EPOCH_JUMP_NS))
    assert held.forked() == [], "what it says again stands above the fork"


def test_jumps_do_not_follow_each_other_at_once() -> None:
    """Two copies would outbid each other as fast as their disks can write; the first jump of a
    run does not wait, since a lost disk is more common than a twin."""
    held = opened(epoch=2)
    held.merge(own(CLAIM, 7, 3), PEER)
    (effect,) = effects_of(1, held.ask_lease)
    assert isinstance(effect, Persist)
    held.merge(own(CLAIM, 9, 3), PEER)
    (effect,) = effects_of(1, held.ask_lease)
    assert isinstance(effect, SetTimer)


def test_a_late_epoch_is_harmless() -> None:
    """``Persisted`` for an epoch that was overtaken opens nothing."""
    held = opened(epoch=2)
    held.merge(own(CLAIM, 7, 3), PEER)
    held.open_lease((2).to_bytes(4, "big") + (99).to_bytes(8, "big"))
    assert not held.is_open


def test_sequence_numbers_come_in_blocks() -> None:
    """One write for many records; the next block is asked for in good time."""
    held = opened(epoch=2)
    for n in range(limits.SEQ_BLOCK // 2 - 1):
        held.publish(CLAIM, b"k", b"%d" % n)
    assert effects_of(1, held.ask_lease) == []
    held.publish(CLAIM, b"k", b"last")
    assert int.from_bytes(lease(held)[4:], "big") == 2 * limits.SEQ_BLOCK


def test_publishing_waits_when_a_block_is_used_up() -> None:
    """No version is used that is not on disk; what waited is published then."""
    held = opened(epoch=2)
    for n in range(limits.SEQ_BLOCK + 1):
        held.publish(CLAIM, b"k", b"%d" % n)
    assert not held.is_open
    held.open_lease(lease(held))
    assert live(held, CLAIM) == [b"%d" % limits.SEQ_BLOCK]


def test_a_run_that_must_stay_in_its_epoch_uses_no_version_twice() -> None:
    """At the last epoch the leased block is all that tells two runs apart."""
    held = Records(CLUSTER, ME, signer(ME, None))
    held.restore([], limits.EPOCH_MAX, leased=4_096)
    held.publish(NODE, b"", b"me")
    held.open_lease(lease(held))
    assert held.take_changes()[0].record.version == (limits.EPOCH_MAX, 4_097)


def test_each_record_names_the_one_before() -> None:
    """So that a receiver knows whether it misses one."""
    held = opened(epoch=2)
    for n in range(3):
        held.publish(SPEC, b"%d" % n, b"")
    versions = [(c.record.prev, c.record.version) for c in held.take_changes()]
    assert versions == [((0, 0), (2, 1)), ((2, 1), (2, 2)), ((2, 2), (2, 3))]


def test_a_kind_that_not_all_speak_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new kind is written only when all live nodes speak it."""
    monkeypatch.setattr(kinds, "KIND_LEVELS", {"new": 2})
    held = opened()
    held.publish("new", b"k", b"v")
    assert live(held, "new") == []
    held.note_spoken(2)
    assert live(held, "new") == [b"v"]


def test_a_new_epoch_voids_what_the_dead_run_said() -> None:
    """Ephemeral records of an earlier epoch go, what lasts stays."""
    held = opened()
    held.merge(make_record(PEER, CLAIM, b"k", 1, 1, False, b""), PEER)
    held.merge(make_record(PEER, SPEC, b"k", 1, 2, False, b""), PEER)
    held.take_changes()
    held.merge(make_record(PEER, NODE, b"", 2, 1, False, b""), PEER)
    assert [(c.record.body.kind, c.is_gone) for c in held.take_changes()] == [
        (NODE, False), (CLAIM, True),
    ]  # fmt: skip
    assert (len(live(held, CLAIM)), len(live(held, SPEC))) == (0, 1)


def test_nothing_at_or_below_the_gc_version_lives() -> None:
    """A sleeper's copy of what was deleted does not come back, whatever it holds."""
    held = opened()
    held.merge(make_record(PEER, SPEC, b"new", 1, 6, False, b""), PEER)
    held.merge(make_record(PEER, records.GC, gc_key((1, 5)), 1, 7, False, b""), PEER)
    assert held.merge(make_record(PEER, SPEC, b"old", 1, 4, False, b""), PEER) == Merge.OLDER
    assert [r.body.key for r in held.live_of(SPEC)] == [b"new"]


def test_generations_tell_which_kinds_changed() -> None:
    """Projections rebuild what depends on a kind that changed, and nothing else."""
    held = opened()
    before = held.generation_of(SPEC), held.generation_of(CLAIM)
    held.merge(make_record(PEER, SPEC, b"k", 1, 1, False, b""), PEER)
    assert held.generation_of(SPEC) > before[0]
    assert held.generation_of(CLAIM) == before[1]


def test_a_record_is_decoded_once_for_all_who_share_a_cache() -> None:
    """Same bytes and signature: the same object; another signature is another record."""
    shared = Interned()
    signed = make_record(PEER, SPEC, b"k", 1, 1, False, b"").signed
    first = decode_record(signed, CLUSTER, shared)
    assert decode_record(signed, CLUSTER, shared) is first
    other = SignedRecord(signed.owner, signed.body, b"x" * 64)
    assert decode_record(other, CLUSTER, shared) is not first


def test_the_cache_is_bounded() -> None:
    shared = Interned(2)
    made = [make_record(PEER, SPEC, b"%d" % n, 1, 1, False, b"") for n in range(9)]
    for record in made:
        shared.keep(record)
    assert [n for n, record in enumerate(made) if shared.find(record.signed)] == [6, 7, 8]


def test_a_newer_schema_is_kept_and_not_applied() -> None:
    """Opaque bytes are forwarded, never read."""
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
        ({"prev_seq": 1}, "record-version"),
    ],
)
def test_a_record_out_of_bounds_is_refused(change: dict[str, Any], kind: str) -> None:
    """Each by a reason of its own, which is counted."""
    fields: dict[str, Any] = {
        "cluster": CLUSTER, "owner": PEER, "kind": SPEC, "key": b"k", "epoch": 1, "seq": 1,
        "schema": 1, "tombstone": False, "payload": b"", "prev_epoch": 1, "prev_seq": 0,
    }  # fmt: skip
    raw = encode(list({**fields, **change}.values()))
    judged = decode_record(SignedRecord(PEER, raw, b"s" * 64), CLUSTER)
    assert isinstance(judged, Rejection)
    assert kind == judged.kind


def test_frames_hold_everything_in_order_and_none_is_too_large() -> None:
    """A control frame is at most 1 MiB."""
    signed = [SignedRecord(PEER, bytes([n]) * 60_000, b"s" * 64) for n in range(40)]
    frames = records.in_frames(signed)
    assert signed == [record for frame in frames for record in frame]
    assert all(sum(len(r.body) for r in frame) <= limits.RECORDS_FRAME_BYTES for frame in frames)
