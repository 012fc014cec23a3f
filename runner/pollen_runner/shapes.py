"""Annotations as shapes: how a JSON value becomes what the annotation says, and its JSON schema.

A shape is made once for each parameter. What does not fit is ``Misfit``, whose text begins with the
place: ``orders[1].count: expected an integer, got text``. An annotation that is not known here, or
none, takes a value as JSON gives it.
"""

from __future__ import annotations

import base64
import binascii
import collections
import collections.abc
import dataclasses
import datetime
import decimal
import enum
import functools
import inspect
import pathlib
import types
import typing
import uuid
from collections.abc import Callable
from typing import Any

Read = Callable[[Any], Any]


class Misfit(ValueError):
    """A value that is not what the annotation says."""

    def __init__(self, reason: str, at: str = "") -> None:
        super().__init__(reason)
        self.reason, self.at = reason, at

    def below(self, step: str) -> Misfit:
        """The same, seen from one level up."""
        dot = "." if self.at and not self.at.startswith("[") else ""
        return Misfit(self.reason, f"{step}{dot}{self.at}")

    def __str__(self) -> str:
        return f"{self.at}: {self.reason}" if self.at else self.reason


@dataclasses.dataclass(frozen=True)
class Shape:
    """``read`` None takes the value as it is; ``schema`` is its JSON schema."""

    read: Read | None
    schema: dict[str, Any]


ANY = Shape(None, {})


def said(value: Any) -> str:
    """What a JSON value is, in words."""
    words = {bool: "a truth value", int: "an integer", float: "a number", str: "text"}
    if value is None:
        return "null"
    return words.get(type(value), "a list" if isinstance(value, list) else "an object")


def _expected(what: str, value: Any) -> Misfit:
    return Misfit(f"expected {what}, got {said(value)}")


def _exactly(kind: type, what: str) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise _expected(what, value)
        return value

    return read


def _read_none(value: Any) -> None:
    if value is not None:
        raise _expected("null", value)


def _read_float(value: Any) -> float:
    if type(value) not in (int, float):
        raise _expected("a number", value)
    try:
        return float(value)
    except OverflowError:
        raise Misfit("the number is too large") from None


def _read_bytes(value: Any) -> bytes:
    if type(value) is not str:
        raise _expected("base64 text", value)
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        raise Misfit("the text is not base64") from None


def _by_text(make: Callable[[str], Any], what: str) -> Read:
    def read(value: Any) -> Any:
        if type(value) is not str:
            raise _expected(what, value)
        try:
            return make(value)
        except (ValueError, ArithmeticError):
            raise Misfit(f"{value[:80]!r} is not {what}") from None

    return read


def _read_decimal(value: Any) -> decimal.Decimal:
    if type(value) is bool or not isinstance(value, int | float | str):
        raise _expected("a decimal number", value)
    try:
        return decimal.Decimal(str(value))
    except ArithmeticError:
        raise Misfit(f"{str(value)[:80]!r} is not a decimal number") from None


def _read_seconds(value: Any) -> datetime.timedelta:
    try:
        return datetime.timedelta(seconds=_read_float(value))
    except OverflowError:
        raise Misfit("so many seconds are too many") from None


_TEXT = {"type": "string"}
_PLAIN: dict[Any, Shape] = {
    None: Shape(_read_none, {"type": "null"}),
    type(None): Shape(_read_none, {"type": "null"}),
    str: Shape(_exactly(str, "text"), _TEXT),
    int: Shape(_exactly(int, "an integer"), {"type": "integer"}),
    bool: Shape(_exactly(bool, "true or false"), {"type": "boolean"}),
    float: Shape(_read_float, {"type": "number"}),
    bytes: Shape(_read_bytes, {**_TEXT, "contentEncoding": "base64"}),
    decimal.Decimal: Shape(_read_decimal, {"type": ["string", "number"], "format": "decimal"}),
    uuid.UUID: Shape(_by_text(uuid.UUID, "a UUID"), {**_TEXT, "format": "uuid"}),
    datetime.datetime: Shape(
        _by_text(datetime.datetime.fromisoformat, "a date with a time (ISO 8601)"),
        {**_TEXT, "format": "date-time"},
    ),
    datetime.date: Shape(
        _by_text(datetime.date.fromisoformat, "a date (YYYY-MM-DD)"), {**_TEXT, "format": "date"}
    ),
    datetime.time: Shape(
        _by_text(datetime.time.fromisoformat, "a time of day"), {**_TEXT, "format": "time"}
    ),
    datetime.timedelta: Shape(_read_seconds, {"type": "number", "unit": "seconds"}),
    pathlib.Path: Shape(_by_text(pathlib.Path, "a path"), _TEXT),
    list: Shape(_exactly(list, "a list"), {"type": "array"}),
    dict: Shape(_exactly(dict, "an object"), {"type": "object"}),
}
_LISTS = {
    list: list,
    set: set,
    frozenset: frozenset,
    collections.deque: collections.deque,
    collections.abc.Sequence: list,
    collections.abc.MutableSequence: list,
    collections.abc.Iterable: list,
    collections.abc.Collection: list,
    collections.abc.Set: set,
}
# Python 3.13 and newer have ReadOnly.
_WRAPPERS = (
    typing.Annotated,
    typing.Required,
    typing.NotRequired,
    getattr(typing, "ReadOnly", typing.Required),
)
_MAPPINGS = (dict, collections.abc.Mapping, collections.abc.MutableMapping, collections.defaultdict)


