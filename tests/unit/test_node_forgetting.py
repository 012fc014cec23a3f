"""Whole nodes that forget: who is gone for long leaves status and disk, and can come back."""

from __future__ import annotations

import pytest

from pollen.core import kinds, limits
from pollen.core.commands import StatusCommand, UnseedCommand
from pollen.core.ids import MINUTE, SECOND
from pollen.core.kinds import NODE
from pollen.core.trust import NodeInfo
from pollen.sim.muscles.weather import Cut
from tests.unit.world import World, three


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SWEEP_FIRST_NS", 5 * SECOND)
    monkeypatch.setattr(limits, "SWEEP_NS", 10 * SECOND)
    monkeypatch.setattr(limits, "ABSENT_KEEP_NS", MINUTE)


def nodes_of(world: World, name: str) -> list[str]:
    return [node.name for node in world.ask(name, StatusCommand()).nodes]


@pytest.mark.usefixtures("hasty")
def test_a_node_that_is_gone_for_long_is_no_member_any_more() -> None:
    """What it published goes on; its records that do not last leave the disks."""
    world = three()
    assert world.seed("c", "echo").slug == ""
    world.run(5 * SECOND)
    world.crash("c")
    world.run(3 * MINUTE)
    assert [nodes_of(world, name) for name in "ab"] == [["a", "b"], ["b", "a"]]
    assert [seed.name for seed in world.ask("a", StatusCommand()).seeds] == ["echo"]
    key = world.machines["c"].key + NODE.encode() + b"\0"
    assert key not in world.machines["a"].disk.tables["record"]


@pytest.mark.usefixtures("hasty")
def test_a_buried_node_that_starts_again_is_a_member_again() -> None:
    """Its next run has a higher epoch, which lifts the grave; so it is after restarts of others."""
    world = three()
    world.crash("c")
    world.run(3 * MINUTE)
    world.kill("b")
    world.start("b")
    world.run(10 * SECOND)
    assert nodes_of(world, "b") == ["b", "a"]
    world.start("c")
    world.run(30 * SECOND)
    assert [sorted(nodes_of(world, name)) for name in "abc"] == [["a", "b", "c"]] * 3


def test_a_publisher_at_its_cap_is_told_and_can_still_withdraw(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or it would be frozen at every other node, without a word at its own."""
    world = three()
    assert world.seed("a", "echo").slug == ""
    world.run(5 * SECOND)
    node = world.machines["a"].node
    assert node is not None
    full = len(node._records.peek(world.machines["a"].key).rows)
    monkeypatch.setattr(limits, "OWNER_CAPS", ((full, 1 << 20),) * 3)
    reply = world.seed("a", "more")
    assert (reply.slug, reply.remedy[:6]) == ("denied", "unseed")
    world.ask("a", UnseedCommand(target="echo"))


def test_an_owner_over_its_cap_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands still at its last valid set, and status says whose."""
    world = three()
    monkeypatch.setattr(limits, "OWNER_CAPS", ((8, 1 << 20),) * 3)
    monkeypatch.setattr("pollen.core.records.intake.Intake.has_room", lambda *_: True)
    for n in range(8):
        world.seed("c", f"echo{n}")
    world.run(5 * SECOND)
    warning = "what c says stands still: it holds more than its tier may"
    assert warning in world.ask("a", StatusCommand()).warnings


def test_a_kind_is_written_when_all_who_live_speak_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A node that says nothing of it speaks the first level only."""
    monkeypatch.setattr(limits, "SPEAKS", 2)
    monkeypatch.setattr(kinds, "KIND_LEVELS", {"new": 2})
    world = three()
    held = world.machines["a"].node
    assert held is not None
    held._records.publish("new", b"k", b"v")
    world.run(MINUTE)
    assert len(held._records.live_of("new")) == 1
    silent = NodeInfo("b", [], b"x" * 16, "0", 1, 1, 1)
    held._members.declare(world.machines["b"].key, silent, 1)
    assert held._members.spoken_by(held._situation.live) == 1


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize("alone", ["d", "cd"])
def test_halves_that_buried_each_other_find_together_again(alone: str) -> None:
    """Each hears from a link that it lies in a grave there, and goes to a new epoch."""
    world = World()
    world.found_all("abcd")
    assert world.seed("d", "echo").slug == ""
    world.run(5 * SECOND)
    rest = [name for name in "abcd" if name not in alone]
    cut = Cut(frozenset(alone), frozenset(rest), True)
    world.network.weather.cuts.append(cut)
    world.run(4 * MINUTE)
    assert nodes_of(world, "a") == rest
    world.network.weather.cuts.remove(cut)
    world.network.release_held()
    world.run(MINUTE)
    assert [sorted(nodes_of(world, name)) for name in "abcd"] == [["a", "b", "c", "d"]] * 4
    states = {node.state for name in "abcd" for node in world.ask(name, StatusCommand()).nodes}
    assert states == {"self", "online"}
    roots = {world.machines[name].node._records.sums.root() for name in "abcd"}  # type: ignore[union-attr]
    assert len(roots) == 1


@pytest.mark.usefixtures("hasty")
def test_a_node_never_forgets_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its disk is wiped, and its gc_version comes back to it from the others."""
    monkeypatch.setattr(limits, "TOMBSTONES_MIN", 1)
    monkeypatch.setattr(limits, "TOMBSTONE_KEEP_NS", SECOND)
    world = three()
    machine = world.machines["c"]
    world.seed("c", "echo", everywhere=True)
    world.run(10 * SECOND)
    world.ask("c", UnseedCommand(target="echo"))
    world.run(MINUTE)
    world.kill("c")
    machine.disk.wipe()
    world.start("c")
    node = machine.node
    assert node is not None
    for _ in range(500):
        world.run(SECOND // 100)
        assert node._members.find(machine.key) is not None
    assert node._records.peek(machine.key).floor > (0, 0)
    assert sorted(nodes_of(world, "a")) == ["a", "b", "c"]
