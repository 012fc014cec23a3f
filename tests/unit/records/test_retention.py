"""Forgetting: old tombstones, absent owners, graves; and that nothing of it comes back."""

from __future__ import annotations

import pytest

from pollen.core import limits
from pollen.core.ids import DAY, HOUR, MILLISECOND, SECOND, Nanos, Now
from pollen.core.kinds import CLAIM, GC, NODE, SPEC
from pollen.core.messages import Line
from pollen.core.records.retention import ABSENT_TABLE, GRAVE_TABLE
from tests.unit.spread import Cell, Spread
from tests.unit.turns import turn_at
from tests.unit.world import WALL_ZERO

DAYS = limits.ABSENT_KEEP_NS // DAY
YEAR = limits.GRAVE_KEEP_NS // DAY


@pytest.fixture(autouse=True)
def one_look_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SWEEP_NS", DAY)


def linked(count: int) -> Spread:
    spread = Spread(count)
    spread.run(10 * MILLISECOND)
    for cell in spread.cells:
        spread.publish(cell, NODE, b"", cell.name.encode())
    spread.link_all()
    spread.run(SECOND)
    return spread


def isolate(spread: Spread, cell: Cell) -> None:
    for other in spread.cells:
        spread.cut(cell, other)


def delete_many(spread: Spread, cell: Cell, count: int = limits.TOMBSTONES_MIN) -> None:
    for n in range(count):
        spread.publish(cell, SPEC, b"%d" % n, b"")
        spread.bury(cell, SPEC, b"%d" % n)


def with_a_dead_owner(count: int = 3) -> tuple[Spread, Cell, list[Cell]]:
    """The first cell has a spec and a claim, and is cut off for ever; the others live on."""
    spread = linked(count)
    gone, *rest = spread.cells
    spread.publish(gone, SPEC, b"spec", b"v")
    spread.publish(gone, CLAIM, b"seed", b"ready")
    spread.run(SECOND)
    isolate(spread, gone)
    return spread, gone, rest


def look_all(spread: Spread, cells: list[Cell], times: int) -> None:
    for cell in cells:
        spread.look(cell, times, *cells)


def owners_of(cell: Cell, kind: str) -> list[bytes]:
    return [record.body.owner for record in cell.records.live_of(kind)]


# -- tombstones -----------------------------------------------------------------------------------


def test_old_tombstones_go_and_what_lives_is_signed_above_them() -> None:
    """The owner publishes its gc_version; nothing at or below it is held."""
    spread = linked(3)
    owner = spread.cells[0]
    spread.publish(owner, SPEC, b"stays", b"v")
    delete_many(spread, owner)
    spread.look(owner, 2, *spread.cells)
    spread.heal()
    rows = owner.records.peek(owner.key).rows
    assert sorted(kind for kind, _ in rows) == [GC, NODE, SPEC]
    assert all(row.version > owner.records.peek(owner.key).floor for row in rows.values())
    assert (spread.is_equal(), spread.cells[2].live(SPEC)) == (True, [(b"stays", b"v")])


def test_few_tombstones_are_not_worth_it() -> None:
    spread = linked(1)
    delete_many(spread, spread.cells[0], limits.TOMBSTONES_MIN - 1)
    spread.look(spread.cells[0], 3)
    assert owners_of(spread.cells[0], GC) == []


def test_tombstones_of_late_are_kept() -> None:
    """A peer that slept for an hour is not sent everything again."""
    spread = linked(1)
    spread.look(spread.cells[0], 1)
    delete_many(spread, spread.cells[0])
    spread.look(spread.cells[0], 1)
    assert owners_of(spread.cells[0], GC) == []
    spread.look(spread.cells[0], 1)
    assert len(owners_of(spread.cells[0], GC)) == 1


def test_gc_versions_do_not_pile_up() -> None:
    """Each raise leaves the one before it behind."""
    spread = linked(1)
    for _ in range(5):
        delete_many(spread, spread.cells[0])
        spread.look(spread.cells[0], 2)
    assert len(owners_of(spread.cells[0], GC)) <= 2