def shape_of(kind: Any, above: tuple[Any, ...] = ()) -> Shape:
    """The shape of an annotation; ``above`` are the classes whose fields are being read, so that
    one that holds itself is looked up when it is needed."""
    try:
        plain = _PLAIN.get(kind)
    except TypeError:
        return ANY
    if plain is not None:
        return plain
    origin, args = typing.get_origin(kind), typing.get_args(kind)
    if origin in _WRAPPERS:
        return shape_of(args[0], above)
    if origin in (typing.Union, types.UnionType):
        return _union([shape_of(arg, above) for arg in args])
    if origin is typing.Literal:
        return _literal(args)
    if (origin or kind) is tuple:
        return _tuple(args, above)
    if (origin or kind) in _LISTS:
        return _listing(_LISTS[origin or kind], shape_of(args[0], above) if args else ANY)
    if origin in _MAPPINGS and len(args) == 2:
        return _mapping(shape_of(args[0], above), shape_of(args[1], above))
    if isinstance(kind, typing.NewType):
        return shape_of(kind.__supertype__, above)
    return _of_class(kind, above) if isinstance(kind, type) else ANY


def _of_class(kind: type, above: tuple[Any, ...]) -> Shape:
    if kind in above:
        return Shape(lambda value: shape_of(kind).read(value), {"type": "object"})  # type: ignore[misc]
    if issubclass(kind, enum.Enum):
        return _enum(kind)
    below = (*above, kind)
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        fields = [f for f in dataclasses.fields(kind) if f.init]
        needed = {
            f.name
            for f in fields
            if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        }
        return _record(kind, {f.name: shape_of(hints[f.name], below) for f in fields}, needed)
    if typing.is_typeddict(kind):
        hints = typing.get_type_hints(kind, include_extras=True)
        shapes = {name: shape_of(hint, below) for name, hint in hints.items()}
        # Where annotations are text, the class does not know which of its keys may be left out.
        told = {name: typing.get_origin(hint) for name, hint in hints.items()}
        needed = {name for name in kind.__required_keys__ if told[name] is not typing.NotRequired}
        needed |= {name for name in hints if told[name] is typing.Required}
        return _record(kind, shapes, needed)
    if issubclass(kind, tuple) and hasattr(kind, "_fields"):
        hints = typing.get_type_hints(kind)
        shapes = {name: shape_of(hints.get(name, Any), below) for name in kind._fields}
        return _record(kind, shapes, set(kind._fields) - set(kind._field_defaults))
    return ANY


def _union(shapes: list[Shape]) -> Shape:
    def read(value: Any) -> Any:
        misfits = []
        for shape in shapes:
            if shape.read is None:
                return value
            try:
                return shape.read(value)
            except Misfit as error:
                misfits.append(error)
        # The one that came furthest is the one that was meant.
        deep = max(misfits, key=lambda error: len(error.at))
        if deep.at:
            raise deep
        raise Misfit("; or ".join(error.reason for error in misfits))

    return Shape(read, {"anyOf": [shape.schema for shape in shapes]})


def _literal(words: tuple[Any, ...]) -> Shape:
    def read(value: Any) -> Any:
        for word in words:
            if type(word) is type(value) and word == value:
                return word
        raise Misfit(f"expected one of {', '.join(map(repr, words))}, got {str(value)[:80]!r}")

    return Shape(read, {"enum": list(words)})


