"""Who counts as a member and until when: certificates, leases, denies and roots in one place.

Decides: the certificate that counts for each peer, the wall time at which its membership ends, and
    whether what a peer shows in a Hello lets it in.
Does not know: links, node records, names; who renews leases (``lending``).
Invariants: ``certificates`` is a function of the records alone, whatever their order; no clock is
    read to make it. ``ends`` is a function of the records and of what peers showed; ``current`` is
    who had not ended at the wall time of the last ``expire``. A deny is never forgotten. Only what
    depends on a record is worked out again when it comes, and no signature of a chain is checked
    twice while it is remembered.
Source: docs/design/protocol.md#trust.
"""

from __future__ import annotations

import functools
import heapq
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from pollen.core import limits
from pollen.core.codec import Rejection, Signed, decode, encode
from pollen.core.ids import ClusterId, Hash, Nanos, PeerId, Sign, Verify, earlier
from pollen.core.kinds import CERT, DENY, LEASE, SUCCESSION
from pollen.core.records import Record
from pollen.core.trust import certs, denies, leases, succession
from pollen.core.trust.certs import Certificate, Chain, Tier
from pollen.core.trust.denies import ProvenDeny
from pollen.core.trust.leases import Lease
from pollen.core.trust.succession import Succession

TRUST_KINDS = frozenset({CERT, LEASE, DENY, SUCCESSION})
# The place of a lease that came with a Hello, beside those that came as records of somebody.
_SHOWN = PeerId(b"shown")


class HeldLease(msgspec.Struct, frozen=True, kw_only=True):
    """A lease that holds, and as it was carried."""

    lease: Lease
    carried: Signed


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What a Hello proved: the certificate, and the wall time at which its link must end."""

    certificate: Certificate
    ends: Nanos


def lend(chain: Chain, signer: PeerId, wall: Nanos, sign: Sign) -> HeldLease:
    """A lease of full length for a certificate, from now on, signed by this node's key."""
    lease = Lease(
        cluster=chain.leaf.cluster,
        signer=signer,
        subject=chain.leaf.subject,
        certificate=chain.hash,
        not_before=wall,
        not_after=wall + chain.leaf.lease_length,
    )
    return HeldLease(lease=lease, carried=leases.issue_lease(lease, sign))


