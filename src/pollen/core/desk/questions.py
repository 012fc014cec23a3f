"""What users ask to see: each question and its answer.

Decides: nothing; who asks and what is shown.
Does not know: how an answer is worded (``views``, ``explain``).
Invariants: a question changes nothing and is answered in its own turn.
Source: docs/internals/control-api.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pollen.core.commands import FiguresCommand, StatusCommand
from pollen.core.desk.explain import Price, answer
from pollen.core.desk.history import version_list
from pollen.core.desk.views import Screen, figures_view
from pollen.core.ids import Now
from pollen.core.turn import Asked, Handler, Room, Turn
from pollen.core.versionwords import VersionsCommand
from pollen.core.whywords import (
    WhyCallCommand,
    WhyPathCommand,
    WhyPlaceCommand,
    WhyServiceCommand,
)


class Questions(Room):
    """``screen`` is what a node knows of itself now."""

    def __init__(self, screen: Callable[[Now], Screen], price: Price) -> None:
        self._screen = screen
        self._price = price

    def commands(self) -> Mapping[type[object], Handler]:
        """Every question."""
        whys = (WhyPlaceCommand, WhyCallCommand, WhyPathCommand, WhyServiceCommand)
        kinds = (StatusCommand, *whys)
        return {
            **dict.fromkeys(kinds, self.on_question),
            FiguresCommand: self.on_figures,
            VersionsCommand: self.on_versions,
        }

    def on_question(self, asked: Asked, turn: Turn) -> None:
        """Somebody wants to know."""
        turn.answer(asked.request, answer(self._screen(turn.now), asked.command, self._price))

    def on_figures(self, asked: Asked, turn: Turn) -> None:
        """Somebody looks each second."""
        screen = self._screen(turn.now)
        turn.answer(asked.request, figures_view(screen, with_nodes=asked.command.nodes))

    def on_versions(self, asked: Asked, turn: Turn) -> None:
        """Somebody wants to know what a name was."""
        turn.answer(asked.request, version_list(self._screen(turn.now), asked.command))
