"""Two halves hear nothing of each other for an hour: when they can, they find each other again."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    scene.seeds("a", "echo", min_replicas=2)
    scene.settles()
    scene.cuts(["a", "b"], ["c", "d"])
    scene.passes(3_600)
    for node in nodes:
        slug = scene.call(node, "echo")
        scene.expect("each half goes on", slug == "", f"{node}: {slug}")
    scene.heals()
    scene.settles(within=60)
