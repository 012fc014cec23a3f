"""Cut halves each succeed the root: one successor stands, and what the other denied stays denied.

Who is denied where, which half is first and who starts again afterwards is drawn by the number.
"""

from __future__ import annotations

from pollen.core.codec import Refusal
from pollen.core.commands import DenyCommand
from pollen.core.ids import PeerId
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
    heirs = {}
    for by in ("ab", "ba")[scene.rng.below(2)]:
        heirs[by] = succeeds(scene, by, 0)
        scene.passes(2 + scene.rng.below(3))
    first = scene.rng.below(4)
    for by, target in (("a", others[first]), ("b", others[(first + 1 + scene.rng.below(3)) % 4])):
        reply = scene.world.command(by, DenyCommand(targets=[target]))
        scene.expect("denied by an heir", not reply.slug, f"{by}, {target}: {reply.slug}")
        scene.passes(scene.rng.below(4))
    scene.heals()
    scene.passes(150)
    kept = counted(scene, names)
    for name in [n for n in kept if scene.rng.below(2)]:
        scene.world.kill(name)
        scene.world.start(name)
        scene.passes(2)
    made = list(observe.trust_of(scene.machine("a")).roots)
    standing = "a" if heirs["a"] in made else "b"
    holds(scene, standing, heirs[standing])
    holds(scene, "ab".replace(standing, ""), None)
    joined = scene.world.join("late", scene.world.invite(standing))
    scene.expect("a new one joins", not isinstance(joined, Refusal), str(joined)[:80])
    scene.passes(60)
    agree(scene, [*kept, "late"], heirs)


def counted(scene: Scene, names: list[str]) -> list[str]:
    """Mark whom node a takes for denied; who is left."""
    trust = observe.trust_of(scene.machine("a"))
    for name in names:
        scene.machine(name).is_denied = trust.is_denied(scene.machine(name).key)
    kept = [name for name in names if not scene.machine(name).is_denied]
    scene.expect("both denies hold", len(kept) == len(names) - 2, f"{kept} are left")
    scene.expect("both admins are members", {"a", "b"} <= set(kept))
    return kept


def agree(scene: Scene, kept: list[str], heirs: dict[str, PeerId]) -> None:
    """One line of roots, one set of denies, one set of certificates, at old nodes and new ones."""
    trusts = {name: observe.trust_of(scene.machine(name)) for name in kept}
    lines = {name: list(trust.roots) for name, trust in trusts.items()}
    odd = [name for name in kept if lines[name] != lines[kept[0]]]
    scene.expect("the-line-of-roots-agrees", not odd, f"{odd} have another line")
    stands = [heir for heir in heirs.values() if heir in lines[kept[0]]]
    scene.expect("one heir stands", len(stands) == 1, f"{len(stands)} do")
    keys = [machine.key for machine in scene.world.machines.values()]
    known = {
        name: [sorted(v.hash for v in trust.verdicts_of(key)) for key in keys]
        for name, trust in trusts.items()
    }
    odd = [name for name in kept if known[name] != known[kept[0]]]
    scene.expect("denies-agree", not odd, f"{odd} hold other denies than {kept[0]}")
    for claim, found in authority.looked_at(scene.world).items():
        scene.expect(claim, not found, "; ".join(found[:2]))
