"""The root is succeeded in one half while its old key signs in the other: all count both.

Who acts when, on whom, and how often the halves meet is drawn by the run's number.
"""

from __future__ import annotations

from pollen.core.commands import DenyCommand, GrantCommand, UndenyCommand
from pollen.core.ids import PeerId
from pollen.core.rootwords import SucceedCommand
from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict import authority, observe
from pollen.sim.world.keys import make_key

ROUNDS = 2
ACTS = 4  # With as many successions at most: no more than the line takes.


def play(scene: Scene) -> None:
    names = scene.cluster(6, admins=2)
    made = [scene.machine("a").root]
    holds(scene, "b", made[0])
    scene.passes(3)
    scene.settles()
    for number in range(ROUNDS):
        half = [n for n in names[2:] if scene.rng.below(2)]
        scene.cuts(["a", *half], [n for n in names if n not in ("a", *half)])
        for _ in range(ACTS):
            acts(scene, "ab"[scene.rng.below(2)], names[2 + scene.rng.below(4)])
            if scene.rng.below(2):
                made.append(succeeds(scene, "a", number))
            scene.passes(scene.rng.below(4))
        scene.heals()
        scene.passes(60 + scene.rng.below(20))
    scene.passes(150)
    trust = observe.trust_of(scene.machine("a"))
    for name in names:
        scene.machine(name).is_denied = trust.is_denied(scene.machine(name).key)
    kept = [n for n in names if not scene.machine(n).is_denied]
    lines = {name: list(observe.trust_of(scene.machine(name)).roots) for name in kept}
    odd = [name for name in kept if lines[name] != made]
    scene.expect("the-line-of-roots-agrees", not odd, f"{odd} have another line")
    for claim, found in authority.looked_at(scene.world).items():
        scene.expect(claim, not found, "; ".join(found[:2]))
    for name in kept:
        issuers = {PeerId(c.issuer) for c in observe.certificates_of(scene.machine(name)).values()}
        strange = [i for i in issuers - set(lines["a"]) if i not in scene.world.by_key]
        scene.expect("nobody counts a root outside the line", not strange, name)
    scene.expect("both admins are members", {"a", "b"} <= set(kept))
    newest_signs(scene, lines["a"][-1], kept)


def holds(scene: Scene, name: str, root: PeerId | None) -> None:
    """This key is the one in the machine's folder, and its node has started with it."""
    scene.machine(name).root = root
    scene.world.kill(name)
    scene.world.start(name)
    scene.passes(2)


def succeeds(scene: Scene, name: str, number: int) -> PeerId:
    """A node has its root sign a new key, which takes its place."""
    fresh = make_key(f"root-{name}-{number}-{scene.rng.below(1 << 30)}")
    scene.world.ask(name, SucceedCommand(successor=fresh.hex()))
    scene.world.trace.note(scene.world.now, name, "trust", "succeeds")
    scene.checks["successions"] = scene.checks.get("successions", 0) + 1
    holds(scene, name, fresh)
    return fresh


def acts(scene: Scene, by: str, subject: str) -> None:
    """One act that a root signs; many are refused, because it is so already."""
    draw = scene.rng.below(6)
    command: GrantCommand | DenyCommand | UndenyCommand
    if draw < 2:
        command = GrantCommand(target=subject, properties=f'{{"n":{scene.rng.below(9)}}}')
    elif draw < 3:
        command = GrantCommand(target=subject, tier="admin")
    elif draw < 4:
        command = GrantCommand(target=subject, tier="leaf")
    elif draw < 5:
        command = DenyCommand(targets=[subject])
    else:
        command = UndenyCommand(target=subject)
    reply = scene.world.command(by, command)
    scene.world.trace.note(scene.world.now, by, "trust", f"{type(command).__name__} {subject}")
    scene.checks["acts"] = scene.checks.get("acts", 0) + (not reply.slug)


def newest_signs(scene: Scene, root: PeerId, kept: list[str]) -> None:
    """The root that stands makes an admin, and all count it."""
    holds(scene, "a", root)
    scene.settles(120)
    chosen = kept[-1]
    scene.world.ask("a", GrantCommand(target=chosen, tier="admin", properties='{"n":99}'))
    key = scene.machine(chosen).key

    def counts(at: str) -> bool:
        held = observe.certificates_of(scene.machine(at)).get(key)
        return held is not None and '"n":99' in held.properties

    scene.becomes("all count the newest root", lambda: all(map(counts, kept)), within=10)
