"""Laws that hold for every input: merging, codecs, decoders of hostile bytes, prices, gates."""

from __future__ import annotations

import itertools

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from pollen.core import codec, timers
from pollen.core.admission import Invite, JoinReply, JoinRequest, invites
from pollen.core.codec import Refusal, Rejection, Signed
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId, PeerId
from pollen.core.placement import tables
from pollen.core.placement.claims import Claim
from pollen.core.records import Records
from pollen.core.records import record as records
from pollen.core.records.record import Body
from pollen.core.rng import Rng
from pollen.core.rules import routing
from pollen.core.seeds import specs
from pollen.core.seeds.specs import Spec, SpecRecord
from pollen.core.trust import Certificate, NodeInfo
from pollen.core.trust.publishers import PublisherPolicy
from tests import strategies as own
from tests.unit.world import make_key, signer, verify

OBSERVER = make_key("observer")


def observer() -> Records:
    return Records(own.CLUSTER, OBSERVER, signer(OBSERVER, None))


def merged(batch: list[records.Record]) -> list[bytes]:
    held = observer()
    for record in batch:
        held.merge(record, None)
    return [record.digest for record in held.all_records()]


@given(st.lists(own.records, max_size=5))
def test_merge_is_commutative(batch: list[records.Record]) -> None:
    """Every order of arrival ends in the same set."""
    assert len({tuple(merged(list(order))) for order in itertools.permutations(batch)}) == 1


@given(st.lists(own.records, max_size=6), st.lists(own.records, max_size=6))
def test_merge_is_associative(left: list[records.Record], right: list[records.Record]) -> None:
    """Merging what two others merged is merging everything."""
    one, two = observer(), observer()
    for record in left:
        one.merge(record, None)
    for record in right:
        two.merge(record, None)
    together = observer()
    for record in [*one.all_records(), *two.all_records()]:
        together.merge(record, None)
    assert merged([*left, *right]) == [record.digest for record in together.all_records()]


@given(st.lists(own.records, max_size=6))
def test_merge_is_idempotent(batch: list[records.Record]) -> None:
    """Hearing everything twice changes nothing."""
    assert merged(batch) == merged([*batch, *batch])


@given(st.lists(own.records, min_size=1, max_size=6))
def test_a_winner_is_one_of_the_two_and_the_same_from_both_sides(
    batch: list[records.Record],
) -> None:
    """Precedence is total: no pair is undecided."""
    for one, other in itertools.pairwise(batch):
        winner = records.winner_of(one, other)
        assert winner.digest == records.winner_of(other, one).digest


@given(own.bodies | own.certificates | own.invites | own.publisher_policies | own.specs)
def test_codec_round_trips(value: msgspec.Struct) -> None:
    """What is encoded is decoded to the same, and encodes to the same bytes again."""
    raw = codec.encode(value)
    back = codec.decode(type(value), raw, "value")
    assert value == back
    assert raw == codec.encode(back)


@given(
    own.bodies | own.certificates | own.invites | own.publisher_policies | own.specs,
    st.binary(max_size=3),
)
def test_appended_fields_are_ignored(value: msgspec.Struct, extra: bytes) -> None:
    """A newer writer appends; an older reader reads on."""
    fields = msgspec.msgpack.decode(codec.encode(value))
    assert value == codec.decode(type(value), codec.encode([*fields, extra]), "value")


KINDS = [
    Body,
    Certificate,
    Invite,
    JoinRequest,
    JoinReply,
    Spec,
    SpecRecord,
    NodeInfo,
    Claim,
    PublisherPolicy,
]


@given(st.binary(max_size=200), st.sampled_from([*KINDS, Signed, SignedRecord]))
def test_decoding_any_bytes_never_raises(raw: bytes, kind: type[msgspec.Struct]) -> None:
    """Hostile bytes are a ``Rejection`` or a value, never an exception."""
    assert isinstance(codec.decode(kind, raw, "value"), kind | Rejection)


