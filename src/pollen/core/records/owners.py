"""One owner's records as a set that only grows in knowledge, and the hashes of all such sets.

Decides: what stays of an owner's records, how complete the set is, and its hash.
Does not know: what a record means, who sent it, caps, disks or clocks.
Invariants: the set is a join: the same records in any order, grouping or number give the same set.
    Nothing at or below the owner's floor (its ``gc_version``) is held, so nothing deleted long ago
    comes back. An ephemeral record of an earlier epoch is not held, since its run has ended. Two
    sets are equal if and only if their sums are. ``version`` is never higher than signed records
    prove.
Source: docs/design/protocol.md#records. Sums are added modulo 2**256: adding is incremental, and an
    owner can collide nobody's sets but its own. Refused: XOR, under which such collisions are
    trivial; a Merkle tree, whose upkeep costs more than 256 buckets of a sum each.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable

from pollen.core.ids import Hash, PeerId, hash_of
from pollen.core.messages import Line
from pollen.core.records.record import ZERO, Record, Slot, Version

BUCKETS = 256
BUCKET_BYTES = 8
SUM_BYTES = 16
_MASK = (1 << 256) - 1


class Merge(enum.Enum):
    """What became of a record that came in."""

    APPLIED = "applied"
    KNOWN = "known"
    OLDER = "older"
    OWN_STALE = "own-stale"


class OwnerSet:
    """The records of one owner.

    ``version``: everything up to it was seen. ``kept``: the same of what lasts, which is all that a
    restart leaves. ``top``: the highest version held. ``floor``: the owner's ``gc_version``. A
    grave holds what is durable, and its ``top`` is that of the owner when it was buried.
    """

    __slots__ = ("bytes", "floor", "is_grave", "kept", "owner", "rows", "sum", "top", "version")

    def __init__(self, owner: PeerId) -> None:
        self.owner = owner
        self.rows: dict[Slot, Record] = {}
        self.version = ZERO
        self.kept = ZERO
        self.top = ZERO
        self.floor = ZERO
        self.sum = 0
        self.bytes = 0
        self.is_grave = False

    def judge(self, record: Record) -> Merge:
        """What ``merge`` would say, with nothing changed."""
        held = self.rows.get(record.slot)
        if held is not None:
            if held.digest == record.digest:
                return Merge.KNOWN
            if held.precedence >= record.precedence:
                return Merge.OLDER
        if record.version <= self.floor:
            return Merge.OLDER
        if record.is_ephemeral and record.version[0] < self.top[0]:
            return Merge.OLDER
        if self.is_grave and not record.is_durable and record.version[0] <= self.top[0]:
            return Merge.OLDER
        return Merge.APPLIED

    def merge(self, record: Record) -> tuple[Merge, list[Record]]:
        """Take a record in; the records that are no longer held because of it."""
        merged = self.judge(record)
        if merged is not Merge.APPLIED:
            return merged, []
        gone = []
        held = self.rows.get(record.slot)
        if held is not None:
            self.drop(held)
            gone.append(held)
        self.rows[record.slot] = record
        self.sum = (self.sum + record.weight) & _MASK
        self.bytes += record.size
        is_new_epoch = record.version[0] > self.top[0] > 0
        self.top = max(self.top, record.version)
        if is_new_epoch or record.floor > self.floor:
            self.floor = max(self.floor, record.floor)
            # Only a higher epoch lifts a grave.
            self.is_grave = self.is_grave and not is_new_epoch
            dead = [row for row in self.rows.values() if self._is_dead(row)]
            for row in dead:
                self.drop(row)
            gone += dead
        return merged, gone

    def _is_dead(self, row: Record) -> bool:
        return row.version <= self.floor or (row.is_ephemeral and row.version[0] < self.top[0])

    def bury(self) -> list[Record]:
        """Make it a grave: the records that do not last are held no more, and are returned."""
        self.is_grave = True
        gone = [row for row in self.rows.values() if not row.is_durable]
        for row in gone:
            self.drop(row)
        return gone

    def entomb(self, version: Version) -> None:
        """It is the grave of an owner that was seen up to this version."""
        self.is_grave = True
        self.top = self.version = self.kept = max(self.top, version)

    def drop(self, row: Record) -> None:
        """Hold a record no more."""
        del self.rows[row.slot]
        self.sum = (self.sum - row.weight) & _MASK
        self.bytes -= row.size

    def copy(self) -> OwnerSet:
        """The same set, to try something on."""
        other = OwnerSet(self.owner)
        other.rows = dict(self.rows)
        other.version, other.kept, other.top = self.version, self.kept, self.top
        other.floor, other.sum, other.bytes = self.floor, self.sum, self.bytes
        other.is_grave = self.is_grave
        return other

    def reach(self, version: Version) -> None:
        """Everything up to ``version`` was seen; never more than the records held prove."""
        self.version = min(max(self.version, version), self.top)
        self.kept = max(self.kept, self.version)

    def follows(self, record: Record) -> bool:
        """True when nothing is missing between what was seen and this record.

        In a new epoch only what lasts counts: the rest is void by the record itself.
        """
        if record.prev <= self.version:
            return True
        return record.version[0] > self.top[0] and record.prev <= self.kept

    def after(self, version: Version) -> list[Record]:
        """The records after a version, rising; all of them after ``ZERO``."""
        rows = self.rows.values()
        found = [r for r in rows if r.version > version] if version != ZERO else list(rows)
        found.sort(key=lambda r: (r.version, r.slot))
        return found

    def line(self) -> Line:
        """This owner in a digest."""
        epoch, seq = self.version
        return Line(self.owner, epoch, seq, self.sum_bytes(), self.is_grave)

    def sum_bytes(self) -> bytes:
        """The hash of the set."""
        return self.sum.to_bytes(32, "big")[:SUM_BYTES]


class Sums:
    """The hashes of all owners' sets: a root, 256 buckets; kept up as sets change."""

    def __init__(self) -> None:
        self._parts: dict[PeerId, int] = {}
        self._buckets = [0] * BUCKETS
        self._members: list[dict[PeerId, None]] = [{} for _ in range(BUCKETS)]
        self._dirty: dict[PeerId, OwnerSet] = {}
        self._root: Hash | None = None

    def touch(self, owned: OwnerSet) -> None:
        """This set changed. Cheap: hashing waits until a hash is asked for."""
        self._dirty[owned.owner] = owned

    def root(self) -> Hash:
        """The hash of everything."""
        self._settle()
        if self._root is None:
            self._root = hash_of("root", b"".join(b.to_bytes(32, "big") for b in self._buckets))
        return self._root

    def buckets(self) -> bytes:
        """The bucket hashes, as ``Buckets`` carries them."""
        self._settle()
        return b"".join(b.to_bytes(32, "big")[:BUCKET_BYTES] for b in self._buckets)

    def owners_of(self, buckets: Iterable[int]) -> list[PeerId]:
        """The owners in some buckets, by id within each."""
        self._settle()
        return [owner for bucket in buckets for owner in sorted(self._members[bucket])]

    def _settle(self) -> None:
        for owner, owned in self._dirty.items():
            bucket = owner[0]
            part = 0
            if owned.rows:
                # Why: a set that may lack something shows it, and its peers then say its version.
                # Otherwise equal sets are equal: a grave is not news for who holds the same.
                is_whole = b"\1" if owned.version >= owned.top else b"\0"
                total = owned.sum.to_bytes(32, "big")
                part = int.from_bytes(hash_of("line", owner, is_whole, total), "big")
                self._members[bucket][owner] = None
            else:
                self._members[bucket].pop(owner, None)
            change = part - self._parts.get(owner, 0)
            if change:
                self._parts[owner] = part
                self._buckets[bucket] = (self._buckets[bucket] + change) & _MASK
                self._root = None
        self._dirty.clear()


def differing(one: bytes, other: bytes) -> list[int]:
    """The numbers of the buckets whose hashes differ."""
    step = BUCKET_BYTES
    return [
        n for n in range(BUCKETS) if one[n * step : n * step + step] != other[n * step :][:step]
    ]
