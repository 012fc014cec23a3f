"""A publisher is gone past every horizon: its seed serves on, an admin updates and withdraws it."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    scene.cluster(5, admins=2)
    first = scene.seeds("e", "echo", b"first", min_replicas=2)
    scene.settles()
    scene.world.crash("e")
    scene.machine("e").is_gone = True
    scene.days_pass(800)
    scene.settles()
    nodes = ["a", "b", "c", "d"]
    for node in nodes:
        scene.expect("it is known", scene.seed_known(node, "echo") == first, f"on {node}")
        scene.expect("it serves on", scene.call(node, "echo") == "", f"from {node}")
    scene.expect("a publisher may not", scene.unseeds("c", "echo").slug == "denied")
    second = scene.seeds("b", "echo", b"second", take_over=True)
    scene.becomes("updated", lambda: all(scene.seed_known(n, "echo") == second for n in nodes))
    scene.settles()
    scene.expect("withdrawn", scene.unseeds("a", "echo").slug == "")
    scene.becomes("out of use", lambda: not any(scene.seed_known(n, "echo") for n in nodes))
    scene.settles()
    # Its disk comes back from a drawer after all, with the old seed on it.
    scene.machine("e").is_gone = False
    scene.world.start("e")
    scene.settles()
    for node in (*nodes, "e"):
        scene.expect("stays withdrawn", scene.seed_known(node, "echo") == "", f"on {node}")
