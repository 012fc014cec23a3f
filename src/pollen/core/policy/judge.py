"""Whether a policy is true: the reference of what the muscles evaluate at each call.

Decides: what a path leads to, the value of every node, and the verdict.
Does not know: members, seeds, links: who asks states a ``Party``.
Invariants: every node is evaluated, none is skipped; one fault anywhere makes the verdict false.
    ``pollen-rules`` runs the same trees and parties of ``tests/vectors/policy.json``.
Source: docs/design/policy.md#the-value-of-an-expression.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from pollen.core.codec import Refusal
from pollen.core.policy.parse import parse
from pollen.core.policy.tree import (
    AFFIXES,
    CALLERS,
    INT_MAX,
    INT_MIN,
    LITERALS,
    Node,
    Scope,
    packed,
    quoted,
    text_of,
)
from pollen.core.rules import match_gate

# Pairs of a property and its value, as ``match_gate`` reads them.
Pairs = tuple[tuple[str, str], ...]
# Answers of gates that are remembered: many nodes have the same properties, and a plan asks each
# of them for each seed. Guess: a hundred gates among forty kinds of nodes.
_GATES_REMEMBERED: Final = 4_096


class Party(msgspec.Struct, frozen=True, gc=False):
    """Who is judged: a caller or a host. ``id`` in hex, "" for a stranger.

    ``properties`` is the text of a JSON object. A stranger has none, and ``props`` leads nowhere.
    """

    tier: str = "none"
    id: str = ""
    properties: str = ""

    @property
    def words(self) -> list[tuple[str, str]]:
        """What stands directly below the subject; an empty text leads nowhere."""
        return [("tier", self.tier), ("id", self.id)]

    def meets(self, gate: Pairs, policy: Policy | None) -> bool:
        """Whether a gate and a policy both let it pass: what a seed asks of a caller or a host."""
        if gate and not _meets_gate(gate, self.properties):
            return False
        return policy is None or policy.passes(self)


@functools.lru_cache(_GATES_REMEMBERED)
def _meets_gate(gate: Pairs, properties: str) -> bool:
    return match_gate(gate, properties)


STRANGER: Final = Party()


class Part(msgspec.Struct, frozen=True):
    """A part of an expression as it is explained: how deep it stands, its text, its value.

    ``value`` is a literal, ``missing``, or what is wrong with it.
    """

    depth: int
    text: str
    value: str


class _Fault(msgspec.Struct, frozen=True):
    """Why a node has no value."""

    reason: str


_Scalar = str | int | bool
_Value = _Scalar | list[_Scalar | None] | _Fault
_MISSING: Final = _Fault("missing")
_STRANGE: Final = _Fault("neither a text, a whole number, true nor false")
_NOT_BOOL: Final = _Fault("neither true nor false")
_UNLIKE: Final = _Fault("compares two kinds of values")
_COMPARE: Final[Mapping[str, Callable[[Any, Any], bool]]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy of one seed: who wrote ``text`` meant ``tree``; without a tree it is unreadable.

    ``seed`` and ``owner`` (hex) are what ``seed.name`` and ``seed.owner`` lead to.
    """

    text: str
    tree: Node | None
    scope: Scope = CALLERS
    seed: str = ""
    owner: str = ""

    @property
    def packed(self) -> str:
        """The tree as it is carried, "" for one that cannot be read."""
        return "" if self.tree is None else packed(self.tree)

    @property
    def words(self) -> list[tuple[str, str]]:
        """What stands below ``seed``."""
        return [("name", self.seed), ("owner", self.owner)]

    def passes(self, party: Party) -> bool:
        """Whether the whole expression is true for a party, without any fault."""
        return self.tree is not None and _value_of(self.tree, self._facts(party)) is True

    def parts(self, party: Party) -> list[Part]:
        """The expression and all that it is made of but literals, the whole one first."""
        if self.tree is None:
            return [Part(0, self.text, "not readable here: a newer Pollen wrote it")]
        parts: list[Part] = []
        _explain(self.tree, self._facts(party), 0, parts)
        return parts

    def culprits(self, party: Party) -> list[Part]:
        """Why it does not pass: the parts with a fault, else those that made it false."""
        if self.tree is None:
            return self.parts(party)
        found: list[Node] = []
        facts = self._facts(party)
        if isinstance(_value_of(self.tree, facts), _Fault):
            _faulty(self.tree, facts, found)
        else:
            _false(self.tree, facts, found)
        return [Part(0, text_of(node), _shown(_value_of(node, facts))) for node in found]

    def _facts(self, party: Party) -> dict[str, object]:
        subject: dict[str, object] = {word: text for word, text in party.words if text}
        held = _object_of(party.properties)
        if held is not None:
            subject["props"] = held
        return {self.scope.subject: subject, "seed": dict(self.words)}