def test_a_sleeper_older_than_the_gc_version_brings_nothing_back() -> None:
    """It takes the full set; what it kept of what was deleted goes, on its disk as well."""
    spread = linked(3)
    owner, _, sleeper = spread.cells
    spread.publish(owner, SPEC, b"0", b"deleted while it slept")
    spread.publish(owner, SPEC, b"stays", b"v")
    spread.run(SECOND)
    isolate(spread, sleeper)
    delete_many(spread, owner)
    spread.look(owner, 2, *spread.cells)
    spread.heal()
    assert [cell.live(SPEC) for cell in spread.cells] == [[(b"stays", b"v")]] * 3
    assert (spread.is_equal(), len(sleeper.disk)) == (True, len(owner.disk))


def test_raising_takes_turns() -> None:
    """Signing everything again is long work: no turn signs more than its slice."""
    spread = linked(1)
    (owner,) = spread.cells
    for n in range(300):
        spread.publish(owner, SPEC, b"stays %d" % n, b"")
    delete_many(spread, owner)
    spread.look(owner, 2)
    spread.run(SECOND)
    assert len(owners_of(owner, GC)) == 1
    assert owner.work.slices >= 301 * 100 // limits.WORK_SLICE_UNITS
    assert owner.work.largest_slice <= limits.WORK_SLICE_UNITS + 100


# -- absent owners --------------------------------------------------------------------------------


def test_an_owner_that_is_absent_for_long_is_buried() -> None:
    """What it said goes everywhere, on disk too; what lasts stays."""
    spread, gone, rest = with_a_dead_owner()
    look_all(spread, rest, DAYS)
    assert all(gone.key in owners_of(cell, NODE) for cell in rest)
    look_all(spread, rest, 1)
    assert [owners_of(cell, CLAIM) for cell in rest] == [[], []]
    assert [gone.key in owners_of(cell, NODE) for cell in rest] == [False, False]
    assert [cell.live(SPEC) for cell in rest] == [[(b"spec", b"v")]] * 2
    assert [r.body.kind for r in rest[0].disk.values() if r.body.owner == gone.key] == [SPEC]


def test_an_owner_that_comes_back_in_time_is_not_buried() -> None:
    """Absence starts again."""
    spread, gone, rest = with_a_dead_owner()
    look_all(spread, rest, DAYS)
    for cell in rest:
        spread.look(cell, 1, *spread.cells)
    look_all(spread, rest, DAYS)
    assert all(gone.key in owners_of(cell, NODE) for cell in rest)


def test_who_is_alone_buries_nobody() -> None:
    """The others are not absent: it is cut off."""
    spread = linked(3)
    alone = spread.cells[0]
    isolate(spread, alone)
    spread.look(alone, 2 * DAYS, alone)
    assert len(owners_of(alone, NODE)) == 3


def test_who_slept_buries_nobody_for_it() -> None:
    """Absence is counted while this node runs and sees others, not by the calendar."""
    spread, gone, rest = with_a_dead_owner()
    look_all(spread, rest, 2)
    rest[0].waking += 100 * DAY
    spread.look(rest[0], 2, *rest)
    assert gone.key in owners_of(rest[0], NODE)


def test_who_wakes_looks_twice_before_it_buries() -> None:
    """What it sees at once is what it saw before it slept: the wall clock shows that it did."""
    spread, gone, rest = with_a_dead_owner()
    cell = rest[0]
    spread.look(cell, DAYS, *rest)
    for hours in (24, 25):
        now = Now(Nanos(cell.waking + hours * HOUR), Nanos(WALL_ZERO + 999 * DAY + hours * HOUR))
        cell.retention.sweep({other.key: 1 for other in rest}, turn_at(now))
    assert gone.key in owners_of(cell, NODE)


def test_time_alone_does_not_count() -> None:
    """Who was missing before we were cut off may be back."""
    spread, gone, rest = with_a_dead_owner()
    spread.look(rest[0], 2, *rest)
    spread.look(rest[0], 2 * DAYS, rest[0])
    spread.look(rest[0], 2, *rest)
    assert gone.key in owners_of(rest[0], NODE)


