"""The versions of a name, as a user reads them.

Decides: nothing; the figures of ``pln versions``.
Does not know: what may be published again (``seeds.former``).
Invariants: pure.
Source: docs/internals/content.md#former-versions.
"""

from __future__ import annotations

from pollen.core.codec import Refusal
from pollen.core.desk.views import Screen
from pollen.core.names import find_named
from pollen.core.placement import State
from pollen.core.seeds import Seed, versions_of
from pollen.core.versionwords import VersionList, VersionsCommand, VersionView


def version_list(screen: Screen, command: VersionsCommand) -> VersionList | Refusal:
    """The answer to ``VersionsCommand``."""
    holding = find_named(command.target, screen.situation.names)
    if isinstance(holding, Refusal):
        return holding
    views = [_view(screen, seed) for seed in versions_of(holding)]
    return VersionList(name=holding.name, versions=views)


def _view(screen: Screen, seed: Seed) -> VersionView:
    owner = screen.members.find(seed.owner)
    return VersionView(
        number=seed.name_epoch,
        seed=seed.seed.hex(),
        content=seed.spec.content.hex(),
        size_bytes=seed.spec.size_bytes,
        kind=seed.kind,
        owner=seed.owner.hex(),
        owner_name="" if owner is None else owner.info.name,
        copies=len(screen.situation.claims.nodes_in(seed.seed, State.READY)),
    )
