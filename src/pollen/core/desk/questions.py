"""What users ask to see: each question and its answer.

Decides: nothing; who asks and what is shown.
Does not know: how an answer is worded (``views``, ``explain``).
Invariants: a question changes nothing and is answered in its own turn.
Source: docs/internals/control-api.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pollen.core.commands import StatusCommand, WhyCallCommand, WhyPlaceCommand
from pollen.core.desk.explain import Price, answer
from pollen.core.desk.views import Screen
from pollen.core.ids import Now
from pollen.core.turn import Asked, Handler, Room, Turn


class Questions(Room):
    """``screen`` is what a node knows of itself now."""

    def __init__(self, screen: Callable[[Now], Screen], price: Price) -> None:
        self._screen = screen
        self._price = price

    def commands(self) -> Mapping[type[object], Handler]:
        """Every question."""
        return dict.fromkeys((StatusCommand, WhyPlaceCommand, WhyCallCommand), self.on_question)

    def on_question(self, asked: Asked, turn: Turn) -> None:
        """Somebody wants to know."""
        turn.answer(asked.request, answer(self._screen(turn.now), asked.command, self._price))
