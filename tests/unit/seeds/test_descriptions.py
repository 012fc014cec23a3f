"""A description in a spec is short, and that of a stranger harms nobody."""

from __future__ import annotations

import json

import pytest

from pollen.core.seeds.descriptions import DESCRIPTION_MAX_BYTES, fitted, read_description


def described(functions: int, doc: int, schema: int) -> str:
    one = {
        "signature": "(a)",
        "doc": "d" * doc,
        "input": {"x": "i" * schema},
        "returns": {},
        "takes": "bytes",
    }
    return json.dumps({"functions": {f"f{n}": one for n in range(functions)}, "python": "3.14"})


def test_a_short_one_stays_as_it_is() -> None:
    text = described(2, 10, 10)
    assert fitted(text) == text


@pytest.mark.parametrize(
    ("text", "gone", "kept"),
    [
        (described(5, 4_000, 10), {"doc"}, {"signature", "input", "takes", "returns"}),
        (described(5, 10, 4_000), {"doc", "input"}, {"signature", "takes"}),
    ],
)
def test_a_long_one_loses_what_matters_least(text: str, gone: set[str], kept: set[str]) -> None:
    less = fitted(text)
    assert len(less.encode()) <= DESCRIPTION_MAX_BYTES
    function = read_description(less)["functions"]["f0"]
    assert gone & function.keys() == set()
    assert kept <= function.keys()


def test_one_whose_names_are_too_many_is_dropped() -> None:
    assert fitted(described(5_000, 0, 0)) == ""


@pytest.mark.parametrize(
    "text", ["", "{", "3", "[]", '{"functions": 3}', "[" * 100_000, '{"functions": {"f": 3}}']
)
def test_what_is_no_description_is_read_as_none(text: str) -> None:
    assert read_description(text).get("functions", {}) == {}
