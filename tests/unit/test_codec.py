"""The golden bytes of everything that is signed, stored or carried."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pollen.core import codec
from pollen.core.admission import Invite, JoinReply, JoinRequest, invites
from pollen.core.admission.releases import Release
from pollen.core.codec import Rejection, Signed
from pollen.core.ids import hash_of
from pollen.core.peers.liveness import Accusation, Refutation
from pollen.core.placement.bundle import Fast
from pollen.core.placement.claims import Claim
from pollen.core.records.record import Body
from pollen.core.seeds.specs import Spec, SpecRecord
from pollen.core.trust import Certificate, NodeInfo
from pollen.core.trust.denies import Deny, DenyPayload
from pollen.core.trust.leases import Credentials, Lease
from pollen.core.trust.papers import RootAnswer, RootRequest
from pollen.core.trust.publishers import PublisherPolicy
from pollen.core.trust.succession import Succession
from tests.vectors.remake import remake, text_of, value_of

VECTORS = Path(__file__).parent.parent / "vectors"
TYPES: dict[str, Any] = {
    "record-body": Body,
    "certificate": Certificate,
    "chain": list[Signed],
    "lease": Lease,
    "deny": Deny,
    "deny-payload": DenyPayload,
    "succession": Succession,
    "publisher-policy": PublisherPolicy,
    "release": Release,
    "root-request": RootRequest,
    "root-answer": RootAnswer,
    "credentials": Credentials,
    "invite": Invite,
    "spec": Spec,
    "spec-record": SpecRecord,
    "node-info": NodeInfo,
    "claim": Claim,
    "fast": Fast,
    "accusation": Accusation,
    "refutation": Refutation,
    "join-request": JoinRequest,
    "join-reply": JoinReply,
}
SIGNED = json.loads((VECTORS / "signed.json").read_text())
HASHES = json.loads((VECTORS / "hashes.json").read_text())


def raw_fields(value: Any) -> Any:
    """The fields of a row as plain values."""
    return value_of(value, {row["name"]: row for row in SIGNED})


@pytest.mark.parametrize("row", SIGNED, ids=lambda row: row["name"])
def test_golden_bytes_decode_to_their_fields_and_encode_back(row: Any) -> None:
    """The positional format is what the vectors say, in both directions. A row marked ``older``
    was written before fields were appended: it decodes, and comes back with them.
    """
    kind = TYPES[row["type"]]
    raw = bytes.fromhex(row["bytes"])
    value = codec.decode(kind, raw, "vector")
    assert not isinstance(value, Rejection)
    again, fields = msgspec.msgpack.decode(codec.encode(value)), raw_fields(row["fields"])
    if row.get("older"):
        assert (again[: len(fields)], len(again) > len(fields)) == (fields, True)
        return
    assert fields == again
    assert raw == codec.encode(value)


@pytest.mark.parametrize(
    "row", [row for row in SIGNED if "token" in row], ids=lambda row: row["name"]
)
def test_a_golden_token_holds_the_signed_invite(row: Any) -> None:
    """``pln1`` and base64url of body and signature."""
    raw = invites.token_bytes(row["token"])
    assert isinstance(raw, bytes)
    signed = codec.decode(codec.Signed, raw, "token")
    assert isinstance(signed, codec.Signed)
    assert (row["bytes"], row["signature"]) == (signed.body.hex(), signed.signature.hex())


@pytest.mark.parametrize("row", HASHES, ids=lambda row: row["use"])
def test_golden_hashes(row: Any) -> None:
    """Each part is preceded by its length; the use is the personalisation."""
    parts = [bytes.fromhex(part) for part in row["parts"]]
    assert row["hash"] == hash_of(row["use"], *parts).hex()


def test_the_golden_file_follows_from_its_fields() -> None:
    """Worked out by code that knows nothing of ours: nobody edited bytes by hand."""
    path = VECTORS / "signed.json"
    assert path.read_text() == text_of(remake(json.loads(path.read_text())))


def test_parts_of_a_hash_are_told_apart() -> None:
    """No two lists of parts share a preimage."""
    assert hash_of("seed", b"ab", b"c") != hash_of("seed", b"a", b"bc")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\xc1",
        b"\x92",
        codec.encode(["text", b"x" * 64]),
        codec.encode([b"body", b"x" * 63]),
        codec.encode([b"body", b"x" * 64]) + b"\0",
        codec.encode([b"body", b"x" * 64])[:-1],
        b"\x93\xc4\x01a\xc4\x40" + b"x" * 64 + b"\x91" * 100_000 + b"\0",
    ],
)
def test_what_does_not_fit_is_a_rejection(raw: bytes) -> None:
    """Wrong type, short, long, cut, deeply nested: data, not an exception."""
    judged = codec.decode(codec.Signed, raw, "signed")
    assert isinstance(judged, Rejection)
    assert judged.kind == "signed-malformed"
