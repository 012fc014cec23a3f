"""A small machine refuses what it cannot load: others host it, nobody routes to the small one."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    scene.machine("d").cannot_load = True
    scene.seeds("a", "echo", min_replicas=3)
    scene.becomes("three others host it", lambda: scene.hosts("echo") == ["a", "b", "c"])
    scene.settles()
    for node in nodes:
        scene.expect("a call succeeds", scene.call(node, "echo") == "", f"from {node}")
    for machine in scene.world.machines.values():
        routed = any(scene.machine("d").key in row.replicas for row in machine.seeds.values())
        scene.expect("nobody routes to it", not routed, machine.name)
