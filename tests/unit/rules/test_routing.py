"""The rules that are functions meet their vectors; the Rust side runs the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pollen.core.rules import routing

VECTORS = Path(__file__).parents[2] / "vectors"


def cases(name: str) -> list[Any]:
    rows = json.loads((VECTORS / f"routing_{name}.json").read_text())
    return [pytest.param(row["input"], row["expected"], id=row["name"]) for row in rows]


@pytest.mark.parametrize(("given", "expected"), cases("choose"))
def test_choose_takes_the_cheaper_of_the_nearest_and_a_drawn_one(given: Any, expected: Any) -> None:
    """seam.md, choose."""
    candidates = msgspec.convert(given["candidates"], list[routing.Candidate])
    wake = given.get("wake", False)
    assert expected == routing.choose(candidates, given["draw"], wake=wake)


@pytest.mark.parametrize(("given", "expected"), cases("retry"))
def test_retry_only_what_speaks_of_the_place(given: Any, expected: Any) -> None:
    """seam.md, retry class."""
    assert expected == routing.classify_retry(**given).value


@pytest.mark.parametrize(("given", "expected"), cases("gate"))
def test_gate_needs_every_key_and_one_value_of_each(given: Any, expected: Any) -> None:
    """seam.md, gate match."""
    pairs = [(key, value) for key, value in given["pairs"]]
    assert expected == routing.match_gate(pairs, given["properties"])


@pytest.mark.parametrize(("given", "expected"), cases("admit"))
def test_admit_checks_duplicate_memory_slot_queue_in_this_order(given: Any, expected: Any) -> None:
    """seam.md, admit."""
    assert expected == routing.admit(**given).value


@pytest.mark.parametrize(("given", "expected"), cases("fullness"))
def test_fullness_is_over_when_slots_and_queue_are(given: Any, expected: Any) -> None:
    """seam.md, fullness."""
    assert expected == routing.fullness(**given)


@pytest.mark.parametrize(("given", "expected"), cases("wake"))
def test_one_call_loads_a_cold_seed_and_the_others_wait_with_it(given: Any, expected: Any) -> None:
    """seam.md, admit."""
    assert expected == routing.admit_wake(**given).value


@pytest.mark.parametrize(("given", "expected"), cases("shed"))
def test_shed_refuses_the_call_that_is_late_anyway(given: Any, expected: Any) -> None:
    """seam.md, shed."""
    assert expected == routing.shed(given["queued_us"], given["newcomer_us"], given["wait_us"])


@pytest.mark.parametrize(("given", "expected"), cases("late"))
def test_a_queue_that_grows_refuses_who_waited_too_long(given: Any, expected: Any) -> None:
    """seam.md, shed."""
    assert expected == routing.is_late(**given)


@pytest.mark.parametrize(("given", "expected"), cases("split"))
def test_split_gives_all_of_the_rest(given: Any, expected: Any) -> None:
    """seam.md, split."""
    share = routing.split(**given)
    assert expected == (share if isinstance(share, str) else msgspec.to_builtins(share))
