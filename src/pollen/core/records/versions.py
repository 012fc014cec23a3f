"""The versions of one's own records: an epoch a run, and sequence numbers leased from disk.

Decides: which (epoch, seq) the next record gets, when the next block must be made durable, and how
    to get above a version of ours that somebody else made.
Does not know: records; the disk (it asks for the row and is told when it is there).
Invariants: a version is used only when its epoch and its block are on disk, so that no restart, not
    even one that must stay in its epoch, uses one twice. A version is never used again within a
    run. A jump goes to a new epoch, because the records of the old one are void then. At the
    highest epoch it goes on within that one.
Source: docs/design/protocol.md#records. Refused: an fsync for each record.
"""

from __future__ import annotations

from collections.abc import Mapping

from pollen.core import limits, timers
from pollen.core.durability import META_TABLE
from pollen.core.effects import Persist, SetTimer
from pollen.core.ids import Nanos
from pollen.core.records.record import ZERO, Version
from pollen.core.turn import Turn

EPOCH_KEY = b"epoch"


class Versions:
    """Where this run stands in its own versions."""

    def __init__(self) -> None:
        self.epoch = 0
        self.wanted_epoch = 1
        self.jumps = 0
        self._seq = 0
        self._leased = 0
        self._floor = 0
        self._asked: Version = ZERO
        self._jump_after = Nanos(0)

    def restore(self, epoch: int, leased: int, top: Version) -> None:
        """The last epoch and block that were durable, and the highest version of ours on disk."""
        last = max((epoch, leased), top)
        self.wanted_epoch = min(last[0] + 1, limits.EPOCH_MAX)
        # Only when there is no higher epoch: go on after whatever may have been used.
        self._floor = last[1] if self.wanted_epoch == last[0] else 0

    @property
    def is_open(self) -> bool:
        """True while a version can be taken."""
        return self.epoch == self.wanted_epoch and self._seq < self._leased

    @property
    def last(self) -> Version:
        """The last version that was taken; its epoch alone when none was."""
        return self.epoch, self._seq

    def take(self) -> Version:
        """The next version. Only while open."""
        self._seq += 1
        return self.epoch, self._seq

    def jump_above(self, version: Version) -> None:
        """Somebody made a version of ours: leave its epoch behind, durably."""
        if version[0] >= self.wanted_epoch:
            self.wanted_epoch = min(version[0] + 1, limits.EPOCH_MAX)
            self.jumps += 1
            if self.wanted_epoch == version[0]:
                # There is no epoch above: go on above it within this one.
                self._floor = max(self._floor, version[1])
                self._seq = max(self._seq, version[1]) if self.epoch == version[0] else 0

    def ask_lease(self, turn: Turn) -> None:
        """Write what must be on disk before more can be published, or set the timer to ask again.

        It is a batch of its own: it must not wait for a large one, and its token says which
        versions it gives.
        """
        wish, now = self._wish(), turn.now.mono
        if wish is None or wish <= self._asked:
            return
        is_jump = self.epoch > 0 and wish[0] > self.epoch
        if is_jump and now < self._jump_after:
            turn.do(SetTimer(token=timers.token_for(timers.EPOCH), at=self._jump_after))
            return
        self._asked = wish
        if is_jump:
            # Only the next one waits: a node whose disk was lost is back with its first jump.
            self._jump_after = Nanos(now + limits.EPOCH_JUMP_NS)
        subject = wish[0].to_bytes(4, "big") + wish[1].to_bytes(8, "big")
        token = timers.token_for(timers.EPOCH, subject)
        row = (META_TABLE, EPOCH_KEY, lease_value(*wish))
        turn.do(Persist(token=token, batch=[row]))

    def _wish(self) -> Version | None:
        if self.epoch != self.wanted_epoch:
            return self.wanted_epoch, self._floor + limits.SEQ_BLOCK
        if self._leased - self._seq <= limits.SEQ_BLOCK // 2:
            return self.epoch, max(self._leased, self._seq) + limits.SEQ_BLOCK
        return None

    def grant(self, subject: bytes) -> bool:
        """A lease is on disk; True when a new epoch was opened by it. A late one is harmless."""
        epoch, leased = int.from_bytes(subject[:4], "big"), int.from_bytes(subject[4:12], "big")
        if epoch != self.wanted_epoch or len(subject) != 12:
            return False
        if epoch == self.epoch:
            self._leased = max(self._leased, leased)
            return False
        self.epoch, self._leased, self._seq = epoch, leased, self._floor
        return True


def lease_value(epoch: int, leased: int) -> bytes:
    """The row's value: fixed width, so that nothing of it needs a decoder that can fail."""
    return epoch.to_bytes(4, "big") + leased.to_bytes(8, "big")


def read_lease(meta: Mapping[bytes, bytes]) -> Version | None:
    """The block of versions that a row of ``META_TABLE`` gives; (0, 0) without one, None for other
    bytes than ``lease_value`` writes.
    """
    raw = meta.get(EPOCH_KEY, lease_value(0, 0))
    if len(raw) != 12:
        return None
    return int.from_bytes(raw[:4], "big"), int.from_bytes(raw[4:], "big")
