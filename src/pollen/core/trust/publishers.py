"""The root's policy on publishers: which member may publish which names.

Decides: which of the policies that are known counts, and whether it lets a member have a name.
Does not know: seeds, specs, who signs where; what an expression means (``policy``).
Invariants: the policy that counts is a function of the records and the line of roots, whatever
    their order: the highest number, among equals the largest hash. One that counted is not
    forgotten while a root of the line signed it. One that cannot be read lets nobody publish.
Source: docs/design/policy.md#who-may-publish.
"""

from __future__ import annotations

from collections.abc import Container
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
        does = f"only whom this is true of publishes: {self.text}"
        if not self.text:
            does = "who may publish is said by the tier alone"
        return f"policy on publishers, number {self.number}: {does}"

    def why_not(self, name: str, certificate: Certificate) -> str:
        """The parts that keep it from letting somebody have a name, each with its value; empty when
        it does."""
        rule = self.policy
        rule = None if rule is None else msgspec.structs.replace(rule, seed=name)
        if rule is None or rule.passes(certificate.party):
            return ""
        parts = rule.culprits(certificate.party)
        return "; ".join(f"{part.text} is {part.value}" for part in parts)

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


class Publishers:
    """The policies that a node knows, by who carries each, and the one that counts."""

    def __init__(self, cluster: ClusterId, verify: Verify) -> None:
        self._cluster = cluster
        self._verify = verify
        self._carried: dict[PeerId, tuple[PublisherPolicy, Signed]] = {}
        self._is_owed = False
        self._rule: Policy | None = None
        self.counts: tuple[PublisherPolicy, Signed] | None = None

    def apply(self, record: Record, roots: Container[PeerId]) -> Rejection | None:
        """Take in a record of a policy; the fault in it, if it has one."""
        owner, fault = record.body.owner, None
        self._carried.pop(owner, None)
        if record.is_live:
            signed = decode(Signed, record.body.payload, "policy")
            judged = (
                signed
                if isinstance(signed, Rejection)
                else judge_policy(signed, self._cluster, self._verify)
            )
            if isinstance(judged, Rejection) or isinstance(signed, Rejection):
                fault = judged if isinstance(judged, Rejection) else None
            elif record.body.key != judged.about.encode():
                fault = Rejection("policy-key")
            else:
                self._carried[owner] = judged, signed
        self.follow(roots)
        return fault

    def follow(self, roots: Container[PeerId]) -> None:
        """What counts, by the line of roots as it is now."""
        known = [*self._carried.values(), *([] if self.counts is None else [self.counts])]
        able = [held for held in known if held[0].root in roots]
        best = max(able, key=lambda held: (held[0].number, held[0].hash), default=None)
        carried = [policy for policy, _ in self._carried.values()]
        self._is_owed = best is not None and best[0] not in carried
        if best != self.counts:
            self.counts = best
            self._rule = None if best is None else best[0].policy

    def take_owed(self) -> tuple[bytes, bytes] | None:
        """Key and payload of the policy that counts, when no record carries it any more; once."""
        is_owed, self._is_owed = self._is_owed, False
        if not is_owed or self.counts is None:
            return None
        return self.counts[0].about.encode(), encode(self.counts[1])

    def rule_for(self, name: str) -> Policy | None:
        """The policy as it reads for one name; None without any."""
        return None if self._rule is None else msgspec.structs.replace(self._rule, seed=name)

    def lets(self, name: str, certificate: Certificate) -> bool:
        """Whether the policy, if there is one, lets the subject of a certificate have a name."""
        rule = self.rule_for(name)
        return rule is None or rule.passes(certificate.party)

    def why_not(self, name: str, certificate: Certificate) -> str:
        """The parts that keep the policy from being true, each with its value; empty when it is."""
        return "" if self.counts is None else self.counts[0].why_not(name, certificate)

    def refusal(self, name: str, certificate: Certificate) -> Refusal | None:
        """What the subject of a certificate is told that may not publish under a name, or None."""
        if self.counts is None or self.lets(name, certificate):
            return None
        policy = self.counts[0]
        reason = f"the root's policy on publishers does not let this node publish {name!r}"
        reason += f": {policy.why_not(name, certificate)}"
        remedy = f"the policy is: {policy.text}\n"
        remedy += "choose a name that it allows, or have an admin change what this node is: "
        remedy += f"pln grant {short(PeerId(certificate.subject))} --prop key=value"
        return Refusal("denied", reason, remedy)

    @property
    def text(self) -> str:
        """The policy that counts, as it was written; empty for none."""
        return "" if self.counts is None else self.counts[0].text

    @property
    def newest(self) -> int:
        """The number of the policy that counts; 0 without any."""
        return 0 if self.counts is None else self.counts[0].number

    def plan(self, root: PeerId, wall: int, text: str) -> PublisherPolicy | Refusal:
        """The policy that takes the place of the one that counts; empty text takes it away.

        ``bad-policy`` for a text that is none, ``denied`` when the numbers are used up.
        """
        tree: Node | Refusal | None = parse(text, PUBLISHERS) if text else None
        if isinstance(tree, Refusal):
            return tree
        if self.newest >= PublisherPolicy.NUMBER_MAX:
            reason = f"the policy was changed {self.newest} times, which is the limit"
            return Refusal("denied", reason, "make a new cluster: pln init, in another folder")
        return PublisherPolicy(
            cluster=self._cluster,
            root=root,
            about=PUBLISH,
            number=self.newest + 1,
            issued=wall,
            text=text,
            tree="" if tree is None else packed(tree),
        )