def read_policy(carried: list[str], scope: Scope, *, seed: str, owner: str) -> Policy:
    """The policy of a spec: its text and its tree. Two that differ are unreadable.

    So a version whose parser reads a text otherwise refuses, instead of deciding otherwise.
    """
    text, tree = carried
    parsed = parse(text, scope)
    is_readable = not isinstance(parsed, Refusal) and packed(parsed) == tree
    held = parsed if is_readable and isinstance(parsed, Node) else None
    return Policy(text=text, tree=held, scope=scope, seed=seed, owner=owner)


def _object_of(properties: str) -> object:
    try:
        held = msgspec.json.decode(properties)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    return held if isinstance(held, dict) else None


def _find(steps: tuple[str, ...], facts: object) -> tuple[bool, object]:
    """Whether a path leads anywhere, and where."""
    for step in steps:
        if not isinstance(facts, dict) or step not in facts:
            return False, None
        facts = facts[step]
    return True, facts


def _scalar(found: object) -> _Scalar | None:
    """A value that can be compared, None for another. ``-0`` is 0, as JSON readers disagree."""
    if isinstance(found, str | bool):
        return found
    if isinstance(found, int):
        return found if INT_MIN <= found <= INT_MAX else None
    if isinstance(found, float) and str(found) == "-0.0":
        return 0
    return None


def _at(steps: tuple[str, ...], facts: object) -> _Value:
    is_there, found = _find(steps, facts)
    if not is_there:
        return _MISSING
    if isinstance(found, list):
        return [_scalar(item) for item in found]
    single = _scalar(found)
    return _STRANGE if single is None else single


def _value_of(node: Node, facts: object) -> _Value:
    """The value of a node; a fault anywhere below is its value."""
    if node.kind in LITERALS:
        return node.value
    if node.kind == "path":
        return _at(node.steps, facts)
    if node.kind == "has":
        return _find(node.parts[0].steps, facts)[0]
    values = [_value_of(part, facts) for part in node.parts]
    return _joined(node.kind, values)


def _joined(kind: str, values: list[_Value]) -> _Value:
    for value in values:
        if isinstance(value, _Fault):
            return value
    if kind == "list":
        return [value if isinstance(value, str | int) else None for value in values]
    if kind in ("or", "and", "not"):
        if not all(isinstance(value, bool) for value in values):
            return _NOT_BOOL
        return not values[0] if kind == "not" else (any if kind == "or" else all)(values)
    left, right = values
    if isinstance(left, list):
        return _UNLIKE
    if kind == "in":
        if not isinstance(right, list):
            return _Fault("looks for it in what is not a list")
        return any(_is_same(left, item) for item in right)
    if isinstance(right, list) or type(left) is not type(right):
        return _UNLIKE
    if kind in AFFIXES:
        if not isinstance(left, str) or not isinstance(right, str):
            return _Fault("reads what is not a text")
        return left.startswith(right) if kind == "startsWith" else left.endswith(right)
    if isinstance(left, bool) and kind not in ("==", "!="):
        return _Fault("orders true and false")
    return _COMPARE[kind](left, right)


def _is_same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other


def _explain(node: Node, facts: object, depth: int, parts: list[Part]) -> None:
    value = _value_of(node, facts)
    parts.append(Part(depth, text_of(node), _shown(value)))
    if node.kind == "has":
        return
    for part in node.parts:
        if part.kind not in (*LITERALS, "list"):
            _explain(part, facts, depth + 1, parts)


def _faulty(node: Node, facts: object, found: list[Node]) -> None:
    """The parts of logic that have a fault and hold no part of logic that has one."""
    parts = node.parts if node.kind in ("or", "and", "not") else ()
    before = len(found)
    for part in parts:
        if isinstance(_value_of(part, facts), _Fault):
            _faulty(part, facts, found)
    if len(found) == before:
        found.append(node)


def _false(node: Node, facts: object, found: list[Node]) -> None:
    """The parts that must be otherwise for the whole to be true."""
    if node.kind not in ("or", "and"):
        found.append(node)
        return
    for part in node.parts:
        if _value_of(part, facts) is not True:
            _false(part, facts, found)


def _shown(value: _Value) -> str:
    if isinstance(value, _Fault):
        return value.reason
    if isinstance(value, list):
        return f"[{', '.join('?' if item is None else _shown(item) for item in value)}]"
    if isinstance(value, bool):
        return "true" if value else "false"
    return quoted(value) if isinstance(value, str) else str(value)
