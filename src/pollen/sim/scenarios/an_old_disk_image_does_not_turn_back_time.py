"""A node gets last week's disk: what it published since stands, and its next word is heard."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    scene.seeds("b", "echo", b"first")
    scene.passes(5)
    image = scene.machine("b").disk.image()
    scene.passes(5)
    second = scene.seeds("b", "echo", b"second")
    scene.settles()
    scene.world.crash("b")
    scene.machine("b").disk.replace(image)
    scene.world.start("b")
    scene.settles(within=30)
    for node in nodes:
        scene.expect("the update stands", scene.seed_known(node, "echo") == second, f"on {node}")
    third = scene.seeds("b", "echo", b"third")
    scene.becomes(
        "its next word is heard", lambda: all(scene.seed_known(n, "echo") == third for n in nodes)
    )
