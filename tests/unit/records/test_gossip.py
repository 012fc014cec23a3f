"""How records spread: pushes, gaps, digests, wholes; few copies, and always convergence."""

from __future__ import annotations

from pollen.core import limits
from pollen.core.events import RecordsReceived
from pollen.core.ids import MILLISECOND, SECOND, LinkId, PeerId, hash_of
from pollen.core.kinds import CLAIM, NODE, SPEC
from pollen.core.messages import Have, Line, Lines, Want
from pollen.core.turn import Heard
from tests.unit.spread import Spread
from tests.unit.turns import turn_at


def linked(count: int, seed: int = 1) -> Spread:
    spread = Spread(count, seed)
    spread.run(10 * MILLISECOND)
    spread.link_all()
    spread.run(SECOND)
    return spread


def test_a_change_reaches_every_link_at_once() -> None:
    spread = linked(3)
    spread.publish(spread.cells[0], SPEC, b"k", b"v")
    spread.run(6 * MILLISECOND)
    assert [cell.live(SPEC) for cell in spread.cells] == [[(b"k", b"v")]] * 3


def test_a_change_is_passed_on_along_a_chain() -> None:
    """A receiver forwards what was new to it."""
    spread = Spread(5)
    spread.run(10 * MILLISECOND)
    for one, other in zip(spread.cells, spread.cells[1:], strict=False):
        spread.link(one, other)
    spread.run(SECOND)
    spread.publish(spread.cells[0], SPEC, b"k", b"v")
    spread.run(30 * MILLISECOND)
    assert spread.cells[4].live(SPEC) == [(b"k", b"v")]


def test_a_lost_push_is_pulled_when_the_next_one_shows_the_gap() -> None:
    """The second names the first as the one before it."""
    spread = linked(2)
    one, other = spread.cells
    one.records.publish(SPEC, b"1", b"")
    one.records.take_changes()  # never spread: a full queue
    spread.publish(one, SPEC, b"2", b"")
    spread.run(100 * MILLISECOND)
    assert [key for key, _ in other.live(SPEC)] == [b"1", b"2"]


def test_two_that_lack_the_same_do_not_ask_one_another_without_end() -> None:
    """Then nobody who has it would be asked: of one owner one pull is under way."""
    spread = Spread(3)
    author, one, other = spread.cells
    spread.run(10 * MILLISECOND)
    spread.publish(author, SPEC, b"1", b"")
    spread.publish(author, SPEC, b"2", b"")
    spread.link(one, other)
    late = author.records.peek(author.key).after(author.records.peek(author.key).floor)[-1]
    for cell, peer in ((one, other), (other, one)):
        link = LinkId(cell.linked[peer.key])
        event = RecordsReceived(link=link, peer=peer.key, records=[late.signed], rejected=0)
        spread.take(cell, cell.intake.on_records, event)
        spread.settle(cell)
    spread.run(SECOND)
    assert one.gossip.stats.pulls + other.gossip.stats.pulls == 2
    spread.link(author, one)
    spread.run(100 * MILLISECOND)
    assert spread.is_equal()


def test_what_waits_for_a_gap_is_not_applied_before_it() -> None:
    """A set moves in order: a version says what is in it."""
    spread = linked(2)
    one, other = spread.cells
    one.records.publish(SPEC, b"1", b"")
    one.records.take_changes()
    spread.publish(one, SPEC, b"2", b"")
    spread.run(6 * MILLISECOND)
    assert other.live(SPEC) == []


def test_the_last_lost_push_is_found_by_a_digest() -> None:
    """Nothing follows it that would show the gap."""
    spread = linked(3)
    spread.cells[0].records.publish(SPEC, b"k", b"v")
    spread.cells[0].records.take_changes()
    spread.run(4 * limits.DIGEST_NS)
    assert spread.is_equal()


def test_a_new_link_with_equal_sets_costs_a_digest_only() -> None:
    """Not everything, as it once was."""
    spread = linked(3)
    for n in range(50):
        spread.publish(spread.cells[0], SPEC, b"%d" % n, b"x" * 100)
    spread.run(SECOND)
    one, other = spread.cells[:2]
    spread.cut(one, other)
    before = spread.bytes
    spread.link(one, other)
    spread.run(50 * MILLISECOND)
    assert spread.bytes - before < 100


