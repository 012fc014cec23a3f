"""The reference of the attempt loop meets its scripts; the Rust side runs the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.unit.rules import drawn

VECTORS = Path(__file__).parents[2] / "vectors"


def scripts(name: str) -> list[Any]:
    rows = json.loads((VECTORS / name).read_text())
    return [pytest.param(row, id=row["name"]) for row in rows]


@pytest.mark.parametrize("script", scripts("attempts.json"))
def test_a_call_is_tried_as_its_script_says(script: Any) -> None:
    """seam.md, attempts."""
    assert drawn.play(script) == [(row["expect"], row.get("wanted")) for row in script["steps"]]


def test_the_drawn_scripts_are_those_of_the_reference() -> None:
    """Written by ``tests/unit/rules/drawn.py``; the Rust side runs the file."""
    assert drawn.text() == (VECTORS / "attempts_drawn.json").read_text()
