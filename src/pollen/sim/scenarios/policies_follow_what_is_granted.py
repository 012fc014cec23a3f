"""Grants in cut halves change who may call and host: each host obeys what it knows of the caller.

Which policies, who is granted what and where the cut runs is drawn by the run's number.
"""

from __future__ import annotations

from pollen.core.commands import GrantCommand
from pollen.core.whywords import WhyCall, WhyCallCommand
from pollen.sim.scenarios.scene import Scene
from pollen.sim.verdict import observe
from pollen.sim.verdict.policies import POLICIES, Standing, called_wrongly, is_true

ROUNDS = 3
ACTS = 4
CALLS = 12


def play(scene: Scene) -> None:
    names = scene.cluster(6, leaves=2)
    texts = list(POLICIES)
    called = {f"call{i}": texts[scene.rng.below(len(texts))] for i in range(3)}
    hosted = {f"host{i}": texts[scene.rng.below(len(texts))] for i in range(2)}
    for name in names:
        granted(scene, name)
    for name, policy in called.items():
        scene.seeds("a", name, allow_if=policy.replace("{}", "caller"))
    for name, policy in hosted.items():
        scene.seeds("a", name, host_if=policy.replace("{}", "node"))
    scene.passes(10)
    standing = Standing(scene.world, hosted)
    for _ in range(ROUNDS):
        half = [name for name in names[1:] if scene.rng.below(2)]
        scene.cuts(half, [name for name in names if name not in half])
        for _ in range(ACTS):
            granted(scene, names[1 + scene.rng.below(5)])
            watched(scene, standing, scene.rng.below(6))
            for _ in range(CALLS // ACTS):
                call(scene, names[scene.rng.below(6)], called)
        scene.heals()
        watched(scene, standing, 40)
        scene.settles(120)
        for name, policy in called.items():
            for node in names:
                agrees(scene, node, name, policy)


def granted(scene: Scene, name: str) -> None:
    """New properties from the root's node; a leaf may become a publisher, and one a leaf."""
    properties = ("{}", '{"team":"red"}', '{"team":"blue","n":7}', '{"n":3}', '{"n":9}')
    drawn = properties[scene.rng.below(len(properties))]
    tier = ("leaf", "publisher", "")[scene.rng.below(3)] if name != "a" else ""
    drops = ["team", "n"] if scene.rng.below(2) else []
    kept = [key for key in drops if f'"{key}"' not in drawn]
    command = GrantCommand(target=name, tier=tier, properties=drawn, drops=kept)
    reply = scene.world.command("a", command)
    scene.checks["grants"] = scene.checks.get("grants", 0) + (not reply.slug)


def watched(scene: Scene, standing: Standing, seconds: int) -> None:
    """Time goes by, and no replica stands for long where its policy is false."""
    for _ in range(seconds):
        scene.passes(1)
        odd = standing.looked_at()
        scene.expect("policy-agrees", not odd, "; ".join(odd[:2]))


def call(scene: Scene, caller: str, called: dict[str, str]) -> None:
    """A call while halves may be cut: whoever serves it obeys the certificate that it counts."""
    name = list(called)[scene.rng.below(len(called))]
    caller_key = scene.machine(caller).key
    before = {
        machine.name: observe.certificates_of(machine)[caller_key]
        for machine in scene.world.machines.values()
    }
    ended = scene.called(caller, name)
    if not ended.ran_on:
        return
    host = scene.world.by_key[ended.ran_on]
    odd = called_wrongly(host, caller_key, called[name], ended.slug, before[host.name])
    scene.expect("policy-agrees", not odd, "; ".join(odd))


def agrees(scene: Scene, node: str, name: str, policy: str) -> None:
    """Once all know the same, the caller's node tells what the host's node does."""
    own = observe.certificates_of(scene.machine(node))[scene.machine(node).key]
    allowed = is_true(policy, own)
    told = scene.world.ask(node, WhyCallCommand(target=name))
    is_told = isinstance(told, WhyCall) and told.allowed
    scene.expect("policy-agrees", is_told is allowed, f"{node} is told {is_told} of {name}")
    slug = scene.call(node, name)
    scene.expect("policy-agrees", slug == ("" if allowed else "denied"), f"{node}: {name}: {slug}")
    scene.checks[f"allowed-{allowed}"] = scene.checks.get(f"allowed-{allowed}", 0) + 1
