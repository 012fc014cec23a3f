"""The root's policy on publishers: which member may publish which names.

Decides: which of the policies that are known counts, and whether it lets a member have a name.
Does not know: seeds, specs, who signs where; what an expression means (``policy``).
Invariants: the policy that counts is a function of the records and the line of roots, whatever
    their order: of the newest root that signed one, the highest number, among equals the largest
    hash. So no number of an older root stands above the newest one's. One that counted is not
    forgotten while a root of the line signed it. One that cannot be read lets nobody publish.
Source: docs/design/policy.md#who-may-publish.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import ClassVar

import msgspec

from pollen.core.codec import (
    POLICY_DOMAIN,
    U32,
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
from pollen.core.ids import ClusterId, Hash, KeyRole, PeerId, Sign, Verify, hash_of, short
from pollen.core.policy import PUBLISHERS, Node, Policy, packed, parse, read_policy
from pollen.core.records import Record
from pollen.core.trust.certs import Certificate

PUBLISH = "publish"
# Why the subject of a certificate may not have a name; empty when it may.
WhyNot = Callable[[str, Certificate], str]


class PublisherPolicy(msgspec.Struct, frozen=True, array_like=True):
    """``root`` says who may publish what. ``issued`` is wall nanoseconds, for people only.

    Without ``text`` there is no policy from now on.
    """

    # The largest number; one more always fits its u32. Guess: a change a second, for 136 years.
    NUMBER_MAX: ClassVar[int] = (1 << 32) - 2

    cluster: WireClusterId
    root: WirePeerId
    about: str
    number: U32
    issued: U64
    text: str
    tree: str

    @property
    def hash(self) -> Hash:
        """What tells two policies of one number apart."""
        return hash_of("policy", encode(self))

    @property
    def policy(self) -> Policy | None:
        """What it says, of no name yet; None when it takes the policy away."""
        if not self.text and not self.tree:
            return None
        return read_policy([self.text, self.tree], PUBLISHERS, seed="", owner="")

    @property
    def is_readable(self) -> bool:
        """False for a text that is no policy here, or another one than its tree."""
        policy = self.policy
        return policy is None or policy.tree is not None

    def sentence(self) -> str:
        """What it does, in words."""
        does = f"a member publishes a name only if: {self.text}"
        if not self.text:
            does = "the tier alone decides who may publish"
        return f"policy on publishers, number {self.number}: {does}"

    def letting(self) -> Callable[[str, Certificate], bool]:
        """Says of a name and a certificate whether it lets the subject have it. The text is read
        once, here."""
        rule = self.policy
        if rule is None:
            return lambda name, certificate: True
        return lambda name, certificate: msgspec.structs.replace(rule, seed=name).passes(
            certificate.party
        )

    def judging(self) -> WhyNot:
        """Says of a name and a certificate which parts keep it from being true, each with its
        value. The text is read once, here."""
        rule = self.policy
        if rule is None:
            return lambda name, certificate: ""

        def why_not(name: str, certificate: Certificate) -> str:
            named = msgspec.structs.replace(rule, seed=name)
            if named.passes(certificate.party):
                return ""
            parts = named.culprits(certificate.party)
            return "; ".join(f"{part.text} is {part.value}" for part in parts)

        return why_not

    def signed(self, sign: Sign) -> Signed:
        """As it is carried, signed by the root here."""
        body = encode(self)
        return Signed(body, sign(KeyRole.ROOT, signing_bytes(POLICY_DOMAIN, body)))


def judge_policy(signed: Signed, cluster: ClusterId, verify: Verify) -> PublisherPolicy | Rejection:
    """A policy that the root in it did sign; whether that root counts is not judged here."""
    policy = decode(PublisherPolicy, signed.body, "policy")
    if isinstance(policy, Rejection):
        return policy
    if policy.cluster != cluster:
        return Rejection("policy-of-another-cluster")
    if policy.about != PUBLISH:
        return Rejection("policy-about", policy.about[:80])
    if policy.number > PublisherPolicy.NUMBER_MAX:
        return Rejection("policy-number")
    message = signing_bytes(POLICY_DOMAIN, signed.body)
    if verify([(policy.root, message, signed.signature)]) != [True]:
        return Rejection("policy-signature")
    return policy


class _Held(msgspec.Struct, frozen=True, gc=False):
    """A policy as it was judged, as it is carried, and its hash."""

    policy: PublisherPolicy
    signed: Signed
    hash: Hash


class Publishers:
    """The policies that a node knows, by who carries each, and the one that counts."""

    def __init__(self, cluster: ClusterId, verify: Verify) -> None:
        self._cluster = cluster
        self._verify = verify
        self._carried: dict[PeerId, _Held] = {}
        self._best: _Held | None = None
        self._told: Hash | None = None
        self._rule: Policy | None = None
        self._why_not: WhyNot = lambda name, certificate: ""
        self.counts: tuple[PublisherPolicy, Signed] | None = None

    def apply(self, record: Record, roots: Collection[PeerId]) -> Rejection | None:
        """Take in a record of a policy; the fault in it, if it has one.

        One under another key says nothing, also of what its owner carries.
        """
        if record.body.key != PUBLISH.encode():
            return Rejection("policy-key")
        owner = record.body.owner
        held = self._judge(record.body.payload) if record.is_live else None
        if isinstance(held, _Held):
            self._carried[owner] = held
            # What counted before is not forgotten, so that nothing else can count now.
            self._choose([held], roots)
        else:
            self._carried.pop(owner, None)
        return held if isinstance(held, Rejection) else None

    def _judge(self, payload: bytes) -> _Held | Rejection:
        signed = decode(Signed, payload, "policy")
        if isinstance(signed, Rejection):
            return signed
        judged = judge_policy(signed, self._cluster, self._verify)
        return judged if isinstance(judged, Rejection) else _Held(judged, signed, judged.hash)

    def follow(self, roots: Collection[PeerId]) -> None:
        """What counts, by the line of roots, oldest first, as it is now."""
        self._choose([*self._carried.values()], roots)

    def _choose(self, among: Sequence[_Held], roots: Collection[PeerId]) -> None:
        place = {root: at for at, root in enumerate(roots)}
        known = [*among, *([] if self._best is None else [self._best])]
        able = [held for held in known if held.policy.root in place]
        best = max(
            able,
            key=lambda held: (place[PeerId(held.policy.root)], held.policy.number, held.hash),
            default=None,
        )
        if (best and best.hash) == (self._best and self._best.hash):
            return
        self._best = best
        self.counts = None if best is None else (best.policy, best.signed)
        self._rule = None if best is None else best.policy.policy
        self._why_not = (lambda name, certificate: "") if best is None else best.policy.judging()

    def take_owed(self, admins: Iterable[PeerId]) -> tuple[bytes, bytes] | None:
        """Key and payload of the policy that counts, while no record of an admin carries it.

        It is told once, until one does.
        """
        best = self._best
        if best is None:
            return None
        carried = [self._carried[admin] for admin in admins if admin in self._carried]
        if any(held.hash == best.hash for held in carried):
            self._told = None
            return None
        if self._told == best.hash:
            return None
        self._told = best.hash
        return best.policy.about.encode(), encode(best.signed)

    def rule_for(self, name: str) -> Policy | None:
        """The policy as it reads for one name; None without any."""
        return None if self._rule is None else msgspec.structs.replace(self._rule, seed=name)

    def lets(self, name: str, certificate: Certificate) -> bool:
        """Whether the policy, if there is one, lets the subject of a certificate have a name."""
        rule = self.rule_for(name)
        return rule is None or rule.passes(certificate.party)

    def why_not(self, name: str, certificate: Certificate) -> str:
        """The parts that keep the policy from being true, each with its value; empty when it is."""
        return self._why_not(name, certificate)

    def refusal(self, name: str, certificate: Certificate) -> Refusal | None:
        """What the subject of a certificate is told that may not publish under a name, or None."""
        if self._best is None or self.lets(name, certificate):
            return None
        policy = self._best.policy
        reason = f"the root's policy on publishers does not let this node publish {name!r}"
        reason += f": {self.why_not(name, certificate)}"
        remedy = f"the policy is: {policy.text}\n"
        if not policy.is_readable:
            remedy += "update Pollen on this node: another version wrote the policy"
            return Refusal("denied", reason, remedy)
        remedy += "choose a name that it allows, or have an admin change what this node is: "
        remedy += f"pln grant {short(PeerId(certificate.subject))} --prop key=value"
        return Refusal("denied", reason, remedy)

    @property
    def text(self) -> str:
        """The policy that counts, as it was written; empty for none."""
        return "" if self.counts is None else self.counts[0].text

    def before(self, root: PeerId) -> Signed | None:
        """The policy that counts, when this root signed it: its next one has one number more."""
        best = self._best
        return None if best is None or best.policy.root != root else best.signed

    def plan(self, root: PeerId, wall: int, text: str) -> PublisherPolicy | Refusal:
        """The next policy of a root; empty text takes the one that counts away.

        ``bad-policy`` for a text that is none, ``denied`` when this root has no number left.
        """
        tree: Node | Refusal | None = parse(text, PUBLISHERS) if text else None
        if isinstance(tree, Refusal):
            return tree
        best, newest = self._best, 0
        if best is not None and best.policy.root == root:
            newest = best.policy.number
        if newest >= PublisherPolicy.NUMBER_MAX:
            reason = (
                f"the last policy of this root has the number {newest}, the largest that there is"
            )
            remedy = "give it a successor, which counts from 1: pln root succeed"
            return Refusal("denied", reason, remedy)
        return PublisherPolicy(
            cluster=self._cluster,
            root=root,
            about=PUBLISH,
            number=newest + 1,
            issued=wall,
            text=text,
            tree="" if tree is None else packed(tree),
        )
