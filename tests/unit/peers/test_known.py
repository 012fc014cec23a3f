"""Remembered peers: links, dials, and who is forgotten."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial

import pytest

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.ids import SECOND, Hash, LinkId, Nanos, PeerId
from pollen.core.peers import Peers
from pollen.core.peers import known as peers
from pollen.core.rng import Rng
from pollen.core.turn import Turn
from tests.unit.turns import effects_of, turn_at, written

SMALL, LARGE = PeerId(b"\1" * 32), PeerId(b"\2" * 32)
HOME = ["192.0.2.1:60611"]
T0 = Nanos(1)


def hello(peer: PeerId, link: int, dialled: bool, boot: bytes = b"1" * 16) -> ev.HelloReceived:
    return ev.HelloReceived(
        link=LinkId(link), peer=peer, dialled=dialled, remote="", cluster=Hash(b"c" * 32),
        minor_min=1, minor_max=1, boot=boot, chain=b"",
    )  # fmt: skip


def rows_of(act: Callable[[Turn], object]) -> list[fx.Row]:
    """What goes to the disk in a turn in which this was done."""
    turn = turn_at(T0)
    act(turn)
    return written(turn)


def closed(effects: list[fx.Effect]) -> list[int]:
    return [effect.link for effect in effects if isinstance(effect, fx.CloseLink)]


@pytest.mark.parametrize("order", list(itertools.permutations([0, 1])))
def test_both_sides_of_a_double_dial_keep_the_smaller_ones_dial(order: tuple[int, ...]) -> None:
    """Link 1 was dialled by the smaller id, link 2 by the larger; any order of arrival."""
    for own, other in ((SMALL, LARGE), (LARGE, SMALL)):
        machine = Peers(own, Rng(1))
        hellos = [hello(other, 1, own == SMALL), hello(other, 2, own == LARGE)]
        turn = turn_at(T0)
        for i in order:
            machine.on_hello(hellos[i], turn)
        held = machine.link_of(other)
        assert held is not None
        assert (held.link, closed(turn.effects())) == (1, [2])


def test_a_restarted_peers_link_replaces_the_old_one() -> None:
    """Another boot id: the old process is gone, whoever dialled."""
    machine = Peers(SMALL, Rng(1))
    machine.on_hello(hello(LARGE, 1, True), turn_at(T0))
    turn = turn_at(T0)
    is_new = machine.on_hello(hello(LARGE, 2, False, b"2" * 16), turn)
    assert (is_new, closed(turn.effects())) == (True, [1])


def silent(peer: PeerId, ms: int) -> ev.PeerSample:
    return ev.PeerSample(peer, 1_000, 0, 0, True, silent_ms=ms)


def dials(effects: list[fx.Effect]) -> list[PeerId]:
    return [effect.peer for effect in effects if isinstance(effect, fx.Dial)]


def at(seconds: float) -> Nanos:
    return Nanos(T0 + int(seconds * SECOND))


def linked(own: PeerId, other: PeerId, *, dialled: bool, has_way: bool = False) -> Peers:
    """A node with a link that began at 0 s; the other is at an address."""
    machine = Peers(own, Rng(1), has_way=lambda _: has_way)
    machine.learn(other, HOME, turn_at(T0))
    machine.on_hello(hello(other, 1, dialled), turn_at(T0))
    return machine


def told(machine: Peers, peer: PeerId, seconds: float, ms: int) -> list[fx.Effect]:
    """What is done when the muscles say that nothing came on the link for so long."""
    turn = turn_at(at(seconds))
    machine.on_telemetry([silent(peer, ms)], turn)
    return turn.effects()


@pytest.mark.parametrize("own", [SMALL, LARGE])
@pytest.mark.parametrize("silent_ms", [0, 600])
def test_a_link_that_is_heard_stays_and_is_not_dialled(own: PeerId, silent_ms: int) -> None:
    """While it is young the rule of a double dial decides, whoever comes later."""
    other = LARGE if own == SMALL else SMALL
    machine = linked(own, other, dialled=own == SMALL)
    assert dials(told(machine, other, 5, silent_ms)) == []
    turn = turn_at(at(5))
    assert not machine.on_hello(hello(other, 2, own != SMALL), turn)
    assert closed(turn.effects()) == [2]


@pytest.mark.parametrize("own", [SMALL, LARGE])
@pytest.mark.parametrize("dialled", [True, False])
def test_a_link_that_fell_silent_is_dialled_anew_and_replaced(own: PeerId, dialled: bool) -> None:
    """Whoever dialled it, and whoever dials: where packets do not get through, no rule of ids
    may keep it."""
    other = LARGE if own == SMALL else SMALL
    machine = linked(own, other, dialled=dialled)
    assert dials(told(machine, other, 5, 1_900)) == []
    assert dials(told(machine, other, 5.5, 2_400)) == [other]
    assert dials(told(machine, other, 6, 2_900)) == [], "one dial is under way"
    turn = turn_at(at(6.1))
    assert machine.on_hello(hello(other, 2, not dialled), turn)
    codes = [(e.link, e.code) for e in turn.effects() if isinstance(e, fx.CloseLink)]
    assert codes == [(1, limits.CLOSE_IDLE)], "it finishes no calls first"
    assert dials(told(machine, other, 6.5, 3_400)) == [], "that was said of the link before"


def test_who_comes_again_long_after_has_lost_its_link() -> None:
    """Nobody dials a peer with whom it is linked: here nothing is known of the loss yet."""
    machine = linked(SMALL, LARGE, dialled=True)
    told(machine, LARGE, 60, 0)
    turn = turn_at(at(60))
    assert machine.on_hello(hello(LARGE, 2, False), turn)
    assert closed(turn.effects()) == [1]


def test_a_dial_that_comes_to_nothing_while_a_link_is_silent_is_repeated() -> None:
    """Until the link is heard again; the peer may refuse the first, since it heard more."""
    machine = linked(SMALL, LARGE, dialled=False)
    assert dials(told(machine, LARGE, 5, 2_400)) == [LARGE]
    refused = ev.LinkClosed(link=LinkId(2), peer=LARGE, code=limits.CLOSE_DUPLICATE_LINK, reason="")
    turn = turn_at(at(5.1))
    assert not machine.on_link_closed(refused, turn)
    timers = [effect for effect in turn.effects() if isinstance(effect, fx.SetTimer)]
    assert [at(5.1) < timer.at < at(6.1) for timer in timers] == [True]
    turn = turn_at(at(6))
    machine.on_timer(LARGE, turn)
    assert dials(turn.effects()) == [LARGE]
    told(machine, LARGE, 6.5, 100)
    turn = turn_at(at(7))
    machine.on_link_closed(refused, turn)
    machine.on_timer(LARGE, turn)
    assert turn.effects() == []


def test_a_link_that_ends_while_it_is_dialled_anew_is_dialled_again() -> None:
    """The dial beside it may come to nothing, and no other timer would end that wait."""
    machine = linked(SMALL, LARGE, dialled=False)
    told(machine, LARGE, 5, 2_400)
    ended = ev.LinkClosed(link=LinkId(1), peer=LARGE, code=0, reason="")
    machine.on_link_closed(ended, turn_at(at(8)))
    turn = turn_at(at(9))
    machine.on_timer(LARGE, turn)
    assert dials(turn.effects()) == [LARGE]


def test_after_this_machine_lost_an_address_a_second_of_silence_is_enough() -> None:
    """Links that were accepted there cannot move; those that go on are left alone."""
    machine = linked(SMALL, LARGE, dialled=False)
    machine.on_moved(at(5))
    assert dials(told(machine, LARGE, 5.5, 500)) == []
    assert dials(told(machine, LARGE, 6.0, 1_000)) == [LARGE]
    calm = linked(SMALL, LARGE, dialled=False)
    calm.on_moved(at(5))
    assert dials(told(calm, LARGE, 16, 1_000)) == [], "long after it is as before"


@pytest.mark.parametrize("has_way", [True, False])
def test_a_link_that_stays_silent_is_given_up_where_there_is_another_way(has_way: bool) -> None:
    """The muscles send first packets along the way of the link that is there, which is dead."""
    machine = linked(SMALL, LARGE, dialled=False, has_way=has_way)
    assert dials(told(machine, LARGE, 5, 2_400)) == ([] if has_way else [LARGE])
    assert told(machine, LARGE, 6, 3_400) == [], "it may take its second path"
    effects = told(machine, LARGE, 6.5, 3_900)
    assert closed(effects) == ([1] if has_way else [])
    moved = linked(SMALL, LARGE, dialled=True, has_way=has_way)
    moved.on_moved(at(5))
    assert closed(told(moved, LARGE, 6.5, 1_500)) == ([1] if has_way else []), "at once"
    ended = ev.LinkClosed(link=LinkId(1), peer=LARGE, code=0, reason="")
    turn = turn_at(at(6.5))
    machine.on_link_closed(ended, turn)
    timers = [effect for effect in turn.effects() if isinstance(effect, fx.SetTimer)]
    assert [timer.at <= at(7.3) for timer in timers] == [True]


def test_a_way_that_comes_is_dialled_unless_a_dial_by_it_is_under_way() -> None:
    """The dial before it knew addresses alone; one more by the same way would make a duplicate."""
    ways: list[PeerId] = []
    machine = Peers(SMALL, Rng(1), has_way=ways.__contains__)
    machine.learn(LARGE, HOME, turn_at(T0))
    for expected in ([True], []):
        ways.append(LARGE)
        turn = turn_at(T0)
        machine.on_way(LARGE, turn)
        timers = [effect for effect in turn.effects() if isinstance(effect, fx.SetTimer)]
        for timer in timers:
            assert timer.at == T0
            machine.on_timer(LARGE, turn)
        ways_of = [effect.by_mesh for effect in turn.effects() if isinstance(effect, fx.Dial)]
        assert ways_of == expected


def test_a_boot_id_that_comes_back_means_two_live_copies() -> None:
    """Two processes with one key alternate; a restart never returns to an old boot."""
    machine = Peers(SMALL, Rng(1))
    for link, boot in enumerate((b"1" * 16, b"2" * 16)):
        machine.on_hello(hello(LARGE, link, True, boot), turn_at(T0))
    assert machine.twins(T0) == []
    machine.on_hello(hello(LARGE, 9, True, b"1" * 16), turn_at(T0))
    assert machine.twins(T0) == [LARGE]
    assert machine.twins(Nanos(T0 + limits.TWIN_TOLD_NS)) == [], "one of them has ended since"


def test_both_live_copies_are_told() -> None:
    """Whoever has the link when the other one comes is told why it loses it, and notes it."""
    machine = Peers(SMALL, Rng(1))
    codes = []
    for link, boot in enumerate((b"1" * 16, b"2" * 16, b"1" * 16, b"2" * 16)):
        turn = turn_at(T0)
        machine.on_hello(hello(LARGE, link, True, boot), turn)
        codes += [e.code for e in turn.effects() if isinstance(e, fx.CloseLink)]
    assert codes == [limits.CLOSE_DUPLICATE_LINK, limits.CLOSE_TWIN, limits.CLOSE_TWIN]
    told = ev.LinkClosed(link=LinkId(3), peer=LARGE, code=limits.CLOSE_TWIN, reason="")
    machine.on_link_closed(told, turn_at(T0))
    assert machine.twins(T0) == [LARGE, SMALL]


def test_a_lost_link_is_dialled_again_for_ever() -> None:
    """Back-off grows to its cap and never ends."""
    machine = Peers(SMALL, Rng(1))
    now, waits = T0, []
    machine.learn(LARGE, HOME, turn_at(now))
    for _ in range(limits.REDIAL_SOON_ATTEMPTS + 2):
        failed = ev.DialFailed(peer=LARGE, slug="unreachable", reason="")
        (timer,) = effects_of(now, partial(machine.on_dial_failed, failed))
        assert isinstance(timer, fx.SetTimer)
        waits.append(timer.at - now)
        now = timer.at
        dial, _ = effects_of(now, partial(machine.on_timer, LARGE))
        assert fx.Dial(peer=LARGE, addresses=HOME) == dial
    assert limits.REDIAL_FIRST_NS // 2 <= waits[0] <= limits.REDIAL_FIRST_NS * 3 // 2
    assert all(w <= limits.REDIAL_MAX_NS * 3 // 2 for w in waits)
    assert waits[-1] >= limits.REDIAL_MAX_NS // 2


@pytest.mark.parametrize(
    ("attempts", "absent", "expected"),
    [
        (0, 1, limits.REDIAL_FIRST_NS),
        (9, 1, limits.REDIAL_SOON_NS),
        (9, 20, 20 * limits.REDIAL_EACH_NS),
        (9, 1_000, limits.REDIAL_MAX_NS),
        (limits.REDIAL_SOON_ATTEMPTS, 1, limits.REDIAL_MAX_NS),
    ],
)
def test_dials_are_soon_while_few_are_absent(attempts: int, absent: int, expected: int) -> None:
    """About two a second in all, for some minutes; then one in half a minute for ever."""
    assert expected == peers.redial_wait(attempts, absent)


def crowded(wanted: frozenset[PeerId]) -> Peers:
    machine = Peers(SMALL, Rng(1), wanted.__contains__)
    for number in range(limits.KNOWN_PEERS_MAX):
        machine.learn(peer_of(number), HOME, turn_at(T0))
    return machine


def peer_of(number: int) -> PeerId:
    return PeerId(number.to_bytes(32, "big")[::-1])


def test_the_peer_that_failed_most_is_forgotten_first() -> None:
    """A linked or a wanted one never; its row goes from the disk."""
    machine = crowded(frozenset({peer_of(1), peer_of(3)}))
    for number in (1, 2, 2, 3):
        failed = ev.DialFailed(peer=peer_of(number), slug="unreachable", reason="")
        machine.on_dial_failed(failed, turn_at(T0))
    rows = rows_of(partial(machine.learn, LARGE, HOME))
    assert [key for _, key, value in rows if value is None] == [peer_of(2)]
    assert [key for _, key, value in rows if value is not None] == [LARGE]
    assert len(machine.dialable()) == limits.KNOWN_PEERS_MAX


def test_where_all_are_wanted_nobody_is_forgotten() -> None:
    """The newcomer is not remembered, and that is said."""
    machine = crowded(frozenset(peer_of(n) for n in range(limits.KNOWN_PEERS_MAX)))
    (line,) = effects_of(T0, partial(machine.learn, LARGE, HOME))
    assert isinstance(line, fx.Log)


def test_where_all_are_wanted_one_that_was_long_sought_makes_room() -> None:
    """A small mesh whose members come and go outlives 4,096 of them."""
    machine = crowded(frozenset(peer_of(n) for n in range(limits.KNOWN_PEERS_MAX)))
    failed = ev.DialFailed(peer=peer_of(7), slug="unreachable", reason="")
    for _ in range(limits.REDIAL_SOON_ATTEMPTS):
        machine.on_dial_failed(failed, turn_at(T0))
    turn = turn_at(T0)
    machine.learn(LARGE, HOME, turn)
    rows = written(turn)
    assert not any(isinstance(e, fx.Log) for e in turn.effects())
    assert [key for _, key, value in rows if value is None] == [peer_of(7)]


def test_a_stranger_that_dials_in_takes_the_place_of_another() -> None:
    """The cap holds for those who came by themselves, too."""
    machine = crowded(frozenset())
    machine.on_hello(hello(LARGE, 1, False), turn_at(T0))
    assert machine.has_link(LARGE)
    assert len(machine.dialable()) == limits.KNOWN_PEERS_MAX - 1


def test_an_unwanted_peer_is_known_but_not_dialled() -> None:
    """Until somebody wants it, or seeks anybody."""
    machine = Peers(SMALL, Rng(1), lambda _: False)
    assert effects_of(T0, partial(machine.learn, LARGE, HOME)) == []
    assert effects_of(T0, machine.start) == []
    assert effects_of(T0, lambda turn: machine.explore(1, turn, {LARGE: 1})) == []
    assert fx.Dial(peer=LARGE, addresses=HOME) in effects_of(T0, partial(machine.explore, 1))


def test_news_of_a_peer_ends_its_back_off() -> None:
    """It came alive elsewhere: dial it now."""
    machine = Peers(SMALL, Rng(1))
    machine.learn(LARGE, HOME, turn_at(T0))
    failed = ev.DialFailed(peer=LARGE, slug="unreachable", reason="")
    machine.on_dial_failed(failed, turn_at(T0))
    dialled = effects_of(T0, partial(machine.end_backoff, [LARGE]))
    assert fx.Dial(peer=LARGE, addresses=HOME) in dialled


def test_a_late_dial_timer_is_harmless() -> None:
    """A peer that is linked by now is not dialled."""
    machine = Peers(SMALL, Rng(1))
    machine.learn(LARGE, HOME, turn_at(T0))
    machine.on_hello(hello(LARGE, 1, True), turn_at(T0))
    assert effects_of(10**12, partial(machine.on_timer, LARGE)) == []
    assert effects_of(T0, partial(machine.on_timer, PeerId(rb"\9" * 32))) == []


def test_the_end_of_a_replaced_link_is_not_the_end_of_the_peer() -> None:
    """Only the link in use counts."""
    machine = Peers(SMALL, Rng(1))
    machine.on_hello(hello(LARGE, 1, True), turn_at(T0))
    machine.on_hello(hello(LARGE, 2, True), turn_at(T0))
    gone = ev.LinkClosed(link=LinkId(1), peer=LARGE, code=3, reason="")
    turn = turn_at(T0)
    assert (machine.on_link_closed(gone, turn), turn.effects()) == (False, [])
    assert machine.has_link(LARGE)


def test_a_new_address_is_dialled_while_the_old_one_hangs() -> None:
    """A moved peer is not waited for where it was."""
    machine = Peers(SMALL, Rng(1))
    machine.learn(LARGE, HOME, turn_at(T0))
    out = effects_of(T0, partial(machine.learn, LARGE, ["192.0.2.9:60611"]))
    assert fx.Dial(peer=LARGE, addresses=["192.0.2.9:60611", *HOME]) == out[0]
    assert effects_of(T0, partial(machine.learn, LARGE, HOME)) == []


def test_peers_survive_on_disk() -> None:
    """What a turn writes, ``restore`` reads."""
    machine = Peers(SMALL, Rng(1))
    learned = rows_of(partial(machine.learn, LARGE, HOME))
    rows = [(key, value) for _, key, value in learned if value is not None]
    again = Peers(SMALL, Rng(1))
    assert again.restore(rows) == []
    assert again.dialable() == [(LARGE, HOME)]


def test_a_peer_that_moves_twice_in_a_turn_is_written_once() -> None:
    """The row that lasts is the one at the end of the turn."""
    machine = Peers(SMALL, Rng(1))
    turn = turn_at(T0)
    machine.on_hello(hello(LARGE, 1, True), turn)
    machine.learn(LARGE, HOME, turn)
    machine.learn(LARGE, ["192.0.2.9:60611"], turn)
    ((table, key, value),) = written(turn)
    again = Peers(SMALL, Rng(1))
    assert (table, again.restore([(key, value or b"")])) == (peers.PEER_TABLE, [])
    assert again.dialable() == [(LARGE, ["192.0.2.9:60611", *HOME])]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1:60611", True),
        ("[2001:db8::1]:60611", True),
        ("2001:db8::1:60611", False),
        ("[192.0.2.1]:1", False),
        ("host.example:60611", False),
        ("192.0.2.1", False),
        ("192.0.2.1:0", False),
        ("192.0.2.1:65536", False),
        ("192.0.2.1:٣", False),
        ("", False),
    ],
)
def test_only_numeric_addresses_are_dialled(address: str, expected: bool) -> None:
    """A peer may publish anything; only what the muscles can dial is kept."""
    assert expected == peers.is_dialable(address)
