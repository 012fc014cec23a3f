"""Two admins grant, deny and undeny in cut halves: then all agree, and the denied are out.

Who acts on whom, when the halves meet and which node restarts is drawn by the run's number.
"""

from __future__ import annotations

from pollen.core.commands import DenyCommand, GrantCommand, UndenyCommand
from pollen.core.ids import PeerId
from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict import authority, observe

ROUNDS = 3
ACTS = 5


def play(scene: Scene) -> None:
    names = scene.cluster(4, admins=2)
    for name in ("e", "f"):
        scene.world.join(name, scene.world.invite("b"))
        scene.passes(3)
    names += ["e", "f"]
    if scene.rng.below(2):
        # The root key is on two machines: then both may do everything, and contradict each other.
        scene.machine("b").root = scene.machine("a").root
        scene.world.kill("b")
        scene.world.start("b")
    scene.passes(3)
    scene.settles()
    for _ in range(ROUNDS):
        half = [n for n in names if n not in ("a", "b") and scene.rng.below(2)]
        scene.cuts(["a", *half], [n for n in names if n not in ("a", *half)])
        subject = names[2 + scene.rng.below(4)]
        for _ in range(ACTS):
            act(scene, "ab"[scene.rng.below(2)], subject)
            scene.passes(scene.rng.below(3))
        restart(scene, names[1 + scene.rng.below(5)])
        scene.heals()
        scene.passes(scene.rng.below(20))
    for name in names:
        if not scene.machine(name).is_up:
            scene.world.start(name)
    scene.passes(150)
    trust = observe.trust_of(scene.machine("a"))
    for name in names:
        scene.machine(name).is_denied = trust.is_denied(scene.machine(name).key)
    scene.settles(120)
    for claim, odd in authority.looked_at(scene.world).items():
        scene.expect(claim, not odd, "; ".join(odd[:2]))
    kept = [n for n in names if not scene.machine(n).is_denied]
    scene.expect("both admins are members", {"a", "b"} <= set(kept))
    for name in kept[2:3]:
        scene.world.ask("a", GrantCommand(target=name, properties='{"n":99}'))
        key = scene.machine(name).key

        def counts(at: str, key: PeerId = key) -> bool:
            return '"n":99' in observe.certificates_of(scene.machine(at))[key].properties

        scene.becomes("all count the grant", lambda: all(map(counts, kept)), within=5)


def act(scene: Scene, by: str, subject: str) -> None:
    """One act of an admin; many are refused, for want of authority or because it is so already."""
    draw = scene.rng.below(8)
    command: GrantCommand | DenyCommand | UndenyCommand
    if draw < 3:
        command = GrantCommand(target=subject, properties=f'{{"n":{scene.rng.below(9)}}}')
    elif draw < 5:
        command = GrantCommand(target=subject, tier=("leaf", "publisher")[scene.rng.below(2)])
    elif draw < 7:
        command = DenyCommand(targets=[subject])
    else:
        command = UndenyCommand(target=subject)
    reply = scene.world.command(by, command)
    scene.world.trace.note(scene.world.now, by, "trust", f"{type(command).__name__} {subject}")
    scene.checks["acts"] = scene.checks.get("acts", 0) + (not reply.slug)


def restart(scene: Scene, name: str) -> None:
    """A crash and a start, in half of the rounds."""
    if scene.rng.below(2):
        scene.world.kill(name)
        scene.world.start(name)
