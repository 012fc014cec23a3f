"""A daemon whose node has a planted bug: ``unseed boom`` raises, ``unseed broken`` is worse."""

from __future__ import annotations

import sys

from pollen.core.commands import UnseedCommand
from pollen.core.effects import Effect
from pollen.core.events import Commanded, Event
from pollen.core.ids import Now
from pollen.core.node import Node
from pollen.errors import InvariantError
from pollen.runtime.__main__ import main

_handle = Node.handle


def _planted(self: Node, event: Event, now: Now) -> list[Effect]:
    if isinstance(event, Commanded) and isinstance(event.command, UnseedCommand):
        if event.command.target == "boom":
            raise RuntimeError("a planted bug")
        if event.command.target == "broken":
            raise InvariantError("a planted broken invariant")
    return _handle(self, event, now)


Node.handle = _planted  # type: ignore[method-assign,assignment]
sys.exit(main())
