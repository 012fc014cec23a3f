"""What the tests of services share: serving, and what muscles and users are told."""

from __future__ import annotations

from typing import Any

from pollen.core.effects import ServedRow, ServiceRow
from pollen.core.ids import SECOND
from pollen.core.services.records import key_of
from pollen.core.servicewords import (
    ServeCommand,
    ServicesCommand,
)
from tests.unit.admission.test_granting import refused
from tests.unit.world import World


def serve(world: World, node: str, name: str = "api", target: str = "8080", **more: Any) -> Any:
    """What serving answers; it then travels."""
    said = world.ask(node, ServeCommand(name=name, target=target, **more))
    world.run(2 * SECOND)
    return said


def row(world: World, at: str, name: str = "api") -> ServiceRow | None:
    """What the muscles of a node hold of a name."""
    return world.machines[at].services.get(key_of(name))


def served(world: World, at: str, name: str = "api") -> ServedRow | None:
    """What the muscles of a node serve under a name."""
    return world.machines[at].served.get(key_of(name))


def providers(world: World, at: str, name: str = "api") -> list[str]:
    """The machines that a node's muscles try for a name."""
    names = {machine.key: label for label, machine in world.machines.items()}
    held = row(world, at, name)
    return [] if held is None else [names[peer] for peer in held.providers]


def shown(world: World, at: str, name: str = "api") -> Any:
    """A service as a node shows it."""
    (view,) = [v for v in world.ask(at, ServicesCommand()).services if v.name == name]
    return view


def slug_of(world: World, node: str, command: Any) -> str:
    return refused(world, node, command)[0]


def listeners(world: World, at: str) -> list[tuple[str, str, str]]:
    """What listens on a node: service, place, state."""
    found = world.ask(at, ServicesCommand()).listeners
    return [(v.service, v.bound, v.state) for v in found]
