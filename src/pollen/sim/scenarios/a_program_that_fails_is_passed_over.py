"""A program that fails its check is tried last by all, told of seldom, and back when it works.

Which of two providers fails, when it is killed and how it flaps is drawn by the number.
"""

from __future__ import annotations

from pollen.core.servicewords import ServeCommand
from pollen.sim.scenarios.scene import Scene

NAME = "api"
TARGET = "127.0.0.1:8080"
# Changes of one mark in two minutes with a check a second, at most: see ``services.health``.
CHANGES = 20


def play(scene: Scene) -> None:
    names = scene.cluster(5)
    scene.settles()
    for node, check in (("b", "http:/up"), ("c", "tcp"), ("d", "")):
        every = 1_000 if check else 0
        command = ServeCommand(
            name=NAME, target="8080", beside=True, check=check, check_every_ms=every
        )
        reply = scene.world.command(node, command)
        scene.expect("acknowledged", not reply.slug, f"{node} serves: {reply.slug}")
    scene.passes(10)
    sick, well = ("b", "c") if scene.rng.below(2) else ("c", "b")
    program = scene.machine(sick).failing_targets
    told(scene, names, set())
    program.add(TARGET)
    # Three checks, and the way to the others.
    scene.passes(5)
    told(scene, names, {sick})
    # Its half says so while the other half cannot hear it, and both know when they meet.
    program.discard(TARGET)
    scene.cuts([sick], [name for name in names if name != sick])
    scene.passes(4)
    scene.heals()
    scene.passes(60)
    told(scene, names, set())
    flaps(scene, sick)
    program.clear()
    scene.passes(60)
    told(scene, names, set())
    # What it said in its last run is void; the first check of the next one decides.
    program.add(TARGET)
    scene.passes(60)
    scene.world.kill(sick)
    if scene.rng.below(2):
        program.clear()
    scene.passes(1 + scene.rng.below(20))
    scene.world.start(sick)
    scene.passes(60)
    told(scene, names, {sick} if program else set())
    # With nobody else left those that fail are tried all the same.
    program.add(TARGET)
    scene.machine(well).failing_targets.add(TARGET)
    scene.world.kill("d")
    scene.passes(60)
    told(scene, [name for name in names if name != "d"], {sick, well})


def flaps(scene: Scene, sick: str) -> None:
    """Two minutes in which it comes and goes: the others hear of it so often and no more."""
    before = changes(scene, sick)
    for _ in range(120):
        failing = scene.machine(sick).failing_targets
        if scene.rng.below(3) == 0:
            failing.symmetric_difference_update({TARGET})
        scene.passes(1)
    seen = changes(scene, sick) - before
    scene.expect("told-seldom", seen <= CHANGES, f"{sick} told of {seen} changes")


def changes(scene: Scene, node: str) -> int:
    """How often a node said that its program fell or is well again."""
    events = [log.event for log in scene.machine(node).logs]
    return events.count("service-failing") + events.count("service-healthy")


def told(scene: Scene, names: list[str], failing: set[str]) -> None:
    """The muscles of all try for the name first those whose programs do not fail."""
    machines = [scene.machine(name) for name in names]
    labels = {machine.key: machine.name for machine in machines}
    for machine in machines:
        (row,) = [row for row in machine.services.values() if row.name == NAME]
        tried = [labels.get(peer, "?") for peer in row.providers]
        last = {labels.get(peer, "?") for peer in row.failing}
        text = f"{machine.name} tries {tried}, the last of them {sorted(last)}"
        scene.expect("failing-agrees", last == failing, f"{text}, and not {sorted(failing)}")
        held = set(tried[len(tried) - len(last) :])
        scene.expect("failing-is-last", held == last, text)