def test_a_newcomer_pulls_everything_from_one_peer() -> None:
    """And nobody else sends it any of that again."""
    spread = linked(4)
    newcomer = spread.cells[3]
    for cell in spread.cells:
        spread.cut(newcomer, cell)
    for n in range(100):
        spread.publish(spread.cells[n % 3], SPEC, b"%d" % n, b"")
    spread.run(SECOND)
    spread.sent.clear()
    for cell in spread.cells[:3]:
        spread.link(newcomer, cell)
    spread.run(SECOND)
    assert (spread.is_equal(), spread.sent["records"]) == (True, 100)


def test_a_restarted_node_publishes_without_anybody_pulling() -> None:
    """A new epoch follows on what lasts of the old one."""
    spread = linked(3)
    for cell in spread.cells:
        spread.publish(cell, NODE, b"", cell.name.encode())
        spread.publish(cell, CLAIM, b"seed", b"ready")
    spread.run(SECOND)
    pulls = [cell.gossip.stats.pulls for cell in spread.cells[1:]]
    spread.restart(spread.cells[0])
    spread.run(10 * MILLISECOND)
    spread.link_all()
    spread.publish(spread.cells[0], NODE, b"", b"again")
    spread.run(SECOND)
    assert spread.cells[1].live(NODE) == spread.cells[0].live(NODE)
    assert pulls == [cell.gossip.stats.pulls for cell in spread.cells[1:]]


def test_the_claims_of_a_dead_run_are_gone_everywhere() -> None:
    """They go with the first word of the next run."""
    spread = linked(3)
    spread.publish(spread.cells[0], CLAIM, b"seed", b"ready")
    spread.run(SECOND)
    spread.restart(spread.cells[0])
    spread.run(10 * MILLISECOND)
    spread.publish(spread.cells[0], NODE, b"", b"again")
    spread.heal()
    assert [cell.live(CLAIM) for cell in spread.cells] == [[], [], []]


def test_a_total_restart_needs_no_transfer() -> None:
    """Everybody's disk holds what lasts; the roots differ by nothing."""
    spread = linked(4)
    for cell in spread.cells:
        spread.publish(cell, NODE, b"", cell.name.encode())
        spread.publish(cell, SPEC, cell.name.encode(), b"")
    spread.run(SECOND)
    for cell in spread.cells:
        spread.restart(cell)
    spread.run(10 * MILLISECOND)
    spread.sent.clear()
    spread.link_all()
    spread.run(SECOND)
    assert spread.is_equal()
    assert spread.sent.get("records", 0) == 0


def test_a_wiped_disk_with_the_same_key_jumps_above_its_past() -> None:
    """It sees its own records, with versions above its own, and signs again."""
    spread = linked(3)
    cell = spread.cells[0]
    for n in range(5):
        spread.publish(cell, SPEC, b"%d" % n, b"kept")
    spread.publish(cell, NODE, b"", b"first")
    spread.run(SECOND)
    spread.restart(cell)
    cell.disk.clear()
    cell.lease = (0, 0)
    spread.restart(cell)
    spread.publish(cell, NODE, b"", b"second")
    spread.heal()
    assert [c.live(NODE) for c in spread.cells] == [[(b"", b"second")]] * 3
    assert len(spread.cells[0].live(SPEC)) == 5


def test_an_old_disk_image_loses_nothing_that_anybody_holds() -> None:
    """The same epoch and numbers are used again with other words: both are kept in the end."""
    spread = linked(3)
    cell = spread.cells[0]
    image = dict(cell.disk), cell.lease
    spread.restart(cell)
    spread.run(10 * MILLISECOND)
    spread.link_all()
    for n in range(3):
        spread.publish(cell, SPEC, b"seen %d" % n, b"")
    spread.run(SECOND)
    cell.disk, cell.lease = dict(image[0]), image[1]
    spread.restart(cell)
    spread.run(10 * MILLISECOND)
    spread.publish(cell, NODE, b"", b"again")
    spread.publish(cell, SPEC, b"unseen", b"")
    spread.heal()
    expected = [b"seen 0", b"seen 1", b"seen 2", b"unseen"]
    assert [[key for key, _ in c.live(SPEC)] for c in spread.cells] == [expected] * 3


