"""The converging state of a cluster: single-writer records, and how two sets of them merge.

Decides: which of two records with one key wins, what is refused, and the versions of one's own.
Does not know: what a payload means, links, tables, or any clock: merging reads none.
Invariants: a key is (owner, kind, key) and only its owner writes it. Merging is commutative,
    associative and idempotent. A version (epoch, seq) is never used twice by one process; equal
    versions with other bytes go to the larger hash, everywhere, and are counted. Nothing of ours
    is published before this run's epoch is on disk.
Source: PROTOCOL 2. In this first form there are no digests: a new link gets everything, and each
    change is pushed to every linked peer. Refused: last-writer-wins by wall clock.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator

import msgspec

from pollen.core import limits
from pollen.core.codec import (
    RECORD_DOMAIN,
    U8,
    U32,
    U64,
    Rejection,
    WireClusterId,
    WirePeerId,
    decode,
    encode,
    signing_bytes,
)
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId, Hash, KeyRole, PeerId, Sign, hash_of

NODE = "node"
SPEC = "spec"
CLAIM = "claim"
ACCUSE = "accuse"
REFUTE = "refute"

# Kinds that say what a process is doing now: never on disk, never adopted from an earlier run.
EPHEMERAL = frozenset({CLAIM, ACCUSE, REFUTE})
# Kinds whose value this run states anew by itself, so that an older one of ours is never adopted.
OWN_EACH_RUN = frozenset({NODE, CLAIM, ACCUSE, REFUTE})

Key = tuple[PeerId, str, bytes]


class Body(msgspec.Struct, frozen=True, array_like=True):
    """What a record's signature covers, after the domain prefix (PROTOCOL 2)."""

    cluster: WireClusterId
    owner: WirePeerId
    kind: str
    key: bytes
    epoch: U32
    seq: U64
    schema: U8
    tombstone: bool
    payload: bytes


class Record(msgspec.Struct, frozen=True):
    """A record in memory: decoded, with the bytes as carried and their hash."""

    body: Body
    signed: SignedRecord
    digest: Hash

    @property
    def key(self) -> Key:
        """(owner, kind, key)."""
        return self.body.owner, self.body.kind, self.body.key

    @property
    def precedence(self) -> tuple[int, int, bytes]:
        """What decides a merge: version, then the hash of the bytes."""
        return self.body.epoch, self.body.seq, self.digest

    @property
    def is_live(self) -> bool:
        """False for a tombstone."""
        return not self.body.tombstone

    @property
    def is_opaque(self) -> bool:
        """True when a newer schema wrote it: kept and forwarded, never applied."""
        return self.body.schema > limits.SCHEMA


class Merge(enum.Enum):
    """What became of a record that came in."""

    APPLIED = "applied"
    KNOWN = "known"
    OLDER = "older"
    OWN_STALE = "own-stale"


class Change(msgspec.Struct, frozen=True):
    """A record that is new here, and the peer that it came from (None: written here)."""

    record: Record
    source: PeerId | None


def decode_record(signed: SignedRecord, cluster: ClusterId) -> Record | Rejection:
    """A carried record, when its shape, owner and cluster are right. Its signature was checked."""
    if len(signed.body) > limits.RECORD_MAX_BYTES:
        return Rejection("record-too-large", f"{len(signed.body)} bytes")
    body = decode(Body, signed.body, "record")
    if isinstance(body, Rejection):
        return body
    if body.owner != signed.owner:
        return Rejection("record-wrong-owner")
    if body.cluster != cluster:
        return Rejection("record-of-another-cluster")
    if len(body.key) > limits.RECORD_KEY_MAX_BYTES:
        return Rejection("record-key-too-long", f"{len(body.key)} bytes")
    return Record(body, signed, hash_of("record", signed.body))


def winner_of(one: Record, other: Record) -> Record:
    """The record of one key that stays: the higher version, then the larger hash."""
    return other if other.precedence > one.precedence else one


