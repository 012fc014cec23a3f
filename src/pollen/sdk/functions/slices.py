"""What a function needs of its own module: those statements, at their own lines, and constants.

Decides: which definitions, imports and values of a module a function reads, and what stands for
    each of them on the other side.
Does not know: archives, nodes; whole modules (``modules``); how values are written (``tagged``).
Invariants: a kept statement stands at the line where the user wrote it, so tracebacks hold. A value
    travels as it is when the function is first called. What cannot be shipped is ``TypeError`` and
    names the function and the name.
Source: docs/design/functions.md#what-is-shipped.
"""

from __future__ import annotations

import inspect
import linecache
import re
import sys
import types
from collections.abc import Container
from pathlib import Path
from typing import Any, Final

from pollen.sdk.functions import tagged
from pollen.sdk.functions.modules import Whole, find, imported
from pollen.sdk.functions.source import Place, Reads, Text, first_line, reads

# The most that constants of one function may take, bytes of JSON. Raising it makes bundles larger,
# which each host keeps in memory. Guess: a table that somebody wrote by hand.
CONSTANTS_MAX: Final = 256 * 1024
# Where notebooks keep the text of a cell.
_CELL: Final = re.compile(r"ipykernel_|^<ipython-input|^<stdin|^<python-input")


class Slice:
    """What is kept of one module."""

    def __init__(self, name: str, namespace: dict[str, Any], whole: Whole) -> None:
        self.name = name
        self.package: str = namespace.get("__package__") or ""
        self.constants: dict[str, Any] = {}
        # What each name stood for, so that a program that gives it another value ships again.
        self.seen: dict[str, Any] = {}
        self.namespace = namespace
        self._whole = whole
        self._texts: dict[str, Text] = {}
        self._kept: dict[str, dict[int, str]] = {}
        self._places: set[int] = set()
        self._loose: list[str] = []
        self._names: set[str] = set()
        # Names of nothing yet, or of Python's own, which the module may have later.
        self._absent: set[str] = set()

    # -- what is needed -------------------------------------------------------------------------

    def need_root(self, held: Any, who: str) -> str:
        """Keep a function or class, and all that it reads; the name that it has here."""
        inner = unwrapped(held)
        top = inner.__qualname__.partition(".")[0]
        if inner.__name__ == "<lambda>":
            raise TypeError("a lambda has no source of its own: write it as a function with def")
        if "<locals>" in inner.__qualname__:
            return self._keep_inner(inner, who)
        found = self.namespace.get(top)
        if found is held or unwrapped(found) is inner or "." in inner.__qualname__:
            self.need(top, who)
        else:
            self._names.add(top)
            self._keep_definition(inner, top, who)
        return str(inner.__qualname__)

    def need(self, name: str, who: str) -> None:
        """Keep what stands behind a name of the module, unless it is a name of Python's own."""
        if name in self._names or name.startswith("__"):
            return
        if name not in self.namespace:
            self._absent.add(name)
            return
        self._names.add(name)
        value = self.seen[name] = self.namespace[name]
        inner = unwrapped(value)
        if isinstance(value, types.ModuleType):
            self._keep_import(name, f"import {value.__name__} as {name}", value.__name__, who)
        elif isinstance(inner, type | types.FunctionType) and inner.__module__ != self.name:
            line = f"from {inner.__module__} import {inner.__qualname__} as {name}"
            self._keep_import(name, line, inner.__module__, who)
        elif isinstance(inner, type | types.FunctionType):
            if inner.__qualname__ == name:
                self._keep_definition(inner, name, who)
            elif not self._keep_assignment(name, who):
                raise _unfit(who, name, f"is {inner.__qualname__} under another name")
        else:
            self._keep_value(name, value, who)

    def _keep_value(self, name: str, value: Any, who: str) -> None:
        try:
            tagged.plain(value, tagged.Names({}, may_import=False))
        except tagged.Unfit as error:
            if self._text_imports(name) and self._keep_import(name, "", "", who):
                return
            if not self._keep_assignment(name, who):
                raise _unfit(who, name, f"cannot be shipped: {error}") from None
        else:
            self.constants[name] = value

    def _keep_definition(self, inner: Any, name: str, who: str) -> None:
        code = getattr(inner, "__code__", None)
        line = None if code is None else code.co_firstlineno
        files = [code.co_filename] if code is not None else self._files(inner)
        for file in files:
            text = self._text(file)
            place = text.definition(name, line) if text is not None else None
            if text is not None and place is not None:
                self._keep(text, place, name)
                return
        reason = "has no source here, or its file was changed since it was loaded"
        raise _unfit(who, name, reason)

    def _keep_inner(self, inner: Any, who: str) -> str:
        """A function within a function: it may read no variable of the one around it."""
        name = inner.__name__
        if free := getattr(inner, "__code__", inner).co_freevars:
            reason = f"{who} reads {free[0]!r} of the function around it; make it an argument"
            raise TypeError(reason)
        text = self._text(inner.__code__.co_filename)
        place = text.inner(name, inner.__code__.co_firstlineno) if text is not None else None
        if text is None or place is None:
            raise TypeError(f"{who} has no source here, or its file was changed since")
        self._names.add(name)
        self._keep(text, place, who)
        return str(name)

    def _keep_assignment(self, name: str, who: str) -> bool:
        for file in self._files(None):
            text = self._text(file)
            place = text.assignment(name) if text is not None else None
            if text is not None and place is not None:
                self._keep(text, place, who)
                return True
        return False

    def _keep(self, text: Text, place: Place, who: str) -> None:
        """Keep a statement at its lines, and all that it reads."""
        node = place.node
        if id(node) in self._places:
            return
        self._places.add(id(node))
        kept = self._kept.setdefault(text.file, {})
        begin = first_line(node)
        for number in range(begin, (node.end_lineno or begin) + 1):
            kept[number] = text.lines[number - 1].rstrip("\r\n")
        if node.col_offset and begin - 1 not in kept:
            # It stood in a block: the line above it opens one that is always entered.
            kept[begin - 1] = "if 1:"
        self._follow(reads(node), who)

    def _follow(self, read: Reads, who: str) -> None:
        for name in sorted(read.names):
            self.need(name, who)
        for name in sorted(read.soft):
            try:
                self.need(name, who)
            except TypeError:
                # An annotation alone, which nobody needs there.
                self._names.discard(name)
        for node, is_guarded in read.imports:
            for module in imported(node, self.package):
                if find(module).kind != "missing":
                    self._whole.need(module, who, is_guarded=is_guarded)
        for path in sorted(read.paths):
            self._note_path(path, who)

    def _note_path(self, path: str, who: str) -> None:
        """``a.b.c`` may read the module a.b, which another import brought."""
        base = self.namespace.get(path.partition(".")[0])
        if not isinstance(base, types.ModuleType):
            return
        name = base.__name__
        for part in path.split(".")[1:]:
            name = f"{name}.{part}"
            if name not in sys.modules:
                return
            if find(name).kind in ("own", "library", "package"):
                self._whole.need(name, who, is_guarded=True)
                self._loose.append(f"import {name}")

    def _text_imports(self, name: str) -> bool:
        return any(text.imports(name) for file in self._files(None) if (text := self._text(file)))

    def _keep_import(self, name: str, line: str, module: str, who: str) -> bool:
        """Keep the imports that bind a name, each alone at its line; without any ``line``."""
        found = False
        for file in self._files(None):
            text = self._text(file)
            for place, alone in text.imports(name) if text is not None else ():
                found = True
                self._keep_one(text, place, alone, who)  # type: ignore[arg-type]
            if found:
                break
        if not found and line:
            self._loose.append(line)
            self._whole.need(module, who, is_guarded=False)
        return found

    def _keep_one(self, text: Text, place: Place, alone: str, who: str) -> None:
        if place.top is not place.node:
            # Within a block, which may choose between imports: all of it.
            self._keep(text, Place(place.top, place.top), who)
            return
        kept = self._kept.setdefault(text.file, {})
        held = kept.get(place.node.lineno)
        if held is None or alone not in held.split("; "):
            kept[place.node.lineno] = alone if held is None else f"{held}; {alone}"
        node = place.node
        for module in imported(node, self.package):  # type: ignore[arg-type]
            is_other = module.rpartition(".")[2] not in alone and "." in module
            if find(module).kind != "missing" and not is_other:
                self._whole.need(module, who, is_guarded=False)

    # -- files ----------------------------------------------------------------------------------

    def _text(self, file: str) -> Text | None:
        if file not in self._texts:
            try:
                self._texts[file] = Text(file)
            except (OSError, SyntaxError):
                return None
        return self._texts[file]

    def _files(self, held: Any) -> list[str]:
        """Where the statements of the module may be: its file, or the cells, the latest first."""
        files = []
        for inner in vars(held).values() if isinstance(held, type) else ():
            code = getattr(unwrapped(inner), "__code__", None)
            if code is not None and getattr(inner, "__module__", None) == self.name:
                files.append(code.co_filename)
        if own := self.namespace.get("__file__"):
            files.append(own)
        if self.name == "__main__":
            files += [file for file in reversed(list(linecache.cache)) if _CELL.search(file)]
        return list(dict.fromkeys(file for file in files if file != "<string>"))

    def parts(self, taken: Container[str]) -> dict[str, str]:
        """The files of the slice by their path in a bundle, in the order in which they run."""
        out: dict[str, str] = {}
        order = list(linecache.cache)
        files = sorted(self._kept, key=lambda file: order.index(file) if file in order else -1)
        for number, file in enumerate(files):
            path = self._path_of(file, number)
            if path in taken:
                path = f"{path.removesuffix('.py')}__part.py"
            lines = self._kept[file]
            text = [lines.get(number, "") for number in range(1, max(lines) + 1)]
            if number == 0:
                text = self._with_loose(text, file)
            out[path] = "\n".join(text) + "\n"
        return out

    def _with_loose(self, text: list[str], file: str) -> list[str]:
        """Imports without a place of their own: on the first line, before all that is kept."""
        if not self._loose:
            return text
        loose = "; ".join(dict.fromkeys(self._loose))
        if text[0] in ("", loose):
            return [loose, *text[1:]]
        if text[0].startswith("if 1:") or not re.match(r"(import|from) [^#]*$", text[0]):
            # What is kept begins on the first line: its lines move by one.
            return [loose, *text]
        return [f"{loose}; {text[0]}", *text[1:]]

    def _path_of(self, file: str, number: int) -> str:
        if self.name != "__main__":
            return f"{self.name.replace('.', '/')}.py"
        if _CELL.search(file):
            return f"cell_{number + 1}.py"
        stem = re.sub(r"\W", "_", Path(file).stem)
        return f"{stem if stem.isidentifier() else f'_{stem}'}.py"

    def is_current(self) -> bool:
        """Whether each name still stands for what was shipped."""
        if any(name in self.namespace for name in self._absent):
            return False
        return all(self.namespace.get(name) is value for name, value in self.seen.items())

    @property
    def names(self) -> list[str]:
        """The names that it has."""
        return sorted(self._names)


def unwrapped(held: Any) -> Any:
    """The function below its decorators."""
    try:
        return inspect.unwrap(held) if callable(held) else held
    except ValueError:
        return held


def _unfit(who: str, name: str, reason: str) -> TypeError:
    return TypeError(f"{who} reads {name!r}, which {reason}")
