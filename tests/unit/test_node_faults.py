"""What a peer or a user does wrong becomes data: counted, logged, answered, never raised."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.commands import InviteCommand, SeedCommand, StatusCommand, UnseedCommand
from pollen.core.durability import CHAIN_KEY
from pollen.core.ids import DAY, SECOND, Hash, LinkId, RequestId, Token
from pollen.errors import PollenError
from tests.strategies import CLUSTER, make_record
from tests.unit.world import Machine, World, make_key, three


def one() -> tuple[World, Machine]:
    world = World()
    machine = world.found("a")
    world.run(SECOND)
    return world, machine


def hello(world: World, peer: bytes, **change: Any) -> ev.HelloReceived:
    fields: dict[str, Any] = {
        "link": LinkId(99), "peer": peer, "dialled": False, "remote": "192.0.2.99:1",
        "cluster": Hash(world.cluster()), "minor_min": 1, "minor_max": 1, "boot": b"9" * 16,
        "chain": b"\x91\x90",
    }  # fmt: skip
    return ev.HelloReceived(**{**fields, **change})


def codes(effects: list[fx.Effect]) -> list[int]:
    return [effect.code for effect in effects if isinstance(effect, fx.CloseLink)]


@pytest.mark.parametrize(
    "change",
    [
        {"chain": b""},
        {"chain": b"\xc1garbage"},
        {"chain": b"x" * (limits.CHAIN_MAX_BYTES + 1)},
        {"cluster": Hash(b"x" * 32)},
        {"minor_min": 7, "minor_max": 9},
    ],
)
def test_a_stranger_is_refused_alike_whatever_it_says(change: dict[str, Any]) -> None:
    """One code, and the version is not even looked at."""
    world, machine = one()
    out = world.deliver(machine, hello(world, make_key("stranger"), **change))
    assert codes(out) == [limits.CLOSE_NOT_A_MEMBER]
    assert not any(isinstance(effect, fx.AdmitLink | fx.SendRecords) for effect in out)


def test_a_member_of_another_version_is_told() -> None:
    """Membership first, then the version."""
    world = three()
    chain = world.machines["b"].disk.tables["meta"][CHAIN_KEY]
    event = hello(world, world.machines["b"].key, chain=chain, minor_min=7, minor_max=9)
    out = world.deliver(world.machines["a"], event)
    assert codes(out) == [limits.CLOSE_VERSION_MISMATCH]


def test_a_chain_of_another_key_is_no_membership() -> None:
    """A copied certificate proves nothing about who shows it."""
    world = three()
    chain = world.machines["b"].disk.tables["meta"][CHAIN_KEY]
    out = world.deliver(world.machines["a"], hello(world, make_key("thief"), chain=chain))
    assert codes(out) == [limits.CLOSE_NOT_A_MEMBER]


def test_rejections_are_counted_and_logged_now_and_then() -> None:
    """A flood of faults is one line and a number."""
    world, machine = one()
    for _ in range(50):
        world.deliver(machine, hello(world, make_key("stranger")))
    status = world.ask("a", StatusCommand())
    assert status.rejections == {"chain-length": 50}
    assert len([log for log in machine.logs if log.event == "rejection"]) == 1


def test_records_of_a_non_member_say_nothing() -> None:
    """Kept by merging, but no name, no claim and no route follows from them."""
    world, machine = one()
    stranger = make_key("stranger")
    world.run(SECOND)
    record = make_record(stranger, "spec", b"echo", 1, 1, False, b"garbage")
    assert machine.node is not None
    batch = [record.signed]
    event = ev.RecordsReceived(link=LinkId(1), peer=stranger, records=batch, rejected=3)
    world.deliver(machine, event)
    status = world.ask("a", StatusCommand())
    assert status.seeds == []
    assert status.rejections == {"record-of-another-cluster": 1, "record-signature": 1}


EVENTS = st.one_of(
    st.builds(ev.TimerFired, token=st.text(max_size=20).map(Token)),
    st.builds(
        ev.HelloReceived,
        link=st.integers(0, 9).map(LinkId),
        peer=st.just(make_key("stranger")) | st.just(make_key("b")),
        dialled=st.booleans(),
        remote=st.text(max_size=20),
        cluster=st.just(Hash(CLUSTER)) | st.binary(min_size=32, max_size=32).map(Hash),
        minor_min=st.integers(0, 9),
        minor_max=st.integers(0, 9),
        boot=st.binary(min_size=16, max_size=16),
        chain=st.binary(max_size=80),
    ),
    st.builds(
        ev.MessageReceived,
        link=st.just(LinkId(1)),
        peer=st.just(make_key("b")),
        body=st.binary(max_size=50),
    ),
    st.builds(
        ev.RecordsReceived,
        link=st.just(LinkId(1)),
        peer=st.just(make_key("b")),
        records=st.lists(
            st.builds(
                ev.SignedRecord,
                owner=st.just(make_key("b")),
                body=st.binary(max_size=80),
                signature=st.binary(max_size=64),
            ),
            max_size=3,
        ),
        rejected=st.integers(0, 3),
    ),
    st.builds(
        ev.JoinRequested,
        request=st.just(RequestId(5)),
        peer=st.just(make_key("stranger")),
        remote=st.text(max_size=5),
        body=st.binary(max_size=80),
    ),
    st.builds(
        ev.LoadFinished,
        seed=st.binary(min_size=32, max_size=32).map(Hash),
        slug=st.sampled_from(["", "unreachable", "internal"]),
    ),
    st.builds(ev.SeedWoken, seed=st.binary(min_size=32, max_size=32).map(Hash)),
    st.builds(
        ev.Commanded,
        request=st.just(RequestId(7)),
        command=st.one_of(
            st.just(StatusCommand()),
            st.builds(UnseedCommand, target=st.text(max_size=10)),
            st.builds(SeedCommand, name=st.text(max_size=10), content=st.text(max_size=64)),
            st.builds(InviteCommand, tier=st.text(max_size=6), properties=st.text(max_size=9)),
        ),
    ),
    st.builds(ev.Persisted, token=st.text(max_size=20).map(Token)),
    st.just(ev.TablesStale()),
)


@given(st.lists(EVENTS, max_size=12))
def test_no_event_makes_the_node_raise(events: list[ev.Event]) -> None:
    """Late timers, unknown links, noise in every field: effects, never an exception."""
    world, machine = one()
    for event in events:
        world.deliver(machine, event)


def test_access_that_ends_cuts_the_link() -> None:
    """A timer each; afterwards the same chain is refused."""
    world = World()
    world.found("a")
    world.run(SECOND)
    assert isinstance(world.join("b", world.invite("a", access_ms=60_000)), Machine)
    world.run(5 * SECOND)
    assert len(world.machines["a"].peers) == 2
    world.run(120 * SECOND)
    assert list(world.machines["a"].peers) == [world.machines["a"].key]


def test_a_seed_command_before_the_epoch_waits_for_it() -> None:
    """Nothing is published before the epoch is on disk; the user just waits a little."""
    world = World()
    world.found("a")
    reply = world.seed("a", "echo")
    assert reply.slug == ""


def test_a_seed_is_answered_after_it_is_on_disk() -> None:
    """Acknowledged means durable."""
    world, machine = one()
    world.seed("a", "echo")
    kinds = [type(effect) for effect in machine.trace]
    last_persist = max(
        i
        for i, effect in enumerate(machine.trace)
        if isinstance(effect, fx.Persist) and effect.batch
    )
    assert last_persist < kinds.index(fx.Reply)


def test_a_row_that_cannot_be_read_is_unusable_state() -> None:
    """Nothing is skipped silently at the start."""
    world, machine = one()
    machine.disk.tables["record"][b"odd"] = b"\xc1"
    with pytest.raises(PollenError) as caught:
        world.start("a")
    assert caught.value.slug == "state-unusable"
    assert caught.value.remedy


def test_two_live_copies_of_one_key_are_told() -> None:
    """The boot ids alternate; both see it in their status."""
    world = three()
    b = world.machines["b"]
    chain = b.disk.tables["meta"][CHAIN_KEY]
    held = world.machines["a"].node
    assert held is not None
    for link, boot in enumerate((b"x" * 16, b"y" * 16, b"x" * 16)):
        event = hello(world, b.key, chain=chain, boot=boot, link=LinkId(70 + link))
        world.deliver(world.machines["a"], event)
    status = world.ask("a", StatusCommand())
    (warning,) = [held for held in status.warnings if "two live processes" in held]
    assert warning == "two live processes use the key of b; there: pln down, in one of both"


def test_a_drain_takes_the_node_out_of_every_route() -> None:
    """Answered when the others had time to see it."""
    from pollen.core.commands import DrainCommand

    world = three()
    world.seed("a", "echo")
    world.run(2 * SECOND)
    assert world.ask("b", DrainCommand()).seeds == 1
    for name in "abc":
        (row,) = world.machines[name].seeds.values()
        assert world.machines["b"].key not in row.replicas
        assert len(row.replicas) == 2


def test_effects_are_frozen_and_the_vocabularies_closed() -> None:
    """At most about 14 of each."""
    kinds = [k for k in vars(fx).values() if isinstance(k, type) and issubclass(k, fx.Effect)]
    events = [k for k in vars(ev).values() if isinstance(k, type) and issubclass(k, ev.Event)]
    assert (len(kinds) - 1, len(events) - 1) == (23, 24)
    with pytest.raises(AttributeError):
        fx.UnloadSeed(seed=Hash(b"")).seed = Hash(b"x")  # type: ignore[misc]
    assert msgspec.msgpack.encode(ev.TablesStale()) == msgspec.msgpack.encode({"t": "tables_stale"})


def test_a_clock_that_is_far_behind_is_a_warning_of_the_status() -> None:
    """The node works on with the later time, as the others agree with it; nobody else warns."""
    world = three()
    world.machines["b"].clock.wall_offset -= 10 * DAY
    world.run(20 * SECOND)
    status = world.ask("b", StatusCommand())
    assert status.clock.in_doubt and len(status.clock.members_ahead_ms) == 2
    assert any("10.0 days behind" in warning for warning in status.warnings)
    assert not world.ask("a", StatusCommand()).clock.in_doubt


def test_a_disk_without_records_does_not_make_a_wrong_floor_last() -> None:
    """The node knows nobody whom it could ask for the time, but by those who call it."""
    world = three()
    machine = world.machines["b"]
    world.kill("b")
    machine.disk.wipe()
    machine.clock.wall_offset += 40 * DAY
    world.start("b")
    world.run(10 * SECOND)
    machine.clock.wall_offset -= 40 * DAY
    world.run(60 * SECOND)
    status = world.ask("b", StatusCommand())
    assert not status.clock.in_doubt
    assert [node.state for node in status.nodes] == ["self", "online", "online"]
