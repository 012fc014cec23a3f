"""A seed that may be zero runs nowhere; callers on all nodes at once wake it on one of them."""

from __future__ import annotations

from pollen.core import limits
from pollen.core.ids import MILLISECOND, SECOND
from pollen.core.rng import Rng
from pollen.sim.mischief.workload import Workload
from pollen.sim.muscles import modules
from pollen.sim.scenarios.scene import Scene

CALLERS = 10


def play(scene: Scene) -> None:
    nodes = scene.cluster(5)
    scene.seeds("b", "echo", min_replicas=0)
    scene.passes(5)
    scene.expect("nobody loads it", scene.hosts("echo") == [])
    _all_call(scene, nodes, 1)
    scene.settles()
    hosts = scene.hosts("echo")
    scene.passes(limits.DEMAND_KEEP_NS // SECOND - 60)
    scene.expect("it stays while it was called lately", scene.hosts("echo") == hosts)
    scene.becomes("it goes to sleep", lambda: scene.hosts("echo") == [], within=90)
    kept = modules.content_id(b"module") in scene.machine(hosts[0]).content
    scene.expect("who ran it last keeps the module", kept)
    _all_call(scene, nodes, 2)
    scene.settles()


def _all_call(scene: Scene, nodes: list[str], wakes: int) -> None:
    """Many callers on every node, in the same moment."""
    workload = Workload(scene.world, Rng(scene.rng.draw()), names=0, calls_per_second=1)
    machines = [scene.machine(node) for node in nodes for _ in range(CALLERS)]
    calls = [workload.call(machine, "echo", idempotent=False) for machine in machines]
    scene.becomes("all are answered", lambda: all(call.ended for call in calls), within=6)
    failed = sorted({f"{call.slug}: {call.reason}" for call in calls if call.has_failed})
    scene.expect("no call failed", not failed, "; ".join(failed))
    scene.expect("one host", len({call.ran_on for call in calls}) == 1)
    scene.expect("one wake", scene.world.counts["wakes"] == wakes)
    slowest = max(call.ended - call.began for call in calls)
    scene.expect("nobody waits for the plan", slowest < 600 * MILLISECOND, f"{slowest} ns")
