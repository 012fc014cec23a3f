"""A disk that takes nothing: who is refused, who is answered, and what the status says."""

from __future__ import annotations

import typing

import pytest

from pollen.core import commands as cmd
from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core.codec import Refusal
from pollen.core.commands import Command, StatusCommand, UnseedCommand, Unseeded
from pollen.core.disk import Disk, must_last
from pollen.core.durability import Durability
from pollen.core.ids import SECOND, RequestId
from tests.unit.turns import turn_at
from tests.unit.world import Machine, World

FULL = ev.StoreTroubled(slug="storage-full", reason="the disk has no room", remedy="make room")
# These change nothing that is kept, or may go on without being kept.
PASSING = {
    "AdminCommand",
    "AuditCommand",
    "DrainCommand",
    "FiguresCommand",
    "HoldRootCommand",
    "MembersCommand",
    "PoliciesCommand",
    "RootCommand",
    "ServicesCommand",
    "StatusCommand",
    "TakeReleaseCommand",
    "VersionsCommand",
    "WaitSeedCommand",
    "WhyCallCommand",
    "WhyPathCommand",
    "WhyPlaceCommand",
    "WhyServiceCommand",
}


def bare(kind: type[Command]) -> Command:
    """A command with empty fields."""
    hints = typing.get_type_hints(kind)
    needed = {name: hints[name]() for name in kind.__struct_fields__ if hints[name] in (str, int)}
    more = {name: [] for name in kind.__struct_fields__ if typing.get_origin(hints[name]) is list}
    more |= {name: b"" for name in kind.__struct_fields__ if hints[name] is bytes}
    return kind(**needed, **more)


def test_every_command_is_one_that_must_last_or_one_that_is_known_to_pass() -> None:
    """A new command that writes is refused on a full disk, or somebody says why it is not."""
    passing = {c.__name__ for c in typing.get_args(cmd.Command) if not must_last(bare(c))}
    assert passing == PASSING


@pytest.mark.parametrize("field", ["dry_run", "by_root"])
def test_who_only_asks_writes_nothing(field: str) -> None:
    assert must_last(cmd.GrantCommand(target="a"))
    assert not must_last(cmd.GrantCommand(target="a", **{field: True}))


def test_a_full_disk_refuses_and_changes_nothing_until_there_is_room() -> None:
    world = World()
    machine = world.found("a")
    world.run(SECOND)
    world.seed("a", "echo")
    assert machine.node is not None
    world.deliver(machine, FULL)
    refused = world.command("a", UnseedCommand(target="echo"))
    assert (refused.slug, refused.remedy) == ("storage-full", "make room")
    status = world.command("a", StatusCommand()).result
    assert not status.healthy and [seed.name for seed in status.seeds] == ["echo"]
    assert status.warnings[0].startswith("nothing that must last is taken: the disk has no room")
    world.deliver(machine, ev.StoreTroubled())
    assert world.command("a", UnseedCommand(target="echo")).slug == ""
    status = world.command("a", StatusCommand()).result
    assert not status.seeds and not any("disk" in text for text in status.warnings)


def test_who_waits_for_a_write_that_failed_is_refused_and_hears_nothing_later() -> None:
    """The rows still go to the disk when they can; the answer was given."""
    durability, disk = Durability(), Disk()
    turn = turn_at(0, durability=durability)
    turn.write(("t", b"k", b"v"))
    turn.answer(RequestId(1), Unseeded(name="echo", seed="00"), when_durable=True)
    held = fx.Log(level="info", event="other", fields={})
    turn.do_when_durable(held)
    turn.flush()
    (persist,) = turn.effects()
    assert isinstance(persist, fx.Persist)
    later = turn_at(1, durability=durability)
    disk.on_troubled(FULL, later)
    assert later.effects() == []
    failed = ev.StoreTroubled(slug="storage-full", reason="full", is_failed=True)
    disk.on_troubled(failed, later)
    (reply,) = later.effects()
    assert isinstance(reply, fx.Reply)
    assert (reply.request, reply.slug) == (RequestId(1), "storage-full")
    assert "not on disk yet" in reply.reason
    assert durability.release(persist.token) == [held]


def test_a_joiner_is_refused_at_once_and_its_token_stays_good() -> None:
    """Before, it waited for an answer that was held until the disk took it."""
    world = World()
    machine = world.found("a")
    world.run(SECOND)
    token = world.invite("a")
    world.deliver(machine, FULL)
    refused = world.join("b", token)
    assert isinstance(refused, Refusal)
    assert refused.slug == "storage-full" and "takes nothing" in refused.reason
    world.deliver(machine, ev.StoreTroubled())
    assert isinstance(world.join("b", token), Machine)
