"""The fast values of a node: one record that says how it does now.

Decides: what the record says, when it is worth publishing, and what the records of all say.
Does not know: who reads it; the plan.
Invariants: one record an owner, never on disk; nothing is sent while nothing moved past its
    hysteresis, and at most one every ``FAST_TICK_NS``. A bundle counts only in the epoch in which
    its owner is live.
Source: docs/design/protocol.md#records, docs/design/protocol.md#placement (quantised values).
"""

from __future__ import annotations

import functools

import msgspec

from pollen.core import limits
from pollen.core.codec import U8, U32, Rejection, decode, encode
from pollen.core.events import Telemetry
from pollen.core.ids import Nanos, PeerId
from pollen.core.placement.demand import DemandRow, Meter, bucket_of, settled, value_of
from pollen.core.records import Record


class Fast(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a ``fast`` record. Positional, only appended.

    ``memory``: bucket of bytes free for guests. ``queued``: bucket of calls that wait for a slot.
    ``coordinate``: plain integers whose meaning is that of ``coords``, empty while unknown.
    ``disk``: bucket of bytes free where content is kept.
    """

    memory: U8 = 0
    slots: U32 = 1
    queued: U8 = 0
    demand: list[DemandRow] = []
    coordinate: list[int] = []
    disk: U8 = 0

    @property
    def disk_bytes(self) -> int:
        """What is free for content, quantised."""
        return value_of(self.disk)

    @property
    def free_bytes(self) -> int:
        """What is free for guests, quantised."""
        return value_of(self.memory)

    @property
    def is_busy(self) -> bool:
        """True while more calls wait than run at once."""
        return value_of(self.queued) > self.slots


@functools.lru_cache(limits.DECODED_REMEMBERED)
def decode_fast(payload: bytes) -> Fast | Rejection:
    """The fast values of a record's payload."""
    return decode(Fast, payload, "fast")


class Bundle:
    """What this node tells of itself."""

    def __init__(
        self, capacity_bytes: int, slots: int, idle_ns: int = limits.DEMAND_KEEP_NS
    ) -> None:
        self._capacity, self._slots = capacity_bytes, slots
        self._meter = Meter(idle_ns)
        self._free = self._queued = self._disk = 0
        self._coordinate: list[int] = []
        self._said: Fast | None = None
        self._said_at: Nanos | None = None
        self.free_bytes = capacity_bytes

    def note_telemetry(self, telemetry: Telemetry, now: Nanos) -> None:
        """New counters of the muscles."""
        self._meter.note(telemetry.seeds, now)
        self.free_bytes = max(self._capacity - telemetry.memory_bytes, 0)
        self._free = settled(self._free, self.free_bytes)
        queued = max((sample.queued for sample in telemetry.seeds), default=0)
        self._queued = settled(self._queued, queued)
        self._disk = settled(self._disk, telemetry.disk_bytes)

    def note_coordinate(self, coordinate: list[int]) -> None:
        """Where this node is; its maker decides when it moved."""
        self._coordinate = coordinate

    def due(self, now: Nanos) -> bytes | None:
        """The payload to publish now, or None while it would say nothing new or too soon."""
        if self._said_at is not None and now < self._said_at + limits.FAST_TICK_NS:
            return None
        fast = Fast(
            memory=bucket_of(self._free or self._capacity),
            slots=self._slots,
            queued=bucket_of(self._queued),
            demand=self._meter.rows(now),
            coordinate=self._coordinate,
            disk=bucket_of(self._disk),
        )
        if fast == self._said:
            return None
        self._said, self._said_at = fast, now
        return encode(fast)


class Bundles:
    """What all nodes tell, as far as it counts."""

    def __init__(self) -> None:
        self._said: dict[PeerId, tuple[int, Fast]] = {}
        self._live: dict[PeerId, int] = {}
        self.counted: dict[PeerId, Fast] = {}

    def apply(self, record: Record) -> Rejection | None:
        """A fast record changed."""
        if record.is_opaque:
            return None
        owner = record.body.owner
        fast = decode_fast(record.body.payload) if record.is_live else None
        if isinstance(fast, Fast):
            self._said[owner] = (record.body.epoch, fast)
        else:
            self._said.pop(owner, None)
        self._count(owner)
        return fast if isinstance(fast, Rejection) else None

    def set_live(self, peer: PeerId, epoch: int | None) -> None:
        """A peer is live in this epoch, or not live."""
        if epoch is None:
            self._live.pop(peer, None)
        else:
            self._live[peer] = epoch
        self._count(peer)

    def place_of(self, peer: PeerId) -> list[int]:
        """A node's coordinate as it counts, empty while unknown."""
        fast = self.counted.get(peer)
        return [] if fast is None else fast.coordinate

    def _count(self, peer: PeerId) -> None:
        said = self._said.get(peer)
        if said is not None and self._live.get(peer) == said[0]:
            self.counted[peer] = said[1]
        else:
            self.counted.pop(peer, None)
