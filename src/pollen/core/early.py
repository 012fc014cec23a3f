"""What waits until this run's epoch is on disk: whatever writes records of this node's own.

Decides: which events publish.
Does not know: when the epoch is on disk; the node keeps what waits.
Invariants: a command that publishes stands in ``PUBLISHING``; the rest is answered at once.
Source: docs/design/protocol.md#durability.
"""

from __future__ import annotations

from pollen.core.commands import (
    DenyCommand,
    DrainCommand,
    GrantCommand,
    InviteCommand,
    SeedCommand,
    UndenyCommand,
    UnseedCommand,
)
from pollen.core.events import Commanded, Event, ModuleInspected
from pollen.core.rootwords import (
    ApplyCommand,
    SetPolicyCommand,
    SignReleaseCommand,
    SucceedCommand,
)
from pollen.core.servicewords import ServeCommand, UnserveCommand
from pollen.core.versionwords import RollbackCommand

PUBLISHING = (
    SeedCommand,
    UnseedCommand,
    RollbackCommand,
    InviteCommand,
    DrainCommand,
    GrantCommand,
    DenyCommand,
    UndenyCommand,
    SucceedCommand,
    ApplyCommand,
    SetPolicyCommand,
    SignReleaseCommand,
    ServeCommand,
    UnserveCommand,
)


def publishes(event: Event) -> bool:
    """Whether taking it in writes a record of this node's own."""
    if isinstance(event, Commanded):
        return isinstance(event.command, PUBLISHING)
    return isinstance(event, ModuleInspected)
