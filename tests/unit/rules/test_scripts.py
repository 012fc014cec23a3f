"""The references that keep something meet their scripts; the Rust side runs the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pollen.core import limits
from pollen.core.ids import MILLISECOND
from pollen.core.rules import numbers
from pollen.core.rules.backlog import Backlog
from pollen.core.rules.silence import Silence

VECTORS = Path(__file__).parents[2] / "vectors"


def scripts(name: str) -> list[Any]:
    return [pytest.param(row, id=row["name"]) for row in json.loads((VECTORS / name).read_text())]


@pytest.mark.parametrize("script", scripts("silence.json"))
def test_a_link_that_is_silent_although_asked_is_left_out(script: Any) -> None:
    """seam.md, silence."""
    silence, srtt_ns = Silence(), script["srtt_us"] * 1_000
    for look in script["looks"]:
        now = look["at_ms"] * MILLISECOND
        judged = silence.poll(heard=look["heard"], srtt_ns=srtt_ns, now=now)
        assert judged.value == look["expected"], look


@pytest.mark.parametrize("script", scripts("backlog.json"))
def test_a_queue_is_measured_against_its_own_past(script: Any) -> None:
    """seam.md, late."""
    backlog = Backlog()
    for step in script["steps"]:
        now_us, waiting = step["at_ms"] * 1_000, step["waiting"]
        match step["op"]:
            case "came":
                backlog.came(now_us, waiting)
            case "left":
                backlog.left(now_us, waiting)
            case "refuse":
                backlog.refuse()
        times = backlog.standing_us(now_us) // 1_000, backlog.quiet_us(now_us) // 1_000
        assert times == (step["standing_ms"], step["quiet_ms"]), step
        assert (backlog.size(waiting), backlog.before) == (step["size"], step["before"]), step


def test_the_numbers_are_those_of_the_muscles() -> None:
    """Each is one number on both sides, and none is missing from the file."""
    shared = json.loads((VECTORS / "numbers.json").read_text())
    held = {name: value for name, value in vars(numbers).items() if type(value) is int}
    clocks = {"SECOND", "MILLISECOND"}
    others = {name: getattr(limits, name) for name in shared if name not in held}
    assert {name: held[name] for name in held.keys() - clocks} | others == shared
