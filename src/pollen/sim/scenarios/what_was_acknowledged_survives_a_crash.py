"""The node crashes in the moment in which it says yes: what it said yes to stands."""

from __future__ import annotations

from functools import partial

from pollen.core.ids import MILLISECOND, SECOND
from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(3)
    scene.world.persist_ns = 200 * MILLISECOND
    step = MILLISECOND
    for turn in range(6):
        name = f"echo-{turn}"
        scene.cuts(["b"], ["a", "c"])
        request = scene.world.ask_later("b", scene.world.seed_command("b", name))
        replies = scene.machine("b").replies
        said = scene.world.run_until(partial(replies.__contains__, request), 20 * SECOND, step)
        scene.expect("an answer comes", said)
        scene.world.crash("b")
        scene.heals()
        scene.passes(1)
        scene.world.start("b")
        scene.passes(10)
        for node in nodes:
            known = scene.seed_known(node, name)
            scene.expect("nothing-acknowledged-lost", known != "", f"{name} on {node}")