@given(own.bodies | own.certificates | own.invites | own.publisher_policies, st.data())
def test_decoding_damaged_bytes_never_raises(value: msgspec.Struct, data: st.DataObject) -> None:
    """Near misses are more searching than noise: one byte changed, cut or doubled."""
    raw = bytearray(codec.encode(value))
    at = data.draw(st.integers(0, len(raw) - 1))
    raw[at] = data.draw(st.integers(0, 255))
    cut = bytes(raw[: data.draw(st.integers(0, len(raw)))])
    for damaged in (bytes(raw), cut, bytes(raw) * 2):
        assert isinstance(codec.decode(type(value), damaged, "value"), type(value) | Rejection)


@given(st.binary(max_size=300))
def test_no_bytes_pass_as_a_chain(raw: bytes) -> None:
    """Nobody becomes a member by noise, and nothing crashes."""
    root, subject = PeerId(b"r" * 32), PeerId(b"s" * 32)
    judged = invites.judge_credentials(raw, root, ClusterId(b"c" * 32), subject, verify)
    assert isinstance(judged, Rejection)


@given(st.text(max_size=300) | st.binary(max_size=200).map(lambda b: "pln1" + b.hex()))
def test_no_text_passes_as_a_token(text: str) -> None:
    """Every refusal is ``token-invalid`` and says ``altered``."""
    raw = invites.token_bytes(text)
    opened = raw if isinstance(raw, Refusal) else invites.open_token(raw, verify)
    assert isinstance(opened, Refusal)
    assert (opened.slug, "altered" in opened.reason) == ("token-invalid", True)


@given(own.invites, st.data())
def test_one_flipped_bit_makes_a_token_altered(invite: Invite, data: st.DataObject) -> None:
    """The signature covers every byte of the invite."""
    key = make_key("issuer")
    token = invites.encode_token(msgspec.structs.replace(invite, issuer=key), signer(key, None))
    raw = invites.token_bytes(token)
    assert isinstance(raw, bytes)
    at = data.draw(st.integers(0, len(raw) - 1))
    damaged = bytearray(raw)
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    assert isinstance(invites.open_token(bytes(damaged), verify), Refusal)


@given(st.lists(own.pairs.filter(bool), max_size=1), st.text(max_size=60))
def test_a_gate_never_raises(gate: list[list[tuple[str, str]]], properties: str) -> None:
    """Any text as properties: open or closed, never an exception."""
    assert routing.match_gate(gate[0] if gate else [], properties) in (True, False)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_canonical_numbers_read_back_as_the_same_double(number: float) -> None:
    """Shortest decimal without exponent."""
    text = routing.canonical_text(number)
    assert text is not None
    assert number == float(text)
    assert "e" not in text.lower()


@given(st.integers(1, 10**9), st.integers(1, 10**9))
def test_a_price_moves_only_past_its_hysteresis(rtt_us: int, held: int) -> None:
    """25 % or nothing, whatever the number."""
    price = tables.quantised_price(rtt_us, held)
    is_far = abs(rtt_us - held) * 4 > held or held == 1_000
    assert price == (rtt_us if is_far else held)


@given(own.u64, st.lists(st.integers(), max_size=20))
def test_a_shuffle_keeps_every_item(seed: int, items: list[int]) -> None:
    """And the same seed shuffles alike."""
    one, two = list(items), list(items)
    Rng(seed).shuffle(one)
    Rng(seed).shuffle(two)
    assert sorted(items) == sorted(one)
    assert one == two


@given(st.sampled_from([timers.DIAL, timers.LOAD, timers.ACCESS]), st.binary(max_size=32))
def test_timer_tokens_round_trip(purpose: str, subject: bytes) -> None:
    """A token says for what and for whom it was set."""
    assert (purpose, subject) == timers.parse_token(timers.token_for(purpose, subject))


@given(st.text(max_size=80))
def test_a_valid_name_matches_the_rule(name: str) -> None:
    """``[a-z0-9][a-z0-9._-]{0,62}`` and not 64 hex digits."""
    import re

    expected = re.fullmatch(r"[a-z0-9][a-z0-9._-]{0,62}", name) is not None
    assert expected == (specs.check_name(name) is None)
