"""The simulated world under the name that unit tests use."""

from __future__ import annotations

from pollen.sim.muscles.modules import content_id
from pollen.sim.world.keys import make_key, sign_with, signer, verify
from pollen.sim.world.machine import WALL_ZERO, Machine
from pollen.sim.world.world import World, three

__all__ = [
    "WALL_ZERO",
    "Machine",
    "World",
    "content_id",
    "make_key",
    "sign_with",
    "signer",
    "three",
    "verify",
]
