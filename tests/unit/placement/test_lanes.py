"""One lane of rows: what is told, what may wait, and what changed back."""

from __future__ import annotations

from pollen.core.effects import LaneRows
from pollen.core.placement.lanes import Lane

KEY, OTHER = b"k" * 32, b"o" * 32


def lane() -> Lane[bytes, tuple[str, int]]:
    """Rows of a name and a price, of which the name is urgent."""
    return Lane(lambda row, held: row[0] != held[0])


def test_a_lane_is_told_whole_and_then_by_what_changed() -> None:
    """What the muscles hold already is not told again."""
    it = lane()
    it.set(KEY, ("a", 1))
    it.set(OTHER, ("b", 1))
    assert it.whole() == it.delta() == LaneRows(rows=[("a", 1), ("b", 1)])
    it.settle()
    it.set(KEY, ("a", 2))
    it.set(OTHER, None)
    assert it.delta() == LaneRows(rows=[("a", 2)], gone=[OTHER])
    assert it.whole() == LaneRows(rows=[("a", 2)])


def test_what_changed_back_before_it_was_told_is_not_told() -> None:
    """Only the difference to what is held counts."""
    it = lane()
    it.set(KEY, ("a", 1))
    it.settle()
    it.set(KEY, ("a", 2))
    it.set(KEY, ("a", 1))
    it.set(OTHER, ("b", 1))
    it.set(OTHER, None)
    assert it.delta().is_empty


def test_a_row_that_comes_goes_or_moves_what_matters_is_urgent() -> None:
    """A price can wait for the next tick."""
    it = lane()
    urgent = []
    for row in (("a", 1), ("a", 2), ("b", 2), None):
        it.set(KEY, row)
        urgent.append(it.is_urgent)
        it.settle()
    assert urgent == [True, False, True, True]
