"""A replica whose check fails is not called: others host the seed, the old version serves on."""

from __future__ import annotations

from pollen.core.ids import SECOND
from pollen.core.rng import Rng
from pollen.sim.mischief.workload import Workload
from pollen.sim.scenarios.scene import Scene

WHY = "check `run` failed: guest-failed: what it looks for is not on this machine"


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    scene.machine("d").fails_checks = True
    scene.seeds("a", "echo", check="run", min_replicas=3)
    scene.becomes("three others host it", lambda: scene.hosts("echo") == ["a", "b", "c"])
    scene.settles()
    _all_call(scene, nodes)
    _is_never_called(scene, "d")
    _nobody_passes(scene, nodes)
    _a_sleeper_is_checked(scene, nodes)


def _is_never_called(scene: Scene, name: str) -> None:
    """It loads the seed as often as it tries, and no row names it."""
    key = scene.machine(name).key
    for machine in scene.world.machines.values():
        routed = any(key in row.replicas for row in machine.seeds.values())
        scene.expect("nobody routes to it", not routed, machine.name)


def _nobody_passes(scene: Scene, nodes: list[str]) -> None:
    """An update that fails everywhere: the version before answers, and each host says why not."""
    first = scene.hosts("echo")
    old = bytes.fromhex(scene.seed_known("a", "echo"))
    for node in nodes:
        scene.machine(node).fails_checks = True
    scene.seeds("a", "echo", b"next", check="run", min_replicas=3)
    scene.passes(15)
    _all_call(scene, nodes)
    kept = [name for name in first if old in scene.machine(name).loaded]
    scene.expect("the old version serves on", kept == first, f"{kept} of {first}")
    (view,) = scene.status("a").seeds
    reasons = {replica.reason for replica in view.replicas if replica.state == "refused"}
    scene.expect("the claim says why", reasons == {WHY}, str(reasons))
    for node in nodes:
        scene.machine(node).fails_checks = False
    scene.becomes("it is tried again", lambda: len(scene.hosts("echo")) == 3, within=60)
    gone = [name for name in nodes if old in scene.machine(name).loaded]
    scene.passes(30)
    gone = [name for name in nodes if old in scene.machine(name).loaded]
    scene.expect("the new version took over", not gone, str(gone))
    scene.settles()


def _a_sleeper_is_checked(scene: Scene, nodes: list[str]) -> None:
    """A call that wakes a seed waits for its check; a rank that fails it is passed over."""
    scene.seeds("b", "naps", b"naps", check="run", min_replicas=0)
    scene.passes(5)
    ranks = scene.world.machines["a"].plane
    scene.expect("it sleeps", ranks is not None and scene.hosts("naps") == [])
    row = scene.machine("a").seeds[bytes.fromhex(scene.seed_known("a", "naps"))]
    first = scene.world.by_key[row.wake[0]]
    first.fails_checks = True
    workload = Workload(scene.world, Rng(scene.rng.draw()), names=0, calls_per_second=1)
    calls = [workload.call(scene.machine(node), "naps", idempotent=False) for node in nodes]
    scene.becomes("all are answered", lambda: all(call.ended for call in calls), within=6)
    failed = sorted({f"{call.slug}: {call.reason}" for call in calls if call.has_failed})
    scene.expect("no call failed", not failed, "; ".join(failed))
    ran = {scene.world.by_key[call.ran_on].name for call in calls if call.ran_on}
    scene.expect("not where the check failed", first.name not in ran, str(ran))
    slowest = max(call.ended - call.began for call in calls)
    scene.expect("the check costs a moment", slowest < SECOND, f"{slowest} ns")


def _all_call(scene: Scene, nodes: list[str]) -> None:
    for node in nodes:
        scene.expect("a call succeeds", scene.call(node, "echo") == "", f"from {node}")