class Records:
    """All records this node holds, and the writer of its own."""

    def __init__(self, cluster: ClusterId, owner: PeerId, sign: Sign) -> None:
        self._cluster = cluster
        self._owner = owner
        self._sign = sign
        self._rows: dict[Key, Record] = {}
        self._counts: dict[PeerId, int] = {}
        self._changes: list[Change] = []
        self._wished: dict[tuple[str, bytes], tuple[bytes, bool]] = {}
        self._waiting: dict[tuple[str, bytes], tuple[bytes, bool]] = {}
        self.epoch = 0
        self.seq = 0
        self.wanted_epoch = 1
        self.ties = 0

    # -- this run's epoch -----------------------------------------------------------------------

    def restore(self, records: Iterable[Record], epoch: int) -> None:
        """Take over what the disk held; ``epoch`` is the last one that was durable."""
        for record in records:
            self._put(record)
            if record.body.owner == self._owner:
                epoch = max(epoch, record.body.epoch)
        self.wanted_epoch = min(epoch + 1, limits.EPOCH_MAX)

    @property
    def is_open(self) -> bool:
        """True while the epoch in use is the one on disk, so that publishing is allowed."""
        return self.epoch == self.wanted_epoch

    def open_epoch(self, epoch: int) -> None:
        """``epoch`` is on disk: publish under it whatever this run states, and what waited."""
        if epoch != self.wanted_epoch or self.is_open:
            return
        self.epoch, self.seq = epoch, 0
        due = {**self._wished, **self._waiting}
        self._waiting = {}
        for (kind, key), (payload, tombstone) in due.items():
            self._write(kind, key, payload, tombstone)

    # -- one's own ------------------------------------------------------------------------------

    def publish(self, kind: str, key: bytes, payload: bytes) -> bool:
        """State a value of our own; False when it stands already. Waits for the epoch."""
        return self._state(kind, key, payload, False)

    def bury(self, kind: str, key: bytes) -> bool:
        """Publish the tombstone of a value of our own."""
        return self._state(kind, key, b"", True)

    def _state(self, kind: str, key: bytes, payload: bytes, tombstone: bool) -> bool:
        value = (payload, tombstone)
        if kind in OWN_EACH_RUN:
            if self._wished.get((kind, key)) == value:
                return False
            self._wished[kind, key] = value
        if not self.is_open:
            self._waiting[kind, key] = value
            return True
        self._write(kind, key, payload, tombstone)
        return True

    def _write(self, kind: str, key: bytes, payload: bytes, tombstone: bool) -> None:
        self.seq += 1
        body = Body(
            cluster=self._cluster,
            owner=self._owner,
            kind=kind,
            key=key,
            epoch=self.epoch,
            seq=self.seq,
            schema=limits.SCHEMA,
            tombstone=tombstone,
            payload=payload,
        )
        raw = encode(body)
        signature = self._sign(KeyRole.NODE, signing_bytes(RECORD_DOMAIN, raw))
        signed = SignedRecord(self._owner, raw, signature)
        record = Record(body, signed, hash_of("record", raw))
        self._put(record)
        self._changes.append(Change(record, None))

    # -- everybody's ----------------------------------------------------------------------------

    def merge(self, record: Record, source: PeerId | None) -> Merge | Rejection:
        """Take in a record of somebody else, or one of ours that somebody kept."""
        if record.body.owner == self._owner:
            return self._merge_own(record, source)
        held = self._rows.get(record.key)
        if held is None and self._counts.get(record.body.owner, 0) >= limits.OWNER_RECORDS_MAX:
            return Rejection("owner-over-cap", record.body.owner.hex())
        return self._settle(held, record, source)

    def _settle(self, held: Record | None, record: Record, source: PeerId | None) -> Merge:
        if held is not None:
            if held.digest == record.digest:
                return Merge.KNOWN
            if held.precedence[:2] == record.precedence[:2]:
                self.ties += 1
            if winner_of(held, record) is held:
                return Merge.OLDER
        self._put(record)
        self._changes.append(Change(record, source))
        return Merge.APPLIED

    def _merge_own(self, record: Record, source: PeerId | None) -> Merge:
        """PROTOCOL 2: a version of ours at or above our own makes us jump above it.

        Lasting values are adopted: they were acknowledged by an earlier run whose disk is lost.
        What each run states anew is stated again above it, or buried.
        """
        held = self._rows.get(record.key)
        if held is not None and held.digest == record.digest:
            return Merge.KNOWN
        if record.body.epoch >= self.wanted_epoch and record.body.epoch > self.epoch:
            self.wanted_epoch = min(record.body.epoch + 1, limits.EPOCH_MAX)
        elif record.body.epoch == self.epoch:
            self.seq = max(self.seq, record.body.seq)
        if record.body.kind not in OWN_EACH_RUN:
            return self._settle(held, record, source)
        if held is not None and winner_of(held, record) is held and self.is_open:
            return Merge.OLDER
        slot = (record.body.kind, record.body.key)
        if slot not in self._wished and not record.is_live:
            return self._settle(held, record, source)
        payload, tombstone = self._wished.setdefault(slot, (b"", True))
        if self.is_open:
            self._write(*slot, payload, tombstone)
        return Merge.OWN_STALE

    def _put(self, record: Record) -> None:
        if record.key not in self._rows:
            self._counts[record.body.owner] = self._counts.get(record.body.owner, 0) + 1
        self._rows[record.key] = record

    # -- views ----------------------------------------------------------------------------------

    def take_changes(self) -> list[Change]:
        """What changed since the last call, oldest first."""
        changes, self._changes = self._changes, []
        return changes

    def all_records(self) -> Iterator[Record]:
        """Everything, nodes first so that a receiver knows an owner before its words."""
        order = {NODE: 0, SPEC: 1}
        yield from sorted(self._rows.values(), key=lambda r: (order.get(r.body.kind, 2), r.key))

    def find(self, owner: PeerId, kind: str, key: bytes) -> Record | None:
        """One record, tombstones included."""
        return self._rows.get((owner, kind, key))

    def live_of(self, kind: str) -> list[Record]:
        """The live, readable records of one kind, by owner and key."""
        rows = [
            r for r in self._rows.values() if r.body.kind == kind and r.is_live and not r.is_opaque
        ]
        return sorted(rows, key=lambda r: r.key)


def in_frames(records: Iterable[SignedRecord]) -> list[list[SignedRecord]]:
    """Records packed so that no list outgrows a control frame (seam)."""
    frames: list[list[SignedRecord]] = []
    room = 0
    for record in records:
        size = len(record.body) + 128
        if not frames or size > room:
            frames.append([])
            room = limits.RECORDS_FRAME_BYTES
        frames[-1].append(record)
        room -= size
    return frames
