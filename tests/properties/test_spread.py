"""After any interleaving of pushes, losses, duplicates, pulls and restarts, all sets are equal."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollen.core import limits
from pollen.core.ids import MILLISECOND
from pollen.core.kinds import CLAIM, NODE, SPEC
from pollen.core.records import Records
from tests import strategies as own
from tests.properties.test_laws import observer
from tests.unit.spread import Cell, Spread

# Rounds of digests; whoever was buried alive twice waits until it is believed again.
HEALING = 2 * limits.GRAVE_JUMP_NS // limits.DIGEST_NS


def play(
    spread: Spread, images: dict[str, tuple[object, object]], what: str, n: int, m: int
) -> None:
    cell, other = spread.cells[n], spread.cells[m]
    match what:
        case "publish":
            spread.publish(cell, SPEC, b"%d" % m, b"%d" % spread.now)
        case "claim":
            spread.publish(cell, CLAIM, b"%d" % m, b"%d" % spread.now)
        case "bury":
            spread.bury(cell, SPEC, b"%d" % m)
        case "lose" | "keep":
            spread.loses = what == "lose"
        case "cut" if cell is not other:
            spread.cut(cell, other)
        case "link" if cell is not other:
            spread.link(cell, other)
        case "restart":
            begin_again(spread, cell)
        case "image":
            old_image(spread, cell, images)
        case "gc":
            spread.raise_gc(cell)
        case "grave":
            cell.records.collect(other.key)
            spread.settle(cell)
        case "run":
            spread.run((1 + 40 * m) * MILLISECOND)


def begin_again(spread: Spread, cell: Cell) -> None:
    spread.restart(cell)
    spread.run(2 * MILLISECOND)
    spread.publish(cell, NODE, b"", b"%d" % cell.runs)


def old_image(spread: Spread, cell: Cell, images: dict[str, tuple[object, object]]) -> None:
    """The first time the disk is copied, from then on that copy is put back."""
    held = images.setdefault(cell.name, (dict(cell.disk), cell.lease))
    cell.disk, cell.lease = dict(held[0]), held[1]  # type: ignore[call-overload, assignment]
    begin_again(spread, cell)


@given(own.spread_steps, st.integers(0, 3))
def test_stores_converge_after_any_interleaving(
    steps: list[tuple[str, int, int]], seed: int
) -> None:
    """Pushes lost or late, links cut, restarts, old disk images: one set everywhere in the end."""
    spread = Spread(3, seed)
    images: dict[str, tuple[object, object]] = {}
    spread.run(5 * MILLISECOND)
    spread.link_all()
    for what, n, m in steps:
        play(spread, images, what, n, m)
    spread.heal(rounds=HEALING)
    assert spread.is_equal()
    roots = {cell.records.sums.root() for cell in spread.cells}
    assert len(roots) == 1


@given(st.lists(own.records, max_size=8), st.lists(own.records, max_size=8))
def test_digests_are_equal_if_and_only_if_the_sets_are(
    left: list[own.Record], right: list[own.Record]
) -> None:
    """By root, by bucket and by line, whatever the order in which a set came about."""
    one, two = filled(left), filled(right)
    held = [{r.digest for r in side.all_records()} for side in (one, two)]
    assert (held[0] == held[1]) == (one.sums.root() == two.sums.root())
    assert (held[0] == held[1]) == (one.sums.buckets() == two.sums.buckets())


def filled(batch: list[own.Record]) -> Records:
    held = observer()
    for record in batch:
        held.merge(record, None)
    return held
