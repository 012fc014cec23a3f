"""Cut halves each succeed the root: one successor stands, and what the other one denied is void.

Who is denied where, which half is first and who starts again afterwards is drawn by the number.
"""

from __future__ import annotations

from pollen.core.codec import Refusal
from pollen.core.commands import DenyCommand
from pollen.core.ids import PeerId
from pollen.core.rootwords import RootCommand
from pollen.sim.scenarios.scene import Scene
from pollen.sim.scenarios.the_root_is_succeeded_in_cut_halves import holds, succeeds
from pollen.sim.verdict import authority, observe


def play(scene: Scene) -> None:
    names = scene.cluster(6, admins=2)
    holds(scene, "b", scene.machine("a").root)
    scene.passes(3)
    scene.settles()
    others = names[2:]
    half = [others[0], *(n for n in others[2:] if scene.rng.below(2))]
    scene.cuts(["a", *half], [n for n in names if n not in ("a", *half)])
    order = (["a", "b"], ["b", "a"])[scene.rng.below(2)]
    heirs = {}
    for by in order:
        heirs[by] = succeeds(scene, by, 0)
        scene.passes(2 + scene.rng.below(3))
    first = scene.rng.below(4)
    targets = {"a": others[first], "b": others[(first + 1 + scene.rng.below(3)) % 4]}
    for by in "ab":
        reply = scene.world.command(by, DenyCommand(targets=[targets[by]]))
        scene.expect("denied by an heir", not reply.slug, f"{by}, {targets[by]}: {reply.slug}")
        scene.passes(scene.rng.below(4))
    standing, displaced = order
    out, back = targets[standing], targets[displaced]
    scene.machine(out).is_denied = True
    scene.heals()
    kept = [name for name in names if name != out]
    for name in kept:
        if scene.rng.below(2):
            scene.world.kill(name)
            scene.world.start(name)
            scene.passes(2)
    near = [name for name in kept if name != back]
    scene.becomes("who was denied in vain is back", lambda: in_all(scene, back, near), within=200)
    holds(scene, standing, heirs[standing])
    holds(scene, displaced, None)
    joined = scene.world.join("late", scene.world.invite(standing))
    scene.expect("a new one joins", not isinstance(joined, Refusal), str(joined)[:80])
    scene.passes(60)
    kept.append("late")
    agree(scene, kept, heirs[standing])
    scene.expect("both admins are members", {"a", "b"} <= set(kept))
    shown(scene, kept, heirs[displaced], back)


def in_all(scene: Scene, name: str, nodes: list[str]) -> bool:
    """Whether each of these nodes has a machine in its tables."""
    return scene.members_with(name, nodes) == nodes


def agree(scene: Scene, kept: list[str], heir: PeerId) -> None:
    """One line of roots, one set of denies, one set of certificates, at old nodes and new ones."""
    trusts = {name: observe.trust_of(scene.machine(name)) for name in kept}
    odd = [name for name in kept if list(trusts[name].roots)[1:] != [heir]]
    scene.expect("the-line-of-roots-agrees", not odd, f"{odd} have another line")
    keys = [machine.key for machine in scene.world.machines.values()]
    known = {
        name: [sorted(v.hash for v in trust.verdicts_of(key)) for key in keys]
        for name, trust in trusts.items()
    }
    odd = [name for name in kept if known[name] != known["late"]]
    scene.expect("denies-agree", not odd, f"{odd} hold other denies than late")
    for claim, found in authority.looked_at(scene.world).items():
        scene.expect(claim, not found, "; ".join(found[:2]))


def shown(scene: Scene, kept: list[str], heir: PeerId, denied: str) -> None:
    """Every node says which successor does not count, and whom it denied."""
    for name in kept:
        view = scene.world.ask(name, RootCommand())
        said = [(root.root, root.denied) for root in view.displaced]
        scene.expect("a void deny is shown", said == [(heir.hex(), [denied])], f"{name}: {said}")
