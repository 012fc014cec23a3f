"""A node that says that it leaves is awaited for ten minutes before its blobs are copied again.

The last copy is handed over first, a death without a word is repaired at once.
"""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene

MIB = 1 << 20


def play(scene: Scene) -> None:
    nodes = scene.cluster(5)
    blobs = [f"blob-{i}" for i in range(20)]
    for i, name in enumerate(blobs):
        scene.seeds_file("a", name, 1 << (10 + i % 14), min_replicas=2)
    scene.becomes("two copies of each", lambda: _least(scene, blobs) == 2, within=60)
    scene.settles()
    _everybody_restarts(scene, nodes, blobs)
    _one_stays_away(scene, blobs)
    _one_dies_meanwhile(scene, blobs)
    _the_last_copy_is_handed_over(scene)


def _least(scene: Scene, blobs: list[str]) -> int:
    return min(len(scene.hosts(name)) for name in blobs)


def _fetched(scene: Scene) -> int:
    return scene.world.counts.get("blobs-fetched", 0)


def _everybody_restarts(scene: Scene, nodes: list[str], blobs: list[str]) -> None:
    """An upgrade, node by node: nothing is fetched, and all is as before."""
    before, held = _fetched(scene), {name: scene.hosts(name) for name in blobs}
    for node in nodes:
        scene.world.leave(node)
        scene.passes(20)
        scene.world.start(node)
        scene.passes(20)
    scene.expect("nothing is fetched", _fetched(scene) == before, f"{_fetched(scene) - before}")
    scene.settles()
    moved = [name for name in blobs if scene.hosts(name) != held[name]]
    scene.expect("no copy moved", not moved, " ".join(moved))


def _one_stays_away(scene: Scene, blobs: list[str]) -> None:
    before = _fetched(scene)
    scene.world.leave("d")
    scene.passes(9.5 * 60)
    scene.expect("it is awaited", _fetched(scene) == before, f"{_fetched(scene) - before}")
    for name in blobs:
        scene.expect("it is read meanwhile", scene.reads("b", name) == "", name)
    scene.becomes("then its copies are made", lambda: _least(scene, blobs) == 2, within=60)
    scene.expect("some were made", _fetched(scene) > before)
    scene.world.start("d")
    scene.settles()


def _one_dies_meanwhile(scene: Scene, blobs: list[str]) -> None:
    """Who died is not awaited, whoever else is."""
    scene.world.leave("e")
    scene.passes(10)
    scene.world.crash("d")
    scene.becomes("copies of the dead are made again", lambda: not _short(scene, blobs, "e"))
    for node in ("d", "e"):
        scene.world.start(node)
    scene.settles(90)


def _short(scene: Scene, blobs: list[str], awaited: str) -> list[str]:
    """The blobs of which the copies that are here and the one that is awaited are too few."""
    found = []
    for name in blobs:
        row = scene.machine("a").seeds[bytes.fromhex(scene.seed_known("a", name))]
        here = len(scene.hosts(name))
        if not here or here + (awaited in scene.disks_with(row.content)) < 2:
            found.append(name)
    return found


def _the_last_copy_is_handed_over(scene: Scene) -> None:
    scene.seeds_file("c", "single", 10 * MIB, min_replicas=1)
    scene.becomes("one copy", lambda: len(scene.hosts("single")) == 1)
    (holder,) = scene.hosts("single")
    scene.world.leave(holder)
    scene.expect("another has it at once", len(scene.hosts("single")) == 1, holder)
