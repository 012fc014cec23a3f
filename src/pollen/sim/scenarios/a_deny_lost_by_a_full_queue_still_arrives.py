"""A deny is said while the control queues are full: it comes later, and the denied one is cut."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(5)
    scene.seeds("a", "echo", min_replicas=2)
    scene.settles()
    network = scene.world.network
    before = network.counts.get("queue-full", 0)
    network.full.add("a")
    scene.world.deny("a", "e")
    scene.passes(2)
    network.full.discard("a")
    scene.expect("its push was lost", network.counts.get("queue-full", 0) > before)
    scene.expect("b has not heard of it", scene.is_member("b", "e"))
    others = nodes[:-1]
    scene.becomes("e is out everywhere", lambda: not scene.members_with("e", others), within=15)
    scene.expect("e is cut", not scene.links_of("e"), str(scene.links_of("e")))
    scene.passes(60)
    scene.expect("e is still out", not scene.links_of("e"), str(scene.links_of("e")))
    scene.settles()
    for node in others:
        scene.expect("a call succeeds", scene.call(node, "echo") == "", f"from {node}")
