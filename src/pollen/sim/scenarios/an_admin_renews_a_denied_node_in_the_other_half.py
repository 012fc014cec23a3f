"""Denied in one half, leased again in the other: after the heal the deny holds all the same."""

from __future__ import annotations

from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict import observe


def play(scene: Scene) -> None:
    scene.cluster(5, admins=2)
    key = scene.machine("e").key
    scene.settles()
    scene.cuts(["a", "c"], ["b", "d", "e"])
    scene.passes(20)
    scene.world.deny("a", "e")
    scene.passes(5)
    before = observe.leases_of(scene.machine("b"), key)
    scene.days_pass(20)
    renewed = observe.leases_of(scene.machine("b"), key) - before
    scene.expect("b renewed the lease", bool(renewed))
    scene.expect("e is a member there", scene.is_member("b", "e"))
    scene.heals()
    others = ["a", "b", "c", "d"]
    scene.becomes("b hears of the deny", lambda: not scene.is_member("b", "e"), within=20)
    scene.becomes("e is out everywhere", lambda: not scene.members_with("e", others), within=10)
    scene.expect("e is cut", not scene.links_of("e"), str(scene.links_of("e")))
    scene.days_pass(20)
    scene.expect("e stays out", not scene.members_with("e", others))
    scene.settles()
