"""How a key becomes a member: signed tokens, and the exchange that redeems them.

Decides: what a token grants, whether a joiner's token holds, and the certificate it earns.
Does not know: links and sockets; the clock of anybody but the issuer, who judges its own tokens.
Invariants: a nonce is spent for one key for ever, and on disk before the reply leaves; the same key
    asking again gets the same reply. A refusal says which: expired, altered, foreign or used.
Source: PROTOCOL 4 (invites). Refused: a shared join secret, which cannot be taken back.
"""

from __future__ import annotations

import base64
import binascii

import msgspec

from pollen.core import certs, limits
from pollen.core.certs import Certificate, Tier
from pollen.core.codec import (
    INVITE_DOMAIN,
    U8,
    U64,
    Refusal,
    Rejection,
    Signed,
    WireClusterId,
    WirePeerId,
    decode,
    encode,
    signing_bytes,
)
from pollen.core.commands import InviteCommand
from pollen.core.ids import (
    HOUR,
    MILLISECOND,
    MINUTE,
    SECOND,
    ClusterId,
    KeyRole,
    Nanos,
    PeerId,
    Sign,
    Verify,
    hash_of,
    is_hash_text,
    short,
)

TOKEN_PREFIX = "pln1"
_ASK_AGAIN = "ask for a new token: pln invite"


class Invite(msgspec.Struct, frozen=True, array_like=True):
    """What a token says, signed by its issuer's node key. Times are wall nanoseconds.

    ``nonce`` is empty for a token bound to ``subject``, and ``subject`` for a single-use one.
    ``access_ns`` is how long the new member has access, 0 for ever.
    """

    cluster: WireClusterId
    root: WirePeerId
    issuer: WirePeerId
    addresses: list[str]
    issued: U64
    expires: U64
    nonce: bytes
    subject: bytes
    tier: U8
    properties: str
    access_ns: U64 = 0


class JoinRequest(msgspec.Struct, frozen=True, array_like=True):
    """The body of ``pollen-join/1``: the token's bytes and the name that the joiner wishes."""

    token: bytes
    name: str


class JoinReply(msgspec.Struct, frozen=True, array_like=True):
    """The answer: a slug with its reason and remedy, or (slug empty) all a member needs.

    ``peers`` are (id, addresses) of members that can be dialled, the issuer first.
    """

    slug: str
    reason: str
    remedy: str
    cluster: bytes
    root: bytes
    chain: bytes
    peers: list[tuple[WirePeerId, list[str]]]


class SpentNonce(msgspec.Struct, frozen=True, array_like=True):
    """What the issuer keeps of a redeemed nonce, on disk: for whom, until when, the chain given."""

    joiner: WirePeerId
    forget_after: U64
    chain: bytes


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """Who issues: this node's identity as invites need it."""

    node: PeerId
    cluster: ClusterId
    root: PeerId
    certificate: Certificate
    has_root: bool


def plan_invite(
    command: InviteCommand, issuer: Issuer, addresses: list[str], nonce: bytes, wall: Nanos
) -> Invite | Refusal:
    """The invite that a command asks for, or why it may not be made."""
    refusal = _may_invite(issuer)
    tier = certs.parse_tier(command.tier)
    properties = certs.check_properties(command.properties)
    for checked in (refusal, tier, properties):
        if isinstance(checked, Refusal):
            return checked
    ttl = command.ttl_ms * MILLISECOND
    if not 0 < ttl <= limits.INVITE_TTL_MAX_NS or command.access_ms < 0:
        return Refusal("bad-request", "the ttl is out of range", "give one up to 365d, e.g. 10m")
    if command.subject and not is_hash_text(command.subject):
        return Refusal(
            "bad-request",
            f"{command.subject[:80]!r} is no node id",
            "the subject is the 64 hex digits that `pln id` prints on the other machine",
        )
    return Invite(
        cluster=issuer.cluster,
        root=issuer.root,
        issuer=issuer.node,
        addresses=addresses,
        issued=wall,
        expires=wall + ttl,
        nonce=b"" if command.subject else nonce,
        subject=bytes.fromhex(command.subject),
        tier=int(tier) if isinstance(tier, Tier) else 0,
        properties=str(properties),
        access_ns=command.access_ms * MILLISECOND,
    )


def _may_invite(issuer: Issuer) -> Refusal | None:
    if issuer.certificate.tier < Tier.ADMIN:
        return Refusal(
            "denied",
            f"this node is a {Tier(issuer.certificate.tier).label}: only admins invite",
            "run `pln invite` on an admin node",
        )
    if not issuer.has_root:
        return Refusal(
            "denied",
            "the root key is not on this node, and only it can sign certificates so far",
            "run `pln invite` on the node where `pln init` was run",
        )
    return None


def encode_token(invite: Invite, sign: Sign) -> str:
    """The text of a token: ``pln1`` and the base64url of the signed bytes, without padding."""
    body = encode(invite)
    signed = Signed(body, sign(KeyRole.NODE, signing_bytes(INVITE_DOMAIN, body)))
    return TOKEN_PREFIX + base64.urlsafe_b64encode(encode(signed)).rstrip(b"=").decode()


