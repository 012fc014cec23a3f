"""The denies that a node knows of, proven and not yet proven.

Decides: which deny is news, and which must be told again because its record was buried.
Does not know: what follows from a deny for any chain but whether it is killed.
Invariants: a deny that held is never forgotten. One that does not hold yet is kept as long as its
    record, and judged again when the roots that are known change: what holds does not follow the
    order, and nobody's denies push another one out.
Source: docs/internals/trust.md#denies.
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
    """By subject and hash."""

    def __init__(self, cluster: ClusterId, verify: Verify) -> None:
        self._cluster = cluster
        self._verify = verify
        self._proven: dict[PeerId, dict[Hash, ProvenDeny]] = {}
        self._unproven: dict[tuple[PeerId, bytes], bytes] = {}
        self._payloads: dict[bytes, bytes] = {}
        self._buried: dict[bytes, None] = {}

    def apply(self, record: Record, roots: Container[PeerId]) -> ProvenDeny | Rejection | None:
        """A record of a deny: the deny when it is news, the fault in it, or None.

        A deny is not taken back: what its owner buries is owed to the others again.
        """
        payload, slot = record.body.payload, (record.body.owner, record.body.key)
        self._unproven.pop(slot, None)
        if not record.is_live:
            held = self._payloads.get(record.body.key)
            if held is not None:
                self._buried[held] = None
            return None
        if denies.deny_key(payload) != record.body.key:
            return Rejection("deny-key")
        return self._judge(slot, payload, roots)

    def _judge(
        self, slot: tuple[PeerId, bytes], payload: bytes, roots: Container[PeerId]
    ) -> ProvenDeny | Rejection | None:
        verdict = denies.judge_deny(
            payload, cluster=self._cluster, roots=roots, verify=self._verify
        )
        if isinstance(verdict, Rejection):
            self._unproven[slot] = payload
            return verdict
        self._payloads[slot[1]] = payload
        known = self._proven.setdefault(PeerId(verdict.deny.subject), {})
        if verdict.hash in known:
            return None
        known[verdict.hash] = verdict
        return verdict

    def judge_again(self, roots: Container[PeerId]) -> list[ProvenDeny | Rejection | None]:
        """The line of roots changed: what was not proven may be now."""
        waiting, self._unproven = self._unproven, {}
        return [self._judge(slot, payload, roots) for slot, payload in waiting.items()]

    def take_buried(self) -> list[bytes]:
        """Denies that hold and whose record was buried since the last call."""
        buried, self._buried = self._buried, {}
        return list(buried)

    def of(self, peer: PeerId) -> list[ProvenDeny]:
        """Every deny of one key."""
        return list(self._proven.get(peer, {}).values())

    def killer_of(self, chain: Chain, roots: Container[PeerId]) -> ProvenDeny | None:
        """The deny that kills a chain, or None."""
        return denies.killer_of(chain, self._proven, roots)
