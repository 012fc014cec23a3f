"""From the text of a policy to its tree, by recursive descent.

Decides: whether a text is an expression of the closed subset, and what is wrong with it where.
Does not know: what a path leads to.
Invariants: total over its inputs; nothing is read that is over the limits; each refusal says where.
Source: docs/design/policy.md. Refused: a library (docs/decisions/policy-language.md).
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple, NoReturn

from pollen.core import limits
from pollen.core.codec import Refusal
from pollen.core.policy.tree import (
    AFFIXES,
    COMPARISONS,
    INT_MAX,
    INT_MIN,
    RESERVED,
    UNSHOWN,
    Node,
    Scope,
    literal,
    size_of,
)

_TOKEN: Final = re.compile(
    r"""[ \t\r\n]+
    | (?P<text> "(?:[^"\\]|\\.)*" | '(?:[^'\\]|\\.)*' )
    | (?P<double> -?[0-9]+(?:\.[0-9]|[eE]) )
    | (?P<int> -?[0-9]+ )
    | (?P<name> [A-Za-z_][A-Za-z0-9_]* )
    | (?P<sign> == | != | <= | >= | && | \|\| | [<>!()\[\],.] )""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_ESCAPE: Final = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_ESCAPED: Final = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "'": "'"}
# How much of a long text is shown to each side of the fault.
_SHOWN: Final = 30
_EXAMPLE: Final = 'write it as: caller.props.team == "red" && caller.tier in ["publisher", "admin"]'
_SIGNS: Final = (
    "there is no arithmetic; there are == != < <= > >= in && || ! has() startsWith() endsWith()"
)
_INSTEAD: Final = {
    "=": "a comparison is ==",
    "&": "and is &&",
    "|": "or is ||",
    "?": "there is no choice by ? and :",
    '"': "end the text with the quote that began it",
    "'": "end the text with the quote that began it",
}


class _Token(NamedTuple):
    kind: str
    text: str
    at: int


class _Fault(Exception):
    def __init__(self, reason: str, at: int, remedy: str = "") -> None:
        super().__init__(reason)
        self.reason, self.at, self.remedy = reason, at, remedy


def parse(text: str, scope: Scope) -> Node | Refusal:
    """The tree of an expression; ``bad-policy`` with the place of the first fault otherwise."""
    if len(text.encode(errors="replace")) > limits.POLICY_BYTES:
        reason = f"{scope.flag}: the policy is over {limits.POLICY_BYTES} bytes"
        return Refusal("bad-policy", reason, "shorten it, or give the members a property for it")
    try:
        tree = _Parser(_tokens(text), scope).whole()
    except _Fault as fault:
        reason = f"{scope.flag}: {fault.reason}, at character {fault.at + 1}"
        shown, mark = _around(text, fault.at)
        remedy = fault.remedy or _EXAMPLE.replace("caller", scope.subject)
        return Refusal("bad-policy", f"{reason}\n{shown}\n{mark}", remedy)
    count, depth = size_of(tree)
    if count > limits.POLICY_NODES or depth > limits.POLICY_DEPTH:
        most = f"{limits.POLICY_NODES} parts and a depth of {limits.POLICY_DEPTH}"
        reason = f"{scope.flag}: the policy has {count} parts and a depth of {depth}"
        return Refusal("bad-policy", f"{reason}, over {most}", "simplify it: in [...] for many ==")
    return tree


def _around(text: str, at: int) -> tuple[str, str]:
    """The text near a fault in one line, and a line whose caret is below it."""
    start = max(0, at - _SHOWN)
    near = text[start : at + _SHOWN]
    return UNSHOWN.sub(" ", near), " " * (at - start) + "^"


def _tokens(text: str) -> list[_Token]:
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _Fault(f"{text[at]!r} means nothing here", at, _INSTEAD.get(text[at], _SIGNS))
        if found.lastgroup == "double":
            raise _Fault("there are no fractions", at, "compare whole numbers or texts")
        if found.lastgroup is not None:
            tokens.append(_Token(found.lastgroup, found[0], at))
        at = found.end()
    return [*tokens, _Token("end", "", len(text))]


