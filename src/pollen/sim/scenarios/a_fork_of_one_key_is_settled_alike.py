"""Two copies of a node wrote different things under one version and are gone: all keep the same."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict import observe


def play(scene: Scene) -> None:
    scene.cluster(5)
    scene.settles()
    scene.world.crash("e")
    scene.world.copy("copy-of-e", "e")
    scene.cuts(["a", "b", "e"], ["c", "d", "copy-of-e"])
    scene.passes(10)
    for name in ("e", "copy-of-e"):
        data = f"as {name} has it".encode()
        scene.world.start(name)
        scene.world.ask_later(name, scene.world.seed_command(name, "echo", data))
    scene.passes(10)
    one = observe.records_of(scene.machine("a"))
    other = observe.records_of(scene.machine("c"))
    forked = [
        key
        for key, record in one.items()
        if key in other
        and record.version == other[key].version
        and record.digest != other[key].digest
    ]
    scene.expect("one version has two bodies", bool(forked))
    scene.world.crash("e")
    scene.world.crash("copy-of-e")
    scene.heals()
    scene.settles()
    known = {scene.seed_known(node, "echo") for node in ("a", "b", "c", "d")}
    scene.expect("one of the two stands", len(known) == 1 and "" not in known, str(known))
