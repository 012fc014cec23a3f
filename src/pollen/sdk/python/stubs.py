"""A seed's functions as Python classes, for type checkers and editors: what ``pln stubs`` writes.

Decides: which Python type stands for a JSON schema, as an argument and as a result.
Does not know: where the description comes from; how a function is called (``uses``).
Invariants: of the description, which is text of somebody else, no name reaches the file that is no
    identifier, and no other text but as a literal or within a docstring. Other schemas than ours
    are ``Any``.
Source: docs/design/sdk.md#typed-handles; JSON Schema 2020-12.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pollen.plain import escaped

# Texts that stand for something else: as an argument the value itself will do, too.
_FORMATS: Final = {
    "date-time": "datetime.datetime",
    "date": "datetime.date",
    "time": "datetime.time",
    "uuid": "uuid.UUID",
    "decimal": "decimal.Decimal",
}
_WORDS: Final = {
    "string": "str",
    "integer": "int",
    "number": "float",
    "boolean": "bool",
    "null": "None",
}
_INDENT: Final = "    "
# Within a class a function of such a name would stand for the type.
_TYPES: Final = frozenset(
    {"str", "int", "float", "bool", "bytes", "list", "dict", "tuple", "datetime", "decimal", "uuid"}
)
# Levels of a schema that are followed.
_DEPTH_MAX: Final = 16


def module_of(seed: str, version: str, functions: Mapping[str, Any]) -> str:
    """The text of a Python module with a class for ``Mesh`` and one for ``SyncMesh``.

    ``functions`` are those of the seed's description, ``version`` the first digits of its hash.
    """
    writer = _Writer()
    title = class_name(seed)
    both = [writer.class_of(title, functions, is_async=True)]
    both += [writer.class_of(f"Sync{title}", functions, is_async=False)]
    head = [
        f'"""The functions of the seed {seed}, version {version}, for type checkers and editors.',
        "",
        f"Written by ``pln stubs {seed}``. ``mesh.use({seed!r}, {title})`` has them.",
        '"""',
        "",
        "from __future__ import annotations",
        "",
        "import datetime",
        "import decimal",
        "import uuid",
        "from collections.abc import AsyncIterator, Collection, Mapping, Sequence",
        "from typing import Any, Literal, NotRequired, TypedDict",
        "",
        "# An argument that is left out has the default of the function.",
        "LEFT_OUT: Any = ...",
    ]
    return "\n".join([*head, *writer.above, *both, ""])


def class_name(seed: str) -> str:
    """``my-seed`` is ``MySeed``."""
    parts = re.findall(r"[a-z0-9]+", seed.lower())
    name = "".join(part.capitalize() for part in parts)
    return name if name.isidentifier() else f"Seed{name}"


def _spelled(name: str, others: Mapping[str, Any]) -> str:
    """A name for Python: components have hyphens, where ``uses`` takes low lines."""
    low = name.replace("-", "_")
    return name if low in others else low


def _is_name(text: str) -> bool:
    return text.isidentifier() and not keyword.iskeyword(text)


