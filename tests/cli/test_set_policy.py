"""What ``pln set-policy`` says before it asks."""

from __future__ import annotations

from typing import Any

from pollen.cli.verbs import set_policy

NODE, OTHER = "ab" * 32, "cd" * 32


def moved(**change: Any) -> list[str]:
    """The lines for an answer of the control API."""
    nothing = {"falls": [], "falls_more": 0, "gains": [], "gains_more": 0}
    return set_policy._moved_lines({**nothing, **change})


def test_each_name_that_moves_has_a_line_that_says_how() -> None:
    """It falls, counts again, or goes from one node to another."""
    fallen = {"name": "echo", "node": NODE, "node_name": "shed", "why": "false"}
    back = {"name": "tv", "node": NODE, "node_name": "shed", "from_node": "", "from_name": ""}
    taken = {**back, "name": "radio", "from_node": OTHER, "from_name": "attic"}
    assert moved(falls=[fallen], gains=[back, taken]) == [
        "stops counting: echo of shed abababab, false",
        "counts again: tv of shed abababab",
        "goes to another node: radio from attic cdcdcdcd to shed abababab",
    ]
    assert moved() == []


def test_how_many_more_names_move_is_said() -> None:
    """An answer lists the first hundred of a sort."""
    assert moved(falls_more=7, gains_more=1) == [
        "names that also stop counting: 7",
        "names that also count again or go to another node: 1",
    ]
