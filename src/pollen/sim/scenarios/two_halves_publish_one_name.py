"""Both halves of a partition publish one name: after the heal one wins, everywhere the same."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(5)
    scene.cuts(["a", "b"], ["c", "d", "e"])
    scene.passes(20)
    one = scene.seeds("b", "echo", b"of the one half")
    other = scene.seeds("d", "echo", b"of the other half")
    scene.passes(10)
    scene.expect("each half knows its own", scene.seed_known("a", "echo") == one)
    scene.expect("each half knows its own", scene.seed_known("e", "echo") == other)
    scene.heals()
    scene.settles()
    winners = {scene.seed_known(node, "echo") for node in nodes}
    scene.expect("one wins", len(winners) == 1 and winners <= {one, other}, str(winners))
    for node in nodes:
        slug = scene.call(node, "echo")
        scene.expect("a call succeeds", slug == "", f"from {node}: {slug}")
