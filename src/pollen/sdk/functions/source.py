"""The text of one file or notebook cell, and its statements: what can be found in it by name.

Decides: which statement a name of a module comes from, and which names a statement reads.
Does not know: values, other files, what is shipped (``slices``).
Invariants: nothing is run. What stands under ``if __name__ == "__main__"`` is never found: that is
    the program, and only its functions are shipped.
Source: docs/design/functions.md#what-is-shipped.
"""

from __future__ import annotations

import ast
import linecache
import symtable
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

Statement = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
_BLOCKS: Final = (ast.If, ast.Try, ast.With)
_BODIES: Final = ("body", "orelse", "finalbody")


@dataclass(frozen=True)
class Place:
    """A statement, and the one of the top level that holds it: itself, or a block around it."""

    node: ast.stmt
    top: ast.stmt

    @property
    def is_guarded(self) -> bool:
        """Whether the program goes on when it fails."""
        return isinstance(self.top, ast.Try)


@dataclass
class Reads:
    """What a statement reads: names that must be there, names of annotations, dotted paths."""

    names: set[str] = field(default_factory=set)
    soft: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)
    imports: list[tuple[ast.Import | ast.ImportFrom, bool]] = field(default_factory=list)


class Text:
    """One file, read once. Raises ``OSError`` without a text, ``SyntaxError`` for what is none."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines = linecache.getlines(file)
        if not self.lines:
            raise OSError(f"there is no text of {file}")
        self.places = list(_places(ast.parse("".join(self.lines)).body))

    def definition(self, name: str, line: int | None = None) -> Place | None:
        """The function or class of that name; the last one, or the one whose first line it is."""
        for place in reversed(self.places):
            node = place.node
            is_named = isinstance(node, Statement) and node.name == name
            if is_named and (line is None or line in (first_line(node), node.lineno)):
                return place
        return None

    def inner(self, name: str, line: int) -> Place | None:
        """A function within a function."""
        for place in self.places:
            for node in ast.walk(place.node):
                if not isinstance(node, Statement) or node.name != name:
                    continue
                if line in (first_line(node), node.lineno):
                    return Place(node, node)
        return None

    def assignment(self, name: str) -> Place | None:
        """The last statement that gives a name its value."""
        for place in reversed(self.places):
            node = place.node
            targets = node.targets if isinstance(node, ast.Assign) else []
            if isinstance(node, ast.AnnAssign) and node.value is not None:
                targets = [node.target]
            for target in targets:
                parts = target.elts if isinstance(target, ast.Tuple) else [target]
                if any(isinstance(part, ast.Name) and part.id == name for part in parts):
                    return place
        return None

    def imports(self, name: str) -> list[tuple[Place, str]]:
        """The imports that bind a name, each with a line that binds that name alone."""
        found = []
        for place in self.places:
            node = place.node
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    if bound_by(node, alias) == name:
                        found.append((place, _alone(node, alias)))
        return found


def first_line(node: ast.stmt) -> int:
    """Where a statement begins, its decorators included."""
    marks = getattr(node, "decorator_list", None)
    return marks[0].lineno if marks else node.lineno


def bound_by(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    """The name that an import gives."""
    if alias.asname:
        return alias.asname
    return alias.name.partition(".")[0] if isinstance(node, ast.Import) else alias.name


def _alone(node: ast.Import | ast.ImportFrom, alias: ast.alias) -> str:
    if isinstance(node, ast.Import):
        return ast.unparse(ast.Import(names=[alias]))
    return ast.unparse(ast.ImportFrom(module=node.module, names=[alias], level=node.level))


def _places(body: list[ast.stmt], top: ast.stmt | None = None) -> Iterator[Place]:
    for node in body:
        yield Place(node, top or node)
        if not isinstance(node, _BLOCKS):
            continue
        if isinstance(node, ast.If) and _is_program(node.test):
            yield from _places(node.orelse, top or node)
            continue
        for part in _BODIES:
            yield from _places(getattr(node, part, []), top or node)
        for handler in getattr(node, "handlers", []):
            yield from _places(handler.body, top or node)


def _is_program(test: ast.expr) -> bool:
    """``__name__ == "__main__"``."""
    return isinstance(test, ast.Compare) and "__name__" in {
        part.id for part in (test.left, *test.comparators) if isinstance(part, ast.Name)
    }


class _Bare(ast.NodeTransformer):
    """Takes annotations out: those of a function are evaluated only for who asks for them."""

    def __init__(self) -> None:
        self.notes: list[ast.expr] = []

    def visit_arg(self, node: ast.arg) -> ast.arg:
        if node.annotation is not None:
            self.notes.append(node.annotation)
        return ast.arg(arg=node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if node.returns is not None:
            self.notes.append(node.returns)
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        self.notes.append(node.annotation)
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


def reads(node: ast.stmt) -> Reads:
    """What a statement reads when it is run, and what its functions read when they are called."""
    out = Reads()
    _note_imports(node, out, is_guarded=False)
    bare = _Bare()
    copied = bare.visit(ast.parse(ast.unparse(node)))
    for note in bare.notes:
        for part in ast.walk(note):
            if isinstance(part, ast.Name):
                out.soft.add(part.id)
    for part in ast.walk(copied):
        if (dotted := _dotted(part)) is not None:
            out.paths.add(dotted)
    text = ast.unparse(ast.fix_missing_locations(copied))
    _collect(symtable.symtable(text, "<shipped>", "exec"), out.names, is_top=True)
    own = getattr(node, "name", None)
    out.names.discard(own or "")
    out.soft -= out.names | {own or ""}
    return out


def _collect(table: symtable.SymbolTable, into: set[str], *, is_top: bool) -> None:
    for symbol in table.get_symbols():
        if is_top:
            if symbol.is_referenced():
                into.add(symbol.get_name())
        elif symbol.is_global():
            into.add(symbol.get_name())
    for child in table.get_children():
        _collect(child, into, is_top=False)


def _dotted(node: ast.AST) -> str | None:
    """``a.b.c`` of such an expression."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not parts or not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])


def _note_imports(node: ast.AST, out: Reads, *, is_guarded: bool) -> None:
    if isinstance(node, ast.Import | ast.ImportFrom):
        out.imports.append((node, is_guarded))
    for child in ast.iter_child_nodes(node):
        _note_imports(child, out, is_guarded=is_guarded or isinstance(node, ast.Try))
