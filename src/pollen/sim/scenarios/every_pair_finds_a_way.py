"""Machines behind routers of every kind are linked with each other, through others where they must.

What stands before each machine, who passes on for others, which two public machines cannot reach
each other and who dies is drawn by the number.
"""

from __future__ import annotations

from pollen.core.commands import DenyCommand
from pollen.sim.muscles.ways import Router
from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict import reaching
from pollen.sim.verdict.trial import node_names
from pollen.sim.world.machine import Machine

HIDDEN = (Router.CONE, Router.HOME, Router.SYMMETRIC)


def play(scene: Scene) -> None:
    count = 5 + scene.rng.below(5)
    names = node_names(count)
    public, hidden = names[:3], names[3:]
    scene.world.found_all(names, admins=names[:1])
    for name in hidden:
        router = HIDDEN[scene.rng.below(3)]
        scene.world.network.put_behind(scene.machine(name), router)
        scene.checks[router.value] = scene.checks.get(router.value, 0) + 1
    unwilling = hidden[scene.rng.below(len(hidden))]
    scene.machine(unwilling).relays = False
    scene.world.kill(unwilling)
    scene.world.start(unwilling)
    filtered = scene.rng.below(2) == 0
    if filtered:
        # Two public machines that cannot reach each other: the third is between them.
        scene.cuts(["b"], ["c"])
    scene.passes(1)
    all_reach(scene, names, within=15)
    links = meshed_links(scene, names)
    dies = public[1 + scene.rng.below(2)]
    scene.world.crash(dies)
    left = [name for name in names if name != dies]
    all_reach(scene, left, within=15)
    kept = meshed_links(scene, left)
    lost = [pair for pair in links if dies not in pair and links[pair] != kept.get(pair)]
    scene.expect("links-outlive-a-relay", not lost, f"new links: {lost}")
    scene.world.start(dies)
    all_reach(scene, names, within=60)
    falls_back(scene, names)
    denied = hidden[scene.rng.below(len(hidden))]
    scene.world.command("a", DenyCommand(targets=[denied]))
    scene.passes(1)
    rows = scene.members_with(denied, [name for name in names if name != denied])
    scene.expect("a-denied-member-is-not-passed-on", not rows, f"rows stand at {rows}")


def falls_back(scene: Scene, names: list[str]) -> None:
    """The direct path of a pair that once went through others is cut, and opens again."""
    network = scene.world.network
    able = [
        (name, end.other.machine.name, end.link)
        for name in names
        for end in network.ends_of(scene.machine(name))
        if end.began_meshed and not end.is_meshed and end.dialled and end.other is not None
    ]
    if not able:
        return
    one, other, link = able[scene.rng.below(len(able))]
    scene.cuts([one], [other])
    all_reach(scene, names, within=5)
    scene.heals()
    all_reach(scene, names, within=10)
    end = network.routed(scene.machine(one), scene.machine(other).key)
    is_same = end is not None and end.link == link
    scene.expect("a-link-outlives-its-direct-path", is_same, f"{one} {other}")


def all_reach(scene: Scene, names: list[str], *, within: float) -> None:
    """Every pair is linked, directly wherever that is possible, and no packet turns."""
    network = scene.world.network
    machines = [scene.machine(name) for name in names]

    def may_be_direct(one: Machine, other: Machine) -> bool:
        return network.ways.may_be_direct(one, other) and not network.weather.is_cut(one, other)

    def odd() -> list[str]:
        wrong = reaching.pairs_on_the_wrong_way(machines, network, may_be_direct)
        return [*reaching.pairs_without_a_path(machines, network), *wrong]

    held = scene.world.run_until(lambda: not odd(), int(within * 1_000_000_000))
    scene.expect("every-live-pair-has-a-path", held, "; ".join(odd()[:4]))
    # Rows follow what changed within two looks of the muscles.
    scene.passes(2)
    turning = reaching.circles(machines, network)
    unwilling = {machine.key for machine in machines if not machine.relays}
    asked = [m.name for m in machines for row in m.peers.values() if unwilling & {*row.hops}]
    scene.expect("only-the-willing-pass-on", not asked, f"{asked} would ask others")
    scene.expect("no-forwarding-loop", not turning, "; ".join(turning[:2]))


def meshed_links(scene: Scene, names: list[str]) -> dict[tuple[str, str], int]:
    """The links whose packets go through others, by their pair."""
    found: dict[tuple[str, str], int] = {}
    for name in names:
        for end in scene.world.network.ends_of(scene.machine(name)):
            if end.is_meshed and end.is_routed and end.other is not None:
                found[name, end.other.machine.name] = end.link
    return found
