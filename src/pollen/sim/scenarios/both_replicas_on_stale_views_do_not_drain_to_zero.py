"""Both replicas drain, each believing in the other: neither goes before a third one is ready."""

from __future__ import annotations

from pollen.core.commands import DrainCommand
from pollen.core.ids import MILLISECOND
from pollen.sim.scenarios.scene import Scene


def play(scene: Scene) -> None:
    scene.cluster(4)
    scene.seeds("a", "echo", min_replicas=1)
    scene.settles()
    scene.expect("one replica", len(scene.hosts("echo")) == 1)
    for machine in scene.world.machines.values():
        machine.content.update(scene.machine("a").content)
    scene.cuts(["a", "b"], ["c", "d"])
    scene.becomes("each half hosts it", lambda: len(scene.hosts("echo")) == 2)
    scene.heals()
    scene.becomes("they meet", lambda: scene.members_with("a", ["c", "d"]) == ["c", "d"])
    hosts = scene.hosts("echo")
    scene.expect("two replicas", len(hosts) == 2, str(hosts))
    scene.passes(0.5)
    # What they say from now on is lost: for each the other one stays as it was.
    network = scene.world.network
    network.full.update(hosts)
    asked = [(host, scene.world.ask_later(host, DrainCommand())) for host in hosts]
    for turn in range(1_500):
        if turn == 200:
            network.full.difference_update(hosts)
        scene.world.run(10 * MILLISECOND)
        scene.expect("somebody serves", scene.hosts("echo") != [], f"turn {turn}")
    others = [name for name in ("a", "b", "c", "d") if name not in hosts]
    for host, request in asked:
        scene.expect("an answer comes", request in scene.machine(host).replies)
        scene.world.kill(host)
        scene.machine(host).is_gone = True
    scene.expect("another one serves", scene.hosts("echo") != [])
    for node in others:
        scene.expect("a call succeeds", scene.call(node, "echo") == "", f"from {node}")
