"""Peers' faults, counted and now and then logged.

Decides: when a fault is worth a line: the first of its kind, then one in ten seconds.
Does not know: what a fault means, or what is done to its peer.
Invariants: every fault is counted; a flood of one kind costs one line an interval.
Source: docs/design/errors.md#kinds (a peer's fault is data). Refused: a line each, which lets a
peer fill disks.
"""

from __future__ import annotations

from pollen.core import limits
from pollen.core.codec import Rejection
from pollen.core.effects import Log
from pollen.core.ids import Nanos, PeerId, short


class Faults:
    """The faults since the start, by kind."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self._logged: dict[str, Nanos] = {}

    def note(self, rejection: Rejection, peer: PeerId, now: Nanos) -> Log | None:
        """Count one; the line for the log when it is due."""
        count = self.counts.get(rejection.kind, 0) + 1
        self.counts[rejection.kind] = count
        last = self._logged.get(rejection.kind)
        if last is not None and now < last + limits.REJECTION_LOG_NS:
            return None
        self._logged[rejection.kind] = now
        fields: dict[str, str | int] = {
            "kind": rejection.kind,
            "peer": short(peer),
            "detail": rejection.detail,
            "count": count,
        }
        return Log(level="warning", event="rejection", fields=fields)
