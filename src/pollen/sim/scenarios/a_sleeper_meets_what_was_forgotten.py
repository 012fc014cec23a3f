"""A laptop sleeps while tombstones are collected: what it still remembers does not come back."""

from __future__ import annotations

from pollen.core import limits
from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict import observe


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    names = [f"seed-{number}" for number in range(limits.TOMBSTONES_MIN + 8)]
    for name in names:
        command = scene.world.seed_command("b", name, everywhere=True, memory_bytes=1 << 20)
        scene.world.ask_later("b", command)
    scene.becomes("b hosts them all", lambda: len(scene.machine("b").loaded) == len(names))
    scene.settles()
    scene.world.freeze("d")
    for name in names:
        scene.unseeds("b", name)
    scene.hours_pass(14)
    floors = [owned.floor for owned in observe.sets_of(scene.machine("a"))]
    scene.expect("tombstones were collected", max(floors) > (0, 0), str(floors))
    scene.world.thaw("d")
    scene.settles()
    for node in nodes:
        live = [name for name in names if scene.seed_known(node, name)]
        scene.expect("stays withdrawn", not live, f"{len(live)} on {node}")
        scene.expect("nothing is loaded", not scene.machine(node).loaded, node)
