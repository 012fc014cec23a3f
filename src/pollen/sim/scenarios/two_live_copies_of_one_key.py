"""A copied disk runs beside its original: everybody is told, nobody else's view suffers."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    scene.cluster(4)
    scene.seeds("a", "echo", min_replicas=2)
    scene.settles()
    scene.world.copy("twin", "d")
    scene.world.start("twin")
    told = "two live processes use the key of d; there: pln down, in one of both"
    everybody = ("a", "b", "c", "d", "twin")
    scene.becomes(
        "status says it everywhere",
        lambda: all(told in scene.status(node).warnings for node in everybody),
        within=60,
    )
    others = ("a", "b", "c")
    scene.world.ask_later("d", scene.world.seed_command("d", "of-d"))
    scene.world.ask_later("twin", scene.world.seed_command("twin", "of-the-twin"))
    for _ in range(60):
        scene.passes(1)
        for node in others:
            missing = [n for n in others if not scene.is_member(node, n)]
            scene.expect("the others keep each other", not missing, f"{node} lost {missing}")
        scene.expect("a call succeeds", scene.call("b", "echo") == "")
    scene.world.kill("twin")
    scene.machine("twin").is_gone = True
    scene.settles()
    for name in ("of-d", "of-the-twin"):
        known = {scene.seed_known(node, name) for node in (*others, "d")}
        scene.expect("what either published stands", len(known) == 1 and "" not in known, name)
