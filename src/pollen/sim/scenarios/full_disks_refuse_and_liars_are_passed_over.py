"""A disk without room refuses a blob and says so; wrong bytes are refused, and others are asked."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene

MIB = 1 << 20


def play(scene: Scene) -> None:
    nodes = scene.cluster(5)
    _three_of_which_two_fit(scene, nodes)
    _a_disk_that_fills_meanwhile(scene)
    _a_holder_lies(scene)


def _three_of_which_two_fit(scene: Scene, nodes: list[str]) -> None:
    """At once, so that none of the three is there when room is looked for."""
    scene.machine("e").disk_bytes = 50 * MIB
    scene.passes(3)
    for name in ("one", "two", "three"):
        scene.seeds_file("a", name, 20 * MIB, everywhere=True)
    scene.becomes("the others have all", lambda: _count(scene, nodes[:4]) == 12, within=60)
    scene.becomes("it has two", lambda: _count(scene, ["e"]) == 2, within=60)
    reasons = _refusals(scene)
    expected = {"no room: needs 20 MiB, 10 MiB are free on the disk"}
    scene.expect("the claim says why", reasons == expected, str(reasons))
    scene.settles()
    for name in ("one", "two", "three"):
        scene.expect("it reads what it has no room for", scene.reads("e", name) == "", name)


def _count(scene: Scene, nodes: list[str]) -> int:
    hosts = [scene.hosts(name) for name in ("one", "two", "three")]
    return sum(node in held for held in hosts for node in nodes)


def _refusals(scene: Scene) -> set[str]:
    replicas = [replica for view in scene.status("a").seeds for replica in view.replicas]
    return {replica.reason for replica in replicas if replica.state == "refused"}


def _a_disk_that_fills_meanwhile(scene: Scene) -> None:
    """The brain could not know: the muscles find it, and the refusal carries their word."""
    scene.machine("d").sends_bytes_s = scene.machine("a").sends_bytes_s = MIB
    scene.seeds_file("a", "late", 20 * MIB, everywhere=True)
    scene.passes(2)
    machine = scene.machine("b")
    machine.foreign_bytes = machine.free_bytes - 5 * MIB
    full = "storage-full: no space left on the disk"
    scene.becomes("it says so", lambda: full in _refusals(scene), within=240)
    scene.expect("nothing is overfilled", machine.free_bytes == 5 * MIB, str(machine.free_bytes))
    machine.foreign_bytes = 0
    scene.machine("d").sends_bytes_s = scene.machine("a").sends_bytes_s = 10 * MIB
    scene.becomes("it is tried again", lambda: "b" in scene.hosts("late"), within=400)


def _a_holder_lies(scene: Scene) -> None:
    """Its publisher sends wrong bytes: whoever needs a copy has it from another holder."""
    scene.seeds_file("c", "film", 30 * MIB, min_replicas=3)
    scene.becomes("three copies", lambda: len(scene.hosts("film")) == 3, within=60)
    scene.machine("c").sends_wrong = True
    before = scene.world.counts.get("wrong-bytes-refused", 0)
    scene.world.crash(next(name for name in scene.hosts("film") if name not in ("a", "c")))
    scene.becomes("another has it", lambda: len(scene.hosts("film")) == 3, within=60)
    refused = scene.world.counts.get("wrong-bytes-refused", 0) - before
    scene.expect("wrong bytes were refused", refused > 0, "none")