def test_a_crowd_is_buried_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look stays short, however many went at once."""
    monkeypatch.setattr(limits, "BURIALS_MAX", 2)
    spread = linked(6)
    one, other = spread.cells[:2]
    spread.look(one, DAYS + 1, one, other)
    assert len(owners_of(one, NODE)) == 4
    spread.look(one, 1, one, other)
    assert len(owners_of(one, NODE)) == 2


def test_a_crowd_that_goes_is_noted_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is overlooked for it: the rest is noted at the next looks."""
    monkeypatch.setattr(limits, "ABSENCES_MAX", 3)
    spread = linked(8)
    one, other = spread.cells[:2]
    spread.look(one, 1, one, other)
    assert 1 <= len(one.tables[ABSENT_TABLE]) <= 3
    spread.look(one, 3, one, other)
    assert len(one.tables[ABSENT_TABLE]) == 6


# -- who comes back -------------------------------------------------------------------------------


def test_a_buried_owner_that_lost_its_disk_learns_above_what_to_go_on() -> None:
    """The proof is its own signature: it goes to a higher epoch, and that lifts the grave."""
    spread = linked(3)
    gone, *rest = spread.cells
    for run in range(4):
        spread.restart(gone)
        spread.run(10 * MILLISECOND)
        spread.publish(gone, NODE, b"", b"%d" % run)
    spread.link_all()
    spread.run(SECOND)
    isolate(spread, gone)
    look_all(spread, rest, DAYS + 1)
    gone.wipe()
    spread.restart(gone)
    spread.run(10 * MILLISECOND)
    spread.publish(gone, NODE, b"", b"again")
    spread.heal()
    assert gone.records.epoch == 6
    assert [(gone.key in owners_of(cell, NODE)) for cell in spread.cells] == [True] * 3


def test_an_owner_that_was_buried_alive_goes_to_a_new_epoch() -> None:
    """It was cut off, not dead: it hears of its grave from whoever holds it, and is heard again."""
    spread, gone, rest = with_a_dead_owner()
    look_all(spread, rest, DAYS + 1)
    spread.publish(gone, CLAIM, b"seed", b"still here")
    spread.heal(rounds=30)
    assert (spread.is_equal(), gone.records.epoch) == (True, 2)
    assert [cell.live(CLAIM) for cell in rest] == [[(b"seed", b"still here")]] * 2


def test_an_owner_hears_of_its_grave_through_whoever_it_is_linked_to() -> None:
    """Who buried it need not be."""
    spread, gone, rest = with_a_dead_owner()
    undertaker, between = rest
    spread.look(undertaker, DAYS + 1, *rest)
    spread.link(between, gone)
    spread.run(6 * limits.DIGEST_NS)
    assert (gone.records.epoch, gone.key in owners_of(undertaker, NODE)) == (2, True)


def test_word_of_its_own_grave_does_not_move_an_owner_at_every_turn() -> None:
    """A liar could keep it from ever being heard."""
    spread = linked(2)
    one, liar = spread.cells
    for _ in range(20):
        epoch, seq = one.records.peek(one.key).top
        line = Line(one.key, epoch, seq, bytes(16), True)
        one.gossip._graves.on_line(
            line, one.records.peek(one.key), liar.key, one.linked, turn_at(spread.now)
        )
        spread.run(10 * SECOND)
    assert one.records.epoch == 2


def test_the_dead_epoch_of_a_buried_owner_does_not_come_back() -> None:
    """Only a higher epoch lifts a grave."""
    spread, gone, rest = with_a_dead_owner(4)
    sleeper = rest.pop()
    isolate(spread, sleeper)
    spread.link(gone, sleeper)
    spread.publish(gone, NODE, b"", b"last words")
    spread.run(SECOND)
    isolate(spread, gone)
    look_all(spread, rest, DAYS + 1)
    spread.cells.remove(gone)
    spread.link(sleeper, rest[0])
    spread.run(limits.DIGEST_NS)
    assert [gone.key in owners_of(cell, NODE) for cell in rest] == [False, False]


def test_a_sleeper_buries_whom_its_links_buried() -> None:
    """Else it would count the dead as alive, with too few who could accuse them."""
    spread, gone, rest = with_a_dead_owner(5)
    sleeper = rest.pop()
    isolate(spread, sleeper)
    look_all(spread, rest, DAYS + 1)
    spread.cells.remove(gone)
    spread.heal(rounds=40)
    assert (spread.is_equal(), gone.key in owners_of(sleeper, NODE)) == (True, False)
    assert sleeper.live(SPEC) == [(b"spec", b"v")]


