"""Documents that only the root signs, on their way to a machine that has its key and no network.

Decides: what a request and its answer hold, whether they hold, and whether an answer came too late.
Does not know: files, keys, who publishes what was signed (``admission``).
Invariants: a request is signed by who asks, so no byte of it changes on the way. Each document in
    it is of its cluster and its root; an answer has one signature for each, checked before anything
    else of it is believed. What a request says beside its documents is its author's word.
Source: docs/internals/trust.md#offline; docs/decisions/the-root-key-on-paper.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import msgspec

from pollen.core.codec import (
    CERTIFICATE_DOMAIN,
    DENY_DOMAIN,
    POLICY_DOMAIN,
    ROOT_REQUEST_DOMAIN,
    SUCCESSION_DOMAIN,
    U8,
    U64,
    Refusal,
    Rejection,
    Signed,
    WireClusterId,
    WireHash,
    WirePeerId,
    WireSignature,
    decode,
    encode,
    signing_bytes,
)
from pollen.core.ids import HOUR, MILLISECOND, ClusterId, KeyRole, PeerId, Sign, Verify, short
from pollen.core.labels import check_name
from pollen.core.trust import certs, denies
from pollen.core.trust.authority import Trust
from pollen.core.trust.certs import Certificate, Chain, Tier
from pollen.core.trust.denies import Deny, DenyPayload, ProvenDeny, deny_hash
from pollen.core.trust.publishers import PublisherPolicy, judge_policy
from pollen.core.trust.succession import Succession, issue, issued_of, judge_succession

# What a paper is, as its ``kind`` says.
CERTIFICATE, DENY, SUCCESSION, POLICY = 0, 1, 2, 3
_DOMAINS = {
    CERTIFICATE: CERTIFICATE_DOMAIN,
    DENY: DENY_DOMAIN,
    SUCCESSION: SUCCESSION_DOMAIN,
    POLICY: POLICY_DOMAIN,
}
Document = Certificate | Deny | Succession | PublisherPolicy
_TYPES: dict[int, type[Document]] = {
    CERTIFICATE: Certificate,
    DENY: Deny,
    SUCCESSION: Succession,
    POLICY: PublisherPolicy,
}


class Paper(msgspec.Struct, frozen=True, array_like=True):
    """One document for the root to sign: ``body`` is the exact bytes that it signs.

    Of its subject, as the asking node knows it: ``name``, the body of the certificate that counts
    (``before``, empty for none) and the hashes of its denies. ``before`` of a policy is the policy
    that counts, signed, when this root signed it.
    """

    kind: U8
    body: bytes
    name: str = ""
    before: bytes = b""
    denies: list[WireHash] = []

    def read(self) -> Document | Rejection:
        """The document in the body."""
        known = _TYPES.get(self.kind)
        return Rejection("paper-kind") if known is None else decode(known, self.body, "paper")

    @property
    def is_certificate(self) -> bool:
        """True for a certificate."""
        return self.kind == CERTIFICATE

    @property
    def is_deny(self) -> bool:
        """True for a deny."""
        return self.kind == DENY

    @property
    def is_policy(self) -> bool:
        """True for a policy on publishers."""
        return self.kind == POLICY

    def subject(self) -> PeerId:
        """Whom the document is about: a member, the next root, or the root that says who may
        publish; no id when it cannot be read."""
        document = self.read()
        if isinstance(document, Rejection):
            return PeerId(b"")
        if isinstance(document, PublisherPolicy):
            return PeerId(document.root)
        if isinstance(document, Succession):
            return PeerId(document.successor)
        return PeerId(document.subject)

    def access_until_unix_ms(self) -> int:
        """When the access that it gives ends; 0 for never, and for what gives none."""
        document = self.read()
        until = document.access_deadline if isinstance(document, Certificate) else 0
        return until // MILLISECOND

    def sentence(self) -> str:
        """In words, all that the document does once it is signed; made of the document alone, but
        for the name. When its access ends is told beside it. The whole id stands in it: 8 digits of
        a key are found by trying."""
        document, who = self.read(), f"{self.name} {self.subject().hex()}".strip()
        if isinstance(document, Certificate):
            tier = Tier(document.tier).label if document.tier <= Tier.ADMIN else "nothing known"
            said = [f"{who} is {'an' if tier == 'admin' else 'a'} {tier}, {document.properties}"]
            if document.gives != (document.properties if tier == "admin" else "{}"):
                bounds = "any property" if document.gives == "{}" else f"within {document.gives}"
                said.append(f"it gives {bounds}")
            if document.lease_ns:
                said.append(f"its leases last {document.lease_ns / HOUR:g} h")
            if document.cites:
                said.append(f"this lifts the deny {document.cites[:4].hex()}")
            return "; ".join(said)
        if isinstance(document, Deny):
            why = f": {document.reason}" if document.reason else ""
            return f"{who} loses what it had up to generation {document.generation}{why}"
        if isinstance(document, PublisherPolicy):
            return document.sentence()
        return f"the key {self.subject().hex()} is the next root, and signs like this one"


class RootRequest(msgspec.Struct, frozen=True, array_like=True):
    """What ``asker`` wants ``root`` to sign. ``asked`` is wall nanoseconds by the asker's clock."""

    # Documents in one request: a member and those directly below it, two each. Guess.
    PAPERS_MAX: ClassVar[int] = 64
    # A request as it travels. Its answer, with a signature more for each document and in base64,
    # fits a body of the control API (256 KiB). Source: docs/internals/trust.md#offline.
    BYTES_MAX: ClassVar[int] = 184 * 1024

    cluster: WireClusterId
    root: WirePeerId
    asker: WirePeerId
    asked: U64
    papers: list[Paper]

    @staticmethod
    def papers_of(
        name: str, before: Chain, known: Sequence[ProvenDeny], chain: Sequence[Signed], deny: bytes
    ) -> list[Paper]:
        """The papers of one change: the last certificate of ``chain``, then the deny, if any."""
        held = before.carried[-1].body
        hashes = [verdict.hash for verdict in known]
        papers = [Paper(CERTIFICATE, link.body, name, held, hashes) for link in chain[-1:]]
        payload = decode(DenyPayload, deny, "deny")
        if isinstance(payload, DenyPayload):
            papers.append(Paper(DENY, payload.deny.body, name, held, hashes))
        return papers

    # What a room that enters by the door needs of a succession.
    succession = staticmethod(issue)
    since_of = staticmethod(issued_of)

    @staticmethod
    def of_succession(signed: Signed, root: PeerId, cluster: ClusterId, asked: int) -> RootRequest:
        """The request that a root makes of itself, to be succeeded."""
        return RootRequest(cluster, root, root, asked, [Paper(SUCCESSION, signed.body)])

    @staticmethod
    def papers_of_policy(policy: PublisherPolicy, before: Signed | None) -> list[Paper]:
        """The paper of a policy on publishers; ``before`` is the one of this root that counts."""
        held = b"" if before is None else encode(before)
        return [Paper(POLICY, encode(policy), before=held)]

    @property
    def has_certificates(self) -> bool:
        """Whether somebody is given something: that takes a lease as well."""
        return any(paper.is_certificate for paper in self.papers)

    def makes_admin(self, peer: PeerId) -> bool:
        """Whether a key becomes or stays an admin by it."""
        held = [p.read() for p in self.papers if p.is_certificate and p.subject() == peer]
        return any(isinstance(c, Certificate) and c.tier >= Tier.ADMIN for c in held)

    def sentences(self) -> list[str]:
        """What it does, in words."""
        return [paper.sentence() for paper in self.papers]

    @staticmethod
    def deny_payload(signed: Signed) -> bytes:
        """A root's deny as its record carries it."""
        return encode(DenyPayload(signed))

    def sealed(self, sign: Sign, role: KeyRole = KeyRole.NODE) -> bytes:
        """The request as it travels, signed by the asker."""
        body = encode(self)
        return encode(Signed(body, sign(role, signing_bytes(ROOT_REQUEST_DOMAIN, body))))

    @staticmethod
    def read(raw: bytes, verify: Verify) -> RootRequest | Refusal:
        """A request that its asker signed, and whose papers are of its cluster and root."""
        signed = decode(Signed, raw, "root-request")
        if isinstance(signed, Rejection):
            return _invalid("its bytes are not a request")
        request = decode(RootRequest, signed.body, "root-request")
        if isinstance(request, Rejection):
            return _invalid("its bytes are not a request")
        message = signing_bytes(ROOT_REQUEST_DOMAIN, signed.body)
        if verify([(request.asker, message, signed.signature)]) != [True]:
            return _invalid("the node that it names did not sign these bytes")
        if not 1 <= len(request.papers) <= RootRequest.PAPERS_MAX:
            return _invalid(f"it holds {len(request.papers)} documents")
        for paper in request.papers:
            fault = request._fault_of(paper, verify)
            if fault:
                return _invalid(fault)
        return request

    def _fault_of(self, paper: Paper, verify: Verify) -> str:
        document = paper.read()
        if isinstance(document, Rejection):
            return "a document in it cannot be read"
        if paper.name and check_name(paper.name) is not None:
            return "a name in it is not one"
        if isinstance(document, Succession | PublisherPolicy):
            signer = document.root
        else:
            signer = document.issuer
        if document.cluster != self.cluster or signer != self.root:
            return "a document in it is of another cluster or another root"
        if isinstance(document, Certificate):
            if document.lineage:
                return "a document in it is not the root's to sign"
            fault = certs.fault_of(document, ClusterId(self.cluster))
            return f"nobody would take a document in it: {fault}" if fault else ""
        if isinstance(document, PublisherPolicy):
            return self._fault_of_policy(document, paper.before, verify)
        return ""

    def _fault_of_policy(self, policy: PublisherPolicy, carried: bytes, verify: Verify) -> str:
        """Why the root does not sign a policy; the numbers of a root leave none out.

        Else who asks could have it sign the last number that there is, and so no other after it.
        """
        if not policy.is_readable:
            return "a policy in it cannot be read here, and would let nobody publish"
        newest = 0
        if carried:
            signed = decode(Signed, carried, "policy")
            if isinstance(signed, Rejection):
                return "the policy before the one in it cannot be read"
            before = judge_policy(signed, ClusterId(self.cluster), verify)
            if isinstance(before, Rejection) or before.root != self.root:
                return "the policy before the one in it is not of this root"
            newest = before.number
        if policy.number != newest + 1:
            return f"a policy in it has the number {policy.number}, and {newest + 1} is the next"
        return ""

    @staticmethod
    def answered(raw: bytes, sign: Sign, verify: Verify) -> bytes | Refusal:
        """The answer to a request: each document signed by the root, whose key ``sign`` has."""
        request, signed = RootRequest.read(raw, verify), decode(Signed, raw, "root-request")
        if isinstance(request, Refusal):
            return request
        if isinstance(signed, Rejection):
            return _invalid("its bytes are not a request")
        signatures = [
            sign(KeyRole.ROOT, signing_bytes(_DOMAINS[paper.kind], paper.body))
            for paper in request.papers
        ]
        answer = encode(RootAnswer(signed, signatures))
        checked = RootRequest.read_answer(answer, verify)
        return checked if isinstance(checked, Refusal) else answer

    @staticmethod
    def read_answer(raw: bytes, verify: Verify) -> tuple[RootRequest, list[Signed]] | Refusal:
        """The request in an answer and its documents, each of which the root did sign and may."""
        answer = decode(RootAnswer, raw, "root-answer")
        if isinstance(answer, Rejection):
            return _invalid("its bytes are not an answer of the root")
        request = RootRequest.read(encode(answer.request), verify)
        if isinstance(request, Refusal):
            return request
        if len(answer.signatures) != len(request.papers):
            return _invalid("it has not one signature for each document")
        documents = [
            Signed(paper.body, signature)
            for paper, signature in zip(request.papers, answer.signatures, strict=True)
        ]
        for paper, document in zip(request.papers, documents, strict=True):
            fault = request._judge(paper, document, verify)
            if fault is not None:
                return _invalid(f"a document in it does not hold: {fault.kind}")
        return request, documents

    def _judge(self, paper: Paper, signed: Signed, verify: Verify) -> Rejection | None:
        """What is wrong with a signed document, for who knows this root and nothing else."""
        cluster, roots = ClusterId(self.cluster), {PeerId(self.root)}
        document = paper.read()
        judged: object
        if isinstance(document, Certificate):
            judged = certs.judge_chain(
                [signed],
                cluster=cluster,
                roots=roots,
                subject=PeerId(document.subject),
                verify=verify,
            )
        elif isinstance(document, Deny):
            payload = self.deny_payload(signed)
            judged = denies.judge_deny(payload, cluster=cluster, roots=roots, verify=verify)
        elif isinstance(document, PublisherPolicy):
            judged = judge_policy(signed, cluster, verify)
        else:
            judged = judge_succession(signed, cluster, verify)
        return judged if isinstance(judged, Rejection) else None

    # -- at the node that publishes it ----------------------------------------------------------

    def is_known(self, trust: Trust) -> bool:
        """Whether all that is asked for is so already."""
        return all(self._is_known(paper, trust) for paper in self.papers)

    @staticmethod
    def _is_known(paper: Paper, trust: Trust) -> bool:
        document = paper.read()
        if isinstance(document, Succession):
            return document.successor in trust.roots
        if isinstance(document, PublisherPolicy):
            counts = trust.publishers.counts
            return counts is not None and counts[0] == document
        if isinstance(document, Deny):
            digest = deny_hash(Signed(paper.body, bytes(64)))
            return digest in {v.hash for v in trust.verdicts_of(PeerId(document.subject))}
        if isinstance(document, Certificate):
            subject = PeerId(document.subject)
            chain = trust.chain_of(subject)
            # The chain of who was denied since is known as well, and counts no more.
            is_same = chain is not None and chain.carried[-1].body == paper.body
            return is_same and subject in trust.certificates
        return False

    def lateness(self, trust: Trust) -> str:
        """What happened since the request was made that its answer does not know of; or nothing."""
        for paper in self.papers:
            document = paper.read()
            late = ""
            if isinstance(document, Succession):
                if document.root != list(trust.roots)[-1]:
                    late = f"the root {short(PeerId(document.root))} has a successor already"
            elif isinstance(document, PublisherPolicy):
                late = self._late_policy(document, trust)
            elif isinstance(document, Certificate | Deny):
                late = self._late(paper, PeerId(document.subject), trust)
            if late:
                return late
        return ""

    @staticmethod
    def _late_policy(policy: PublisherPolicy, trust: Trust) -> str:
        """Numbers count for each root by itself, and the newest root speaks."""
        if policy.root != list(trust.roots)[-1]:
            return f"the root {short(PeerId(policy.root))} has a successor"
        before = trust.publishers.counts
        if before is None or before[0].root != policy.root or before[0].number < policy.number:
            return ""
        return f"the policy on publishers was changed since (number {before[0].number})"

    def _late(self, paper: Paper, subject: PeerId, trust: Trust) -> str:
        who = f"{paper.name} {short(subject)}"
        chain = trust.chain_of(subject)
        if chain is None:
            return f"this node does not know {who} yet"
        own = [p for p in self.papers if p.kind == DENY]
        known = {*paper.denies, *(deny_hash(Signed(p.body, bytes(64))) for p in own)}
        if any(verdict.hash not in known for verdict in trust.verdicts_of(subject)):
            return f"{who} was denied since"
        if chain.carried[-1].body == paper.before:
            return ""
        before = decode(Certificate, paper.before, "certificate")
        held = -1 if isinstance(before, Rejection) else before.generation
        if chain.leaf.generation < held:
            return f"this node has not heard yet what {who} has, on which the request builds"
        return f"{who} was granted something else since (generation {chain.leaf.generation})"


class RootAnswer(msgspec.Struct, frozen=True, array_like=True):
    """The request as it was carried, and the root's signature of each of its documents."""

    request: Signed
    signatures: list[WireSignature]


def _invalid(why: str) -> Refusal:
    remedy = "copy the file again, whole; or ask again: pln grant PEER … --request FILE"
    reason = f"the file was altered or is of another kind: {why}"
    return Refusal("root-file-invalid", reason, remedy)
