"""The root key as a running node meets it: held here or not, succeeded, or asked on paper.

Decides: whether a key counts as a root, and whether what the root signed elsewhere is published.
Does not know: where keys lie and how they are sealed; how papers are read and judged (``trust``).
Invariants: nothing is published that the root did not sign, or of which this node knows better by
    now. An answer that was published already and still holds changes nothing. A key that is not in
    the line of roots is never asked to sign.
Source: docs/internals/trust.md#offline; docs/design/protocol.md#the-root-key-elsewhere.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping

from pollen.core import limits
from pollen.core.admission.redeeming import Redeeming
from pollen.core.codec import Refusal, Signed, encode
from pollen.core.ids import MILLISECOND, PeerId, Sign, Verify, is_hash_text, short
from pollen.core.kinds import DENY, SUCCESSION
from pollen.core.rootwords import (
    Applied,
    ApplyCommand,
    DisplacedRoot,
    HoldRootCommand,
    RootCommand,
    RootLink,
    RootView,
    SucceedCommand,
)
from pollen.core.trust import Members, RootRequest, Tier, Trust
from pollen.core.turn import Asked, Handler, Turn

# Tell credentials that the root signed, with a lease of this node's; the fault, if any.
PublishChain = Callable[[PeerId, list[Signed], Turn], Refusal | None]
# Tell a policy that the root signed: the document, the root, what it does in words.
PublishPolicy = Callable[[Signed, PeerId, str, Turn], None]
# The record of an act: verb, subject, detail.
Note = Callable[[str, PeerId, str, Turn], None]


class Rooted:
    """What a node may do with the root's authority; a machine of ``Granting``."""

    def __init__(
        self,
        members: Members,
        redeeming: Redeeming,
        sign: Sign,
        verify: Verify,
        publish: PublishChain,
        tell_policy: PublishPolicy,
        note: Note,
    ) -> None:
        self._members = members
        self._trust = members.trust
        self._redeeming = redeeming
        self._sign = sign
        self._verify = verify
        self._publish = publish
        self._tell_policy = tell_policy
        self._note = note

    def commands(self) -> Mapping[type[object], Handler]:
        """To look, to hold, to succeed and to publish."""
        return {
            RootCommand: self.on_look,
            HoldRootCommand: self.on_hold,
            SucceedCommand: self.on_succeed,
            ApplyCommand: self.on_apply,
        }

    def on_look(self, asked: Asked, turn: Turn) -> None:
        """What is known of the root."""
        turn.answer(asked.request, self._view())

    def _view(self) -> RootView:
        trust, name_of = self._trust, self._members.name_of
        line = []
        for root, carried in trust.roots.items():
            signed = [p for p, c in trust.certificates.items() if c.issuer == root]
            since = 0 if carried is None else RootRequest.since_of(carried) // MILLISECOND
            names = sorted(name_of(peer) for peer in signed)
            line.append(RootLink(root=root.hex(), since_unix_ms=since, members=names))
        held = self._redeeming.issuer().signing_root
        return RootView(
            cluster=self._redeeming.issuer().cluster.hex(),
            here=name_of(self._redeeming.own),
            held="" if held is None else held.hex(),
            line=line,
            admins=sorted(name_of(peer) for peer in trust.admins),
            displaced=self._displaced(),
        )

    def _displaced(self) -> list[DisplacedRoot]:
        """The successors that do not count, each with the members that it denied in vain."""
        found = []
        for link, void in self._trust.displaced():
            subjects = dict.fromkeys(PeerId(verdict.deny.subject) for verdict in void)
            denied = [peer for peer in subjects if peer in self._trust.certificates]
            found.append(
                DisplacedRoot(
                    root=link.successor.hex(),
                    before=link.root.hex(),
                    since_unix_ms=link.issued // MILLISECOND,
                    denied=[self._members.name_of(peer) for peer in denied],
                    ids=[peer.hex() for peer in denied],
                )
            )
        return found

    def on_hold(self, asked: Asked, turn: Turn) -> None:
        """The key of a root came to this machine, or left it."""
        command: HoldRootCommand = asked.command
        root = PeerId(bytes.fromhex(command.root)) if is_hash_text(command.root) else None
        if root is not None and root not in self._trust.roots:
            self._redeeming.hold_root(None)
            turn.answer(asked.request, _foreign(f"the key {short(root)} is not a root of it"))
            return
        self._redeeming.hold_root(root)
        turn.answer(asked.request, self._view())

    # -- succession -----------------------------------------------------------------------------

    def on_succeed(self, asked: Asked, turn: Turn) -> None:
        """The root signs who comes after it; all nodes follow when they hear of it."""
        command: SucceedCommand = asked.command
        refusal = self._succeed(command.successor, turn)
        turn.answer(asked.request, refusal or self._view(), when_durable=True)

    def _succeed(self, text: str, turn: Turn) -> Refusal | None:
        roots = list(self._trust.roots)
        held = self._redeeming.issuer().signing_root
        if not is_hash_text(text):
            return Refusal("bad-request", f"{text[:80]!r} is not a key", "give 64 hex digits")
        successor = PeerId(bytes.fromhex(text))
        if successor in roots:
            return None
        if held is None:
            return Refusal("root-not-here", "the root key is not on this node", _BRING)
        if held != roots[-1]:
            reason = f"the root {short(held)} has a successor already: {short(roots[-1])}"
            return Refusal("root-file-stale", reason, "bring that one: pln root import FILE")
        if len(roots) > limits.SUCCESSIONS_MAX:
            reason = f"the root was succeeded {len(roots) - 1} times, which is the limit"
            return Refusal("denied", reason, "make a new cluster: pln init, in another folder")
        if successor in self._trust.certificates:
            return Refusal("bad-request", "that is the key of a member", "make a new key for it")
        cluster = self._redeeming.issuer().cluster
        signed = RootRequest.succession(cluster, held, successor, turn.now.wall, self._sign)
        self._tell_succession(signed, successor, turn)
        return None

    def _tell_succession(self, signed: Signed, successor: PeerId, turn: Turn) -> None:
        """Each succession has a record of its own, so that no later one takes its place."""
        turn.publish(SUCCESSION, successor, encode(signed))
        self._trust.follow([signed])
        self._note("succeed", successor, "it signs like the root before it", turn)

    # -- on paper -------------------------------------------------------------------------------

    def on_apply(self, asked: Asked, turn: Turn) -> None:
        """Publish what the root signed on another machine."""
        command: ApplyCommand = asked.command
        turn.answer(asked.request, self._apply(command.answer, turn), when_durable=True)

    def _apply(self, text: str, turn: Turn) -> Applied | Refusal:
        opened = RootRequest.read_answer(_unbase64(text), self._verify)
        if isinstance(opened, Refusal):
            return opened
        request, documents = opened
        refusal = self._refusal_of(request)
        if refusal is not None:
            return refusal
        done = request.sentences()
        if request.is_known(self._trust):
            return Applied(done=done, changed=False)
        late = request.lateness(self._trust)
        if late:
            remedy = "ask again with what holds now: pln grant PEER … --request FILE"
            remedy += "; for who was denied: pln undeny PEER --request FILE"
            if any(paper.is_policy for paper in request.papers):
                remedy = "ask again with what holds now: pln set-policy publish EXPR --request FILE"
            return Refusal("root-file-stale", f"the answer of the root is too old: {late}", remedy)
        for paper, signed in zip(request.papers, documents, strict=True):
            subject = paper.subject()
            if paper.is_certificate:
                refusal = self._publish(subject, [signed], turn)
                if refusal is not None:
                    return refusal
                self._note("grant", subject, "signed by the root elsewhere", turn)
            elif paper.is_deny:
                payload = RootRequest.deny_payload(signed)
                turn.publish(DENY, Trust.deny_key(payload), payload)
                self._note("deny", subject, "signed by the root elsewhere", turn)
            elif paper.is_policy:
                self._tell_policy(signed, subject, paper.sentence(), turn)
            else:
                self._tell_succession(signed, subject, turn)
        return Applied(done=done)

    def _refusal_of(self, request: RootRequest) -> Refusal | None:
        """Why this node does not publish the answer, whatever is in it."""
        issuer = self._redeeming.issuer()
        if request.cluster != issuer.cluster:
            return _foreign(f"it is for cluster {short(PeerId(request.cluster))}")
        if request.root not in self._trust.roots:
            return _foreign(f"its root {short(PeerId(request.root))} is not known here")
        gets_admin = request.makes_admin(issuer.node)
        is_lender = issuer.chain is not None and issuer.chain.leaf.tier >= Tier.ADMIN
        if is_lender or gets_admin or not request.has_certificates:
            return None
        reason = "this node is not an admin: nobody would count the leases that go with it"
        return Refusal("denied", reason, "run it on an admin node; pln members shows them")


_BRING = "bring it here: pln root import FILE; or ask it elsewhere: pln grant PEER … --request FILE"


def _foreign(why: str) -> Refusal:
    reason = f"this is not of this cluster: {why}"
    return Refusal("root-file-foreign", reason, "compare it with: pln root status")


def _unbase64(text: str) -> bytes:
    """The bytes of an answer; none at all for what is not base64, which then is not an answer."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
