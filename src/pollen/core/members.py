"""Who the members are: node records and the certificates that they carry.

Decides: whether a node record makes its owner a member, and whether its access has ended.
Does not know: links, who is alive (``membership``), names, tables.
Invariants: membership is a function of records and verified chains; the signature of one chain is
    checked once. A member that is gone stays a member: what it published goes on.
Source: PROTOCOL 1, 4. Refused: trusting the Hello's chain alone, which would leave the authority of
    an owner unknown whose records came through somebody else.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pollen.core import certs
from pollen.core.certs import Certificate
from pollen.core.codec import U8, U32, U64, Rejection, WireBoot, decode
from pollen.core.ids import ClusterId, Nanos, PeerId, Verify, short
from pollen.core.records import Record
from pollen.core.specs import check_name


class NodeInfo(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a node record: what a node says of itself. Positional, only appended."""

    name: str
    addresses: list[str]
    boot: WireBoot
    version: str
    chain: bytes
    memory_bytes: U64
    minor_min: U32
    minor_max: U32
    plan_version: U32 = 1
    phase: U8 = 0
    restarts: U32 = 0


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node whose record and chain hold. ``epoch`` is that of its node record."""

    peer: PeerId
    info: NodeInfo
    certificate: Certificate
    epoch: int


class Members:
    """The members that this node knows of."""

    def __init__(self, cluster: ClusterId, root: PeerId, verify: Verify) -> None:
        self._cluster = cluster
        self._root = root
        self._verify = verify
        self._judged: dict[tuple[PeerId, bytes], Certificate | Rejection] = {}
        self._members: dict[PeerId, Member] = {}
        self.certificates: dict[PeerId, Certificate] = {}
        self.newest_not_before = 0

    def judge(self, subject: PeerId, chain: bytes) -> Certificate | Rejection:
        """What a chain proves for this key, dates aside. Only good chains are remembered."""
        key = (subject, chain)
        held = self._judged.get(key)
        if held is not None:
            return held
        judged = certs.judge_chain(
            chain, cluster=self._cluster, root=self._root, subject=subject, verify=self._verify
        )
        if isinstance(judged, Certificate):
            self._judged[key] = judged
            self.newest_not_before = max(self.newest_not_before, judged.not_before)
        return judged

    def apply(self, record: Record) -> Member | Rejection | None:
        """Take in a node record; None when it says nothing that can be applied."""
        if record.is_opaque or not record.is_live:
            return None
        info = decode(NodeInfo, record.body.payload, "node-info")
        if isinstance(info, Rejection):
            return info
        if check_name(info.name) is not None:
            return Rejection("node-name", info.name[:80])
        certificate = self.judge(record.body.owner, info.chain)
        if isinstance(certificate, Rejection):
            return certificate
        return self.state(record.body.owner, info, certificate, record.body.epoch)

    def state(self, peer: PeerId, info: NodeInfo, certificate: Certificate, epoch: int) -> Member:
        """A member as its record says; this node states itself before its record is on disk."""
        member = Member(peer=peer, info=info, certificate=certificate, epoch=epoch)
        self._members[peer] = member
        self.certificates[peer] = certificate
        return member

    def find(self, peer: PeerId) -> Member | None:
        """One member."""
        return self._members.get(peer)

    def all_members(self) -> list[Member]:
        """All members by id."""
        return [self._members[peer] for peer in sorted(self._members)]

    def with_access(self, live: Mapping[PeerId, int], wall: Nanos) -> dict[PeerId, int]:
        """Those of the live members whose access has not ended, with their epochs."""
        return {
            peer: epoch
            for peer, epoch in live.items()
            if peer in self.certificates and certs.has_access(self.certificates[peer], wall)
        }

    def names(self) -> dict[PeerId, str]:
        """Node names by id."""
        return {peer: self._members[peer].info.name for peer in sorted(self._members)}

    def name_of(self, peer: PeerId) -> str:
        """A node's name, or the first digits of its id while no record of it is known."""
        member = self._members.get(peer)
        return short(peer) if member is None else member.info.name
