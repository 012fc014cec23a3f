"""The doctor compares clocks: the command's, the daemon's, the members'."""

from __future__ import annotations

from typing import Any

import pytest

from pollen.runtime.doctor import check_clocks

NOW = 1_800_000_000_000.0
DAY = 86_400_000


def clock(**change: Any) -> dict[str, Any]:
    shown = {"raw_unix_ms": NOW, "wall_unix_ms": NOW, "in_doubt": False, "members_ahead_ms": [3]}
    return {**shown, **change}


@pytest.mark.parametrize(
    ("change", "level", "text"),
    [
        ({}, "ok", "1 member agrees within 3 ms"),
        ({"raw_unix_ms": NOW - 40 * DAY}, "failure", "40.0 days behind this command's"),
        (
            {"members_ahead_ms": [5, -40 * DAY, -40 * DAY]},
            "failure",
            "40.0 days behind this",
        ),
        ({"members_ahead_ms": [7_200_000]}, "failure", "2.0 hours ahead of this machine's"),
        ({"wall_unix_ms": NOW + 35 * DAY, "in_doubt": True}, "warning", "35.0 days ahead of its"),
    ],
)
def test_a_clock_that_differs_is_named_with_its_distance(
    change: dict[str, Any], level: str, text: str
) -> None:
    """The first finding says whose clock is off, and by how much."""
    finding = next(iter(check_clocks(clock(**change), NOW)))
    assert (finding.level, text in finding.text) == (level, True), finding.text
    assert level == "ok" or finding.remedy


def test_nothing_is_said_of_members_that_were_not_heard() -> None:
    """A node alone has nobody to compare with."""
    assert list(check_clocks(clock(members_ahead_ms=[]), NOW)) == []
