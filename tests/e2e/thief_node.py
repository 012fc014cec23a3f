"""A daemon of a member that publishes hashes of contents that it does not have.

Its brain is changed: it answers for its own muscles that the content is here, and that it exports
``shout``. It asks all peers that it met for what its seeds name.
"""

from __future__ import annotations

import sys

import msgspec

from pollen.core.effects import Effect, InspectModule, LoadSeed
from pollen.core.events import Event, HelloReceived, ModuleInspected
from pollen.core.ids import Now, PeerId
from pollen.core.node import Node
from pollen.runtime.__main__ import main

_handle = Node.handle
_met: dict[PeerId, None] = {}


def _stealing(self: Node, event: Event, now: Now) -> list[Effect]:
    if isinstance(event, HelloReceived):
        _met[event.peer] = None
    effects: list[Effect] = []
    for effect in _handle(self, event, now):
        if isinstance(effect, InspectModule):
            found = ModuleInspected(
                request=effect.request,
                content=effect.content,
                size=1_000,
                functions=["shout"],
                bundle=effect.bundle,
            )
            effects += _stealing(self, found, now)
        elif isinstance(effect, LoadSeed):
            effects.append(msgspec.structs.replace(effect, holders=list(_met)))
        else:
            effects.append(effect)
    return effects


Node.handle = _stealing  # type: ignore[method-assign]
sys.exit(main())
