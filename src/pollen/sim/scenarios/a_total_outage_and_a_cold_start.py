"""All nodes lose power at once and come back from their disks: every seed serves again."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(5)
    scene.seeds("b", "echo", min_replicas=2)
    scene.settles()
    for node in nodes:
        scene.world.crash(node)
    scene.passes(30)
    for node in nodes:
        scene.world.start(node)
    scene.becomes("every node calls it", lambda: len(scene.hosts("echo")) >= 2, within=10)
    scene.settles(within=10)
    for node in nodes:
        slug = scene.call(node, "echo")
        scene.expect("a call succeeds", slug == "", f"from {node}: {slug}")
