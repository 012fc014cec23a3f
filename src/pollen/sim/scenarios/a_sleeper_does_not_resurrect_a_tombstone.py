"""A node that slept through an unseed brings its old view: the name stays withdrawn everywhere."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    scene.seeds("a", "echo")
    scene.settles()
    scene.world.crash("d")
    scene.passes(20)
    scene.expect("withdrawn", scene.unseeds("a", "echo").slug == "")
    scene.passes(600)
    scene.world.start("d")
    scene.settles(within=30)
    for node in nodes:
        scene.expect("stays withdrawn", scene.seed_known(node, "echo") == "", f"live on {node}")
