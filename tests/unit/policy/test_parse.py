"""What a text means, and where it is wrong."""

from __future__ import annotations

import pytest

from pollen.core import limits
from pollen.core.codec import Refusal
from pollen.core.policy import CALLERS, HOSTS, Node, packed, parse
from pollen.core.policy.tree import UNSHOWN, text_of

FAULTS = [
    ("", 1, "a path or a literal is expected"),
    ("   ", 4, "a path or a literal is expected"),
    ('caller.tier = "x"', 13, "means nothing here"),
    ('caller.tier == "x', 16, "means nothing here"),
    ('caller.tier == "x" & true', 20, "means nothing here"),
    ('caller.tier == "x" true', 20, "the end is expected"),
    ('(caller.tier == "x"', 20, ") is expected"),
    ('caller.tier == "x")', 19, "the end is expected"),
    ("caller.props.n + 1 == 2", 16, "means nothing here"),
    ("caller.props.n == 1.5", 19, "no fractions"),
    ("caller.props.n == 1e5", 19, "no fractions"),
    ("caller.props.n == 007", 19, "begins with 0"),
    ("caller.props.n == 9223372036854775808", 19, "64 bits"),
    ("caller.props.n == -9223372036854775809", 19, "64 bits"),
    ('!caller.tier == "x"', 14, "! stands before"),
    ("!has(caller.props.a) == true", 22, "! stands before"),
    ('(caller.tier) == "x"', 15, "path or a literal"),
    ("1 < caller.props.n < 3", 20, "two sides"),
    ("7", 2, "says nothing"),
    ('"x" && true', 5, "says nothing"),
    ("caller", 1, "says nothing"),
    ('caller.name == "x"', 1, "no caller.name"),
    ('caller.zone == "x"', 1, "no caller.zone"),
    ('node.tier == "x"', 1, "begins with caller and seed"),
    ('world.x == "y"', 1, "begins with caller and seed"),
    ("null == caller.tier", 1, "begins with caller and seed"),
    ('caller.props == "x"', 1, "followed by a key"),
    ('caller.tier.x == "y"', 1, "no parts"),
    ('caller["tier"] == "y"', 8, "below props"),
    ("caller.props[1] == 1", 14, "below props"),
    ("caller.props.in == 1", 14, "after the dot"),
    ("caller.props. == 1", 15, "after the dot"),
    ("has(caller.props.a", 19, ") is expected"),
    ("has(7)", 5, "begins with caller and seed"),
    ('caller.props.a.matches("x")', 16, "no function matches"),
    ("caller.props.a.startsWith(7)", 28, "a text or a path"),
    ('caller.props.all("x")', 14, "no function all"),
    ('caller.tier in "x"', 16, "a list or a path"),
    ('caller.tier in ["a" "b"]', 21, ", is expected"),
    ("caller.tier in [caller.id]", 17, "a literal is expected"),
    ("caller.tier in [[]]", 17, "a literal is expected"),
    (r'caller.tier == "\q"', 17, "not an escape"),
    (r'caller.tier == "\ud800"', 17, "not an escape"),
    ('caller.tier == "a\nb"', 18, "does not print"),
    ('caller.tier == "a\u202eb"', 18, "does not print"),
    ("true ? true : false", 6, "means nothing here"),
    ("(" * 17 + "true" + ")" * 17, 18, "over 16 deep"),
    ("!" * 17 + "true", 18, "over 16 deep"),
]


