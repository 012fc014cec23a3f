"""Machines that are killed over and over take no new copies: those that they have all stay."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene

_MIB = 1 << 20


def play(scene: Scene) -> None:
    nodes = scene.cluster(3)
    film = scene.seeds_file("a", "film", 64 * _MIB, min_replicas=2)
    scene.becomes("two copies", lambda: len(scene.hosts("film")) == 2)
    for _ in range(6):
        for name in nodes:
            scene.world.crash(name)
            scene.passes(2)
            scene.world.start(name)
            scene.passes(5)
    (view,) = scene.status("a").seeds
    scene.expect("nobody is open", view.wanted == 0, str(view.wanted))
    for _ in range(60):
        scene.passes(1)
        held = scene.disks_with(film)
        scene.expect("both copies stay", len(held) >= 2, str(held))
    (view,) = scene.status("b").seeds
    scene.expect("both are ready", view.ready == 2, str(view.replicas))
    scene.passes(600)
    scene.settles()
