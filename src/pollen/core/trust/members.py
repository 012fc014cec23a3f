"""Who the members are: node records, and the certificates, leases and denies that go with them.

Decides: whether a key is a member: it published a node record, and a chain that counts.
Does not know: links, names, tables; what makes a chain count (``trust``).
Invariants: membership is a function of records. A member that is gone stays a member: what it
    published goes on. A denied one is none from the moment at which the deny is here.
Source: docs/design/protocol.md#trust. Refused: trusting the Hello's chain alone, which would leave
    the authority of an owner unknown whose records came through somebody else.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping

import msgspec

from pollen.core import limits
from pollen.core.codec import U8, U32, U64, Refusal, Rejection, WireBoot, decode
from pollen.core.ids import ClusterId, Nanos, PeerId, Verify, short
from pollen.core.kinds import CERT, NODE
from pollen.core.labels import check_name
from pollen.core.records import Record
from pollen.core.trust import certs
from pollen.core.trust.authority import TRUST_KINDS, Trust
from pollen.core.trust.certs import Certificate, Chain

# So many digits of an id are taken for one. Guess: fewer are a slip of the finger.
MIN_PREFIX = 4


class NodeInfo(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a node record: what a node says of itself. Positional, only appended."""

    name: str
    addresses: list[str]
    boot: WireBoot
    version: str
    memory_bytes: U64
    minor_min: U32
    minor_max: U32
    plan_version: U32 = 1
    phase: U8 = 0
    restarts: U32 = 0
    speaks: U32 = 1
    relays: bool = True


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A node whose record and chain hold. ``epoch`` is that of its node record."""

    peer: PeerId
    info: NodeInfo
    certificate: Certificate
    epoch: int


# With so many, nobody cares for the exact number.
_FEW = 2


class Members:
    """The members that this node knows of."""

    # The kinds that it takes in.
    KINDS = TRUST_KINDS | {NODE}

    def __init__(self, cluster: ClusterId, root: PeerId, verify: Verify) -> None:
        self._infos: dict[PeerId, tuple[NodeInfo, int]] = {}
        self._members: dict[PeerId, Member] = {}
        self._names: dict[PeerId, str] = {}
        self.trust = Trust(cluster, root, verify)

    @property
    def certificates(self) -> Mapping[PeerId, Certificate]:
        """The certificate that counts of every key that has one, whoever is a member."""
        return self.trust.certificates

    def others(self, own: PeerId) -> int:
        """How many other members there are: by records, and while those are few, by what was shown.
        A node that lost its disk knows nobody by records before it is let in."""
        counted = len(self.certificates) - (own in self.certificates)
        if counted >= _FEW:
            return counted
        return len({*self.certificates, *self.trust.shown()} - {own})

    def apply(self, record: Record) -> Member | Rejection | None:
        """Take in a record of one of ``KINDS``: the member that it made or changed."""
        if record.body.kind == NODE:
            return self._on_node(record)
        fault = self.trust.apply(record)
        if fault is not None or record.body.kind != CERT:
            return fault
        return self._join(record.body.owner)

    def _on_node(self, record: Record) -> Member | Rejection | None:
        if record.is_opaque or not record.is_live:
            return None
        info = _decode_info(record.body.payload)
        if isinstance(info, Rejection):
            return info
        if check_name(info.name) is not None:
            return Rejection("node-name", info.name[:80])
        return self.declare(record.body.owner, info, record.body.epoch)

    def tier_of(self, owner: PeerId, cert: Record | None = None) -> int:
        """The tier of an owner, by this ``CERT`` record of it or as it counts; -1: not known."""
        carried = None if cert is None else certs.decode_chain(cert.body.payload)
        chain = self.trust.judge(owner, carried) if isinstance(carried, tuple) else None
        if isinstance(chain, Chain):
            return chain.leaf.tier
        certificate = self.certificates.get(owner)
        return -1 if certificate is None else certificate.tier

    def declare(self, peer: PeerId, info: NodeInfo, epoch: int) -> Member | None:
        """A node as its record says; this node states itself before its record is on disk."""
        self._infos[peer] = info, epoch
        return self._join(peer)

    def forget(self, peer: PeerId) -> None:
        """Its node record is held no more."""
        self._infos.pop(peer, None)
        self._join(peer)

    def _join(self, peer: PeerId) -> Member | None:
        """Bring together what is known of a key: a member when there is all of it."""
        certificate, said = self.certificates.get(peer), self._infos.get(peer)
        if certificate is None or said is None:
            self._members.pop(peer, None)
            self._names.pop(peer, None)
            return None
        info, epoch = said
        member = Member(peer=peer, info=info, certificate=certificate, epoch=epoch)
        self._members[peer] = member
        self._names[peer] = info.name
        return member

    def take_changed(self, wall: Nanos) -> list[PeerId]:
        """The keys whose standing changed since the last call, by a record or by the clock."""
        self.trust.expire(wall)
        changed = self.trust.take_changed()
        for peer in changed:
            self._join(peer)
        return changed

    def spoken_by(self, live: Iterable[PeerId]) -> int:
        """The level of record kinds that all of these members speak (``limits.SPEAKS``)."""
        infos = (self._infos.get(peer) for peer in live)
        return min((said[0].speaks for said in infos if said is not None), default=limits.SPEAKS)

    def named(self, text: str) -> list[PeerId]:
        """Everybody, members or not any more, that a name or the first digits of an id mean."""
        known = self.trust.known()
        by_name = [p for p in known if p in self._infos and self._infos[p][0].name == text]
        if by_name or len(text) < MIN_PREFIX:
            return by_name
        return [peer for peer in known if peer.hex().startswith(text.lower())]

    def find_named(self, text: str) -> PeerId | Refusal:
        """The one member, or former member, that a name or the first digits of an id mean."""
        found = self.named(text)
        if len(found) == 1:
            return found[0]
        if not found:
            return Refusal("peer-not-found", f"no member {text[:80]!r} is known", "pln members")
        ways = ", ".join(f"{self.name_of(peer)} {short(peer)}" for peer in found[:8])
        return Refusal("ambiguous", f"{text[:80]!r} means {len(found)} members", f"one of: {ways}")

    def below(self, above: Collection[PeerId]) -> list[PeerId]:
        """The keys that count and stand below one of these, by id."""
        return sorted(
            peer
            for peer, certificate in self.trust.certificates.items()
            if peer not in above and any(p in above for p in certificate.lineage)
        )

    def find(self, peer: PeerId) -> Member | None:
        """One member."""
        return self._members.get(peer)

    def is_current(self, peer: PeerId) -> bool:
        """True for a key that is not denied, and whose lease and access have not ended."""
        return peer in self.trust.current

    def all_members(self) -> list[Member]:
        """All members by id."""
        return [self._members[peer] for peer in sorted(self._members)]

    def current_of(self, live: Mapping[PeerId, int]) -> dict[PeerId, int]:
        """Those of the live nodes that are current members, with their epochs."""
        return {p: e for p, e in live.items() if p in self._members and self.is_current(p)}

    def names(self) -> Mapping[PeerId, str]:
        """Node names by id."""
        return self._names

    def name_of(self, peer: PeerId) -> str:
        """A node's name, or the first digits of its id while no record of it is known."""
        said = self._infos.get(peer)
        return short(peer) if said is None else said[0].name


@functools.lru_cache(limits.DECODED_REMEMBERED)
def _decode_info(payload: bytes) -> NodeInfo | Rejection:
    return decode(NodeInfo, payload, "node-info")