def test_one_liar_among_links_buries_nobody() -> None:
    """Nor can it bury whom we are linked to."""
    spread, gone, rest = with_a_dead_owner(5)
    cell, *liars = rest
    tell_of_a_grave(spread, cell, gone, liars[:1])
    tell_of_a_grave(spread, cell, liars[0], liars)
    settle_graves(spread, cell)
    assert len(owners_of(cell, NODE)) == 5
    tell_of_a_grave(spread, cell, gone, liars)
    settle_graves(spread, cell)
    assert len(owners_of(cell, NODE)) == 4


def test_an_owner_that_was_linked_meanwhile_is_not_buried() -> None:
    """Own live link beats rumour."""
    spread, gone, rest = with_a_dead_owner(5)
    cell, *tellers = rest
    tell_of_a_grave(spread, cell, gone, tellers)
    spread.link(cell, gone)
    settle_graves(spread, cell)
    assert len(owners_of(cell, NODE)) == 5


def tell_of_a_grave(spread: Spread, cell: Cell, owner: Cell, tellers: list[Cell]) -> None:
    owned = cell.records.peek(owner.key)
    line = Line(owner.key, *owned.top, bytes(16), True)
    for teller in tellers:
        cell.gossip._graves.on_line(line, owned, teller.key, cell.linked, turn_at(spread.now))


def settle_graves(spread: Spread, cell: Cell) -> None:
    cell.gossip._graves.settle(list(cell.linked), Nanos(spread.now))


def test_a_newcomer_takes_what_lasts_of_the_dead_and_no_more() -> None:
    """A grave is not news for who holds the same records."""
    spread, gone, rest = with_a_dead_owner()
    look_all(spread, rest, DAYS + 1)
    newcomer = rest.pop()
    newcomer.wipe()
    spread.restart(newcomer)
    spread.cells.remove(gone)
    spread.publish(newcomer, NODE, b"", b"new")
    spread.heal()
    before = spread.bytes
    spread.run(10 * limits.DIGEST_NS)
    assert (spread.is_equal(), newcomer.live(SPEC)) == (True, [(b"spec", b"v")])
    assert spread.bytes - before < 2_000


# -- how long, and restarts -----------------------------------------------------------------------


def test_a_grave_is_kept_a_year() -> None:
    spread, gone, rest = with_a_dead_owner()
    look_all(spread, rest, DAYS + YEAR)
    assert list(rest[0].records.proofs) == [gone.key]
    look_all(spread, rest, 1)
    assert (rest[0].records.proofs, rest[0].tables[GRAVE_TABLE]) == ({}, {})
    assert rest[0].live(SPEC) == [(b"spec", b"v")]


def test_absences_and_graves_survive_a_restart() -> None:
    """Or a node that restarts each month would forget nobody, and bring back whom it buried."""
    spread, gone, rest = with_a_dead_owner()
    look_all(spread, rest, DAYS)
    for cell in rest:
        spread.restart(cell)
    look_all(spread, rest, 3)
    proofs = rest[0].records.proofs
    spread.restart(rest[0])
    assert rest[0].records.proofs == proofs
    assert rest[0].records.peek(gone.key).is_grave
    assert gone.key not in owners_of(rest[0], NODE)


def test_the_age_of_tombstones_survives_a_restart() -> None:
    spread = linked(1)
    (owner,) = spread.cells
    delete_many(spread, owner)
    spread.look(owner, 1)
    spread.restart(owner)
    spread.run(10 * MILLISECOND)
    spread.look(owner, 2)
    assert len(owners_of(owner, GC)) == 1


def test_a_grave_on_disk_does_not_bury_who_came_back() -> None:
    """The process ended before the row of the lifted grave was deleted."""
    spread, gone, rest = with_a_dead_owner()
    look_all(spread, rest, DAYS + 1)
    spread.restart(gone)
    spread.run(10 * MILLISECOND)
    spread.publish(gone, NODE, b"", b"again")
    spread.heal()
    assert list(rest[0].tables[GRAVE_TABLE]) == [gone.key]
    spread.restart(rest[0])
    assert gone.key in owners_of(rest[0], NODE)
    spread.look(rest[0], 1, *spread.cells)
    assert rest[0].tables[GRAVE_TABLE] == {}
