"""The issuer's side of enrolment: making tokens, redeeming them once, and lending new leases.

Decides: which nonce is spent for whom, and what the answer to a joiner is.
Does not know: what a token must say (``invites``), links, the disk (it returns rows and waits).
Invariants: the reply to a joiner is released only when its nonce is on disk; the same joiner gets
    the same credentials again; another one is told ``used``. A member whose lease ran out gets a
    lease for the certificate that it has, and nothing else.
Source: docs/design/protocol.md#invites.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pollen.core import limits
from pollen.core.admission import invites
from pollen.core.admission.invites import Invite, Issuer, JoinReply, JoinRequest, SpentNonce
from pollen.core.codec import Refusal, Rejection, decode, encode
from pollen.core.commands import InviteCommand, Invited
from pollen.core.config import NodeConfig
from pollen.core.effects import Row
from pollen.core.ids import MILLISECOND, Hash, Nanos, PeerId, Sign, Verify, hash_of
from pollen.core.rng import Rng
from pollen.core.trust import Chain, HeldLease, Tier, Trust, issue_certificate, lend

NONCE_TABLE = "nonce"
_PEERS_TOLD = 64
_CARRIERS = 3
_ACT_BYTES = 16

Addressed = list[tuple[PeerId, list[str]]]


class Redeemed(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a joiner, the rows that must be on disk before it, the lease to publish, and
    what a key that was no member before has now, with the key of the record of it."""

    reply: JoinReply
    rows: Sequence[Row] = ()
    lease: HeldLease | None = None
    admitted: tuple[bytes, str] | None = None