def _enum(kind: type[enum.Enum]) -> Shape:
    def read(value: Any) -> enum.Enum:
        try:
            return kind(value)
        except (ValueError, TypeError):
            words = ", ".join(repr(member.value) for member in kind)
            raise Misfit(f"expected one of {words}, got {str(value)[:80]!r}") from None

    return Shape(read, {"enum": [member.value for member in kind]})


def _each(read: Read, values: list[Any]) -> list[Any]:
    out = []
    for index, value in enumerate(values):
        try:
            out.append(read(value))
        except Misfit as error:
            raise error.below(f"[{index}]") from None
    return out


def _listing(make: Callable[[list[Any]], Any], item: Shape) -> Shape:
    def read(value: Any) -> Any:
        if type(value) is not list:
            raise _expected("a list", value)
        values = value if item.read is None else _each(item.read, value)
        try:
            return values if make is list else make(values)
        except TypeError:
            raise Misfit("the list holds a value that cannot be in a set") from None

    schema: dict[str, Any] = {"type": "array", "items": item.schema}
    return Shape(read, {**schema, "uniqueItems": True} if make in (set, frozenset) else schema)


def _tuple(args: tuple[Any, ...], above: tuple[Any, ...]) -> Shape:
    if not args or (len(args) == 2 and args[1] is Ellipsis):
        return _listing(tuple, shape_of(args[0], above) if args else ANY)
    shapes = [] if args == ((),) else [shape_of(arg, above) for arg in args]

    def read(value: Any) -> tuple[Any, ...]:
        if type(value) is not list:
            raise _expected("a list", value)
        if len(value) != len(shapes):
            raise Misfit(f"expected {len(shapes)} values, got {len(value)}")
        out = []
        for index, (shape, item) in enumerate(zip(shapes, value, strict=True)):
            try:
                out.append(item if shape.read is None else shape.read(item))
            except Misfit as error:
                raise error.below(f"[{index}]") from None
        return tuple(out)

    count = len(shapes)
    items = [shape.schema for shape in shapes]
    return Shape(
        read, {"type": "array", "prefixItems": items, "minItems": count, "maxItems": count}
    )


def _mapping(key: Shape, item: Shape) -> Shape:
    def read(value: Any) -> dict[Any, Any]:
        if type(value) is not dict:
            raise _expected("an object", value)
        out = {}
        for name, held in value.items():
            try:
                place = name if key.read is None else _read_key(key, name)
                out[place] = held if item.read is None else item.read(held)
            except Misfit as error:
                raise error.below(f"[{name!r}]") from None
        return out

    return Shape(read, {"type": "object", "additionalProperties": item.schema})


def _read_key(key: Shape, name: str) -> Any:
    """Keys of JSON are text; a number is one that is written out."""
    assert key.read is not None
    kind = key.schema.get("type")
    if kind == "integer" and name.lstrip("-").isdigit():
        return int(name)
    return key.read(name)


def _record(kind: type, shapes: dict[str, Shape], needed: set[str]) -> Shape:
    def read(value: Any) -> Any:
        if type(value) is kind and kind is not dict:
            return value
        if type(value) is not dict:
            raise _expected("an object", value)
        out = {}
        for name, held in value.items():
            shape = shapes.get(name)
            if shape is None:
                raise Misfit(f"there is no field {name[:80]!r}; fields: {', '.join(shapes)}")
            try:
                out[name] = held if shape.read is None else shape.read(held)
            except Misfit as error:
                raise error.below(name) from None
        if missing := [name for name in shapes if name in needed and name not in out]:
            raise Misfit(f"the field {missing[0]!r} is missing")
        try:
            return kind(**out)
        except (ValueError, TypeError) as error:  # what __post_init__ found
            raise Misfit(f"{kind.__name__}: {error}") from None

    schema = {
        "type": "object",
        "title": kind.__name__,
        "properties": {name: shape.schema for name, shape in shapes.items()},
        "required": [name for name in shapes if name in needed],
        "additionalProperties": False,
    }
    return Shape(read, schema)


@functools.lru_cache(1024)
def _remembered(kind: Any) -> Shape:
    return shape_of(kind)


def parameter_shape(annotation: Any) -> Shape:
    """The shape of a parameter; ``inspect``'s empty annotation takes anything."""
    if annotation is inspect.Parameter.empty:
        return ANY
    try:
        return _remembered(annotation)
    except TypeError:
        return shape_of(annotation)
