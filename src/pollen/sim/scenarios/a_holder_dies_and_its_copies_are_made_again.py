"""A holder of blobs dies unannounced: within half a minute each has as many copies as before.

Two hundred blobs of mixed sizes; then one whose publisher is gone moves to another disk.
"""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene

COUNT = 200
MIB = 1 << 20
# A line of 1 Gbit/s.
LINE_BYTES_S = 100_000_000


def play(scene: Scene) -> None:
    nodes = scene.cluster(5)
    for machine in scene.world.machines.values():
        machine.sends_bytes_s = LINE_BYTES_S
    blobs = [f"blob-{i}" for i in range(COUNT)]
    for i, name in enumerate(blobs):
        scene.seeds_file(nodes[i % 5], name, 1 << (10 + i % 17), min_replicas=2)
    scene.becomes("two copies of each", lambda: not _short_of(scene, blobs), within=60)
    scene.settles()
    scene.dies("d")
    scene.becomes("two copies again", lambda: not _short_of(scene, blobs), within=30)
    scene.settles()
    for name in blobs[::20]:
        scene.expect("it is read", scene.reads("b", name) == "", name)
    _the_last_copy_moves(scene)
    _what_is_unseeded_leaves_the_disks(scene, blobs)


def _short_of(scene: Scene, blobs: list[str]) -> list[str]:
    return [name for name in blobs if len(scene.hosts(name)) < 2]


def _the_last_copy_moves(scene: Scene) -> None:
    """Its holder's disk fills: the copy goes elsewhere, and leaves when it is there."""
    scene.seeds_file("c", "single", 64 * MIB, min_replicas=1)
    scene.becomes("one copy", lambda: len(scene.hosts("single")) == 1)
    if scene.hosts("single") == ["c"]:
        scene.machine("c").foreign_bytes = scene.machine("c").free_bytes - MIB
        scene.becomes("it leaves c", lambda: scene.hosts("single") not in ([], ["c"]), within=60)
    scene.dies("c")
    scene.passes(10)
    (holder,) = scene.hosts("single")
    scene.machine(holder).foreign_bytes = scene.machine(holder).free_bytes - MIB
    scene.becomes("it moves", lambda: scene.hosts("single") not in ([], [holder]), within=60)
    scene.settles()
    for name in ("a", "b", "e"):
        scene.expect("it is read", scene.reads(name, "single") == "", name)


def _what_is_unseeded_leaves_the_disks(scene: Scene, blobs: list[str]) -> None:
    """Also that of its publisher, who may hold no copy that counts."""
    for name in blobs[:5]:
        row = scene.machine("a").seeds[bytes.fromhex(scene.seed_known("a", name))]
        publisher = scene.world.by_key[row.publisher].name
        if publisher in "abe":
            scene.unseeds(publisher, name)
            scene.passes(2)
            left = scene.disks_with(row.content)
            scene.expect("it left the disks", not left, f"{name} of {publisher}: {left}")
