"""The value of an expression, by hand from docs/design/policy.md."""

from __future__ import annotations

import pytest

from pollen.core.policy import CALLERS, HOSTS, STRANGER, Node, Party, Policy, packed, parse
from pollen.core.policy import read_policy as read

PROPERTIES = (
    '{"team":"red","roles":["web","db"],"n":7,"ok":true,"zone":{"room":"attic"},'
    '"nil":null,"half":0.5,"mixed":[1,"1",null,0.5]}'
)
MEMBER = Party("publisher", "ab" * 32, PROPERTIES)


def policy_of(text: str) -> Policy:
    tree = parse(text, CALLERS)
    assert isinstance(tree, Node), tree
    return read([text, packed(tree)], CALLERS, seed="render", owner="ab" * 32)


@pytest.mark.parametrize(
    "text",
    [
        'caller.tier == "publisher"',
        'caller.tier != "admin"',
        'caller.tier in ["publisher", "admin"]',
        'caller.props.team == "red" && caller.tier in ["publisher", "admin"]',
        'caller.props["team"] == "red"',
        'caller.props.zone.room == "attic"',
        '"web" in caller.props.roles',
        '!("cook" in caller.props.roles)',
        "caller.props.n >= 7 && caller.props.n < 8 && !(caller.props.n > 7)",
        '"a" < "b" && "ab" <= "ab" && "b" > "abc" && "ü" > "z"',
        "caller.props.ok",
        "caller.props.ok == true && caller.props.ok != false",
        'caller.props.team.startsWith("r") && caller.props.team.endsWith("ed")',
        'caller.props.team.startsWith("")',
        "caller.id == seed.owner",
        'seed.name == "render" && seed.name.startsWith("ren")',
        "has(caller.props.team) && !has(caller.props.missing) && has(caller.props.nil)",
        "has(caller.props.zone.room) && !has(caller.props.team.length)",
        '1 in caller.props.mixed && "1" in caller.props.mixed && !(true in caller.props.mixed)',
        'false || true && !false || caller.tier == "x"',
    ],
)
def test_an_expression_lets_pass_whoever_it_is_true_of(text: str) -> None:
    """And its negation does not."""
    assert policy_of(text).passes(MEMBER)
    assert not policy_of(f"!({text})").passes(MEMBER)


FAULTS = [
    'caller.props.missing == "red"',
    'caller.props.missing != "red"',
    'caller.props.team.length == "3"',
    'caller.props.nil == "red"',
    "caller.props.half > 0",
    'caller.props.zone == "attic"',
    "caller.props.n == true",
    'caller.props.n == "7"',
    "caller.props.n < true",
    "false < true",
    "caller.props.team < caller.props.n",
    'caller.props.roles == "web"',
    'caller.props.roles in ["web"]',
    '"red" in caller.props.team',
    '"red" in caller.props.missing',
    'caller.props.n.startsWith("7")',
    "caller.props.team.startsWith(caller.props.n)",
    "caller.props.team",
    "caller.props.team && true",
    "caller.props.n || true",
]


@pytest.mark.parametrize("text", FAULTS)
@pytest.mark.parametrize(
    "around",
    ["{}", "!({})", "!!({})", "true || {}", "({}) || true", "!(({}) && false)", "!(false && ({}))"],
)
def test_one_fault_makes_the_whole_expression_false(text: str, around: str) -> None:
    """Under a negation, and on either side of what would have decided without it."""
    assert not policy_of(around.format(text)).passes(MEMBER)


def test_has_guards_nothing() -> None:
    """It looks at a missing path; whatever stands beside it is evaluated all the same."""
    guarded = policy_of('!has(caller.props.gone) || caller.props.gone == "x"')
    assert not guarded.passes(MEMBER)
    assert policy_of('!has(caller.props.gone) || caller.props.team == "x"').passes(MEMBER)


