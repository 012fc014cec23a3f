"""Properties of a member: what is an object that every reader reads the same."""

from __future__ import annotations

import pytest

from pollen.core.codec import Refusal
from pollen.core.properties import DEPTH_MAX, check_properties


def nested(levels: int) -> str:
    return '{"x":' * levels + "1" + "}" * levels


@pytest.mark.parametrize(
    "text",
    [nested(DEPTH_MAX), '{"n":9223372036854775807}', '{"n":-9223372036854775808}', '{"n":1.5}'],
)
def test_flat_properties_with_numbers_of_64_bits_are_taken(text: str) -> None:
    assert check_properties(text) == text


@pytest.mark.parametrize(
    "text",
    [
        nested(DEPTH_MAX + 1),
        nested(300),
        '{"x":' + "[" * DEPTH_MAX + "]" * DEPTH_MAX + "}",
        '{"n":9223372036854775808}',
        '{"a":[{"n":' + "9" * 400 + "}]}",
    ],
)
def test_what_another_reader_could_not_read_is_refused(text: str) -> None:
    """Such a reader would see no property at all, and pass whoever must not have one."""
    refusal = check_properties(text)
    assert isinstance(refusal, Refusal)
    assert "levels deep" in refusal.reason and refusal.remedy
