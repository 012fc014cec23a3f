"""A publisher is gone past every horizon: its seed serves on, an admin updates and withdraws it."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict import observe


def play(scene: Scene) -> None:
    scene.cluster(4, admins=2)
    first = scene.seeds("d", "echo", b"first", min_replicas=2)
    scene.settles()
    scene.world.crash("d")
    scene.machine("d").is_gone = True
    scene.settles()
    scene.hours_pass(32 * 24)
    scene.days_pass(800)
    scene.settles()
    nodes = ["a", "b", "c"]
    for node in nodes:
        scene.expect("it is known", scene.seed_known(node, "echo") == first, f"on {node}")
        scene.expect("it serves on", scene.call(node, "echo") == "", f"from {node}")
    graves = [owned.owner for owned in observe.sets_of(scene.machine("a")) if owned.is_grave]
    scene.expect("what does not last of it is buried", graves == [scene.machine("d").key])
    scene.expect("a publisher may not", scene.unseeds("c", "echo").slug == "denied")
    second = scene.seeds("b", "echo", b"second", take_over=True)
    scene.becomes("updated", lambda: all(scene.seed_known(n, "echo") == second for n in nodes))
    scene.settles()
    scene.expect("withdrawn", scene.unseeds("a", "echo").slug == "")
    scene.becomes("out of use", lambda: not any(scene.seed_known(n, "echo") for n in nodes))
    scene.settles()
    # Its disk comes back from a drawer after all, with the old seed on it.
    scene.machine("d").is_gone = False
    scene.world.start("d")
    scene.settles()
    for node in (*nodes, "d"):
        scene.expect("stays withdrawn", scene.seed_known(node, "echo") == "", f"on {node}")
