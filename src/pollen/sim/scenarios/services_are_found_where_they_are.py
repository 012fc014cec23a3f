"""Names are served, joined and taken over in cut halves: then all find them with who serves them.

Who serves what, who restarts, whose tier changes and where the cut runs is drawn by the number.
"""

from __future__ import annotations

from pollen.core.commands import Command, GrantCommand
from pollen.core.servicewords import ServeCommand, UnserveCommand
from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict.serving import services_wrongly_told

ROUNDS = 3
ACTS = 10
NAMES = ("api", "db", "dns", "nas")


def play(scene: Scene) -> None:
    names = scene.cluster(6, leaves=1, admins=2)
    scene.settles()
    for _ in range(ROUNDS):
        half = [n for n in names[1:] if scene.rng.below(2)]
        scene.cuts(["a", *(n for n in names[1:] if n not in half)], half)
        for _ in range(ACTS):
            acts(scene, names)
            scene.passes(1 + scene.rng.below(2))
        restarted = names[scene.rng.below(6)]
        scene.world.kill(restarted)
        scene.world.start(restarted)
        scene.heals()
        scene.passes(60)
        told(scene, names)
    down = names[2 + scene.rng.below(4)]
    scene.world.kill(down)
    scene.passes(60)
    told(scene, [name for name in names if name != down])
    scene.world.start(down)
    scene.settles(120)
    told(scene, names)


def acts(scene: Scene, names: list[str]) -> None:
    """Somebody serves, alone, beside others or over them, ends that, or has another tier."""
    draw, node = scene.rng.below(8), names[scene.rng.below(6)]
    name = NAMES[scene.rng.below(4)]
    if draw < 2:
        command: Command = UnserveCommand(name=name, everywhere=bool(scene.rng.below(2)))
        word = "unserved"
    elif draw < 3:
        tier = ("leaf", "publisher")[scene.rng.below(2)] if node not in "ab" else ""
        scene.world.command("a", GrantCommand(target=node, tier=tier))
        return
    else:
        way = scene.rng.below(3)
        target = f"{'udp:' if scene.rng.below(8) == 0 else ''}{8_000 + scene.rng.below(9)}"
        command = ServeCommand(name=name, target=target, beside=way == 1, take_over=way == 2)
        word = ("served", "served beside", "taken over")[way]
    reply = scene.world.command(node, command)
    word = word if not reply.slug else f"refused as {reply.slug}"
    scene.checks[word] = scene.checks.get(word, 0) + 1


def told(scene: Scene, names: list[str]) -> None:
    """The muscles of all try for each name the nodes that serve it and live, and no others."""
    odd = services_wrongly_told([scene.machine(name) for name in names])
    scene.expect("services-agree", not odd, "; ".join(odd[:2]))
