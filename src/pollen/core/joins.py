"""The issuer's side of enrolment: making tokens and redeeming them once.

Decides: which nonce is spent for whom, and what the answer to a joiner is.
Does not know: what a token must say (``invites``), the disk (it returns rows and waits for them).
Invariants: the reply to a joiner is released only when its nonce is on disk; the same joiner gets
    the same chain again; another one is told ``used``.
Source: PROTOCOL 4.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollen.core import certs, invites, limits
from pollen.core.codec import Refusal, Rejection, decode, encode
from pollen.core.commands import InviteCommand, Invited
from pollen.core.ids import MILLISECOND, Hash, Nanos, PeerId, Sign, Verify, hash_of
from pollen.core.invites import Invite, Issuer, JoinReply, JoinRequest, SpentNonce
from pollen.core.rng import Rng

TABLE = "nonce"
_PEERS_TOLD = 64

Row = tuple[str, bytes, bytes | None]


class Joins:
    """The invites of one issuer: what was spent, and for whom."""

    def __init__(self, issuer: Issuer, rng: Rng, sign: Sign, verify: Verify) -> None:
        self._issuer = issuer
        self._rng = rng
        self._sign = sign
        self._verify = verify
        self._spent: dict[bytes, SpentNonce] = {}

    def restore(self, rows: Sequence[tuple[bytes, bytes]]) -> list[Rejection]:
        """Take over the spent nonces on disk; what cannot be read is returned."""
        faults = []
        for key, raw in rows:
            spent = decode(SpentNonce, raw, "nonce-row")
            if isinstance(spent, Rejection):
                faults.append(spent)
            else:
                self._spent[key] = spent
        return faults

    def invite(
        self, command: InviteCommand, addresses: list[str], boot: bytes, wall: Nanos
    ) -> Invited | Refusal:
        """A token for a command. Its nonce need only be unique: the token is signed."""
        draw = self._rng.draw().to_bytes(8, "big")
        nonce = hash_of("invite", boot, draw)[: limits.INVITE_NONCE_BYTES]
        invite = invites.plan_invite(command, self._issuer, addresses, nonce, wall)
        if isinstance(invite, Refusal):
            return invite
        return Invited(
            token=invites.encode_token(invite, self._sign),
            tier=command.tier,
            expires_unix_ms=invite.expires // MILLISECOND,
            single_use=bool(invite.nonce),
            addresses=invite.addresses,
        )

    def redeem(
        self, body: bytes, joiner: PeerId, peers: list[tuple[PeerId, list[str]]], wall: Nanos
    ) -> tuple[JoinReply, list[Row]]:
        """The answer to a joiner, and the rows that must be on disk before it leaves."""
        invite = self._open(body)
        if isinstance(invite, Refusal):
            return invites.refuse_join(invite), []
        key = invites.nonce_key(invite.nonce)
        spent = self._spent.get(key) if invite.nonce else None
        refusal = invites.judge_join(invite, joiner, self._issuer, spent, wall)
        if refusal is not None:
            return invites.refuse_join(refusal), []
        if spent is not None:
            return self._reply(spent.chain, peers), [(TABLE, key, encode(spent))]
        certificate = invites.plan_certificate(invite, joiner, self._issuer, 1, wall)
        chain = certs.issue_certificate(certificate, self._sign)
        if not invite.nonce:
            return self._reply(chain, peers), []
        rows = self._forget_old(wall)
        spent = SpentNonce(joiner, invite.expires + limits.NONCE_KEEP_NS, chain)
        self._spent[key] = spent
        rows.append((TABLE, key, encode(spent)))
        return self._reply(chain, peers), rows

    def _open(self, body: bytes) -> Invite | Refusal:
        request = decode(JoinRequest, body[: limits.JOIN_MAX_BYTES], "join-request")
        if isinstance(request, Rejection):
            return Refusal(
                "bad-request",
                f"the join request is malformed: {request.detail}",
                "use the same version of pollen on both machines",
            )
        return invites.open_token(request.token, self._verify)

    def _forget_old(self, wall: Nanos) -> list[Row]:
        old: list[bytes] = [k for k, spent in self._spent.items() if spent.forget_after < wall]
        for key in old:
            del self._spent[key]
        return [(TABLE, Hash(key), None) for key in old]

    def _reply(self, chain: bytes, peers: list[tuple[PeerId, list[str]]]) -> JoinReply:
        issuer = self._issuer
        return JoinReply("", "", "", issuer.cluster, issuer.root, chain, peers[:_PEERS_TOLD])
