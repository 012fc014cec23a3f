"""An update has room on no machine: the version before serves on, also after its hosts restart."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene

_GIB = 1 << 30
# Two of them do not fit on a machine.
_LARGE = 640 << 20


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    scene.seeds("a", "echo", min_replicas=2)
    scene.becomes("two host it", lambda: len(scene.hosts("echo")) == 2)
    old = scene.seed_known("a", "echo")
    scene.seeds("a", "echo", b"large", min_replicas=2, memory_bytes=2 * _GIB)
    scene.passes(10)
    for name in _loaded(scene, nodes, old):
        scene.world.crash(name)
        scene.passes(20)
        scene.world.start(name)
        _serves_on(scene, nodes, old)
    # The publisher is gone, and a machine that never ran it takes its copy from another one.
    scene.world.crash("a")
    _serves_on(scene, [name for name in nodes if name != "a"], old)
    scene.world.start("a")
    for name in nodes:
        scene.world.crash(name)
    scene.passes(30)
    for name in nodes:
        scene.world.start(name)
    _serves_on(scene, nodes, old)
    scene.seeds("a", "echo", b"small", min_replicas=2)
    scene.becomes("what fits takes over", lambda: len(scene.hosts("echo")) == 2, within=60)
    scene.becomes("the first is gone", lambda: not _loaded(scene, nodes, old), within=60)
    scene.settles()
    _fits_alone(scene, nodes)


def _fits_alone(scene: Scene, nodes: list[str]) -> None:
    """An update that has no room beside the version before: whoever starts again tries it first."""
    scene.seeds("b", "wide", min_replicas=4, memory_bytes=_LARGE)
    scene.becomes("all host it", lambda: len(scene.hosts("wide")) == 4)
    old = scene.seed_known("b", "wide")
    scene.seeds("b", "wide", b"next", min_replicas=4, memory_bytes=_LARGE)
    scene.passes(20)
    scene.expect("the old one serves", _loaded(scene, nodes, old) == nodes)
    scene.world.crash("c")
    scene.passes(5)
    scene.world.start("c")
    scene.becomes("it came in", lambda: "c" in scene.hosts("wide"), within=60)


def _loaded(scene: Scene, nodes: list[str], seed: str) -> list[str]:
    machines = [scene.machine(name) for name in nodes]
    return [m.name for m in machines if m.is_up and bytes.fromhex(seed) in m.loaded]


def _serves_on(scene: Scene, nodes: list[str], old: str) -> None:
    scene.becomes("two serve the old one", lambda: len(_loaded(scene, nodes, old)) >= 2, within=60)
    scene.passes(5)
    for name in nodes:
        scene.expect("a call succeeds", scene.call(name, "echo") == "", f"from {name}")