def token_bytes(text: str) -> bytes | Refusal:
    """The signed bytes in a token's text. White space around and inside is forgiven."""
    compact = "".join(text.split())
    if not compact.startswith(TOKEN_PREFIX):
        return _invalid("altered", f"it does not begin with {TOKEN_PREFIX}")
    payload = compact[len(TOKEN_PREFIX) :]
    if len(payload) > limits.TOKEN_MAX_CHARS:
        return _invalid("altered", "it is far too long")
    try:
        padded = payload.encode("ascii") + b"=" * (-len(payload) % 4)
        raw = base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return _invalid("altered", "it holds letters that no token has")
    # One text for one token: the last letter may hold bits that no byte takes up.
    if base64.urlsafe_b64encode(raw).rstrip(b"=").decode() != payload:
        return _invalid("altered", "its last letter is none that a token ends with")
    return raw


def open_token(raw: bytes, verify: Verify) -> Invite | Refusal:
    """The invite in a token's bytes when its issuer's signature holds. Reads no clock."""
    signed = decode(Signed, raw, "token")
    if isinstance(signed, Rejection):
        return _invalid("altered", "its bytes are no token")
    invite = decode(Invite, signed.body, "invite")
    if isinstance(invite, Rejection):
        return _invalid("altered", "its bytes are no invite")
    message = signing_bytes(INVITE_DOMAIN, signed.body)
    if verify([(invite.issuer, message, signed.signature)]) != [True]:
        return _invalid("altered", "its issuer did not sign these bytes")
    if len(invite.nonce) != (0 if invite.subject else limits.INVITE_NONCE_BYTES):
        return _invalid("altered", "it has neither a nonce nor a subject")
    return invite


def judge_join(
    invite: Invite, joiner: PeerId, issuer: Issuer, spent: SpentNonce | None, wall: Nanos
) -> Refusal | None:
    """Why this joiner may not redeem this invite here and now, or None."""
    if invite.cluster != issuer.cluster or invite.root != issuer.root:
        return _invalid("foreign", f"it is for cluster {short(invite.cluster)}, not this one")
    if invite.issuer != issuer.node:
        return _invalid("foreign", f"node {short(invite.issuer)} issued it, and only that one can")
    if invite.subject and invite.subject != joiner:
        return _invalid("foreign", f"it is for the key {short(invite.subject)} only")
    if spent is not None and spent.joiner != joiner:
        return _invalid("used", f"the key {short(spent.joiner)} has joined with it")
    if spent is None and wall >= invite.expires:
        return _invalid("expired", f"{_ago(wall - invite.expires)} ago by the issuer's clock")
    return _may_invite(issuer)


def plan_certificate(
    invite: Invite, joiner: PeerId, issuer: Issuer, generation: int, wall: Nanos
) -> Certificate:
    """The certificate that an accepted invite earns: never more than the issuer has."""
    return Certificate(
        cluster=issuer.cluster,
        subject=joiner,
        issuer=issuer.root,
        tier=min(invite.tier, issuer.certificate.tier),
        properties=invite.properties,
        lineage=[*issuer.certificate.lineage, issuer.node],
        generation=generation,
        not_before=wall,
        access_deadline=wall + invite.access_ns if invite.access_ns else 0,
    )


def refuse_join(refusal: Refusal) -> JoinReply:
    """The reply that carries a refusal."""
    return JoinReply(refusal.slug, refusal.reason, refusal.remedy, b"", b"", b"", [])


def check_reply(
    raw: bytes, invite: Invite, joiner: PeerId, verify: Verify
) -> tuple[JoinReply, Certificate] | Refusal:
    """The joiner's side: the reply and the certificate in it, or why it is worth nothing."""
    reply = decode(JoinReply, raw, "join-reply")
    if isinstance(reply, Rejection):
        return Refusal("internal", f"the issuer's answer is malformed: {reply.detail}")
    if reply.slug:
        return Refusal(reply.slug, reply.reason, reply.remedy)
    certificate = certs.judge_chain(
        reply.chain,
        cluster=ClusterId(invite.cluster),
        root=PeerId(invite.root),
        subject=joiner,
        verify=verify,
    )
    if isinstance(certificate, Rejection):
        return Refusal("internal", f"the issuer's certificate does not hold: {certificate.kind}")
    return reply, certificate


def nonce_key(nonce: bytes) -> bytes:
    """The store key of a spent nonce."""
    return hash_of("nonce", nonce)


def _invalid(which: str, detail: str) -> Refusal:
    return Refusal("token-invalid", f"the token is {which}: {detail}", _ASK_AGAIN)


def _ago(nanos: int) -> str:
    for unit, name in ((HOUR, "h"), (MINUTE, "min"), (SECOND, "s")):
        if nanos >= unit:
            return f"{nanos // unit} {name}"
    return "0 s"