@pytest.mark.parametrize(("text", "at", "reason"), FAULTS, ids=[text[:40] for text, *_ in FAULTS])
def test_a_text_outside_the_language_is_refused_where_it_leaves_it(
    text: str, at: int, reason: str
) -> None:
    """``bad-policy``: the place in words, a caret below it, and a remedy."""
    refusal = parse(text, CALLERS)
    assert isinstance(refusal, Refusal)
    assert refusal.slug == "bad-policy"
    first, shown, caret = refusal.reason.split("\n")
    assert first.startswith("--allow: ") and reason in first
    assert first.endswith(f"at character {at}")
    assert refusal.remedy
    below = shown[caret.index("^") : caret.index("^") + 1]
    assert below.strip() == UNSHOWN.sub("", text[at - 1 : at]).strip()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('caller.tier == "' + "x" * 1009 + '"', "over 1024 bytes"),
        ('caller.tier == "' + "ü" * 504 + 'a"', "over 1024 bytes"),
        (" || ".join(["true"] * 64), "65 parts"),
        ("caller.props.n in [" + "1, " * 61 + "1]", "65 parts"),
        ("!(true && !(true && !(true && !(true && !(true && !(true && !(true && !(true && true"
         + ")" * 8, "a depth of 17"),
    ],
)  # fmt: skip
def test_a_text_over_a_limit_is_refused_with_the_limit(text: str, reason: str) -> None:
    """A part is an operator, a path, a list or a literal; a leaf has the depth 1."""
    refusal = parse(text, CALLERS)
    assert isinstance(refusal, Refusal)
    assert (refusal.slug, reason in refusal.reason) == ("bad-policy", True), refusal.reason


@pytest.mark.parametrize(
    "text",
    [
        'caller.tier == "' + "x" * 1007 + '"',
        " || ".join(["true"] * 63),
        "caller.props.n in [" + "1, " * 60 + "1]",
        "!" * 15 + "true",
        "(" * 16 + "true" + ")" * 16,
    ],
)
def test_a_text_at_a_limit_is_read(text: str) -> None:
    """The limits themselves are allowed."""
    assert len(text.encode()) <= limits.POLICY_BYTES
    assert isinstance(parse(text, CALLERS), Node)


def test_what_binds_tighter_stands_together() -> None:
    """! before &&, && before ||; parentheses are no part of the tree."""
    read = parse("true || !true && false", CALLERS)
    assert isinstance(read, Node)
    assert packed(read) == '["or",true,["and",["not",true],false]]'
    other = parse("(true || !true) && ((false))", CALLERS)
    assert isinstance(other, Node)
    assert text_of(other) == "(true || !true) && false"


def test_a_method_of_a_name_is_a_key_where_it_is_not_called() -> None:
    """``startsWith`` and ``has`` are words of properties as well."""
    read = parse('caller.props.startsWith.startsWith("a") && caller.props.has == 1', CALLERS)
    assert isinstance(read, Node)
    assert read.parts[0].parts[0].steps == ("caller", "props", "startsWith")


def test_both_quotes_and_all_escapes_are_read() -> None:
    """They are written with double quotes."""
    read = parse("""caller.tier in ['a"b', "a\\"b", 'it\\'s', "\\\\ \\n\\r\\t \\u00fc"]""", CALLERS)
    assert isinstance(read, Node)
    assert [part.value for part in read.parts[1].parts] == [
        'a"b', 'a"b', "it's", "\\ \n\r\t ü",
    ]  # fmt: skip
    assert parse(text_of(read), CALLERS) == read


def test_a_host_is_read_as_node_and_told_by_its_flag() -> None:
    """The example of the remedy has the right subject as well."""
    assert isinstance(parse('node.props["gpu-model"] == "a"', HOSTS), Node)
    refusal = parse("caller.tier", HOSTS)
    assert isinstance(refusal, Refusal)
    assert refusal.reason.startswith("--host-if: a path begins with node and seed")
    refusal = parse("", HOSTS)
    assert isinstance(refusal, Refusal)
    assert "node.props.team" in refusal.remedy


def test_a_long_text_is_shown_near_its_fault() -> None:
    """The caret stays below it."""
    text = "true || " * 50 + "$ || " + "true || " * 20 + "true"
    refusal = parse(text, CALLERS)
    assert isinstance(refusal, Refusal)
    _, shown, caret = refusal.reason.split("\n")
    assert len(shown) <= 60
    assert shown[caret.index("^")] == "$"
