"""How a key becomes a member: signed tokens, and the exchange that redeems them.

Decides: what a token grants, whether a joiner's token holds, and the certificate it earns.
Does not know: links and sockets; which tokens were spent (``redeeming``); who is an admin.
Invariants: a nonce is good at its issuer only, judged by the issuer's clock; a token bound to a key
    is good at every admin. Nobody earns more than the one who redeems has. A denied key is let in
    again only by who may lift the deny, with a token made after it. A refusal says which: expired,
    altered, foreign or used.
Source: docs/design/protocol.md#invites. Refused: a shared join secret, which cannot be taken back.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Container, Sequence

import msgspec

from pollen.core import limits
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
    earlier,
    hash_of,
    is_hash_text,
    short,
)
from pollen.core.properties import check_properties, excess_of
from pollen.core.trust import Certificate, Chain, ProvenDeny, Tier, Trust

TOKEN_PREFIX = "pln1"
_ASK_AGAIN = "ask for a new token: pln invite"
DENIED_SINCE = Refusal(
    "denied",
    "this key was denied after the token was made",
    "ask who denied it for a new token: pln invite",
)


class Invite(msgspec.Struct, frozen=True, array_like=True):
    """What a token says, signed by its issuer's node key. Times are wall nanoseconds.

    ``nonce`` is empty for a token bound to ``subject``, and ``subject`` for a single-use one.
    ``access_ns`` is how long the new member has access, 0 for ever; ``lease_ns`` how long each of
    its leases lasts, 0 for the default. ``carriers`` are other members that pass a request on.
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
    lease_ns: U64 = 0
    carriers: list[tuple[WirePeerId, list[str]]] = []


class JoinRequest(msgspec.Struct, frozen=True, array_like=True):
    """The body of ``pollen-join/1``: the token's bytes and the name that the joiner wishes.

    A member whose lease ran out has no token: it shows its credentials and asks for a lease.
    """

    token: bytes
    name: str
    credentials: bytes = b""


class JoinReply(msgspec.Struct, frozen=True, array_like=True):
    """The answer: a slug with its reason and remedy, or (slug empty) all a member needs.

    ``chain`` are the new credentials. ``peers`` are (id, addresses) of members that can be dialled,
    the issuer first. ``wall``: what the clock of the node that was asked shows, in nanoseconds
    since 1970; 0 says nothing.
    """

    slug: str
    reason: str
    remedy: str
    cluster: bytes
    root: bytes
    chain: bytes
    peers: list[tuple[WirePeerId, list[str]]]
    wall: U64 = 0


class SpentNonce(msgspec.Struct, frozen=True, array_like=True):
    """What the issuer keeps of a redeemed nonce, on disk: for whom, until when, the chain given."""

    joiner: WirePeerId
    forget_after: U64
    chain: bytes


class Issuer(msgspec.Struct, frozen=True, kw_only=True):
    """Who issues: this node's identity as invites need it.

    ``chain`` is None for a node without a certificate that counts. ``root`` is the cluster's first
    root, ``signing_root`` the one whose key is here and counts, or None.
    """

    node: PeerId
    cluster: ClusterId
    root: PeerId
    chain: Chain | None
    signing_root: PeerId | None


class Wish(msgspec.Struct, frozen=True, kw_only=True):
    """The authority that an invite promises: what bounds it is the issuer's own."""

    tier: Tier
    properties: str


def plan_invite(
    command: InviteCommand,
    issuer: Issuer,
    addresses: list[str],
    carriers: list[tuple[PeerId, list[str]]],
    nonce: bytes,
    wall: Nanos,
) -> Invite | Refusal:
    """The invite that a command asks for, or why it may not be made."""
    wish = _wish_of(command, issuer)
    if isinstance(wish, Refusal):
        return wish
    ttl = command.ttl_ms * MILLISECOND
    if not 0 < ttl <= limits.INVITE_TTL_MAX_NS or command.access_ms < 0:
        return Refusal("bad-request", "the ttl is out of range", "give one up to 365d, e.g. 10m")
    lease = command.lease_ms * MILLISECOND
    if lease and not limits.LEASE_MIN_NS <= lease <= limits.LEASE_MAX_NS:
        return Refusal("bad-request", "the lease is out of range", "give one from 10m to 365d")
    if command.subject and not is_hash_text(command.subject):
        return Refusal(
            "bad-request",
            f"{command.subject[:80]!r} is not a node id",
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
        tier=int(wish.tier),
        properties=wish.properties,
        access_ns=command.access_ms * MILLISECOND,
        lease_ns=lease,
        carriers=carriers,
    )


def _wish_of(command: InviteCommand, issuer: Issuer) -> Wish | Refusal:
    tier = Tier.parse(command.tier)
    properties = check_properties(command.properties)
    if isinstance(tier, Refusal):
        return tier
    if isinstance(properties, Refusal):
        return properties
    wish = Wish(tier=tier, properties=properties)
    return may_give(issuer, wish) or wish


