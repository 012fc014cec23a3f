"""The converging state of a cluster: everybody's records, and the writer of one's own.

Decides: what of a record that comes in is kept, and the records that this node writes.
Does not know: what a payload means, links, tables, or any clock: merging reads none.
Invariants: a key is (owner, kind, key) and only its owner writes it. Merging is commutative,
    associative and idempotent (``owners``). A version is never used twice (``versions``); equal
    versions with other bytes go to the larger hash, everywhere, and are counted. Nothing of ours
    is published before this run's epoch is on disk.
Source: docs/design/protocol.md#records.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from pollen.core import kinds, limits
from pollen.core.codec import RECORD_DOMAIN, encode, signing_bytes
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId, KeyRole, PeerId, Sign
from pollen.core.kinds import (
    OWN_EACH_RUN,
)
from pollen.core.records.owners import Merge, OwnerSet, Sums
from pollen.core.records.record import (
    ZERO,
    Body,
    Change,
    Key,
    Record,
    Slot,
    Version,
    record_of,
)
from pollen.core.records.versions import Versions
from pollen.core.turn import Turn


class Records:
    """All records this node holds, and the writer of its own."""

    def __init__(self, cluster: ClusterId, owner: PeerId, sign: Sign) -> None:
        self._cluster = cluster
        self._owner = owner
        self._sign = sign
        self._sets: dict[PeerId, OwnerSet] = {owner: OwnerSet(owner)}
        self._own = self._sets[owner]
        self._kinds: dict[str, dict[Key, Record]] = {}
        self._sorted: dict[str, list[Record]] = {}
        self._generations: dict[str, int] = {}
        self._changes: list[Change] = []
        self._wished: dict[Slot, tuple[bytes, bool]] = {}
        self._waiting: dict[Slot, tuple[bytes, bool]] = {}
        self._versions = Versions()
        self._spoken = 1
        self.sums = Sums()
        self.ties = 0
        self.proofs: dict[PeerId, Record] = {}
        self._forked_at: dict[PeerId, int] = {}

    # -- this run's epoch -----------------------------------------------------------------------

    def restore(
        self,
        records: Iterable[Record],
        epoch: int,
        leased: int = 0,
        proofs: Iterable[Record] = (),
    ) -> None:
        """Take over what the disk held; ``epoch`` and ``leased`` are the last durable lease,
        ``proofs`` the last records of the owners in graves."""
        for record in records:
            owned = self.set_of(record.body.owner)
            if owned.merge(record)[0] is Merge.APPLIED:
                self.sums.touch(owned)
        for proof in proofs:
            owned = self.set_of(proof.body.owner)
            if owned.top[0] <= proof.version[0]:
                self.proofs[owned.owner] = proof
                owned.entomb(proof.version)
        for owned in self._sets.values():
            owned.kept = owned.top
            for record in owned.rows.values():
                self._index(record)
        self._own.reach(self._own.top)
        self._versions.restore(epoch, leased, self._own.top)

    @property
    def epoch(self) -> int:
        """The epoch in use, 0 before one is on disk."""
        return self._versions.epoch

    @property
    def wanted_epoch(self) -> int:
        """The epoch that this run publishes under, now or once it is on disk."""
        return self._versions.wanted_epoch

    @property
    def is_open(self) -> bool:
        """True while publishing is allowed: this run's versions are on disk."""
        return self._versions.is_open

    def ask_lease(self, turn: Turn) -> None:
        """Write what must be on disk before (more) records can be published."""
        self._versions.ask_lease(turn)

    def open_lease(self, subject: bytes) -> bool:
        """A lease is on disk: publish what waited. True when it opened an epoch."""
        is_new = self._versions.grant(subject)
        due = {**self._wished, **self._waiting} if is_new else self._waiting
        self._waiting = {}
        for slot, value in due.items():
            self._say(slot, value)
        return is_new

    # -- one's own ------------------------------------------------------------------------------

    def publish(self, kind: str, key: bytes, payload: bytes) -> bool:
        """State a value of our own; False when it stands already. Waits for the epoch."""
        return self._declare((kind, key), (payload, False))

    def bury(self, kind: str, key: bytes) -> bool:
        """Publish the tombstone of a value of our own."""
        return self._declare((kind, key), (b"", True))

    def note_spoken(self, level: int) -> None:
        """The lowest level that a live node speaks: no kind above it is written."""
        if level == self._spoken:
            return
        self._spoken = level
        waiting, self._waiting = self._waiting, {}
        for slot, value in waiting.items():
            self._say(slot, value)

    def restate(self, record: Record) -> None:
        """Sign a value of ours again, above all that was said; it keeps its place."""
        if self.is_open and self._own.rows.get(record.slot) is record:
            self._write(record.slot, record.body.payload, record.body.tombstone)

    def _declare(self, slot: Slot, value: tuple[bytes, bool]) -> bool:
        if slot[0] in OWN_EACH_RUN:
            if self._wished.get(slot) == value:
                return False
            self._wished[slot] = value
        self._say(slot, value)
        return True

    def _say(self, slot: Slot, value: tuple[bytes, bool]) -> None:
        if not self.is_open or kinds.KIND_LEVELS.get(slot[0], 1) > self._spoken:
            self._waiting[slot] = value
            return
        held = self._own.rows.get(slot)
        is_nothing = value[1] and (held is None or not held.is_live)
        if not is_nothing:
            self._write(slot, *value)

    def _write(self, slot: Slot, payload: bytes, tombstone: bool) -> None:
        prev = self._own.top
        epoch, seq = self._versions.take()
        body = Body(
            cluster=self._cluster,
            owner=self._owner,
            kind=slot[0],
            key=slot[1],
            epoch=epoch,
            seq=seq,
            schema=limits.SCHEMA,
            tombstone=tombstone,
            payload=payload,
            prev_epoch=prev[0],
            prev_seq=prev[1],
        )
        raw = encode(body)
        signature = self._sign(KeyRole.NODE, signing_bytes(RECORD_DOMAIN, raw))
        self._take_in(record_of(body, SignedRecord(self._owner, raw, signature)), None)
        self._own.reach(self._own.top)

    # -- everybody's ----------------------------------------------------------------------------

    def merge(self, record: Record, source: PeerId | None, is_pulled: bool = False) -> Merge:
        """Take in a record of somebody else, or one of ours that somebody kept."""
        if record.body.owner == self._owner:
            return self._merge_own(record, source)
        return self._take_in(record, source, is_pulled)

    def _take_in(self, record: Record, source: PeerId | None, is_pulled: bool = False) -> Merge:
        owned = self.set_of(record.body.owner)
        before = owned.rows.get(record.slot)
        self._note_tie(before, record)
        merged, gone = owned.merge(record)
        if merged is not Merge.APPLIED:
            return merged
        self.sums.touch(owned)
        if not owned.is_grave:
            self.proofs.pop(owned.owner, None)
        for row in gone:
            self._unindex(row)
        self._index(record)
        self._changes.append(Change(record, source, before, False, is_pulled))
        self._changes += [Change(row, source, None, True) for row in gone if row is not before]
        return merged

    def _note_tie(self, held: Record | None, record: Record) -> None:
        if held is None or held.version != record.version or held.digest == record.digest:
            return
        self.ties += 1
        self._forked_at[record.body.owner] = record.version[0]

    def forked(self) -> list[PeerId]:
        """Owners that wrote two things under one version, until they write in an epoch above it:
        a key with two live copies, or whose disk was lost and who has not yet heard of it."""
        return [o for o, epoch in self._forked_at.items() if self.peek(o).top[0] <= epoch]

    def _merge_own(self, record: Record, source: PeerId | None) -> Merge:
        """A version of ours at or above our own makes us jump above it.

        Lasting values are adopted: they were acknowledged by an earlier run whose disk is lost.
        What each run states is stated again in the epoch above, where theirs is void.
        """
        held = self._own.rows.get(record.slot)
        if held is not None and held.digest == record.digest:
            return Merge.KNOWN
        if record.version <= self._own.floor:
            return Merge.OLDER
        if record.version[0] >= self.epoch > 0 and self._is_not_ours(record, held):
            self._forked_at[self._owner] = record.version[0]
        if record.version > self._own.top or self._is_not_ours(record, held):
            self._versions.jump_above(record.version)
        if record.body.kind in OWN_EACH_RUN:
            return Merge.OWN_STALE
        merged = self._take_in(record, source)
        self._own.reach(self._own.top)
        return merged

    def _is_not_ours(self, record: Record, held: Record | None) -> bool:
        """Of this run's epoch, and yet not what this run wrote under that version."""
        if record.version[0] != self._versions.epoch:
            return False
        return (
            record.version > self._versions.last or held is None or held.version <= record.version
        )

    # -- sets -----------------------------------------------------------------------------------

    def set_of(self, owner: PeerId) -> OwnerSet:
        """The set of one owner, empty when nothing of it is known."""
        owned = self._sets.get(owner)
        if owned is None:
            owned = self._sets[owner] = OwnerSet(owner)
        return owned

    def peek(self, owner: PeerId) -> OwnerSet:
        """The same to look at: asking for an owner that nobody ever signed for leaves no trace."""
        return self._sets.get(owner) or OwnerSet(owner)

    def reach(self, owned: OwnerSet, version: Version) -> None:
        """Everything of this owner up to ``version`` was seen."""
        before = owned.version
        owned.reach(version)
        if owned.version != before:
            self.sums.touch(owned)

    def collect(self, owner: PeerId) -> Record | None:
        """Bury an owner: drop what does not last. Returns the proof of its version, which is kept;
        None when there is nothing to bury."""
        owned = self._sets.get(owner)
        if owned is None or owned.is_grave or owner == self._owner:
            return None
        if all(row.is_durable for row in owned.rows.values()):
            return None
        last = self.proofs[owner] = max(owned.rows.values(), key=lambda row: row.precedence)
        for row in owned.bury():
            self._unindex(row)
            self._changes.append(Change(row, None, None, True))
        self.sums.touch(owned)
        return last

    def release(self, owner: PeerId) -> None:
        """Drop a grave and its proof; what lasts of its owner stays."""
        self.proofs.pop(owner, None)
        self.set_of(owner).is_grave = False

    def leave_epoch(self) -> None:
        """Our epoch is not heard any more, since others buried us in it: go on in the next."""
        self._versions.jump_above((self.epoch, 0))

    def owners(self) -> list[PeerId]:
        """Every owner of whom something is held, by id."""
        return sorted(owner for owner, owned in self._sets.items() if owned.rows)

    # -- views ----------------------------------------------------------------------------------

    def take_changes(self) -> list[Change]:
        """What changed since the last call, oldest first."""
        changes, self._changes = self._changes, []
        return changes

    def generation_of(self, kind: str) -> int:
        """Rises whenever a readable record of this kind comes, changes or goes."""
        return self._generations.get(kind, 0)

    def all_records(self) -> Iterator[Record]:
        """Everything, by owner and version."""
        for owner in self.owners():
            yield from self._sets[owner].after(ZERO)

    @property
    def count(self) -> int:
        """How many there are, tombstones included."""
        return sum(len(owned.rows) for owned in self._sets.values())

    def find(self, owner: PeerId, kind: str, key: bytes) -> Record | None:
        """One record, tombstones included."""
        owned = self._sets.get(owner)
        return None if owned is None else owned.rows.get((kind, key))

    def live_of(self, kind: str) -> Sequence[Record]:
        """The live, readable records of one kind, by owner and key; not to be changed."""
        found = self._sorted.get(kind)
        if found is None:
            rows = self._kinds.get(kind, {})
            found = self._sorted[kind] = [rows[key] for key in sorted(rows)]
        return found

    def rows_of(self, kind: str) -> Mapping[Key, Record]:
        """The same in no order: only for what does not depend on one."""
        return self._kinds.get(kind, {})

    def _index(self, record: Record) -> None:
        kind = record.body.kind
        if record.is_opaque:
            return
        if record.is_live:
            self._kinds.setdefault(kind, {})[record.key] = record
            self._sorted.pop(kind, None)
        self._generations[kind] = self._generations.get(kind, 0) + 1

    def _unindex(self, record: Record) -> None:
        kind = record.body.kind
        if self._kinds.get(kind, {}).pop(record.key, None) is not None:
            self._sorted.pop(kind, None)
            self._generations[kind] = self._generations.get(kind, 0) + 1
