"""Purged, the key kept, joined again by a token: it jumps above its old word and publishes on."""

from __future__ import annotations

from pollen.core.codec import Refusal
from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    nodes = scene.cluster(4)
    old = scene.seeds("b", "echo")
    scene.settles()
    machine = scene.machine("b")
    scene.world.kill("b")
    machine.disk.replace({})
    machine.content.clear()
    scene.passes(5)
    joined = scene.world.join("b", scene.world.invite("a"))
    scene.expect("it may join", not isinstance(joined, Refusal), str(joined)[:80])
    scene.becomes("it knows its own seed again", lambda: scene.seed_known("b", "echo") == old)
    scene.passes(1)
    new = scene.seeds("b", "echo", b"second")
    scene.becomes(
        "its update is heard", lambda: all(scene.seed_known(n, "echo") == new for n in nodes)
    )
    scene.settles()