class Trust:
    """The authority and freshness of every key that this node has heard of."""

    def __init__(self, cluster: ClusterId, root: PeerId, verify: Verify) -> None:
        self._cluster = cluster
        self._root = root
        self._verify = verify
        self._judged: dict[tuple[PeerId, bytes], Chain] = {}
        self._carried: dict[PeerId, list[Signed]] = {}
        self._chains: dict[PeerId, Chain] = {}
        self._shown: dict[PeerId, Chain] = {}
        self._below: dict[PeerId, dict[PeerId, None]] = {}
        self._denies: dict[PeerId, dict[Hash, ProvenDeny]] = {}
        self._unproven: dict[bytes, None] = {}
        self._payloads: dict[bytes, bytes] = {}
        self._buried: dict[bytes, None] = {}
        self._leases: dict[PeerId, dict[PeerId, HeldLease]] = {}
        self._leased_by: dict[PeerId, dict[PeerId, None]] = {}
        self._successions: dict[Signed, Succession] = {}
        self._ends: dict[PeerId, Nanos] = {}
        self._due: list[tuple[Nanos, PeerId]] = []
        self._wall = Nanos(0)
        self._changed: dict[PeerId, None] = {}
        self.current: dict[PeerId, None] = {}
        self.roots: dict[PeerId, Signed | None] = {root: None}
        self.certificates: dict[PeerId, Certificate] = {}
        self.admins: dict[PeerId, None] = {}
        self.newest_not_before = 0

    # -- records --------------------------------------------------------------------------------

    def apply(self, record: Record) -> Rejection | None:
        """Take in a record of one of ``TRUST_KINDS``; the fault in it, if it has one."""
        if record.is_opaque:
            return None
        if record.body.kind == CERT:
            return self._on_chain(record)
        if record.body.kind == LEASE:
            return self._on_lease(record)
        if record.body.kind == DENY:
            return self._on_deny_record(record)
        if not record.is_live:
            return None
        return self._on_succession(record)

    def declare(self, subject: PeerId, carried: Sequence[Signed]) -> Chain | Rejection:
        """Take a chain as the one that its subject published; this node states its own so."""
        self._carried[subject] = [*carried]
        chain = self.judge(subject, carried)
        if isinstance(chain, Chain):
            self._chains[subject] = chain
            self._note_ancestors(chain)
        else:
            self._chains.pop(subject, None)
        self._refresh(subject)
        return chain

    def _on_chain(self, record: Record) -> Rejection | None:
        owner = record.body.owner
        carried: tuple[Signed, ...] | Rejection = ()
        if record.is_live:
            carried = certs.decode_chain(record.body.payload)
        if isinstance(carried, Rejection):
            self.declare(owner, [])
            return carried
        judged = self.declare(owner, carried)
        return judged if isinstance(judged, Rejection) and carried else None

    def _on_lease(self, record: Record) -> Rejection | None:
        subject, owner = PeerId(record.body.key), record.body.owner
        held: HeldLease | Rejection | None = None
        if record.is_live:
            held = self._judge_lease(subject, record.body.payload)
        if isinstance(held, HeldLease):
            self._hold(subject, owner, held)
        elif self._leases.get(subject, {}).pop(owner, None) is not None:
            self._refresh(subject)
        return held if isinstance(held, Rejection) else None

    def _judge_lease(self, subject: PeerId, payload: bytes) -> HeldLease | Rejection:
        carried = _decode_carried(payload)
        if isinstance(carried, Rejection):
            return carried
        lease = leases.judge_lease(carried, self._cluster, self._verify)
        if isinstance(lease, Rejection):
            return lease
        if lease.subject != subject:
            return Rejection("lease-of-another-key")
        return HeldLease(lease=lease, carried=carried)

    def _hold(self, subject: PeerId, owner: PeerId, held: HeldLease) -> None:
        self._leases.setdefault(subject, {})[owner] = held
        self._leased_by.setdefault(PeerId(held.lease.signer), {})[subject] = None
        self._refresh(subject)

    def _on_deny_record(self, record: Record) -> Rejection | None:
        """A deny is not taken back: what its owner buries is owed to the others again."""
        payload = record.body.payload
        if not record.is_live:
            held = self._payloads.get(record.body.key)
            if held is not None:
                self._buried[held] = None
            return None
        if denies.deny_key(payload) != record.body.key:
            return Rejection("deny-key")
        fault = self._on_deny(payload)
        if fault is None:
            self._payloads[record.body.key] = payload
        return fault

    def take_buried(self) -> list[bytes]:
        """Denies that hold and whose record was buried since the last call."""
        buried, self._buried = self._buried, {}
        return list(buried)

    def _on_deny(self, payload: bytes) -> Rejection | None:
        verdict = denies.judge_deny(
            payload, cluster=self._cluster, roots=self.roots, verify=self._verify
        )
        if isinstance(verdict, Rejection):
            _drop_oldest(self._unproven, limits.UNPROVEN_MAX)
            self._unproven[payload] = None
            return verdict
        subject = PeerId(verdict.deny.subject)
        known = self._denies.setdefault(subject, {})
        if verdict.hash not in known:
            known[verdict.hash] = verdict
            self._refresh_all([subject, *self._below.get(subject, ())])
            self._refresh_all([*self._leased_by.get(subject, ())])
        return None

    def _on_succession(self, record: Record) -> Rejection | None:
        carried = decode(Signed, record.body.payload, "succession")
        return carried if isinstance(carried, Rejection) else self.follow([carried])

    def follow(self, carried: Sequence[Signed]) -> Rejection | None:
        """Learn successions of the root; the first that does not hold is returned.

        One of a root that is not known yet is kept for later, and forgotten first.
        """
        is_news = False
        for signed in carried:
            if signed in self._successions:
                continue
            judged = succession.judge_succession(signed, self._cluster, self._verify)
            if isinstance(judged, Rejection):
                return judged
            self._make_room()
            self._successions[signed] = judged
            is_news = True
        if is_news:
            self._retrace()
        return None

    def _make_room(self) -> None:
        if len(self._successions) >= limits.UNPROVEN_MAX:
            strange = [s for s, known in self._successions.items() if known.root not in self.roots]
            for signed in strange[:1]:
                del self._successions[signed]

    def _retrace(self) -> None:
        """The line of roots may have changed: whatever hung on it is judged again."""
        known = [(judged, signed) for signed, judged in self._successions.items()]
        line = succession.line_of(self._root, known)
        if line == self.roots:
            return
        self.roots = line
        self._judged, self._shown = {}, {}
        waiting, self._unproven = self._unproven, {}
        for payload in waiting:
            self._on_deny(payload)
        for subject, carried in list(self._carried.items()):
            self.declare(subject, carried)

    # -- what follows ---------------------------------------------------------------------------

    def _refresh_all(self, subjects: Sequence[PeerId]) -> None:
        for subject in subjects:
            self._refresh(subject)

    def _refresh(self, subject: PeerId) -> None:
        """Work out again what counts for one key, and for whom it leased when that changes."""
        chain = self._chains.get(subject)
        counted = None
        if chain is not None and self.killer_of(chain) is None:
            counted = chain.leaf
            self.newest_not_before = max(self.newest_not_before, counted.not_before)
        ends = max((self._end_of(c) for c in self._living(subject)), default=Nanos(0))
        held = self.certificates.get(subject)
        if counted == held and ends == self._ends.get(subject, 0):
            return
        self._changed[subject] = None
        self._ends[subject] = ends
        self._note_end(subject, ends)
        self.admins.pop(subject, None)
        if counted is None:
            self.certificates.pop(subject, None)
        else:
            self.certificates[subject] = counted
            if counted.tier >= Tier.ADMIN:
                self.admins[subject] = None
        if counted != held:
            self._refresh_all([*self._leased_by.get(subject, ())])

    def _note_end(self, subject: PeerId, ends: Nanos) -> None:
        if ends > self._wall:
            self.current[subject] = None
            heapq.heappush(self._due, (ends, subject))
        else:
            self.current.pop(subject, None)

    def expire(self, wall: Nanos) -> None:
        """It is so late now: whoever ended meanwhile is current no more.

        When it is earlier than it seemed, whoever had not ended yet is current again.
        """
        is_earlier, self._wall = wall < self._wall, wall
        if is_earlier:
            for subject, ends in self._ends.items():
                if ends > wall and subject not in self.current:
                    self._changed[subject] = None
                    self._note_end(subject, ends)
        while self._due and self._due[0][0] <= wall:
            ends, subject = heapq.heappop(self._due)
            if self._ends.get(subject) == ends and self.current.pop(subject, 0) is None:
                self._changed[subject] = None

    @property
    def next_end(self) -> Nanos | None:
        """The wall time at which somebody may end, or None."""
        return self._due[0][0] if self._due else None

    def _living(self, subject: PeerId) -> Iterator[Chain]:
        """The chains of a key that no deny kills: the published one, and the one it showed."""
        for chain in (self._chains.get(subject), self._shown.get(subject)):
            if chain is not None and self.killer_of(chain) is None:
                yield chain

    def killer_of(self, chain: Chain) -> ProvenDeny | None:
        """The deny that kills a chain, or None."""
        return denies.killer_of(chain, self._denies, self.roots)

    def _end_of(self, chain: Chain) -> Nanos:
        """The wall time at which a living chain is worth nothing any more: 0 without a lease."""
        length = chain.leaf.lease_length
        best = 0
        for held in self._leases.get(chain.leaf.subject, {}).values():
            lease = held.lease
            if lease.certificate == chain.hash and lease.not_after - lease.not_before <= length:
                best = max(best, self._worth(lease))
        return Nanos(earlier(best, chain.leaf.access_deadline) if best else 0)

    def _worth(self, lease: Lease) -> int:
        """The end of a lease: not past its signer's access, and soon after its signer's deny."""
        signer = PeerId(lease.signer)
        if signer in self.roots:
            return lease.not_after
        chain = self.chain_of(signer)
        if chain is None or chain.leaf.tier < Tier.ADMIN:
            return 0
        end = earlier(lease.not_after, chain.leaf.access_deadline)
        killer = self.killer_of(chain)
        return end if killer is None else min(end, killer.deny.issued + limits.LEASE_GRACE_NS)

    def _note_ancestors(self, chain: Chain) -> None:
        for ancestor in chain.leaf.lineage:
            self._below.setdefault(ancestor, {})[chain.leaf.subject] = None

    # -- asking ---------------------------------------------------------------------------------

    def judge(self, subject: PeerId, carried: Sequence[Signed]) -> Chain | Rejection:
        """What a chain proves for this key, dates and denies aside. Good ones are remembered."""
        key = (subject, encode(carried))
        held = self._judged.get(key)
        if held is not None:
            return held
        judged = certs.judge_chain(
            carried, cluster=self._cluster, roots=self.roots, subject=subject, verify=self._verify
        )
        if isinstance(judged, Chain):
            _drop_oldest(self._judged, limits.CHAINS_JUDGED_MAX)
            self._judged[key] = judged
        return judged

    def admit(self, peer: PeerId, raw: bytes, wall: Nanos) -> Admitted | Rejection:
        """Whether what a peer shows makes it a member now."""
        chain = self.take_shown(peer, raw)
        if isinstance(chain, Rejection):
            return chain
        if not chain.leaf.has_access(wall):
            return Rejection("access-ended")
        if self.ends(peer) <= wall:
            return Rejection("lease-ended")
        return Admitted(certificate=chain.leaf, ends=self.ends(peer))

    def take_shown(self, peer: PeerId, raw: bytes) -> Chain | Rejection:
        """The chain in a peer's credentials when it holds and is not denied, dates aside.

        The lease in them counts from now on like one that came as a record.
        """
        shown = leases.decode_credentials(raw)
        if isinstance(shown, Rejection):
            return shown
        if shown.successions:
            self.follow(shown.successions)
        chain = self.judge(peer, shown.chain)
        if isinstance(chain, Rejection):
            return chain
        if self.killer_of(chain) is not None:
            return Rejection("denied")
        self.newest_not_before = max(self.newest_not_before, chain.leaf.not_before)
        self._show(chain)
        if shown.lease is not None:
            self._take_lease(chain, shown.lease, shown.signer)
        self._refresh(peer)
        return chain

    def _take_lease(self, chain: Chain, carried: Signed, signer: Sequence[Signed]) -> None:
        """A lease that a peer showed; one that does not hold is as good as none."""
        peer = PeerId(chain.leaf.subject)
        known = self._leases.get(peer, {})
        if any(held.carried == carried for held in known.values()):
            return
        held = self._judge_lease(peer, encode(carried))
        if not isinstance(held, HeldLease):
            return
        lender = PeerId(held.lease.signer)
        shown = self.judge(lender, signer) if signer else chain.above(lender)
        if isinstance(shown, Chain):
            self._show(shown)
        self._hold(peer, _SHOWN, held)

    def _show(self, chain: Chain) -> None:
        _drop_oldest(self._shown, limits.CHAINS_JUDGED_MAX)
        self._shown[PeerId(chain.leaf.subject)] = chain
        self._note_ancestors(chain)

    def ends(self, peer: PeerId) -> Nanos:
        """The wall time at which a key's membership ends; 0 when it has none."""
        return self._ends.get(peer, Nanos(0))

    def is_denied(self, peer: PeerId) -> bool:
        """True when some chain of this key is known and a deny killed all of them."""
        chains = [c for c in (self._chains.get(peer), self._shown.get(peer)) if c is not None]
        return bool(chains) and all(self.killer_of(chain) is not None for chain in chains)

    def verdicts_of(self, peer: PeerId) -> list[ProvenDeny]:
        """Every deny of one key."""
        return list(self._denies.get(peer, {}).values())

    def chain_of(self, peer: PeerId) -> Chain | None:
        """The chain that a key published, or showed; None while neither is known."""
        return self._chains.get(peer) or self._shown.get(peer)

    @staticmethod
    def end_of_lease(payload: bytes) -> int | None:
        """The wall time at which the lease in a record ends; None for bytes that are no lease."""
        return leases.end_of(payload)

    @staticmethod
    def deny_key(payload: bytes) -> Hash:
        """The key of the record that carries a deny."""
        return denies.deny_key(payload)

    def lease_of(self, peer: PeerId) -> HeldLease | None:
        """The lease that carries a key the longest, or None."""
        chain = self.chain_of(peer)
        fitting = [
            held
            for held in self._leases.get(peer, {}).values()
            if chain is not None and held.lease.certificate == chain.hash
        ]
        return max(fitting, key=lambda h: (self._worth(h.lease), h.carried.body), default=None)

    def credentials_of(self, peer: PeerId) -> bytes:
        """What a key can show of itself: its chain, its best lease, the successions to its root."""
        return self.credentials_with(self.chain_of(peer), self.lease_of(peer))

    def credentials_with(self, chain: Chain | None, held: HeldLease | None) -> bytes:
        """What somebody shows who has this chain and this lease."""
        signer = None if held is None else self.chain_of(PeerId(held.lease.signer))
        return leases.encode_credentials(
            () if chain is None else chain.carried,
            None if held is None else held.carried,
            () if signer is None else signer.carried,
            self.successions(),
        )

    def successions(self) -> list[Signed]:
        """What leads from the first root to the newest, oldest first."""
        return [signed for signed in self.roots.values() if signed is not None]

    def take_changed(self) -> list[PeerId]:
        """The keys whose certificate or end changed since the last call."""
        changed, self._changed = self._changed, {}
        return list(changed)


@functools.lru_cache(limits.DECODED_REMEMBERED)
def _decode_carried(payload: bytes) -> Signed | Rejection:
    return decode(Signed, payload, "lease")


def _drop_oldest(remembered: dict[Any, Any], cap: int) -> None:
    if len(remembered) >= cap:
        del remembered[next(iter(remembered))]
