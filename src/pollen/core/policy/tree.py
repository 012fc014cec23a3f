"""The tree of a policy: its nodes, how it is carried, how it is written.

Decides: which nodes and paths there are, the canonical text of a tree, its size.
Does not know: what a path leads to; how a text is read (``parse``).
Invariants: ``parse(text_of(tree))`` is the tree. ``packed`` gives one text for one tree.
Source: docs/design/policy.md#the-tree.
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec

COMPARISONS: Final = ("==", "!=", "<", "<=", ">", ">=")
AFFIXES: Final = ("startsWith", "endsWith")
LITERALS: Final = ("text", "int", "bool")
# Words that name no step of a path after a dot, as in CEL.
RESERVED: Final = frozenset({"true", "false", "null", "in"})
INT_MIN: Final = -(1 << 63)
INT_MAX: Final = (1 << 63) - 1
# What no text holds as it is: it would not show, or would show what is not there.
UNSHOWN: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ESCAPES: Final = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Node(msgspec.Struct, frozen=True, gc=False):
    """One node: ``value`` of a literal, ``steps`` of a path, ``parts`` of everything else.

    ``kind`` is ``or``, ``and``, ``not``, a comparison, ``in``, ``has``, ``startsWith``,
    ``endsWith``, ``path``, ``list``, ``text``, ``int`` or ``bool``.
    """

    kind: str
    parts: tuple[Node, ...] = ()
    steps: tuple[str, ...] = ()
    value: str | int | bool = ""


class Scope(msgspec.Struct, frozen=True):
    """Where an expression stands: the flag that users type, and the fields of each root.

    ``known`` are the fields of the seed.
    """

    flag: str
    subject: str
    known: tuple[str, ...] = ("name", "owner")

    @property
    def fields(self) -> dict[str, tuple[str, ...]]:
        """What each root has; the steps below ``props`` are free."""
        return {self.subject: ("tier", "id", "props"), "seed": self.known}


CALLERS: Final = Scope("--allow", "caller")
HOSTS: Final = Scope("--host-if", "node")
# The owner of a seed is the caller here: one word for one thing.
PUBLISHERS: Final = Scope("set-policy publish", "caller", ("name",))


def literal(value: str | int | bool) -> Node:
    """A literal; the type of the value is its kind."""
    kind = {str: "text", bool: "bool", int: "int"}[type(value)]
    return Node(kind, value=value)


def size_of(node: Node) -> tuple[int, int]:
    """Nodes in all, and the depth; a leaf is one of each."""
    sizes = [size_of(part) for part in node.parts]
    return 1 + sum(count for count, _ in sizes), 1 + max((deep for _, deep in sizes), default=0)


def packed(node: Node) -> str:
    """The tree as it is carried: compact JSON, one text for one tree."""
    return msgspec.json.encode(_plain(node)).decode()


def _plain(node: Node) -> Any:
    if node.kind in LITERALS:
        return node.value
    return [node.kind, *node.steps, *(_plain(part) for part in node.parts)]


def text_of(node: Node) -> str:
    """The tree as a user could have written it."""
    match node.kind:
        case "or" | "and":
            sign = " || " if node.kind == "or" else " && "
            return sign.join(_within(part, node.kind) for part in node.parts)
        case "not":
            return f"!{_after_not(node.parts[0])}"
        case "has":
            return f"has({text_of(node.parts[0])})"
        case "startsWith" | "endsWith":
            return f"{text_of(node.parts[0])}.{node.kind}({text_of(node.parts[1])})"
        case "path":
            return _path_text(node.steps)
        case "list":
            return f"[{', '.join(text_of(part) for part in node.parts)}]"
        case "text":
            return quoted(str(node.value))
        case "bool":
            return "true" if node.value else "false"
        case "int":
            return str(node.value)
    return f"{text_of(node.parts[0])} {node.kind} {text_of(node.parts[1])}"


def _within(part: Node, kind: str) -> str:
    is_loose = part.kind == "or" or part.kind == kind
    return f"({text_of(part)})" if is_loose else text_of(part)


def _after_not(part: Node) -> str:
    is_tight = part.kind in ("not", "has", "path", "bool", *AFFIXES)
    return text_of(part) if is_tight else f"({text_of(part)})"


def _path_text(steps: tuple[str, ...]) -> str:
    text = steps[0]
    for step in steps[1:]:
        is_name = _NAME.fullmatch(step) and step not in RESERVED
        text += f".{step}" if is_name else f"[{quoted(step)}]"
    return text


def quoted(text: str) -> str:
    """A literal in double quotes; what does not print is escaped."""
    return f'"{"".join(_escaped(char) for char in text)}"'


def _escaped(char: str) -> str:
    if char in _ESCAPES:
        return _ESCAPES[char]
    return f"\\u{ord(char):04x}" if UNSHOWN.match(char) else char