class _Parser:
    """One run over the tokens. Each method reads one rule and leaves what follows it."""

    def __init__(self, tokens: list[_Token], scope: Scope) -> None:
        self._tokens, self._next = tokens, 0
        self._scope, self._depth = scope, 0

    @property
    def _now(self) -> _Token:
        return self._tokens[self._next]

    def _take(self) -> _Token:
        token = self._now
        self._next += 1
        return token

    def _took(self, text: str) -> bool:
        token = self._now
        is_it = token.text == text and token.kind in ("sign", "name")
        self._next += is_it
        return is_it

    def _need(self, text: str) -> None:
        if not self._took(text):
            self._fail(f"{text} is expected")

    def _fail(self, reason: str, remedy: str = "") -> NoReturn:
        raise _Fault(reason, self._now.at, remedy)

    def whole(self) -> Node:
        tree = self._either()
        if self._now.kind != "end":
            self._fail("&&, || or the end is expected")
        return tree

    def _either(self) -> Node:
        return self._joined("or", "||")

    def _joined(self, kind: str, sign: str) -> Node:
        parts = [self._joined("and", "&&") if kind == "or" else self._negated()]
        while self._took(sign):
            parts.append(self._joined("and", "&&") if kind == "or" else self._negated())
        return parts[0] if len(parts) == 1 else Node(kind, tuple(parts))

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > limits.POLICY_DEPTH:
            self._fail(f"it is nested over {limits.POLICY_DEPTH} deep", "simplify it")

    def _negated(self) -> Node:
        if not self._took("!"):
            return self._condition()
        self._deeper()
        part = self._negated()
        self._depth -= 1
        if self._is_comparing():
            self._fail("! stands before what is compared", "write: !(a == b)")
        return Node("not", (part,))

    def _is_comparing(self) -> bool:
        return self._now.text in (*COMPARISONS, "in") and self._now.kind in ("sign", "name")

    def _condition(self) -> Node:
        if self._took("("):
            self._deeper()
            inner = self._either()
            self._need(")")
            self._depth -= 1
            if self._is_comparing():
                self._fail("what is compared is a path or a literal", "leave out the parentheses")
            return inner
        if self._now.text == "has" and self._tokens[self._next + 1].text == "(":
            self._next += 2
            path = self._path()
            self._need(")")
            return Node("has", (path,))
        begin = self._next
        left = self._operand()
        if left.kind == "path" and self._now.text == "(":
            return self._affix(begin)
        if self._is_comparing() and not self._is_after_not(begin):
            sign = self._take().text
            right = self._list_or_path() if sign == "in" else self._operand()
            if self._is_comparing():
                self._fail("a comparison has two sides", "join two with &&")
            return Node(sign, (left, right))
        if left.kind in ("text", "int"):
            self._fail("a comparison is expected: a literal alone says nothing")
        return left

    def _is_after_not(self, begin: int) -> bool:
        return begin > 0 and self._tokens[begin - 1].text == "!"

    def _no_function(self) -> NoReturn:
        last = self._tokens[self._next - 1]
        reason = f"there is no function {last.text}"
        raise _Fault(reason, last.at, "there are has(), startsWith() and endsWith()")

    def _affix(self, begin: int) -> Node:
        """``path.startsWith(operand)``, read again from its beginning."""
        last = self._tokens[self._next - 1]
        if self._tokens[self._next - 2].text != ".":
            self._no_function()
        self._next = begin
        path = self._path(ends_before=last)
        self._next += 2
        self._need("(")
        other = self._operand()
        if other.kind not in ("path", "text"):
            self._fail("a text or a path is expected in the parentheses")
        self._need(")")
        return Node(last.text, (path, other))

    def _operand(self) -> Node:
        token = self._now
        if token.kind in ("text", "int") or token.text in ("true", "false"):
            return self._literal()
        if token.kind != "name":
            self._fail("a path or a literal is expected")
        return self._path(is_open=True)

    def _literal(self) -> Node:
        token = self._take()
        if token.kind == "text":
            return literal(_unquoted(token))
        if token.kind == "int":
            digits = token.text.removeprefix("-")
            if digits != "0" and digits.startswith("0"):
                raise _Fault("a number begins with 0", token.at, "write it without")
            if len(digits) > len(str(INT_MAX)) or not INT_MIN <= int(token.text) <= INT_MAX:
                raise _Fault("a number is over 64 bits", token.at, "compare it as a text")
            return literal(int(token.text))
        if token.text in ("true", "false") and token.kind == "name":
            return literal(token.text == "true")
        raise _Fault("a literal is expected", token.at)

    def _list_or_path(self) -> Node:
        if not self._took("["):
            if self._now.kind != "name" or self._now.text in RESERVED:
                self._fail("a list or a path is expected", 'write: in ["a", "b"]')
            return self._path()
        parts: list[Node] = []
        while not self._took("]"):
            if parts:
                self._need(",")
            parts.append(self._literal())
        return Node("list", tuple(parts))

    def _path(self, *, is_open: bool = False, ends_before: _Token | None = None) -> Node:
        """A path. ``is_open``: its last step may be the name of a function."""
        root = self._take()
        fields = self._scope.fields
        if root.kind != "name" or root.text not in fields:
            known = " and ".join(fields)
            raise _Fault(f"a path begins with {known}", root.at, f"this one reads {known} only")
        steps = [root.text]
        while self._now.text in (".", "[") and self._now.kind == "sign":
            if ends_before is not None and self._tokens[self._next + 1] is ends_before:
                break
            steps.append(self._step(is_first=len(steps) == 1))
        is_call = is_open and self._now.text == "("
        if is_call and steps[-1] not in AFFIXES:
            self._no_function()
        self._check_steps(steps[:-1] if is_call else steps, root)
        return Node("path", steps=tuple(steps))

    def _step(self, *, is_first: bool) -> str:
        is_dot = self._take().text == "."
        token = self._take()
        if is_dot:
            if token.kind != "name" or token.text in RESERVED:
                raise _Fault("a name is expected after the dot", token.at, 'or write: ["key"]')
            return token.text
        if token.kind != "text" or is_first:
            raise _Fault("a key is a text in quotes below props", token.at, 'as in props["a-b"]')
        self._need("]")
        return _unquoted(token)

    def _check_steps(self, steps: list[str], root: _Token) -> None:
        fields = self._scope.fields[root.text]
        if len(steps) == 1 or steps[1] not in fields:
            known = ", ".join(f"{root.text}.{field}" for field in fields)
            remedy = f"there is {known}"
            if steps[1:2] == ["name"]:
                remedy += "; a node chooses its own name, so no policy reads it"
            reason = f"there is no {'.'.join(steps[:2])}"
            if len(steps) == 1:
                reason = f"{root.text} alone says nothing"
            raise _Fault(reason, root.at, remedy)
        if steps[1] == "props" and len(steps) == 2:
            raise _Fault("props is followed by a key", root.at, f"as in {root.text}.props.team")
        if steps[1] != "props" and len(steps) > 2:
            raise _Fault(f"{root.text}.{steps[1]} has no parts", root.at, "leave out what follows")


def _unquoted(token: _Token) -> str:
    def replaced(found: re.Match[str]) -> str:
        mark = found[1]
        char = chr(int(mark[1:], 16)) if len(mark) > 1 else _ESCAPED.get(mark, "")
        if not char or 0xD800 <= ord(char) <= 0xDFFF:
            known = "\\\\ \\\" \\' \\n \\r \\t \\uXXXX"
            raise _Fault(f"{found[0]} is not an escape", token.at + 1 + found.start(), known)
        return char

    inner = token.text[1:-1]
    hidden = UNSHOWN.search(inner)
    if hidden is not None:
        reason = "a text holds a character that does not print"
        raise _Fault(reason, token.at + 1 + hidden.start(), "write it as \\n, \\t or \\uXXXX")
    return _ESCAPE.sub(replaced, inner)
