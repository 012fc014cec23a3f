"""A member that once saw a clock past its lease is a member again within a minute of a right clock.

Three ways to see one: a step of 35 days for six seconds while the node runs, a boot 40 days ahead,
and the same for an admin, whose certificates then carry a date that nobody has reached.
"""

from __future__ import annotations

from pollen.core.ids import DAY
from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(4, admins=2)
    scene.seeds("a", "echo", min_replicas=2)
    scene.settles()

    _step(scene, "d", 35)
    _is_whole(scene, nodes, "after a step of six seconds")

    _boot(scene, "d", 40)
    _is_whole(scene, nodes, "after a boot in the future")

    _step(scene, "d", -400)
    _is_whole(scene, nodes, "after a step back")

    _boot(scene, "b", 40)
    _is_whole(scene, nodes, "after an admin's boot in the future")

    # What the admin signs in the future dates from there: nobody takes that for the time.
    scene.machine("a").clock.wall_offset += 40 * DAY
    scene.passes(2)
    token = scene.world.invite("a")
    scene.world.join("e", token)
    scene.passes(6)
    scene.machine("a").clock.wall_offset = 0
    _is_whole(scene, [*nodes, "e"], "after an admin's invite in the future")
    scene.settles()


def _step(scene: Scene, name: str, days: int) -> None:
    machine = scene.machine(name)
    machine.clock.wall_offset += days * DAY
    scene.passes(6)
    machine.clock.wall_offset = 0


def _boot(scene: Scene, name: str, days: int) -> None:
    """The machine boots with its clock so far ahead, runs for a while, and boots again, right."""
    machine = scene.machine(name)
    for offset in (days * DAY, 0):
        scene.world.kill(name)
        machine.clock.wall_offset = offset
        scene.world.start(name)
        if offset:
            scene.passes(30)


def _is_whole(scene: Scene, nodes: list[str], when: str) -> None:
    scene.becomes(
        f"all see all {when}",
        lambda: all(scene.members_with(name, nodes) == nodes for name in nodes),
        within=60,
    )
    for node in nodes:
        scene.expect(f"a call from {node} succeeds {when}", scene.call(node, "echo") == "")
