"""A laptop sleeps past the end of its lease: it wakes, asks for a new one and is back by itself."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    mine = scene.seeds("d", "echo", min_replicas=2)
    scene.settles()
    scene.world.freeze("d")
    scene.passes(20)
    scene.days_pass(60)
    scene.expect("the others gave it up", not scene.members_with("d", nodes[:-1]))
    scene.expect("its seed serves on", scene.call("b", "echo") == "")
    scene.world.thaw("d")
    scene.becomes("it is back", lambda: scene.members_with("d", nodes) == nodes, within=60)
    scene.settles()
    scene.expect("its seed is what it was", scene.seed_known("a", "echo") == mine)
    for node in nodes:
        scene.expect("a call succeeds", scene.call(node, "echo") == "", f"from {node}")
    scene.expect("it can publish", scene.seeds("d", "more") != "")