class Redeeming:
    """The invites of one issuer: what was spent, and for whom."""

    def __init__(
        self, config: NodeConfig, trust: Trust, rng: Rng, sign: Sign, verify: Verify
    ) -> None:
        self._config = config
        self.own = config.node
        self.trust = trust
        self._rng = rng
        self._sign = sign
        self._verify = verify
        self._spent: dict[bytes, SpentNonce] = {}
        self._held_root = config.signing_root

    def hold_root(self, root: PeerId | None) -> None:
        """The root whose key can be asked to sign from now on, or None."""
        self._held_root = root

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

    def issuer(self) -> Issuer:
        """This node as invites need it, with the authority that it has now."""
        config, trust = self._config, self.trust
        root = self._held_root
        is_counting = config.node in trust.certificates
        return Issuer(
            node=config.node,
            cluster=config.cluster,
            root=config.root,
            chain=trust.chain_of(config.node) if is_counting else None,
            signing_root=root if root in trust.roots else None,
        )

    def invite(
        self, command: InviteCommand, addresses: list[str], peers: Addressed, wall: Nanos
    ) -> Invited | Refusal:
        """A token for a command. Its nonce need only be unique: the token is signed."""
        draw = self._rng.draw().to_bytes(8, "big")
        nonce = hash_of("invite", self._config.boot, draw)[: limits.INVITE_NONCE_BYTES]
        carriers = [(peer, known[:2]) for peer, known in peers[:_CARRIERS]]
        invite = invites.plan_invite(command, self.issuer(), addresses, carriers, nonce, wall)
        if isinstance(invite, Refusal):
            return invite
        return Invited(
            token=invites.encode_token(invite, self._sign),
            tier=command.tier,
            expires_unix_ms=invite.expires // MILLISECOND,
            single_use=bool(invite.nonce),
            addresses=invite.addresses,
        )

    # -- redeeming ------------------------------------------------------------------------------

    def redeem(self, body: bytes, joiner: PeerId, peers: Addressed, wall: Nanos) -> Redeemed:
        """What a joiner is answered, and what must happen for it."""
        request = self.read(body)
        if isinstance(request, Refusal):
            return Redeemed(reply=invites.refuse_join(request))
        if isinstance(request, Invite):
            return self._redeem(request, joiner, peers, wall)
        return self._renew(request.credentials, joiner, peers, wall)

    def read(self, body: bytes) -> Invite | JoinRequest | Refusal:
        """The invite in a request, or the request itself when it asks for a lease."""
        request = decode(JoinRequest, body[: limits.JOIN_MAX_BYTES], "join-request")
        if isinstance(request, Rejection):
            return Refusal(
                "bad-request",
                f"the join request is malformed: {request.detail}",
                "use the same version of pollen on both machines",
            )
        if request.credentials and not request.token:
            return request
        return invites.open_token(request.token, self._verify)

    def _redeem(self, invite: Invite, joiner: PeerId, peers: Addressed, wall: Nanos) -> Redeemed:
        key = invites.nonce_key(invite.nonce)
        spent = self._spent.get(key) if invite.nonce else None
        issuer, trust = self.issuer(), self.trust
        inviter = trust.certificates.get(PeerId(invite.issuer))
        refusal = invites.judge_join(invite, joiner, issuer, inviter, spent, wall)
        if refusal is not None:
            return Redeemed(reply=invites.refuse_join(refusal))
        if spent is not None and trust.is_denied(joiner):
            return Redeemed(reply=invites.refuse_join(invites.DENIED_SINCE))
        if spent is not None:
            return self._answer(spent.chain, peers, [(NONCE_TABLE, key, encode(spent))])
        verdicts = trust.verdicts_of(joiner)
        certificate = invites.plan_certificate(invite, joiner, issuer, verdicts, trust.roots, wall)
        if isinstance(certificate, Refusal):
            return Redeemed(reply=invites.refuse_join(certificate))
        parent = issuer.chain.carried if certificate.lineage and issuer.chain else ()
        carried = issue_certificate(certificate, self._sign, parent)
        chain = trust.judge(joiner, carried)
        if isinstance(chain, Rejection):
            refusal = Refusal("internal", f"what this node signed does not hold: {chain.kind}")
            return Redeemed(reply=invites.refuse_join(refusal))
        held = self.lend(chain, wall)
        credentials = self.trust.credentials_with(chain, held)
        rows: list[Row] = []
        if invite.nonce:
            rows = self._forget_old(wall)
            spent = SpentNonce(joiner, invite.expires + limits.NONCE_KEEP_NS, credentials)
            self._spent[key] = spent
            rows.append((NONCE_TABLE, key, encode(spent)))
        admitted = None
        if joiner not in trust.certificates:
            # A token that is redeemed again before its joiner shows itself adds no record.
            act = hash_of("admit", joiner, invite.expires.to_bytes(8, "big"))[:_ACT_BYTES]
            admitted = act, f"{Tier(certificate.tier).label} {certificate.properties}"
        return self._answer(credentials, peers, rows, held, admitted)

    def _renew(self, shown: bytes, joiner: PeerId, peers: Addressed, wall: Nanos) -> Redeemed:
        """A member that nobody leased for too long: its certificate still counts."""
        chain = self.trust.take_shown(joiner, shown)
        if isinstance(chain, Rejection) or not chain.leaf.has_access(wall):
            refusal = Refusal("denied", "this key is not a member", "ask for a token: pln invite")
            return Redeemed(reply=invites.refuse_join(refusal))
        if not self.is_lender():
            refusal = Refusal("denied", "this node is not an admin", "ask an admin node")
            return Redeemed(reply=invites.refuse_join(refusal))
        held = self.lend(chain, wall)
        return self._answer(self.trust.credentials_with(chain, held), peers, [], held)

    def is_lender(self) -> bool:
        """True on an admin node whose certificate counts: it signs leases."""
        own = self.trust.certificates.get(self._config.node)
        return own is not None and own.tier >= Tier.ADMIN

    def lend(self, chain: Chain, wall: Nanos) -> HeldLease:
        """A lease of full length for a certificate, signed by this node."""
        return lend(chain, self._config.node, wall, self._sign)

    def _forget_old(self, wall: Nanos) -> list[Row]:
        old: list[bytes] = [k for k, spent in self._spent.items() if spent.forget_after < wall]
        for key in old:
            del self._spent[key]
        return [(NONCE_TABLE, Hash(key), None) for key in old]

    def _answer(
        self,
        chain: bytes,
        peers: Addressed,
        rows: Sequence[Row],
        held: HeldLease | None = None,
        admitted: tuple[bytes, str] | None = None,
    ) -> Redeemed:
        config = self._config
        told = peers[:_PEERS_TOLD]
        reply = JoinReply("", "", "", config.cluster, config.root, chain, told)
        return Redeemed(reply=reply, rows=rows, lease=held, admitted=admitted)
