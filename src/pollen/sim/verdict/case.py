"""What a checker looks at: the world, its misfortune, what its users were promised.

Decides: who counts as honest, and what of a run has to be remembered to judge it.
Does not know: any invariant (``sim.verdict.checkers``, ``sim.verdict.living``).
Invariants: nothing here changes a node; what was sent is noted when it leaves.
Source: docs/design/style.md#simulator.
"""

from __future__ import annotations

from collections.abc import Callable

from pollen.core.codec import decode
from pollen.core.effects import Effect, SendRecords
from pollen.core.events import Event
from pollen.core.records.record import Body
from pollen.core.seeds import Seed
from pollen.sim.mischief.faults import Faults
from pollen.sim.mischief.workload import Workload
from pollen.sim.verdict import observe
from pollen.sim.world.machine import Machine
from pollen.sim.world.world import World


class Case:
    """What a checker looks at: the world, its misfortune and what its users were promised."""

    def __init__(self, world: World, faults: Faults, workload: Workload) -> None:
        self.world = world
        self.faults = faults
        self.workload = workload
        self.started: dict[str, tuple[int, int]] = {}
        self.held_up: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.odd_versions: list[str] = []
        # By content of a blob: the disks that had it when it was seen last, by machine and loss.
        self.disks: dict[bytes, list[tuple[Machine, int]]] = {}
        self._epochs: dict[tuple[str, int], dict[str, int]] = {}
        self._signed: dict[tuple[bytes, int, int], bytes] = {}
        self._known: dict[bytes, None] = {}
        world.watchers.append(self._watch)

    def _watch(self, machine: Machine, event: Event, out: list[Effect]) -> None:
        """Remember which bytes each version of a machine stood for when it was first sent."""
        if machine.is_malicious or machine.name in self.faults.spoiled:
            return
        for effect in out:
            if not isinstance(effect, SendRecords):
                continue
            for record in effect.records:
                if record.owner != machine.key or record.signature in self._known:
                    continue
                self._known[record.signature] = None
                body = decode(Body, record.body, "record")
                if not isinstance(body, Body):
                    continue
                version = (machine.key, body.epoch, body.seq)
                held = self._signed.setdefault(version, record.body)
                if held != record.body:
                    text = f"{machine.name} said two things as {body.epoch}.{body.seq}"
                    self.odd_versions.append(f"{text}, {body.kind}/{body.key[:12]!r}")

    def seen_epochs(self, machine: Machine) -> dict[str, int]:
        """The name epochs that this run of a node showed before."""
        return self._epochs.setdefault((machine.name, machine.boots), {})

    def has_content(self, seed: Seed) -> bool:
        """Whether any machine that runs still has the module."""
        return any(seed.spec.content in m.content for m in self.honest())

    def honest(self) -> list[Machine]:
        """The machines that run, move, do not lie and are not denied."""
        return [m for m in self.members() if not m.is_malicious]

    def members(self) -> list[Machine]:
        """The machines that run, move and are not denied."""
        return [m for m in self.world.machines.values() if m.is_up and not m.is_denied]

    def look(self, checker: Checker) -> list[str]:
        """Ask one checker, and count that it was asked."""
        name = name_of(checker)
        self.counts[name] = self.counts.get(name, 0) + 1
        return checker(self)


Checker = Callable[[Case], list[str]]


def name_of(checker: Checker) -> str:
    """The invariant's name, as messages and documents write it."""
    return checker.__name__.replace("_", "-")


def label_of(case: Case, peer: bytes) -> str:
    """The name of the machine with this key, or the first digits of the key."""
    return observe.label_of(case.world.by_key, peer)