class _Writer:
    """The classes of one file; ``above`` are those that stand for objects."""

    def __init__(self) -> None:
        self.above: list[str] = []
        self._made: dict[str, str] = {}

    def class_of(self, title: str, functions: Mapping[str, Any], *, is_async: bool) -> str:
        """One class; a function whose name is none for Python is left out, and told of."""
        streams: list[str] = []
        lines = ["", "", f"class {title}:", f'{_INDENT}"""Its functions."""', ""]
        for own, told in functions.items():
            name = _spelled(own, functions)
            if not _is_name(name) or name[0] == "_" or name in _TYPES or not isinstance(told, dict):
                lines += [f"{_INDENT}# {escaped(own)[:80]!r} cannot stand here: mesh.call has it."]
            elif told.get("gives") == "stream" and is_async:
                within = f"{title}{class_name(name)}"
                streams += self._stream(within, name, told)
                lines += [f"{_INDENT}{name}: {within}", ""]
            else:
                lines += [*self._function(name, name, told, is_async=is_async), ""]
        return "\n".join([*streams, *lines]).rstrip()

    def _stream(self, title: str, name: str, told: Mapping[str, Any]) -> Iterator[str]:
        """A class for a function whose items may be read as they come."""
        yield from ("", "", f"class {title}:")
        yield from self._function("__call__", name, told, is_async=True)
        yield ""
        item = self.type_of(told.get("returns"), f"{name}-item", is_argument=False)
        arguments = self._arguments(name, told)
        yield f"{_INDENT}def stream({arguments}) -> AsyncIterator[{item}]:"
        yield f'{_INDENT * 2}"""Each item as it comes."""'
        yield f"{_INDENT * 2}raise NotImplementedError"

    def _function(
        self, shown: str, name: str, told: Mapping[str, Any], *, is_async: bool
    ) -> Iterator[str]:
        gives = told.get("gives")
        result = self.type_of(told.get("returns"), f"{name}-result", is_argument=False)
        result = "bytes" if gives == "bytes" else f"list[{result}]" if gives == "stream" else result
        word = "async def" if is_async else "def"
        yield f"{_INDENT}{word} {shown}({self._arguments(name, told)}) -> {result}:"
        yield from _docstring(str(told.get("doc", "")))
        yield f"{_INDENT * 2}raise NotImplementedError"

    def _arguments(self, name: str, told: Mapping[str, Any]) -> str:
        taken = told.get("input")
        if told.get("takes") == "bytes":
            return "self, data: bytes, /"
        if not isinstance(taken, dict) or not isinstance(taken.get("properties"), dict):
            return "self, *args: Any, **kwargs: Any"
        properties = taken["properties"]
        needed = _listed(taken.get("required"))
        order = [key for key in _listed(told.get("order")) if key in properties]
        parts, later = ["self"], [key for key in properties if key not in order]
        # What has a default cannot stand before what has none: from there on by name.
        first = next((at for at, key in enumerate(order) if key not in needed), len(order))
        late = [key for key in order[first:] if key in needed]
        by_place = [key for key in order if key not in late]
        for key in [*by_place, "*", *late, *later]:
            if key == "*":
                parts += ["*"] if late or later else []
            elif _is_name(shown := _spelled(key, properties)):
                kind = self.type_of(properties[key], f"{name}-{key}", is_argument=True)
                parts.append(f"{shown}: {kind}" + ("" if key in needed else " = LEFT_OUT"))
        if parts[-1] == "*":
            parts.pop()
        rest = taken.get("additionalProperties")
        if isinstance(rest, dict):
            parts.append(f"**rest: {self.type_of(rest, f'{name}-rest', is_argument=True)}")
        return ", ".join(parts)

    def type_of(self, schema: Any, name: str, *, is_argument: bool, depth: int = 0) -> str:
        """The type of a schema; ``name`` is where it stands, for the classes of objects."""
        if not isinstance(schema, dict) or not schema or depth > _DEPTH_MAX:
            return "Any"

        def below(held: Any, step: str) -> str:
            return self.type_of(held, f"{name}-{step}", is_argument=is_argument, depth=depth + 1)

        if isinstance(either := schema.get("anyOf"), list):
            return _united(below(held, f"or{at or ''}") for at, held in enumerate(either))
        if isinstance(words := schema.get("enum"), list):
            literals = [word for word in words if isinstance(word, str | int | bool | None)]
            if not literals or len(literals) < len(words):
                return "Any"
            return f"Literal[{', '.join(map(_literal, literals))}]"
        kind = schema.get("type")
        if isinstance(kind, list):
            united = _united(_WORDS.get(str(one), "Any") for one in kind)
            return _with_value(united, schema) if is_argument else united
        if kind == "array":
            return _array(schema, below, is_argument=is_argument)
        if kind == "object":
            return self._object(schema, name, below, is_argument=is_argument)
        word = _WORDS.get(str(kind), "Any")
        return _with_value(word, schema) if is_argument else word

    def _object(self, schema: dict[str, Any], name: str, below: Any, *, is_argument: bool) -> str:
        properties, rest = schema.get("properties"), schema.get("additionalProperties")
        mapping = "Mapping" if is_argument else "dict"
        if not isinstance(properties, dict) or not all(map(_is_name, properties)):
            held = below(rest, "value") if isinstance(rest, dict) else "Any"
            return f"{mapping}[str, {held}]"
        needed = _listed(schema.get("required"))
        lines = []
        for key, held in properties.items():
            kind = below(held, key)
            lines.append(f"{_INDENT}{key}: {kind if key in needed else f'NotRequired[{kind}]'}")
        body = "\n".join(lines or [f"{_INDENT}pass"])
        if body not in self._made:
            title = class_name(name)
            while title in self._made.values():
                title += "_"
            self._made[body] = title
            self.above += ["", "", f"class {title}(TypedDict):", body]
        return self._made[body]


def _listed(held: Any) -> list[Any]:
    return held if isinstance(held, list) else []


def _array(schema: dict[str, Any], below: Any, *, is_argument: bool) -> str:
    items = schema.get("prefixItems")
    if isinstance(items, list):
        kinds = [below(held, str(at)) for at, held in enumerate(items)]
        whole = ", ".join(kinds) if kinds else "()"
        return f"tuple[{whole}]" if is_argument else f"list[{_united(kinds) or 'Any'}]"
    item = below(schema.get("items"), "item")
    if not is_argument:
        return f"list[{item}]"
    return f"Collection[{item}]" if schema.get("uniqueItems") else f"Sequence[{item}]"


def _united(kinds: Any) -> str:
    held = list(dict.fromkeys(kinds))
    return "Any" if "Any" in held else " | ".join(held)


def _with_value(word: str, schema: dict[str, Any]) -> str:
    """An argument that travels as a text may be given as what the text stands for."""
    if schema.get("contentEncoding") == "base64":
        return f"bytes | {word}"
    value = _FORMATS.get(str(schema.get("format")))
    value = "datetime.timedelta" if schema.get("unit") == "seconds" else value
    return f"{value} | {word}" if value else word


def _literal(word: str | int | None) -> str:
    return ascii(word)


def _docstring(doc: str) -> Iterator[str]:
    """The words of the function's author, without anything that ends the string or acts."""
    lines = [escaped(line).replace("\\", "\\\\").replace('"', '\\"') for line in doc.splitlines()]
    lines = [line.rstrip() for line in lines]
    if not any(lines):
        return
    pad = _INDENT * 2
    if len(lines) == 1:
        yield f'{pad}"""{lines[0]}"""'
        return
    yield f'{pad}"""{lines[0]}'
    yield from (f"{pad}{line}".rstrip() for line in lines[1:])
    yield f'{pad}"""'
