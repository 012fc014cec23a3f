"""The disk is wiped and the key kept: the node comes back, jumps above its old word, publishes."""

from __future__ import annotations

from pollen.core.ids import MILLISECOND
from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    old = scene.seeds("b", "echo")
    scene.settles()
    machine = scene.machine("b")
    peers = [(m.key, [m.address]) for m in scene.world.machines.values()]
    scene.world.crash("b")
    machine.disk.wipe()
    machine.content.clear()
    scene.world.enrol(machine, scene.tier_of("b"), peers=peers)
    scene.passes(5)
    scene.world.start("b")
    scene.becomes("it knows its own seed again", lambda: scene.seed_known("b", "echo") == old)
    scene.passes(100 * MILLISECOND / 1e9)
    new = scene.seeds("b", "echo", b"second")
    scene.becomes(
        "its update is heard", lambda: all(scene.seed_known(n, "echo") == new for n in nodes)
    )
    scene.settles()
