"""All nodes lose power, the publisher's disk is gone, others fill: every blob is found again."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene

MIB = 1 << 20


def play(scene: Scene) -> None:
    nodes = scene.cluster(6)
    blobs = {f"blob-{i}": scene.seeds_file("a", f"blob-{i}", MIB << i % 5) for i in range(12)}
    scene.becomes("two copies", lambda: all(len(scene.hosts(n)) == 2 for n in blobs), within=60)
    scene.settles()
    scene.dies("a")
    for name in nodes[1:]:
        scene.world.crash(name)
    # The disks that have copies have little room left: the plan ranks others.
    for machine in map(scene.machine, ("b", "c", "d")):
        machine.foreign_bytes = machine.free_bytes - 4 * MIB
    scene.passes(5)
    for name in nodes[1:]:
        scene.world.start(name)
    scene.settles()
    alive = [name for name, content in blobs.items() if scene.disks_with(content)]
    scene.expect("most have a disk that lives", len(alive) > 6, str(alive))
    for name in alive:
        scene.expect("it is read", scene.reads("f", name) == "", name)
