"""One record: its bytes, and what follows from them alone.

Decides: the shape of a signed record, which records are refused, and which of two records of one
key wins.
Does not know: what a payload means; other records; who sent it; any clock.
Invariants: a record is kept and sent as it was carried; everything else in it follows from its
    bytes. A record is refused for a bad signature (by the muscles), a wrong owner, another cluster,
    a wrong shape, a key that is too long, a version that cannot be, or its size.
Source: docs/design/protocol.md#records. ``prev`` stands in the signed body: a forwarder can then
    not invent or hide a gap, and a push needs nothing beside it. Refused: ``prev`` in a message
    before each push, which only the sender vouches for; last-writer-wins by wall clock.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pollen.core import limits
from pollen.core.codec import U8, U32, U64, Rejection, WireClusterId, WirePeerId, decode
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId, Hash, PeerId, hash_of
from pollen.core.kinds import DURABLE, EPHEMERAL, GC

# The epoch and the sequence number of an owner's write; they rise together.
Version = tuple[int, int]
# Where a record stands among its owner's: kind and key.
Slot = tuple[str, bytes]
Key = tuple[PeerId, str, bytes]

ZERO: Version = (0, 0)


class Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What a record's signature covers, after the domain prefix (docs/design/protocol.md#records).

    ``prev_epoch`` and ``prev_seq``: the version that its owner wrote before this one.
    """

    cluster: WireClusterId
    owner: WirePeerId
    kind: str
    key: bytes
    epoch: U32
    seq: U64
    schema: U8
    tombstone: bool
    payload: bytes
    prev_epoch: U32 = 0
    prev_seq: U64 = 0


class Record(msgspec.Struct, frozen=True, gc=False):
    """A record in memory: decoded, with the bytes as carried, their hash, and what follows."""

    body: Body
    signed: SignedRecord
    digest: Hash
    key: Key
    slot: Slot
    version: Version
    prev: Version
    weight: int
    is_ephemeral: bool
    is_durable: bool
    floor: Version

    @property
    def precedence(self) -> tuple[Version, bytes]:
        """What decides a merge: version, then the hash of the bytes."""
        return self.version, self.digest

    @property
    def size(self) -> int:
        """The bytes that count against its owner's cap."""
        return len(self.signed.body)

    @property
    def is_live(self) -> bool:
        """False for a tombstone."""
        return not self.body.tombstone

    @property
    def is_opaque(self) -> bool:
        """True when a newer schema wrote it: kept and forwarded, never applied."""
        return self.body.schema > limits.SCHEMA


class Change(msgspec.Struct, frozen=True, gc=False):
    """A record that is new here, and the peer that it came from (None: written here).

    ``before`` is what it replaced. ``is_gone``: the record itself is no longer held, and no other
    stands in its place. ``is_pulled``: it was asked for, not pushed.
    """

    record: Record
    source: PeerId | None
    before: Record | None = None
    is_gone: bool = False
    is_pulled: bool = False


class Interned:
    """Decoded records by their bytes, bounded: many nodes in one process decode a record once."""

    def __init__(self, size: int = limits.INTERNED_RECORDS) -> None:
        self._size = size
        self._young: dict[bytes, Record] = {}
        self._old: dict[bytes, Record] = {}

    def find(self, signed: SignedRecord) -> Record | None:
        """The record of exactly these bytes and this signature."""
        held = self._young.get(signed.body)
        if held is None:
            held = self._old.get(signed.body)
            if held is not None:
                self.keep(held)
        if held is None or held.signed.signature != signed.signature:
            return None
        return held if held.body.owner == signed.owner else None

    def keep(self, record: Record) -> None:
        """Remember; what was not used for a while is forgotten."""
        if len(self._young) >= self._size:
            self._old, self._young = self._young, {}
        self._young[record.signed.body] = record


def decode_record(
    signed: SignedRecord, cluster: ClusterId, interned: Interned | None = None
) -> Record | Rejection:
    """A carried record, when its shape, owner and cluster are right. Its signature was checked."""
    if interned is not None:
        held = interned.find(signed)
        if held is not None and held.body.cluster == cluster:
            return held
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
    if body.seq > limits.SEQ_MAX or (body.prev_epoch, body.prev_seq) >= (body.epoch, body.seq):
        return Rejection("record-version")
    record = record_of(body, signed)
    if interned is not None:
        interned.keep(record)
    return record


def record_of(body: Body, signed: SignedRecord) -> Record:
    """A record with everything that follows from its bytes."""
    digest = hash_of("record", signed.body)
    version = (body.epoch, body.seq)
    # A tombstone has the floor of its key as well: what was given up cannot be taken back.
    floor = read_gc_key(body.key) if body.kind == GC else ZERO
    return Record(
        body=body,
        signed=signed,
        digest=digest,
        key=(body.owner, body.kind, body.key),
        slot=(body.kind, body.key),
        version=version,
        prev=(body.prev_epoch, body.prev_seq),
        weight=int.from_bytes(digest, "big"),
        is_ephemeral=body.kind in EPHEMERAL,
        is_durable=body.kind in DURABLE,
        floor=floor if floor < version else ZERO,
    )


def as_buried(record: Record) -> Record:
    """What a machine that keeps values is told of a record that is no longer held."""
    return msgspec.structs.replace(
        record, body=msgspec.structs.replace(record.body, tombstone=True)
    )


def gc_key(version: Version) -> bytes:
    """The key of the ``GC`` record for a ``gc_version``: each has its own, so that none replaces
    a higher one."""
    return version[0].to_bytes(4, "big") + version[1].to_bytes(8, "big")


def read_gc_key(key: bytes) -> Version:
    """The version of a ``GC`` record; ``ZERO`` for a key that is none."""
    if len(key) != 12:
        return ZERO
    return int.from_bytes(key[:4], "big"), int.from_bytes(key[4:], "big")


def winner_of(one: Record, other: Record) -> Record:
    """The record of one key that stays: the higher version, then the larger hash."""
    return other if other.precedence > one.precedence else one


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
