"""The denies that a node knows of: those that hold, and those whose root does not count.

Decides: which deny is news, which is void, and which must be told again because its record was
    buried.
Does not know: what follows from a deny for any chain but whether it is killed.
Invariants: which denies hold is a function of the roots, of the records that stand, and of what
    held when its record was buried. A deny that holds is never forgotten; one whose root does not
    count is kept as long as its record, and judged again when the roots change. Nobody's denies
    push another one out.
Source: docs/internals/trust.md#denies. Refused: docs/decisions/a-displaced-root-denies-nothing.md.
"""

from __future__ import annotations

from collections.abc import Container

from pollen.core.codec import Rejection
from pollen.core.ids import ClusterId, Hash, PeerId, Verify
from pollen.core.records import Record
from pollen.core.trust import denies
from pollen.core.trust.certs import Chain
from pollen.core.trust.denies import ProvenDeny


class Denials:
    """By subject and hash. ``_proofs``: a payload that proves each deny that holds, by its key."""

    def __init__(self, cluster: ClusterId, verify: Verify) -> None:
        self._cluster = cluster
        self._verify = verify
        self._standing: dict[tuple[PeerId, bytes], bytes] = {}
        self._proven: dict[PeerId, dict[Hash, ProvenDeny]] = {}
        self._proofs: dict[bytes, bytes] = {}
        self._buried: dict[bytes, None] = {}
        self._voided: dict[PeerId, None] = {}

    def apply(self, record: Record, roots: Container[PeerId]) -> ProvenDeny | Rejection | None:
        """A record of a deny: the deny when it is news, the fault in it, or None.

        A deny is not taken back: what its owner buries is owed to the others again.
        """
        payload, slot = record.body.payload, (record.body.owner, record.body.key)
        self._standing.pop(slot, None)
        if not record.is_live:
            if record.body.key in self._proofs:
                self._buried[record.body.key] = None
            return None
        if denies.deny_key(payload) != record.body.key:
            return Rejection("deny-key")
        self._standing[slot] = payload
        return self._prove(payload, roots)

    def _judge(self, payload: bytes, roots: Container[PeerId]) -> ProvenDeny | Rejection:
        return denies.judge_deny(payload, cluster=self._cluster, roots=roots, verify=self._verify)

    def _prove(self, payload: bytes, roots: Container[PeerId]) -> ProvenDeny | Rejection | None:
        verdict = self._judge(payload, roots)
        if isinstance(verdict, Rejection):
            return verdict
        self._proofs.setdefault(verdict.hash, payload)
        known = self._proven.setdefault(PeerId(verdict.deny.subject), {})
        if verdict.hash in known:
            return None
        known[verdict.hash] = verdict
        return verdict

    def judge_again(self, roots: Container[PeerId]) -> list[PeerId]:
        """The line of roots changed: the keys of which other denies hold now than before."""
        before = self._proven
        payloads = dict.fromkeys([*self._proofs.values(), *self._standing.values()])
        self._proven, self._proofs = {}, {}
        for payload in payloads:
            self._prove(payload, roots)
        moved = []
        for subject in {**before, **self._proven}:
            held, holds = before.get(subject, {}), self._proven.get(subject, {})
            if held != holds:
                moved.append(subject)
            if any(digest not in holds for digest in held):
                self._voided[subject] = None
        return moved

    def void_by(self, displaced: Container[PeerId]) -> list[ProvenDeny]:
        """The denies that do not hold and would if these keys were roots, by subject and time."""
        found: dict[Hash, ProvenDeny] = {}
        for (_, key), payload in self._standing.items():
            verdict = None if key in self._proofs else self._judge(payload, displaced)
            if isinstance(verdict, ProvenDeny):
                found[verdict.hash] = verdict
        return sorted(found.values(), key=lambda v: (v.deny.subject, v.deny.issued, v.hash))

    def take_voided(self) -> list[PeerId]:
        """Whom a deny kept out here that ceased to hold since the last call."""
        voided, self._voided = self._voided, {}
        return list(voided)

    def take_buried(self) -> list[bytes]:
        """Denies that hold and whose record was buried since the last call."""
        buried, self._buried = self._buried, {}
        return [self._proofs[key] for key in buried if key in self._proofs]

    def of(self, peer: PeerId) -> list[ProvenDeny]:
        """Every deny of one key that holds."""
        return list(self._proven.get(peer, {}).values())

    def killer_of(self, chain: Chain, roots: Container[PeerId]) -> ProvenDeny | None:
        """The deny that kills a chain, or None."""
        return denies.killer_of(chain, self._proven, roots)
