"""Draws policies and parties by chance, with the verdicts of the reference.

``PYTHONPATH=src:. python -m tests.unit.rules.drawn_policies`` writes ``tests/vectors/policy.json``.
The Rust side runs the file: where the two differ, one of them is wrong.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

from pollen.core.policy import CALLERS, Node, Party, Policy, packed, parse
from pollen.core.policy.tree import text_of

FILE = Path(__file__).parents[2] / "vectors" / "policy.json"
# So many rows that pass, as many that are false, and as many with a fault.
THIRD = 800
SEED, OWNER = "render", "ab" * 32
WORDS = ("red", "re", "ed", "", "admin", "publisher", "leaf", "none", "ü", "\U0001f33b", "render")
NUMBERS = (0, 1, -1, 7, -(1 << 63), (1 << 63) - 1)
STEPS = (
    *(("tier",), ("id",), ("props", "team"), ("props", "teams"), ("props", "n"), ("props", "ok")),
    *(("props", "deep", "er"), ("props", "deep"), ("props", "no"), ("props", "half")),
    *(("props", "nil"), ("props", "zero"), ("props", "huge"), ("props", "a-b"), ("props", "in")),
)
PROPERTIES = (
    *("{}", "", "[]", "not json", '{"team":"red"}', '{"team":["red"],"teams":["red",7,true,null]}'),
    '{"team":"red","teams":["re","ü"],"n":7,"ok":true,"deep":{"er":"red"},"a-b":"ed","in":1}',
    '{"team":"","teams":[],"n":-1,"ok":false,"deep":{"er":{"er":1}},"half":0.5,"nil":null}',
    '{"team":"redder","n":0,"ok":true,"zero":-0.0,"huge":9223372036854775808,"half":1e2}',
    '{"team":"ü","n":-9223372036854775808,"zero":-0,"teams":[-0.0,0.5,[1],{"a":1},"red"]}',
    '{"team":true,"n":"7","ok":"true","teams":"red","deep":[1],"a-b":9223372036854775807}',
)
PARTIES = [
    Party(tier, "" if tier == "none" else digit * 64, "" if tier == "none" else properties)
    for properties in PROPERTIES
    for tier, digit in (("none", ""), ("leaf", "1"), ("publisher", "a"), ("admin", "f"))
]
# What chance seldom draws, for each party.
EVERYBODY = (
    *('"red" in caller.props.teams', "7 in caller.props.teams", "0 in caller.props.teams"),
    *('!("x" in caller.props.teams)', '!(caller.props.nil in ["x"])', "!(caller.props.huge in [])"),
    *("!(caller.props.half in [1])", "!(caller.props.deep in [1])", "caller.props.zero == 0"),
    *('!(caller.props.team < "red")', 'caller.props.deep.er.startsWith("r") && caller.props.ok'),
)
# Trees that nobody may read, each with the text that it pretends to be.
MALFORMED = (
    *("", "null", "7", '"red"', "{}", "[]", "[[]]", '["true"]', "[true]", '["and"]', "not json"),
    *('["and",true]', '["xor",true,true]', '["not"]', '["not",true,true]', '["list",true]'),
    *('["==",1]', '["==",1,1,1]', '["==",1.0,1.0]', '["==",null,null]', '["==",["list"],1]'),
    *('["==",["not",true],true]', '["==",9223372036854775808,1]', '["in",1,2]', '["in",1]'),
    *('["in",1,["list",["list"]]]', '["in",1,["list",["path","caller","tier"]]]', '["has",true]'),
    *('["has",["path","caller"]]', '["path"]', '["path","caller","props"]', '["path","seed"]'),
    *('["path","caller","tier","x"]', '["path","caller","name"]', '["path","caller",7]'),
    *('["path","caller","props",7]', '["path","world","tier"]', '["startsWith","a","a"]'),
    *('["startsWith",["path","caller","tier"],7]', '["matches",["path","caller","tier"],"a"]'),
    "[" * 200 + "]" * 200,
    '["not",' * 16 + "true" + "]" * 16,
    '["or"' + ",true" * 64 + "]",
    '["in",1,["list"' + ",1" * 62 + "]]",
)


def _path(chance: random.Random) -> Node:
    if chance.random() < 0.1:
        return Node("path", steps=("seed", chance.choice(("name", "owner"))))
    return Node("path", steps=("caller", *chance.choice(STEPS)))


def _literal(chance: random.Random) -> Node:
    kind = chance.choice(("text", "text", "text", "int", "bool"))
    pool: Any = {"text": WORDS, "int": NUMBERS, "bool": (True, False)}[kind]
    return Node(kind, value=chance.choice(pool))


def _operand(chance: random.Random) -> Node:
    return _path(chance) if chance.random() < 0.5 else _literal(chance)


def condition(chance: random.Random, depth: int) -> Node:
    """A condition at most so deep; nothing keeps its parts from having a fault."""
    kinds = ["==", "==", "!=", "<", "<=", ">", ">=", "in", "in", "has", "startsWith", "endsWith"]
    kinds += ["flag", "or", "or", "and", "and", "not", "not"] if depth > 3 else ["flag"]
    kind = chance.choice(kinds)
    if kind == "flag":
        return _path(chance) if chance.random() < 0.5 else Node("bool", value=True)
    if kind in ("or", "and", "not"):
        size = 1 if kind == "not" else chance.choice((2, 2, 3))
        return Node(kind, tuple(condition(chance, depth - 1) for _ in range(size)))
    if kind == "has":
        return Node("has", (_path(chance),))
    if kind == "in":
        items = tuple(_literal(chance) for _ in range(chance.randrange(4)))
        held = Node("list", items) if chance.random() < 0.6 else _path(chance)
        return Node("in", (_operand(chance), held))
    if kind in ("startsWith", "endsWith"):
        text = Node("text", value=chance.choice(WORDS))
        return Node(kind, (_path(chance), text if chance.random() < 0.7 else _path(chance)))
    return Node(kind, (_operand(chance), _operand(chance)))


def policy_of(text: str, tree: Node | None) -> Policy:
    """A policy of the one seed that all rows are about."""
    return Policy(text=text, tree=tree, scope=CALLERS, seed=SEED, owner=OWNER)


def _rows() -> list[list[Any]]:
    chance, rows, left = random.Random(12), [], dict.fromkeys(("true", "false", "fault"), THIRD)
    while any(left.values()):
        tree, number = condition(chance, 7), chance.randrange(len(PARTIES))
        text = text_of(tree)
        if not isinstance(parse(text, CALLERS), Node):
            continue
        policy, party = policy_of(text, tree), PARTIES[number]
        value = policy.parts(party)[0].value
        value = value if value in left else "fault"
        if left[value]:
            left[value] -= 1
            rows.append([text, packed(tree), number, policy.passes(party)])
    for text in EVERYBODY:
        tree = parse(text, CALLERS)
        assert isinstance(tree, Node)
        policy = policy_of(text, tree)
        rows += [[text, packed(tree), i, policy.passes(who)] for i, who in enumerate(PARTIES)]
    return rows


def text() -> str:
    """The whole file, one row a line."""
    parties = [[party.words, party.properties] for party in PARTIES]
    words = json.dumps(policy_of("", None).words)

    def lines(rows: list[Any]) -> str:
        return ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in rows)

    return (
        f'{{"seed": {words},\n"parties": [\n{lines(parties)}\n],\n'
        f'"rows": [\n{lines(_rows())}\n],\n"malformed": [\n{lines(list(MALFORMED))}\n]}}\n'
    )


if __name__ == "__main__":
    FILE.write_text(text())