def may_give(issuer: Issuer, wish: Wish, verb: str = "invite") -> Refusal | None:
    """Why this node may not make a member of that authority, or None. ``verb``: what it is about
    to do."""
    if issuer.chain is None:
        return Refusal(
            "denied",
            "this node's own certificate does not count any more",
            f"run `pln {verb}` on an admin node",
        )
    own = issuer.chain.leaf
    if own.tier < Tier.ADMIN:
        return Refusal(
            "denied",
            f"this node is a {Tier(own.tier).label}: only admins {verb}",
            f"run `pln {verb}` on an admin node",
        )
    if wish.tier >= Tier.ADMIN:
        if issuer.signing_root is not None:
            return None
        return Refusal(
            "denied",
            "the root key is not on this node, and only it makes admins",
            f"run `pln {verb} --admin` where the root key is, or {verb} less",
        )
    excess = excess_of(wish.properties, own.gives)
    if not excess:
        return None
    return Refusal(
        "denied",
        f"this admin may not give the property {excess!r} with that value",
        "give what its own certificate states, or invite on the node that founded the cluster",
    )


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
    invite: Invite,
    joiner: PeerId,
    issuer: Issuer,
    inviter: Certificate | None,
    spent: SpentNonce | None,
    wall: Nanos,
) -> Refusal | None:
    """Why this joiner may not redeem this invite here and now, or None.

    ``inviter`` is the certificate that counts of the invite's issuer.
    """
    if invite.cluster != issuer.cluster or invite.root != issuer.root:
        return _invalid("foreign", f"it is for cluster {short(invite.cluster)}, not this one")
    if not invite.subject and invite.issuer != issuer.node:
        return _invalid("foreign", f"node {short(invite.issuer)} issued it, and only that one can")
    if inviter is None or inviter.tier < Tier.ADMIN:
        return _invalid("foreign", f"node {short(invite.issuer)} issued it, which is not an admin")
    if invite.subject and invite.subject != joiner:
        return _invalid("foreign", f"it is for the key {short(invite.subject)} only")
    if spent is not None and spent.joiner != joiner:
        return _invalid("used", f"the key {short(spent.joiner)} has joined with it")
    if spent is None and wall >= invite.expires:
        return _invalid("expired", f"{_ago(wall - invite.expires)} ago by the issuer's clock")
    if invite.tier > Tier.ADMIN or check_properties(invite.properties) != invite.properties:
        return _invalid("altered", "it grants what there is not")
    return may_give(issuer, Wish(tier=Tier(invite.tier), properties=invite.properties))


def plan_certificate(
    invite: Invite,
    joiner: PeerId,
    issuer: Issuer,
    verdicts: Sequence[ProvenDeny],
    roots: Container[PeerId],
    wall: Nanos,
) -> Certificate | Refusal:
    """The certificate that an accepted invite earns. The root signs it when only it can.

    ``verdicts`` are the denies of the joiner: the certificate must be one that survives them.
    """
    if issuer.chain is None:
        return Refusal("denied", "this node's own certificate does not count any more")
    if any(verdict.deny.issued >= invite.issued for verdict in verdicts):
        return DENIED_SINCE
    unliftable = [v for v in verdicts if not v.may_be_lifted_by(issuer.node, roots)]
    is_roots = invite.tier >= Tier.ADMIN or bool(unliftable)
    if is_roots and issuer.signing_root is None:
        denier = short(unliftable[0].deny.issuer) if unliftable else "the root"
        return Refusal(
            "denied",
            f"this key was denied by {denier}, and only that one or the root lets it in again",
            "ask there for a new token: pln invite",
        )
    own = issuer.chain.leaf
    access = wall + invite.access_ns if invite.access_ns else 0
    lifted = ProvenDeny.covering(verdicts)
    if verdicts and lifted is None:
        return Refusal(
            "denied",
            "this key was denied more than once, by admins that did not know of each other",
            f"lift all of it first: pln undeny {short(joiner)}",
        )
    generation = max((v.deny.generation for v in verdicts), default=0) + 1
    return Certificate(
        cluster=issuer.cluster,
        subject=joiner,
        issuer=issuer.signing_root if is_roots and issuer.signing_root else issuer.node,
        tier=invite.tier,
        properties=invite.properties,
        lineage=[] if is_roots else [*own.lineage, issuer.node],
        generation=generation,
        not_before=wall,
        access_deadline=access if is_roots else earlier(access, own.access_deadline),
        cites=b"" if lifted is None else lifted.hash,
        lease_ns=invite.lease_ns,
        gives=invite.properties if invite.tier >= Tier.ADMIN else "{}",
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
    judged = judge_credentials(
        reply.chain, PeerId(invite.root), ClusterId(invite.cluster), joiner, verify
    )
    if isinstance(judged, Rejection):
        return Refusal("internal", f"the issuer's certificate does not hold: {judged.kind}")
    return reply, judged


def judge_credentials(
    raw: bytes, root: PeerId, cluster: ClusterId, subject: PeerId, verify: Verify
) -> Certificate | Rejection:
    """The certificate in credentials, for somebody who knows nothing but the first root."""
    trust = Trust(cluster, root, verify)
    chain = trust.take_shown(subject, raw)
    return chain if isinstance(chain, Rejection) else chain.leaf


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