def test_two_live_copies_of_one_key_converge() -> None:
    """Equal versions with other bytes: the larger hash wins everywhere, and it is counted."""
    spread = linked(4)
    one, twin = spread.cells[0], spread.cells[1]
    twin.key = one.key
    spread = spread_of_twins(spread)
    assert spread.is_equal()
    assert any(cell.records.ties for cell in spread.cells)


def spread_of_twins(spread: Spread) -> Spread:
    """Two cells with one key, each linked to another of the rest; the rest is linked."""
    one, twin, left, right = spread.cells
    for cell in (one, twin, left, right):
        spread.restart(cell)
    spread.run(10 * MILLISECOND)
    spread.publish(one, SPEC, b"k", b"one")
    spread.publish(twin, SPEC, b"k", b"twin")
    for record in [*one.records.take_changes(), *twin.records.take_changes()]:
        assert record
    for side, cell in ((left, one), (right, twin)):
        for record in cell.records.all_records():
            side.records.merge(record, cell.key)
            side.records.reach(side.records.set_of(cell.key), record.version)
        spread.settle(side)
    spread.link(left, right)
    spread.run(60 * SECOND)
    spread.cells = [left, right]
    return spread


def test_copies_become_few() -> None:
    """A full mesh of 24: pushes settle on a mesh of degree three, not on all links."""
    spread = linked(24)
    for n in range(60):
        spread.publish(spread.cells[n % 24], SPEC, b"%d" % n, b"")
        spread.run(SECOND)
    spread.sent.clear()
    spread.publish(spread.cells[0], SPEC, b"last", b"")
    spread.run(100 * MILLISECOND)
    assert spread.is_equal()
    assert spread.sent["records"] <= 23 + 24 * (limits.EAGER_MIN + 2)


def test_idle_links_cost_under_a_kilobyte_a_second() -> None:
    """Equal roots are all that is said."""
    spread = linked(2)
    spread.publish(spread.cells[0], SPEC, b"k", b"v")
    spread.run(10 * SECOND)
    before = spread.bytes
    spread.run(100 * SECOND)
    assert (spread.bytes - before) / 100 < 50


def test_a_chain_that_lost_its_pusher_is_grafted() -> None:
    """An announcement without a push ends in a pull, and that link pushes from then on."""
    spread = linked(3)
    one, two, three = spread.cells
    for cell, peer in ((one, three), (three, one)):
        cell.gossip._links[peer.key] = False
    spread.cut(two, three)
    spread.publish(two, SPEC, b"k", b"v")
    spread.run(limits.LAZY_NS + limits.GRAFT_WAIT_NS + 50 * MILLISECOND)
    assert three.live(SPEC) == [(b"k", b"v")]
    assert three.gossip.stats.grafts == 1


def test_a_peer_that_names_owners_without_end_fills_its_own_room_only() -> None:
    """Announced or listed, at a version or at none: memory is bounded, and others still spread."""
    spread = linked(3)
    victim, liar, honest = spread.cells
    for turn in range(4):
        made_up = [
            PeerId(hash_of("made-up", b"%d/%d" % (turn, n))) for n in range(limits.WANTED_MAX)
        ]
        lines = [Line(owner, turn % 2, 0, b"s" * 16) for owner in made_up]
        listed, announced = Lines(b"", lines, False), Have([Want(o, 1, 1) for o in made_up], True)
        victim.gossip.on_lines(Heard(liar.key, listed), turn_at(spread.now))
        victim.gossip.on_have(Heard(liar.key, announced), turn_at(spread.now))
    assert len(victim.gossip._wanted) == limits.WANTED_MAX
    assert len(victim.gossip._doubts) <= limits.WANTED_MAX + limits.PULLS_MAX
    honest.records.publish(SPEC, b"k", b"v")
    honest.records.take_changes()  # never spread: only a digest tells of it
    spread.run(6 * limits.DIGEST_NS)
    assert victim.live(SPEC) == [(b"k", b"v")]
    spread.cut(victim, liar)
    assert len(victim.gossip._wanted) == 0
