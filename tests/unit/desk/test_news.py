"""The lines of a node's log that tell of its cluster."""

from __future__ import annotations

from pollen.core import limits
from pollen.core.commands import DrainCommand, UnseedCommand
from pollen.core.ids import SECOND
from tests.unit.world import World, three


def told(world: World, name: str) -> list[tuple[str, str]]:
    """Events and whom they are about."""
    return [
        (log.event, str(log.fields.get("seed", log.fields.get("node", ""))))
        for log in world.machines[name].logs
    ]


def test_a_seed_is_published_loaded_and_withdrawn() -> None:
    world = three()
    world.seed("a", "echo")
    world.run(3 * SECOND)
    world.ask("a", UnseedCommand(target="echo"))
    world.run(3 * SECOND)
    lines = [line for line in told(world, "a") if line[1] == "echo"]
    assert lines[0] == ("seeded", "echo")
    assert ("withdrawn", "echo") in lines
    hosts = [name for name in "abc" if ("loaded", "echo") in told(world, name)]
    assert len(hosts) == 2
    assert all(("unloaded", "echo") in told(world, name) for name in hosts)


def test_a_node_falls_silent_comes_back_and_leaves() -> None:
    """Its first coming is not news."""
    world = three()
    world.run(5 * SECOND)
    assert not [line for line in told(world, "a") if line[0].startswith("node-")]
    world.kill("c")
    world.run(20 * SECOND)
    assert ("node-offline", "c") in told(world, "a")
    world.start("c")
    world.run(10 * SECOND)
    assert ("node-back", "c") in told(world, "a")


def test_orderly_restarts_are_no_crash_loop() -> None:
    """Only a run without a good end counts."""
    world = three()
    for _ in range(limits.RESTARTS_QUARANTINE + 1):
        world.ask("c", DrainCommand())
        world.run(SECOND)
        world.kill("c")
        world.start("c")
        world.run(3 * SECOND)
    assert world.machines["c"].key in able(world)
    for _ in range(limits.RESTARTS_QUARANTINE):
        world.kill("c")
        world.start("c")
        world.run(3 * SECOND)
    assert world.machines["c"].key not in able(world)


def able(world: World) -> object:
    node = world.machines["a"].node
    assert node is not None
    return node._membership.able
