"""The root says in cut halves who may publish: at the end all count the same names, and no other.

Which policies, who is granted what, who publishes and where the cut runs is drawn by the number.
"""

from __future__ import annotations

from pollen.core.commands import GrantCommand, UnseedCommand
from pollen.core.rootwords import SetPolicyCommand
from pollen.sim.scenarios.scene import Scene
from pollen.sim.scenarios.the_root_is_succeeded_in_cut_halves import holds
from pollen.sim.verdict.publishing import POLICIES, names_wrongly_counted, wrongly_answered

ROUNDS = 3
ACTS = 8
NAMES = ("lab-one", "lab-two", "radio", "tv")


def play(scene: Scene) -> None:
    names = scene.cluster(6, leaves=1, admins=2)
    # The root key is on two machines, so that two halves set two policies of one number.
    holds(scene, "b", scene.machine("a").root)
    scene.passes(3)
    scene.settles()
    for _ in range(ROUNDS):
        half = [n for n in names[2:] if scene.rng.below(2)]
        scene.cuts(["a", *half], [n for n in names if n not in ("a", *half)])
        for _ in range(ACTS):
            acts(scene, names)
            scene.passes(1 + scene.rng.below(2))
        restarted = names[scene.rng.below(6)]
        scene.world.kill(restarted)
        scene.world.start(restarted)
        scene.heals()
        scene.passes(60)
        counted(scene, names)
    scene.settles(120)
    scene.world.ask("a", SetPolicyCommand(expression="true"))
    scene.passes(10)
    counted(scene, names)


def acts(scene: Scene, names: list[str]) -> None:
    """The root sets a policy, somebody is granted something, publishes or withdraws."""
    draw, node = scene.rng.below(8), names[scene.rng.below(6)]
    if draw < 2:
        texts = list(POLICIES)
        text = texts[scene.rng.below(len(texts))]
        command = SetPolicyCommand(expression=text, clear=not text)
        reply = scene.world.command("ab"[scene.rng.below(2)], command)
        scene.checks["policies"] = scene.checks.get("policies", 0) + (not reply.slug)
    elif draw < 3:
        drawn = ('{"lab":true}', '{"team":"red"}', '{"team":"blue"}')[scene.rng.below(3)]
        tier = ("leaf", "publisher", "")[scene.rng.below(3)] if node not in "ab" else ""
        grant = GrantCommand(target=node, properties=drawn, tier=tier)
        scene.world.command("ab"[scene.rng.below(2)], grant)
    elif draw < 4:
        name = NAMES[scene.rng.below(4)]
        reply = scene.world.command(node, UnseedCommand(target=name))
        scene.checks["withdrawn"] = scene.checks.get("withdrawn", 0) + (not reply.slug)
    else:
        name = NAMES[scene.rng.below(4)]
        reply = scene.world.seed(node, name, str(draw).encode(), take_over=True)
        odd = wrongly_answered(scene.machine(node), name, reply.slug)
        scene.expect("policy-agrees", not odd, odd)
        answer = "refused" if reply.slug else "published"
        scene.checks[answer] = scene.checks.get(answer, 0) + 1


def counted(scene: Scene, names: list[str]) -> None:
    """All hold one policy, and of the specs that they hold each counts that it lets, no other."""
    odd = names_wrongly_counted([scene.machine(name) for name in names])
    scene.expect("policy-agrees", not odd, "; ".join(odd[:2]))
