"""What a node reads back from its store at the start.

Decides: what the rows of each table mean, and that an unreadable one makes the state unusable.
Does not know: SQLite, files; the rows are arguments.
Invariants: nothing is skipped silently: a row is understood or the start fails with a remedy.
Source: docs/design/protocol.md#durability; docs/internals/records.md#the-disk.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pollen.core.admission import NONCE_TABLE, JoinReply, Redeeming
from pollen.core.codec import Rejection, decode, encode
from pollen.core.durability import CHAIN_KEY, META_TABLE, chain_row
from pollen.core.effects import Row
from pollen.core.events import SignedRecord
from pollen.core.ids import ClusterId, Nanos, PeerId
from pollen.core.peers import PEER_TABLE, KnownPeer, Peers
from pollen.core.placement import Placing
from pollen.core.records import ZERO, Record, Records, Retention, decode_record, read_lease
from pollen.core.services import Services
from pollen.errors import PollenError

RECORD_TABLE = "record"
WALL_KEY = b"wall"
STARTS_KEY = b"starts"

CLUSTER_KEY = b"cluster"
ROOT_KEY = b"root"
NAME_KEY = b"name"

Restored = Mapping[str, Sequence[tuple[bytes, bytes]]]


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """What the disk held, beside what went into the machines."""

    wall: Nanos
    starts: list[int]


def restore(
    restored: Restored,
    cluster: ClusterId,
    records: Records,
    retention: Retention,
    peers: Peers,
    redeeming: Redeeming,
    services: Services,
    placing: Placing,
) -> Kept:
    """Fill the machines from disk. Raises ``PollenError`` (``state-unusable``)."""
    meta = dict(restored.get(META_TABLE, ()))
    lease = read_lease(meta)
    wall = decode(int, meta.get(WALL_KEY, encode(0)), "wall-row")
    starts = decode(list[int], meta.get(STARTS_KEY, encode([])), "starts-row")
    kept, faults = decode_records(restored.get(RECORD_TABLE, ()), cluster)
    proofs, unread = retention.restore(restored)
    faults += unread
    records.restore(kept, *(lease or ZERO), proofs)
    faults += peers.restore(restored.get(PEER_TABLE, ()))
    faults += redeeming.restore(restored.get(NONCE_TABLE, ()))
    faults += services.restore(restored)
    faults += placing.restore(restored)
    if lease is None:
        faults.append(Rejection("epoch-row-malformed"))
    faults += [value for value in (wall, starts) if isinstance(value, Rejection)]
    if faults or isinstance(wall, Rejection) or isinstance(starts, Rejection):
        raise PollenError(
            "state-unusable",
            f"{len(faults)} rows of the store cannot be read ({faults[0].kind})",
            "restore the folder from a copy, or start over: pln purge",
        )
    return Kept(wall=Nanos(wall), starts=starts)


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What ``init`` or ``join`` left in the store: which cluster, and the right to be in it."""

    cluster: ClusterId
    root: PeerId
    chain: bytes
    name: str


def read_identity(restored: Restored) -> Identity | None:
    """The identity in the store, or None while this node is in no cluster."""
    meta = dict(restored.get(META_TABLE, ()))
    if CLUSTER_KEY not in meta or ROOT_KEY not in meta or CHAIN_KEY not in meta:
        return None
    return Identity(
        cluster=ClusterId(meta[CLUSTER_KEY]),
        root=PeerId(meta[ROOT_KEY]),
        chain=meta[CHAIN_KEY],
        name=meta.get(NAME_KEY, b"").decode("utf-8", "replace"),
    )


def identity_rows(identity: Identity) -> list[Row]:
    """The rows that ``read_identity`` reads."""
    return [
        (META_TABLE, CLUSTER_KEY, identity.cluster),
        (META_TABLE, ROOT_KEY, identity.root),
        chain_row(identity.chain),
        (META_TABLE, NAME_KEY, identity.name.encode()),
    ]


def enrolment_rows(reply: JoinReply, name: str) -> list[Row]:
    """What a joiner writes when its reply was checked: its identity, and whom to dial."""
    identity = Identity(
        cluster=ClusterId(reply.cluster), root=PeerId(reply.root), chain=reply.chain, name=name
    )
    peers: list[Row] = [
        (PEER_TABLE, peer, encode(KnownPeer(addresses))) for peer, addresses in reply.peers
    ]
    return identity_rows(identity) + peers


def record_row(record: Record) -> Row:
    """The row that keeps a record as carried."""
    owner, kind, key = record.key
    return RECORD_TABLE, owner + kind.encode() + b"\0" + key, encode(record.signed)


def gone_row(record: Record) -> Row:
    """The row that forgets a record."""
    return record_row(record)[0], record_row(record)[1], None


def wall_row(wall: Nanos) -> Row:
    """The row that keeps the wall clock from going back."""
    return META_TABLE, WALL_KEY, encode(int(wall))


def starts_row(starts: Sequence[int]) -> Row:
    """The row that tells the next run when the last ones began."""
    return META_TABLE, STARTS_KEY, encode(list(starts))


def decode_records(
    rows: Sequence[tuple[bytes, bytes]], cluster: ClusterId
) -> tuple[list[Record], list[Rejection]]:
    """The records of these rows, and what is wrong with the others."""
    kept: list[Record] = []
    faults: list[Rejection] = []
    for _, raw in rows:
        signed = decode(SignedRecord, raw, "record-row")
        record = signed if isinstance(signed, Rejection) else decode_record(signed, cluster)
        if isinstance(record, Record):
            kept.append(record)
        else:
            faults.append(record)
    return kept, faults
