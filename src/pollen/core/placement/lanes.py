"""One lane of rows: what the muscles hold of one kind of row, and what they must be told of it.

Decides: which rows are new, changed or gone since the last push, and whether that may wait.
Does not know: what a row means; when a push leaves (``tables``).
Invariants: what changed back before it was told is not told. A lane whose rows the muscles do not
    hold is told whole.
Source: docs/decisions/rooms.md#lanes-of-rows.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from pollen.core.effects import LaneRows

K = TypeVar("K", bound=bytes)
R = TypeVar("R")


class Lane(Generic[K, R]):
    """Rows by key. ``moved`` says of two rows of one key whether the difference is urgent; a row
    that comes or goes always is.
    """

    def __init__(self, moved: Callable[[R, R], bool]) -> None:
        self._moved = moved
        self._rows: dict[K, R] = {}
        # The keys whose row may differ from what the muscles hold, with what they hold.
        self._told: dict[K, R | None] = {}
        self.is_urgent = False

    def set(self, key: K, row: R | None) -> None:
        """The muscles must hold this row, or none."""
        held = self._rows.get(key)
        if row == held:
            return
        self._told.setdefault(key, held)
        if row is None:
            del self._rows[key]
        else:
            self._rows[key] = row
        if row is None or held is None or self._moved(row, held):
            self.is_urgent = True

    def whole(self) -> LaneRows:
        """Every row."""
        return LaneRows(rows=list(self._rows.values()))

    def delta(self) -> LaneRows:
        """What differs from what the muscles hold; empty when all changed back."""
        told, rows = self._told, self._rows
        send = [rows[key] for key, row in told.items() if key in rows and rows[key] != row]
        gone: list[bytes] = [k for k, row in told.items() if k not in rows and row is not None]
        return LaneRows(rows=send, gone=gone)

    def settle(self) -> None:
        """The muscles hold all of it now."""
        self._told, self.is_urgent = {}, False
