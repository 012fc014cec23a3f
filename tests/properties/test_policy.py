"""Laws of policies: a tree is written and read again, and no text or tree makes the reader fail."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pollen.core.codec import Refusal
from pollen.core.policy import CALLERS, Node, Party, Policy, packed, parse, read_policy
from pollen.core.policy.tree import text_of

chars = st.characters(exclude_categories=["Cs"])
texts = st.builds(lambda value: Node("text", value=value), st.text(chars, max_size=6))
ints = st.builds(lambda value: Node("int", value=value), st.integers(-(1 << 63), (1 << 63) - 1))
flags = st.builds(lambda value: Node("bool", value=value), st.booleans())
keys = st.one_of(
    st.sampled_from(["team", "in", "true", "a-b", "startsWith", "has", ""]),
    st.text(chars, max_size=4),
)
paths = st.one_of(
    st.sampled_from([("caller", "tier"), ("caller", "id"), ("seed", "name"), ("seed", "owner")]),
    st.lists(keys, min_size=1, max_size=3).map(lambda steps: ("caller", "props", *steps)),
).map(lambda steps: Node("path", steps=steps))
literals = st.one_of(texts, ints, flags)
operands = st.one_of(paths, literals)
lists = st.lists(literals, max_size=3).map(lambda parts: Node("list", tuple(parts)))


Nodes = st.SearchStrategy[Node]


def pair(kinds: st.SearchStrategy[str], one: Nodes, other: Nodes) -> Nodes:
    """Two parts under a kind."""
    return st.builds(lambda kind, a, b: Node(kind, (a, b)), kinds, one, other)


conditions = st.one_of(
    flags,
    paths,
    paths.map(lambda path: Node("has", (path,))),
    pair(st.sampled_from(["==", "!=", "<", "<=", ">", ">="]), operands, operands),
    pair(st.just("in"), operands, st.one_of(lists, paths)),
    pair(st.sampled_from(["startsWith", "endsWith"]), paths, st.one_of(paths, texts)),
)
trees = st.recursive(
    conditions,
    lambda inner: st.one_of(
        inner.map(lambda part: Node("not", (part,))),
        st.builds(
            lambda kind, parts: Node(kind, tuple(parts)),
            st.sampled_from(["and", "or"]),
            st.lists(inner, min_size=2, max_size=3),
        ),
    ),
    max_leaves=6,
)
parties = st.builds(Party, st.sampled_from(["none", "leaf"]), st.just(""), st.text(max_size=20))


@given(trees)
def test_a_tree_that_is_written_is_read_again(tree: Node) -> None:
    """Or its text is over a limit; a tree has one packed form."""
    read = parse(text_of(tree), CALLERS)
    if isinstance(read, Refusal):
        assert "over" in read.reason
        return
    assert (read, packed(read)) == (tree, packed(tree))


@given(st.one_of(st.text(), st.text('caller.props"\\[]()!=<>&|in has,true1-', max_size=40)))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Never an exception; what is read is written in a form that is read alike."""
    read = parse(text, CALLERS)
    if isinstance(read, Refusal):
        assert read.slug == "bad-policy"
    else:
        assert parse(text_of(read), CALLERS) == read


@given(trees, parties)
def test_a_policy_and_its_negation_never_both_pass(tree: Node, party: Party) -> None:
    """Both are false where there is a fault, and then the reason is told."""
    policies = [Policy(text="", tree=held) for held in (tree, Node("not", (tree,)))]
    passes = [policy.passes(party) for policy in policies]
    assert passes != [True, True]
    told = [policy.parts(party)[0].value for policy in policies]
    assert [value == "true" for value in told] == passes
    for policy, is_true in zip(policies, passes, strict=True):
        assert is_true or policy.culprits(party)


@given(st.text(max_size=40), st.text(max_size=40))
def test_any_carried_pair_is_read_or_unreadable(text: str, tree: str) -> None:
    """A peer may write what it likes into a spec."""
    policy = read_policy([text, tree], CALLERS, seed="x", owner="y")
    assert policy.tree is None or policy.packed == tree
