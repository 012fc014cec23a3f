"""The names of the blobs that this node keeps a copy of, whatever the plan says.

Decides: which names may be pinned here, and what is said of one that may not.
Does not know: loads, claims, who else holds a copy.
Invariants: a pin is a row of this node's disk and spreads nowhere: another node sees one copy more.
    It stands for the name, so it follows the versions. It overrides no gate and no full disk.
Source: docs/internals/content.md#pins. Refused: a pin by hash, which would keep what no name needs
    and what nobody can unseed; a record for it, as nobody else decides by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pollen.core.codec import Refusal, Rejection
from pollen.core.commands import PinCommand, Pinned
from pollen.core.ids import Hash
from pollen.core.names import Holding
from pollen.core.placement.roles import Role, may_host
from pollen.core.policy import Party
from pollen.core.seeds import Seed
from pollen.core.turn import Asked, Turn

PIN_TABLE = "pin"


class Pins:
    """The pinned names, and what users ask of them."""

    def __init__(self) -> None:
        self._names: dict[str, None] = {}

    def restore(self, rows: Sequence[tuple[bytes, bytes]]) -> list[Rejection]:
        """What was pinned when this node stopped; the faults in what its disk holds."""
        faults = []
        for key, _ in rows:
            try:
                self._names[key.decode()] = None
            except UnicodeDecodeError:
                faults.append(Rejection("pin-row", key.hex()[:80]))
        return faults

    def __contains__(self, name: str) -> bool:
        return name in self._names

    def keeps(self, key: Hash, role: Role) -> bool:
        """Whether a user wants a copy here of this version, to which its name leads."""
        return role.leads == key and role.seed.is_blob and role.name in self._names

    def on_pin(
        self,
        asked: Asked,
        names: Mapping[str, Holding[Seed]],
        party: Party,
        serving: Callable[[Holding[Seed]], Seed],
        turn: Turn,
    ) -> None:
        """Pin a name or let go of it; ``Pinned`` once that is on disk, or why not."""
        command: PinCommand = asked.command
        name, holding = command.target, names.get(command.target)
        is_live = holding is not None and holding.is_live
        refusal = None
        if command.is_pinned:
            seed = serving(holding) if holding is not None and is_live else None
            refusal = _refusal(name, seed, party)
        elif name not in self._names and not is_live:
            refusal = _unknown(name)
        if refusal is not None:
            turn.answer(asked.request, refusal)
            return
        was_pinned = name in self._names
        if command.is_pinned:
            self._names[name] = None
        else:
            self._names.pop(name, None)
        if command.is_pinned != was_pinned:
            turn.write((PIN_TABLE, name.encode(), b"" if command.is_pinned else None))
        answer = Pinned(name=name, is_pinned=command.is_pinned, was_pinned=was_pinned)
        turn.answer(asked.request, answer, when_durable=True)


def _refusal(name: str, seed: Seed | None, party: Party) -> Refusal | None:
    if seed is None:
        return _unknown(name)
    if not seed.is_blob:
        reason = f'seed "{name}" is a module: the plan says where it runs'
        return Refusal("bad-request", reason, "pin a blob or a site: pln status blobs")
    if not may_host(seed, party):
        reason = f'this node may not hold "{name}": its properties do not match its gate'
        return Refusal("denied", reason, f"see pln inspect {name}")
    return None


def _unknown(name: str) -> Refusal:
    return Refusal("seed-not-found", f'nothing is published as "{name}"', "see pln status blobs")
