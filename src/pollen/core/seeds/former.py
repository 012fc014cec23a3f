"""The versions of a name, and the way back to one of them.

Decides: what a user means by a version; whether it may be published again, and the spec for that.
Does not know: where copies of a former version are (``placement``); how long its content is kept.
Invariants: a version comes back with everything that its owner said of it then, under the next
    number: a number never means two things.
Source: docs/internals/content.md#former-versions.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pollen.core.codec import Refusal
from pollen.core.commands import Seeded
from pollen.core.events import ModuleInspected
from pollen.core.ids import short
from pollen.core.names import Holding, find_named, has_authority, next_epoch
from pollen.core.seeds.publishing import Publication, Writer, publication
from pollen.core.seeds.specs import Seed
from pollen.core.versionwords import RollbackCommand

_LEAST_HEX = 4


class Way(msgspec.Struct, frozen=True, kw_only=True):
    """From what a name stands for now to one of its former versions."""

    holding: Holding[Seed]
    version: Seed


def versions_of(holding: Holding[Seed]) -> list[Seed]:
    """The version that counts, then those that are kept, the newest first."""
    return [holding.holder, *holding.holder.kept]


def find_version(command: RollbackCommand, names: Mapping[str, Holding[Seed]]) -> Way | Refusal:
    """What a user means by a version: its number, or the first digits of its hash or content."""
    holding = find_named(command.target, names)
    if isinstance(holding, Refusal):
        return holding
    current, *former = versions_of(holding)
    look = f"pln versions {holding.name}"
    if not former:
        why = "it was seeded with --keep 0"
        if current.options.keep:
            why = "it is the first of its owner"
        reason = f'no version before this one of "{holding.name}" is kept: {why}'
        return Refusal("version-not-found", reason, look)
    text = command.version.lower()
    if not text:
        return Way(holding=holding, version=former[0])
    numbered = [seed for seed in former if text == str(seed.name_epoch)]
    found = numbered or [seed for seed in former if _begins(text, seed)]
    if len(found) == 1:
        return Way(holding=holding, version=found[0])
    if found:
        return Refusal("ambiguous", f"{text} begins {len(found)} versions", look)
    if text == str(current.name_epoch) or _begins(text, current):
        return Refusal("bad-request", f'"{holding.name}" is at version {text} now', look)
    return Refusal("version-not-found", f'"{holding.name}" has no version {text[:64]!r}', look)


def _begins(text: str, seed: Seed) -> bool:
    """Whether these are the first digits of a version's hash, or of its content's."""
    hashes = (seed.seed.hex(), seed.spec.content.hex())
    return len(text) >= _LEAST_HEX and any(held.startswith(text) for held in hashes)


def check_rollback(way: Way, writer: Writer) -> Refusal | None:
    """Why this node may not publish that version again. It has the content of its own only."""
    holder = way.holding.holder
    refusal = writer.check_name(way.holding.name)
    if refusal is not None or holder.owner == writer.node:
        return refusal
    name = way.holding.name
    whose = f'node {short(holder.owner)} published "{name}"'
    if not has_authority(writer.node, writer.certificate, holder, writer.lineage_of(holder.owner)):
        return Refusal("denied", whose, "roll it back there")
    return Refusal(
        "denied",
        f"{whose}, and keeps its former versions",
        f"roll it back there, or take the name: pln seed FILE {name} --take-over",
    )


def plan_rollback(
    command: RollbackCommand,
    found: ModuleInspected,
    writer: Writer,
    names: Mapping[str, Holding[Seed]],
) -> Publication | Refusal | Seeded:
    """What to publish once the muscles looked for the content; the names may have changed."""
    way = find_version(command, names)
    if isinstance(way, Refusal):
        return way
    refusal = check_rollback(way, writer)
    if refusal is not None:
        return refusal
    seed = way.version
    if found.slug or found.content != seed.spec.content:
        return Refusal(
            "blob-not-found",
            f"the content of version {seed.name_epoch} is not on this node any more",
            f"seed it again from its file: pln seed FILE {seed.name}",
        )
    epoch = next_epoch(way.holding, writer.top_epoch(seed.name))
    spec = msgspec.structs.replace(seed.spec, name_epoch=epoch)
    return publication(spec, seed.options, way.holding.holder, writer)