def test_a_stranger_has_the_tier_none_and_no_path_beside() -> None:
    """Nor an id or properties, whatever is negated."""
    assert policy_of('caller.tier == "none"').passes(STRANGER)
    assert policy_of("!has(caller.id) && !has(caller.props.team)").passes(STRANGER)
    assert not policy_of('caller.id != "x"').passes(STRANGER)
    assert not policy_of('!(caller.props.team == "red")').passes(STRANGER)


@pytest.mark.parametrize("properties", ["", "[]", "7", "not json", '{"team":'])
def test_properties_that_are_no_object_lead_nowhere(properties: str) -> None:
    """As for a stranger; tier and id are still there."""
    party = Party("leaf", "cd" * 32, properties)
    assert not policy_of('caller.props.team == "red"').passes(party)
    assert policy_of('!has(caller.props.team) && caller.tier == "leaf"').passes(party)


def test_a_policy_whose_tree_is_not_of_its_text_lets_nobody_pass() -> None:
    """Two versions that read a text otherwise refuse, instead of deciding otherwise."""
    other = read(["true", '["not",false]'], CALLERS, seed="x", owner="y")
    newer = read(['caller.zone == "x"', "true"], CALLERS, seed="x", owner="y")
    for policy in (other, newer):
        assert (policy.tree, policy.packed, policy.passes(MEMBER)) == (None, "", False)
        assert "newer" in policy.parts(MEMBER)[0].value
    assert read(["true", "true"], CALLERS, seed="x", owner="y").passes(MEMBER)


def test_the_numbers_one_and_true_are_two_values() -> None:
    """A language that knows one number type would have them equal."""
    assert not policy_of("caller.props.ok == 1").passes(MEMBER)
    assert not policy_of("true in [1]").passes(MEMBER)
    assert not policy_of("1 in [true]").passes(MEMBER)


def test_each_part_is_explained_with_its_value() -> None:
    """The whole first; a literal has no line; what leads nowhere is missing."""
    text = '(caller.props.team == "blue" || caller.props.gone == "x") && caller.tier in ["admin"]'
    told = [(part.depth, part.text, part.value) for part in policy_of(text).parts(MEMBER)]
    assert told == [
        (0, text, "missing"),
        (1, 'caller.props.team == "blue" || caller.props.gone == "x"', "missing"),
        (2, 'caller.props.team == "blue"', "false"),
        (3, "caller.props.team", '"red"'),
        (2, 'caller.props.gone == "x"', "missing"),
        (3, "caller.props.gone", "missing"),
        (1, 'caller.tier in ["admin"]', "false"),
        (2, "caller.tier", '"publisher"'),
    ]


@pytest.mark.parametrize(
    ("text", "culprits"),
    [
        ('caller.tier == "admin" && caller.props.ok', ['caller.tier == "admin" is false']),
        ("1 == 2 || false", ["1 == 2 is false", "false is false"]),
        ("!caller.props.ok && true", ["!caller.props.ok is false"]),
        ("caller.props.gone == 1 || false", ["caller.props.gone == 1 is missing"]),
        ("!(caller.props.n == true) && false", ["caller.props.n == true is compares two kinds"]),
    ],
)  # fmt: skip
def test_the_parts_at_fault_are_named(text: str, culprits: list[str]) -> None:
    """Those with a fault, else those that would have to be otherwise."""
    told = [f"{part.text} is {part.value}" for part in policy_of(text).culprits(MEMBER)]
    assert len(told) == len(culprits)
    assert all(line.startswith(known) for line, known in zip(told, culprits, strict=True))


def test_a_host_is_judged_as_node() -> None:
    """The same language, another subject."""
    tree = parse('node.props.zone.room == "attic" && node.tier != "none"', HOSTS)
    assert isinstance(tree, Node)
    policy = Policy(text="", tree=tree, scope=HOSTS, seed="x", owner="y")
    assert policy.passes(MEMBER)
    assert not policy.passes(STRANGER)
