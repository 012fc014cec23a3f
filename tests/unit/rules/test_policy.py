"""Policies meet their vectors; the Rust side runs the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pollen.core.policy import CALLERS, Node, Party, packed, parse, read_policy
from pollen.core.policy.tree import text_of
from tests.unit.rules import drawn_policies

VECTORS = Path(__file__).parents[2] / "vectors"
HELD = json.loads((VECTORS / "policy.json").read_text())
SEED = dict(HELD["seed"])
PARTIES = [Party(**dict(words), properties=properties) for words, properties in HELD["parties"]]


def test_the_reference_still_gives_the_verdicts_of_the_file() -> None:
    """docs/design/policy.md#the-value-of-an-expression; the text and the tree are one."""
    assert len(HELD["rows"]) > 2_000
    for text, tree, number, expected in HELD["rows"]:
        policy = read_policy([text, tree], CALLERS, seed=SEED["name"], owner=SEED["owner"])
        assert policy.passes(PARTIES[number]) is expected, text


def test_a_text_of_the_file_is_written_as_its_tree_is() -> None:
    """A text is read to the tree, and the tree is written as that text."""
    for text, tree, _, _ in HELD["rows"]:
        read = parse(text, CALLERS)
        assert isinstance(read, Node)
        assert (text_of(read), packed(read)) == (text, tree)


@pytest.mark.parametrize("tree", HELD["malformed"])
def test_a_malformed_tree_is_not_what_any_text_means(tree: str) -> None:
    """It is unreadable, and nobody passes."""
    policy = read_policy(["true", tree], CALLERS, seed="x", owner="y")
    assert policy.tree is None
    assert not any(policy.passes(party) for party in PARTIES)


def test_the_file_is_what_the_generator_writes() -> None:
    """So that a change of the reference shows as a change of the file."""
    assert drawn_policies.text() == (VECTORS / "policy.json").read_text()
