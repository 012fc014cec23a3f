"""Certificates, invites and joins: who gets in, and why not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pollen.core import limits
from pollen.core.admission import Invite, JoinReply, JoinRequest, Redeeming, invites
from pollen.core.admission.invites import SpentNonce
from pollen.core.codec import CERTIFICATE_DOMAIN, Refusal, Rejection, Signed, decode, encode
from pollen.core.commands import InviteCommand
from pollen.core.config import NodeConfig
from pollen.core.ids import MINUTE, ClusterId, Nanos, PeerId
from pollen.core.rng import Rng
from pollen.core.trust import Certificate, Chain, Tier, Trust, certs, leases
from tests.unit.world import make_key, sign_with, signer, verify

ROOT, ISSUER, JOINER, OTHER = (make_key(name) for name in ("root", "issuer", "joiner", "other"))
CLUSTER = ClusterId(b"c" * 32)
T0 = Nanos(1_000 * MINUTE)
ADMIN = Certificate(CLUSTER, ISSUER, ROOT, Tier.ADMIN, "{}", [], 1, 0)


def make_joins(certificate: Certificate = ADMIN, **change: Any) -> Redeeming:
    """What an admin node has, or one with another identity."""
    fields: dict[str, Any] = {
        "node": ISSUER, "cluster": CLUSTER, "root": ROOT, "chain": b"", "boot": b"b" * 16,
        "name": "issuer", "version": "1", "memory_bytes": 1, "has_root": True,
    }  # fmt: skip
    config = NodeConfig(**{**fields, **change})
    trust = Trust(CLUSTER, ROOT, verify)
    trust.declare(ISSUER, certs.issue_certificate(certificate, signer(ISSUER, ROOT)))
    return Redeeming(config, trust, Rng(1), signer(ISSUER, ROOT), verify)


def make_token(joins: Redeeming | None = None, **options: Any) -> str:
    command = InviteCommand(**options)
    invited = (joins or make_joins()).invite(command, ["192.0.2.1:1"], [], T0)
    assert not isinstance(invited, Refusal), invited
    return invited.token


def redeem(
    joins: Redeeming, token: str, joiner: PeerId = JOINER, wall: Nanos = T0
) -> tuple[JoinReply, list[Any]]:
    raw = invites.token_bytes(token)
    assert isinstance(raw, bytes)
    redeemed = joins.redeem(encode(JoinRequest(raw, "name")), joiner, [], wall)
    return redeemed.reply, [*redeemed.rows]


def judge(chain: bytes, subject: PeerId = JOINER) -> Certificate | Rejection:
    return invites.judge_credentials(chain, ROOT, CLUSTER, subject, verify)


def judge_one(certificate: Certificate) -> Certificate | Rejection:
    """What one certificate that the root signed proves for the joiner."""
    carried = certs.issue_certificate(certificate, signer(ISSUER, ROOT))
    judged = certs.judge_chain(
        carried, cluster=CLUSTER, roots={ROOT: None}, subject=JOINER, verify=verify
    )
    return judged.leaf if isinstance(judged, Chain) else judged


def test_a_redeemed_token_earns_a_certificate_of_its_issuer() -> None:
    """Tier and properties as the invite says, the issuer as ancestor."""
    joins = make_joins()
    token = make_token(joins, tier="publisher", properties='{"team": "red"}', access_ms=60_000)
    reply, rows = redeem(joins, token)
    judged = judge(reply.chain)
    assert isinstance(judged, Certificate)
    assert (
        judged.tier, judged.properties, judged.lineage,
    ) == (Tier.PUBLISHER, '{"team":"red"}', [ISSUER])  # fmt: skip
    assert judged.access_deadline == T0 + MINUTE
    assert len(rows) == 1


@pytest.mark.parametrize(
    ("which", "joiner", "change", "wall"),
    [
        ("expired", JOINER, {}, T0 + 5 * MINUTE),
        ("foreign", JOINER, {"cluster": ClusterId(b"d" * 32)}, T0),
        ("foreign", JOINER, {"root": OTHER}, T0),
        ("foreign", JOINER, {"node": OTHER}, T0),
    ],
)
def test_a_refused_token_says_which(
    which: str, joiner: PeerId, change: dict[str, Any], wall: int
) -> None:
    """Expired and foreign, judged by the issuer that is asked."""
    reply, rows = redeem(make_joins(**change), make_token(), joiner, Nanos(wall))
    assert (reply.slug, f"the token is {which}" in reply.reason) == ("token-invalid", True)
    assert rows == []


def test_a_nonce_is_spent_for_one_key() -> None:
    """The same joiner gets the same chain again, also after the ttl; another is told."""
    joins = make_joins()
    token = make_token(joins)
    first, _ = redeem(joins, token)
    again, _ = redeem(joins, token, wall=Nanos(T0 + 10 * MINUTE))
    stranger, _ = redeem(joins, token, OTHER)
    assert first.chain == again.chain
    assert "the token is used" in stranger.reason


def test_a_spent_nonce_survives_a_restart() -> None:
    """Its row is what the reply waits for."""
    joins = make_joins()
    token = make_token(joins)
    _, rows = redeem(joins, token)
    restarted = make_joins()
    assert restarted.restore([(key, value) for _, key, value in rows]) == []
    assert "the token is used" in redeem(restarted, token, OTHER)[0].reason


def test_old_nonces_are_forgotten() -> None:
    """A day after the invite ended; the disk does not grow for ever."""
    joins = make_joins()
    redeem(joins, make_token(joins))
    late = Nanos(T0 + 3 * 24 * 60 * MINUTE)
    command = InviteCommand()
    invited = joins.invite(command, [], [], late)
    assert not isinstance(invited, Refusal)
    _, rows = redeem(joins, invited.token, OTHER, late)
    assert [value for _, _, value in rows[:1]] == [None]


def test_a_bound_token_serves_its_subject_only_and_again() -> None:
    """No nonce: the key itself is the single use."""
    joins = make_joins()
    token = make_token(joins, subject=JOINER.hex())
    assert "foreign" in redeem(joins, token, OTHER)[0].reason
    assert [redeem(joins, token)[0].slug for _ in range(2)] == ["", ""]


@pytest.mark.parametrize(
    "text",
    ["", "pln1", "pln2abc", "hello", "pln1****", "pln1" + "A" * 20_000, "pln1é"],
)
def test_text_that_is_no_token_is_altered(text: str) -> None:
    """The joiner is told before anything is sent."""
    raw = invites.token_bytes(text)
    opened = raw if isinstance(raw, Refusal) else invites.open_token(raw, verify)
    assert isinstance(opened, Refusal)
    assert "the token is altered" in opened.reason


def test_white_space_in_a_pasted_token_is_forgiven() -> None:
    """Terminals wrap lines."""
    token = make_token()
    assert invites.token_bytes(token) == invites.token_bytes(f" {token[:30]}\n {token[30:]}\n")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"certificate": msgspec.structs.replace(ADMIN, tier=Tier.PUBLISHER)},
            "only admins invite",
        ),
        ({"has_root": False}, "the root key is not on this node"),
    ],
)
def test_who_may_not_make_an_admin_is_told_why(change: dict[str, Any], words: str) -> None:
    """Denied, with where to run it instead."""
    refused = make_joins(**change).invite(InviteCommand(tier="admin"), [], [], T0)
    assert isinstance(refused, Refusal)
    assert (refused.slug, words in refused.reason, bool(refused.remedy)) == ("denied", True, True)


def test_a_malformed_join_request_is_answered() -> None:
    """Noise gets a refusal, not silence."""
    redeemed = make_joins().redeem(b"\xc1noise", JOINER, [], T0)
    assert (redeemed.reply.slug, redeemed.rows) == ("bad-request", ())


def test_a_joiner_does_not_believe_a_false_issuer() -> None:
    """The chain must hold for the root that the token named."""
    joins = make_joins()
    token = make_token(joins)
    reply, _ = redeem(joins, token)
    raw = invites.token_bytes(token)
    assert isinstance(raw, bytes)
    invite = invites.open_token(raw, verify)
    assert isinstance(invite, Invite)
    assert not isinstance(invites.check_reply(encode(reply), invite, JOINER, verify), Refusal)
    forged = msgspec.structs.replace(reply, chain=b"\x90")
    for answer in (encode(forged), b"noise", encode(reply)[:-5]):
        assert isinstance(invites.check_reply(answer, invite, JOINER, verify), Refusal)


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        ({"cluster": ClusterId(b"x" * 32)}, "certificate-of-another-cluster"),
        ({"subject": OTHER}, "certificate-of-another-key"),
        ({"issuer": OTHER}, "certificate-of-another-root"),
        ({"tier": 9}, "certificate-tier-unknown"),
        ({"properties": "[]"}, "certificate-properties"),
        ({"properties": '{"a": 1}'}, "certificate-properties"),
        ({"lease_ns": limits.LEASE_MAX_NS + 1}, "certificate-lease"),
        ({"lineage": [OTHER]}, "certificate-lineage"),
    ],
)
def test_a_certificate_that_does_not_fit_is_rejected(change: dict[str, Any], kind: str) -> None:
    """Even when the root signed it."""
    certificate = msgspec.structs.replace(ADMIN, subject=JOINER)
    bad = msgspec.structs.replace(certificate, **change)
    judged = judge_one(bad)
    assert isinstance(judged, Rejection)
    assert kind == judged.kind


def test_only_the_roots_signature_counts() -> None:
    """A node key that signs a certificate for itself is nobody."""
    body = encode(msgspec.structs.replace(ADMIN, subject=JOINER))
    forged = Signed(body, sign_with(OTHER, CERTIFICATE_DOMAIN + body))
    judged = judge(leases.encode_credentials([forged]))
    assert isinstance(judged, Rejection)
    assert judged.kind == "certificate-signature"


def test_access_ends_at_its_deadline() -> None:
    """Zero is for ever."""
    ends = msgspec.structs.replace(ADMIN, access_deadline=T0)
    assert [ends.has_access(Nanos(T0 + d)) for d in (-1, 0)] == [True, False]
    assert ADMIN.has_access(T0)


def test_a_spent_nonce_row_round_trips() -> None:
    """The row that the reply waits for."""
    spent = SpentNonce(JOINER, 7, b"chain")
    assert spent == decode(SpentNonce, encode(spent), "row")
