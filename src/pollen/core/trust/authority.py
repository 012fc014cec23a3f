"""Who counts as a member and until when: certificates, leases, denies and roots in one place.

Decides: the certificate that counts for each peer, the wall time at which its membership ends, and
    whether what a peer shows in a Hello lets it in.
Does not know: links, node records, names; who renews leases (``lending``).
Invariants: ``certificates`` is a function of the records alone, whatever their order; no clock is
    read to make it. ``ends`` is a function of the records and of what peers showed; ``current`` is
    who had not ended at the wall time of the last ``expire``. A deny that holds is never forgotten.
    Only what depends on a record is worked out again when it comes, and no signature of a chain is
    checked twice while it is remembered.
Source: docs/design/protocol.md#trust.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from pollen.core import limits
from pollen.core.codec import Rejection, Signed, decode, encode
from pollen.core.ids import ClusterId, Hash, Nanos, PeerId, Verify, earlier
from pollen.core.kinds import CERT, DENY, GRANT, LEASE, POLICY, SUCCESSION
from pollen.core.records import Record
from pollen.core.trust import certs, denies, leases
from pollen.core.trust.certs import Certificate, Chain, Tier
from pollen.core.trust.counting import counted_of, is_replaced
from pollen.core.trust.denials import Denials
from pollen.core.trust.denies import ProvenDeny
from pollen.core.trust.ends import Ends
from pollen.core.trust.leases import HeldLease, Lease
from pollen.core.trust.publishers import Publishers
from pollen.core.trust.succession import Succession, Successions

TRUST_KINDS = frozenset({CERT, LEASE, DENY, SUCCESSION, GRANT, POLICY})
# The place of a lease that came with a Hello, beside those that came as records of somebody; and
# of one that came with somebody's grant.
_SHOWN = PeerId(b"shown")
_GRANTED = b"granted-by-"


class Admitted(msgspec.Struct, frozen=True, kw_only=True):
    """What a Hello proved: the certificate, and the wall time at which its link must end."""

    certificate: Certificate
    ends: Nanos


class Trust:
    """The authority and freshness of every key that this node has heard of."""

    def __init__(self, cluster: ClusterId, root: PeerId, verify: Verify) -> None:
        self._cluster = cluster
        self._root = root
        self._verify = verify
        self._judged: dict[tuple[PeerId, bytes], Chain] = {}
        self._carried: dict[PeerId, list[Signed]] = {}
        self._chains: dict[PeerId, Chain] = {}
        self._granted: dict[PeerId, dict[PeerId, Chain]] = {}
        self._grants: dict[tuple[PeerId, PeerId], list[Signed]] = {}
        self._counted: dict[PeerId, Chain] = {}
        self._shown: dict[PeerId, Chain] = {}
        self._below: dict[PeerId, dict[PeerId, None]] = {}
        self._denials = Denials(cluster, verify)
        self._leases: dict[PeerId, dict[PeerId, HeldLease]] = {}
        self._leased_by: dict[PeerId, dict[PeerId, None]] = {}
        self._successions = Successions(cluster, verify)
        self._ends = Ends()
        self._changed: dict[PeerId, None] = {}
        self.publishers = Publishers(cluster, verify)
        self.current = self._ends.current
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
        if record.body.kind == GRANT:
            return self._on_grant(record)
        if record.body.kind == POLICY:
            return self.publishers.apply(record, self.roots)
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

    def _on_grant(self, record: Record) -> Rejection | None:
        """Credentials that an admin made for somebody: they prove themselves, as any chain does.

        Their lease comes with them, so that there is no moment without one.
        """
        subject, owner = PeerId(record.body.key), record.body.owner
        shown: leases.Credentials | Rejection | None = None
        if record.is_live:
            shown = leases.decode_credentials(record.body.payload)
        if not isinstance(shown, leases.Credentials):
            self._grants.pop((owner, subject), None)
            self._grant(owner, subject, None)
            return shown
        self._grants[owner, subject] = shown.chain
        chain = self.judge(subject, shown.chain)
        if isinstance(chain, Rejection):
            self._grant(owner, subject, None)
            return chain
        if shown.lease is not None:
            held = self._judge_lease(subject, encode(shown.lease))
            if isinstance(held, HeldLease):
                self._hold(subject, PeerId(_GRANTED + owner), held)
        self._grant(owner, subject, chain)
        return None

    def _grant(self, owner: PeerId, subject: PeerId, chain: Chain | None) -> None:
        granted = self._granted.setdefault(subject, {})
        if chain is None:
            granted.pop(owner, None)
        else:
            granted[owner] = chain
            self._note_ancestors(chain)
        self._refresh(subject)

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
        carried = leases.decode_carried(payload)
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
        news = self._denials.apply(record, self.roots)
        if isinstance(news, ProvenDeny):
            self._on_denied(PeerId(news.deny.subject))
        return news if isinstance(news, Rejection) else None

    def _on_denied(self, subject: PeerId) -> None:
        """Other denies of this key hold than before: what hangs on it is worked out again."""
        hanging = (*self._below.get(subject, ()), *self._leased_by.get(subject, ()))
        self._refresh_all([subject, *hanging])

    def take_buried(self) -> list[bytes]:
        """Denies that hold and whose record was buried since the last call."""
        return self._denials.take_buried()

    def take_voided(self) -> list[PeerId]:
        """Whom a deny kept out here that ceased to hold since the last call."""
        return self._denials.take_voided()

    def displaced(self) -> list[tuple[Succession, list[ProvenDeny]]]:
        """The successors that another one took the place of, with the denies void by each."""
        made = self._successions.displaced(self.roots)
        void = self._denials.void_by({PeerId(link.successor) for link in made})
        return [(link, [v for v in void if v.root == link.successor]) for link in made]

    def _on_succession(self, record: Record) -> Rejection | None:
        carried = decode(Signed, record.body.payload, "succession")
        return carried if isinstance(carried, Rejection) else self.follow([carried])

    def follow(self, carried: Sequence[Signed]) -> Rejection | None:
        """Learn successions of the root; the first that does not hold is returned.

        One of a root that is not known yet is kept for later, and forgotten first.
        """
        is_news, fault = self._successions.learn(carried, self.roots)
        if is_news:
            self._retrace()
        return fault

    def _retrace(self) -> None:
        """The line of roots may have changed: whatever hung on it is judged again."""
        before, self.roots = self.roots, self._successions.line(self._root)
        if before == self.roots:
            return
        shown, self._shown, self._judged = self._shown, {}, {}
        for subject, chain in shown.items():
            if isinstance(self.judge(subject, chain.carried), Chain):
                self._show(chain)
        self._changed |= dict.fromkeys(self._counted)  # what each shows now leads to the newest
        for subject in self._denials.judge_again(self.roots):
            self._on_denied(subject)
        self.publishers.follow(self.roots)
        for subject, carried in list(self._carried.items()):
            self.declare(subject, carried)
        for (owner, subject), carried in list(self._grants.items()):
            judged = self.judge(subject, carried)
            self._grant(owner, subject, judged if isinstance(judged, Chain) else None)
        self._refresh_all([*shown])

    # -- what follows ---------------------------------------------------------------------------

    def _refresh_all(self, subjects: Sequence[PeerId]) -> None:
        for subject in subjects:
            self._refresh(subject)

    def _refresh(self, subject: PeerId) -> None:
        """Work out again what counts for one key, and for whom it leased when that changes."""
        chain, before = self._choose(subject), self._counted.get(subject)
        counted = None if chain is None else chain.leaf
        if chain is None:
            self._counted.pop(subject, None)
        else:
            self._counted[subject] = chain
            self.newest_not_before = max(self.newest_not_before, chain.leaf.not_before)
        ends = max((self._end_of(c) for c in self._worths(subject, chain)), default=Nanos(0))
        held = self.certificates.get(subject)
        if chain == before and ends == self._ends.of(subject):
            return
        self._changed[subject] = None
        self._ends.note(subject, ends)
        self.admins.pop(subject, None)
        if counted is None:
            self.certificates.pop(subject, None)
        else:
            self.certificates[subject] = counted
            if counted.tier >= Tier.ADMIN:
                self.admins[subject] = None
        if chain != before:
            self._refresh_all([*self._below.get(subject, ())])
        if counted != held:
            self._refresh_all([*self._leased_by.get(subject, ())])

    def expire(self, wall: Nanos) -> None:
        """It is so late now: whoever ended meanwhile is current no more.

        When it is earlier than it seemed, whoever had not ended yet is current again.
        """
        self._changed |= dict.fromkeys(self._ends.expire(wall))

    @property
    def next_end(self) -> Nanos | None:
        """The wall time at which somebody may end, or None."""
        return self._ends.next

    def _choose(self, subject: PeerId) -> Chain | None:
        """The chain of a key that counts, by records alone."""
        granted = [self._living(c) for c in self._granted.get(subject, {}).values()]
        able = [chain for chain in granted if chain is not None]
        return counted_of(self._living(self._chains.get(subject)), able, self.roots)

    def _worths(self, subject: PeerId, counted: Chain | None) -> Iterator[Chain]:
        """The chains that a lease may be for: the one that counts, and the one that was shown.

        The latter is newer where a key joined again: its record is still on its way.
        """
        if counted is not None:
            yield counted
        shown = self._living(self._shown.get(subject))
        if shown is not None and not is_replaced(shown, counted, self.roots):
            yield shown

    def _living(self, chain: Chain | None) -> Chain | None:
        """A chain as it holds today, or None: killed, or more than its issuer has by now.

        Its last certificate stands below the chain that counts of its issuer, whatever the issuer
        had when it signed: so what an admin is given or denied anew reaches those below it.
        """
        if chain is None:
            return None
        above = self._counted.get(PeerId(chain.leaf.issuer))
        if above is not None and above.carried != chain.carried[:-1]:
            judged = self.judge(PeerId(chain.leaf.subject), [*above.carried, chain.carried[-1]])
            if isinstance(judged, Rejection):
                return None
            chain = judged
        return chain if self.killer_of(chain) is None else None

    def killer_of(self, chain: Chain) -> ProvenDeny | None:
        """The deny that kills a chain, or None."""
        return self._denials.killer_of(chain, self.roots)

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
        chain, counted = self.take_shown(peer, raw), self._counted.get(peer)
        # Whatever it shows: it may not have heard yet of what it was given since.
        if isinstance(chain, Rejection):
            if chain.kind != "denied" or counted is None:
                return chain
            chain = counted
        elif counted is not None and is_replaced(chain, counted, self.roots):
            chain = counted
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
        living = self._living(chain)
        if living is None:
            return Rejection("denied")
        chain = living
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
        return self._ends.of(peer)

    def shown(self) -> list[PeerId]:
        """Who showed a certificate that holds, dates aside."""
        return [peer for peer, chain in self._shown.items() if self._living(chain) is not None]

    def is_denied(self, peer: PeerId) -> bool:
        """True when some chain of this key is known and a deny killed all of them."""
        held = [self._chains.get(peer), self._shown.get(peer)]
        held += self._granted.get(peer, {}).values()
        return any(held) and all(self._living(chain) is None for chain in held)

    def verdicts_of(self, peer: PeerId) -> list[ProvenDeny]:
        """Every deny of one key."""
        return self._denials.of(peer)

    def known(self) -> list[PeerId]:
        """Every key of which some chain is known, counting or not, by id."""
        return sorted({*self._chains, *self._granted, *self._shown})

    def chain_of(self, peer: PeerId) -> Chain | None:
        """The chain of a key that counts, or else the one that would if no deny were known."""
        living = self._counted.get(peer) or self._living(self._shown.get(peer))
        own, granted = self._chains.get(peer) or self._shown.get(peer), self._granted.get(peer, {})
        return living or counted_of(own, [*granted.values()], self.roots)

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


def _drop_oldest(remembered: dict[Any, Any], cap: int) -> None:
    if len(remembered) >= cap:
        del remembered[next(iter(remembered))]
