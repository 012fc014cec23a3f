"""From carried bytes to merged records: what is complete, what waits, what is refused.

Decides: whether a record that came follows on what is held of its owner, what waits for the gap
    before it, and whether an owner is over its cap and so frozen.
Does not know: to whom anything is sent (``gossip``), what a record means, any clock.
Invariants: an owner's set changes only through the next record in sequence, or a whole transfer; so
    two nodes with the same version of an honest owner hold the same set. A cap is judged on the set
    that would result, never on the order in which its records came: over it nothing of that step
    is taken, the owner stays at its last valid set. What waits is bounded, by owner and in all,
    and a transfer that fills nothing of the gap asks for no other: a digest finds who can.
    Peers take turns, so that one that floods delays itself.
Source: docs/design/protocol.md#records (push with ``prev``, side buffer, caps by content, rate
    limits only delay). Refused: taking a record out of order at once, after which a version says
    nothing about a set.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from pollen.core import limits
from pollen.core.codec import Rejection
from pollen.core.events import RecordsReceived, SignedRecord
from pollen.core.ids import ClusterId, PeerId
from pollen.core.kinds import CERT
from pollen.core.messages import Part
from pollen.core.records.ledger import Records
from pollen.core.records.owners import Merge, OwnerSet
from pollen.core.records.record import ZERO, Interned, Record, Slot, Version, decode_record
from pollen.core.turn import Turn

# The tier of an owner, by this ``CERT`` record of it or as it counts; -1 when none is known.
TierOf = Callable[[PeerId, Record | None], int]

_RECORD_UNITS = 40
_TURN = 16
# What a record has beside its payload, at most.
_HEADERS = 512


class Transfer(msgspec.Struct, kw_only=True):
    """One owner's records on their way here after a pull, in rising order.

    ``since``: the version that they follow on; of a ``whole`` set the version that it reaches.
    ``found``: the version that its first record met here.
    """

    owner: PeerId
    peer: PeerId
    since: Version
    left: int
    whole: bool
    rows: list[Record] = []
    applied: int = 0
    bytes: int = 0
    found: Version = ZERO


class Frozen(msgspec.Struct, frozen=True):
    """An owner over its cap: the version that would have broken it, and the cap."""

    version: Version
    cap: tuple[int, int]


class Inbox(msgspec.Struct, kw_only=True):
    """What one peer sent and nobody looked at yet."""

    items: deque[SignedRecord | Part]
    expected: deque[Transfer]
    bytes: int = 0
    has_turn: bool = False


class Intake:
    """Records on their way in. ``gossip`` reads what came of it: gaps, duplicates, what is done."""

    def __init__(
        self,
        own: PeerId,
        cluster: ClusterId,
        records: Records,
        tier_of: TierOf,
        interned: Interned | None,
    ) -> None:
        self._own = own
        self._cluster = cluster
        self._records = records
        self._tier_of = tier_of
        self._interned = interned
        self._inboxes: dict[PeerId, Inbox] = {}
        self._turns: deque[PeerId] = deque()
        self._ready: deque[Transfer] = deque()
        self._aside: dict[PeerId, list[Record]] = {}
        self._aside_count = 0
        self._strangers: dict[PeerId, None] = {}
        self.frozen: dict[PeerId, Frozen] = {}
        self.gaps: dict[PeerId, PeerId] = {}
        self.duplicates: dict[PeerId, int] = {}
        self.done: list[Transfer] = []
        self.merged = 0
        self.dropped = 0

    @property
    def waiting(self) -> int:
        """Records that came and were not looked at yet."""
        held = sum(len(inbox.items) for inbox in self._inboxes.values())
        return held + sum(len(transfer.rows) for transfer in self._ready)

    # -- what peers send ------------------------------------------------------------------------

    def on_records(self, event: RecordsReceived, turn: Turn) -> None:
        """Queue a batch; its records are looked at in turns."""
        if event.rejected:
            fault = Rejection("record-signature", str(event.rejected))
            turn.note(fault, event.peer)
            self._break_off(event.peer)
        inbox = self._inbox(event.peer)
        size = sum(len(signed.body) for signed in event.records)
        if inbox.bytes + size > limits.INBOX_BYTES_MAX:
            # Not lost for good: the next digest says what is missing (rate limits only delay).
            self._break_off(event.peer)
            self.dropped += len(event.records)
            turn.note(Rejection("records-flood"), event.peer)
            return
        inbox.items.extend(event.records)
        inbox.bytes += size
        self._give_turn(event.peer, inbox)

    def on_parts(self, parts: Sequence[Part], peer: PeerId) -> None:
        """What the records that come next are."""
        inbox = self._inbox(peer)
        if len(inbox.items) + len(parts) <= limits.INBOX_ITEMS_MAX:
            inbox.items.extend(parts)
            self._give_turn(peer, inbox)

    def forget(self, peer: PeerId) -> None:
        """The link is gone: what it still had to send will not come."""
        self._break_off(peer)

    def _inbox(self, peer: PeerId) -> Inbox:
        inbox = self._inboxes.get(peer)
        if inbox is None:
            inbox = self._inboxes[peer] = Inbox(items=deque(), expected=deque())
        return inbox

    def _give_turn(self, peer: PeerId, inbox: Inbox) -> None:
        if inbox.items and not inbox.has_turn:
            inbox.has_turn = True
            self._turns.append(peer)

    def _break_off(self, peer: PeerId) -> None:
        inbox = self._inboxes.get(peer)
        if inbox is not None:
            inbox.expected.clear()

    # -- in turns -------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """True while something that came was not looked at."""
        return bool(self._turns or self._ready)

    def advance(self, units: int, turn: Turn) -> int:
        """Look at some of what came: the units that were spent."""
        spent = 0
        while spent < units and self.has_work:
            if self._ready:
                spent += self._apply_next(turn)
                continue
            # Why: a transfer is applied before its peer's next words, which build on it.
            peer = self._turns.popleft()
            inbox = self._inboxes[peer]
            for _ in range(_TURN):
                if not inbox.items or self._ready or spent >= units:
                    break
                spent += _RECORD_UNITS
                self._take(inbox, inbox.items.popleft(), peer, turn)
            inbox.has_turn = False
            self._give_turn(peer, inbox)
            if not inbox.items and not inbox.expected:
                del self._inboxes[peer]
        return spent

    def _take(self, inbox: Inbox, item: SignedRecord | Part, peer: PeerId, turn: Turn) -> None:
        if isinstance(item, Part):
            since = (item.epoch, item.seq)
            transfer = Transfer(
                owner=item.owner, peer=peer, since=since, left=item.count, whole=item.whole, rows=[]
            )
            inbox.expected.append(transfer)
            self._close_transfers(inbox)
            return
        inbox.bytes -= len(item.body)
        record = decode_record(item, self._cluster, self._interned)
        if isinstance(record, Rejection):
            turn.note(record, peer)
            self._break_off(peer)
            return
        transfer_due = inbox.expected[0] if inbox.expected else None
        if transfer_due is None:
            self._take_push(record, peer, turn)
        elif transfer_due.owner != record.body.owner:
            turn.note(Rejection("delta-broken"), peer)
            self._break_off(peer)
            self._take_push(record, peer, turn)
        else:
            transfer_due.left -= 1
            transfer_due.bytes += record.size
            if transfer_due.bytes <= limits.OWNER_CAPS[-1][1]:
                transfer_due.rows.append(record)
            self._close_transfers(inbox)

    def _close_transfers(self, inbox: Inbox) -> None:
        while inbox.expected and inbox.expected[0].left <= 0:
            self._ready.append(inbox.expected.popleft())

    # -- pushes ---------------------------------------------------------------------------------

    def _take_push(self, record: Record, peer: PeerId, turn: Turn) -> None:
        owner = record.body.owner
        if owner == self._own:
            self._count(self._records.merge(record, peer), peer, owner)
            return
        owned = self._records.set_of(owner)
        if record.version <= owned.version:
            # What is not held of what was seen was replaced or deleted: only a twin's other bytes
            # for a version that is held can still win.
            is_held = record.slot in owned.rows
            merged = self._records.merge(record, peer) if is_held else Merge.OLDER
            self._count(merged, peer, owner)
        elif owner in self.frozen:
            self._thaw(owned, record, peer)
        elif not owned.follows(record):
            self._put_aside(record, peer)
        elif self._fits(owned, [record], peer, turn):
            self._count(self._records.merge(record, peer), peer, owner)
            self._records.reach(owned, record.version)
            self._take_aside(owned, peer, turn)

    def _count(self, merged: Merge, peer: PeerId, owner: PeerId) -> None:
        if merged is Merge.APPLIED:
            self.merged += 1
        elif peer != owner:
            self.duplicates[peer] = self.duplicates.get(peer, 0) + 1

    def _thaw(self, owned: OwnerSet, record: Record, peer: PeerId) -> None:
        """A frozen owner wrote again: only its whole set can tell whether it is valid now."""
        if owned.follows(record) and record.version > self.frozen[owned.owner].version:
            self.gaps.setdefault(owned.owner, peer)

    def _put_aside(self, record: Record, peer: PeerId) -> None:
        owner = record.body.owner
        held = self._aside.setdefault(owner, [])
        self.gaps[owner] = peer
        if any(record.digest == other.digest for other in held):
            return
        is_full = self._aside_count >= limits.ASIDE_MAX
        if len(held) >= limits.ASIDE_OWNER_MAX or is_full:
            self.dropped += 1
            return
        held.append(record)
        self._aside_count += 1

    def _take_aside(self, owned: OwnerSet, peer: PeerId, turn: Turn) -> None:
        """What waited for a gap that is filled now; what still waits stays."""
        held = self._aside.pop(owned.owner, None)
        if not held:
            return
        self._aside_count -= len(held)
        held.sort(key=lambda r: r.version)
        for record in held:
            if record.version <= owned.version:
                continue
            self._take_push(record, peer, turn)

    # -- transfers ------------------------------------------------------------------------------

    def _apply_next(self, turn: Turn) -> int:
        """One record of a transfer that came whole, or its end."""
        transfer = self._ready[0]
        owned = self._records.set_of(transfer.owner)
        if transfer.applied == 0:
            transfer.found = owned.version
            if not self._may_apply(transfer, owned, turn):
                transfer.rows = []
        if transfer.applied < len(transfer.rows):
            record = transfer.rows[transfer.applied]
            transfer.applied += 1
            merged = self._records.merge(record, transfer.peer, is_pulled=True)
            self.merged += merged is Merge.APPLIED
            if not transfer.whole:
                self._records.reach(owned, record.version)
            if transfer.applied < len(transfer.rows):
                return _RECORD_UNITS
        self._ready.popleft()
        if transfer.rows:
            self.frozen.pop(transfer.owner, None)
            last = transfer.since if transfer.whole else transfer.rows[-1].version
            self._records.reach(owned, last)
        if owned.version > transfer.found:
            # Why only then: who is behind as well would be asked again, at once and without end.
            self._take_aside(owned, transfer.peer, turn)
        self.done.append(transfer)
        return _RECORD_UNITS

    def _may_apply(self, transfer: Transfer, owned: OwnerSet, turn: Turn) -> bool:
        if not transfer.rows or transfer.owner == self._own:
            return True
        if not transfer.whole and transfer.since > owned.version:
            return False
        return self._fits(owned, transfer.rows, transfer.peer, turn)

    # -- caps -----------------------------------------------------------------------------------

    def is_refused(self, owner: PeerId, version: Version) -> bool:
        """True for a set that is known to be over the cap that still holds."""
        frozen = self.frozen.get(owner)
        return frozen is not None and frozen.version == version and frozen.cap == self.cap_of(owner)

    def cap_of(self, owner: PeerId, rows: Sequence[Record] = ()) -> tuple[int, int]:
        """Records and bytes that an owner may hold, by its tier."""
        tier = self._tier_by(owner, rows)
        return limits.OWNER_CAPS[min(max(tier, 0), len(limits.OWNER_CAPS) - 1)]

    def has_room(self, slot: Slot, size: int) -> bool:
        """True while this record of ours keeps us under our own cap, at every node."""
        own = self._records.peek(self._own)
        most, most_bytes = self.cap_of(self._own)
        held = own.rows.get(slot)
        count = len(own.rows) + (held is None)
        size_after = own.bytes + size + _HEADERS - (0 if held is None else held.size)
        return count <= most and size_after <= most_bytes

    def _fits(self, owned: OwnerSet, rows: Sequence[Record], peer: PeerId, turn: Turn) -> bool:
        """Whether the set stays within its cap with these; else the owner is frozen."""
        if not owned.rows and not self._is_welcome(owned.owner, rows):
            turn.note(Rejection("owner-unknown"), peer)
            return False
        records, size = limits.OWNER_CAPS[0]
        size_after = owned.bytes + sum(row.size for row in rows)
        if len(owned.rows) + len(rows) <= records and size_after <= size:
            return True
        cap = records, size = self.cap_of(owned.owner, rows)
        if len(owned.rows) + len(rows) <= records and size_after <= size:
            return True
        # Why only here: what a new epoch or a gc_version frees is found by trying, which is dear.
        after = owned.copy()
        for row in rows:
            after.merge(row)
        if len(after.rows) <= records and after.bytes <= size:
            return True
        self.frozen[owned.owner] = Frozen(rows[-1].version, cap)
        detail = f"{owned.owner.hex()[:8]}: {len(after.rows)} records, {after.bytes} bytes"
        turn.note(Rejection("owner-over-cap", detail), peer)
        return False

    def _is_welcome(self, owner: PeerId, rows: Sequence[Record]) -> bool:
        """Owners whose certificate is not known yet are kept, but only so many of them."""
        if self._tier_by(owner, rows) >= 0:
            return True
        if len(self._strangers) >= limits.STRANGERS_MAX:
            known = [o for o in self._strangers if self._tier_of(o, None) >= 0]
            for other in known:
                del self._strangers[other]
            if not known:
                return False
        self._strangers[owner] = None
        return True

    def _tier_by(self, owner: PeerId, rows: Sequence[Record]) -> int:
        certs = [row for row in rows if row.body.kind == CERT and row.is_live]
        return self._tier_of(owner, certs[-1] if certs else None)
