"""Values between a program and its functions on the mesh, as JSON with tags; no pickle either way.

Decides: which values travel, their form, and which classes and functions are known by name.
Does not know: what a call is (``frames``), which modules are shipped (``slices``).
Invariants: the guest runs this very file, so it imports the standard library alone. What arrives is
    data: decoding runs no constructor of a class, and imports nothing unless it is told that it
    may. What cannot travel is ``TypeError`` with its place: ``argument 0[2].lock``.
Source: docs/design/functions.md#values.

JSON's own values stand for themselves. Any other is an object ``{"$": tag, "v": ...}``, with the
name of its class in ``c``. An object without ``$`` is a dict whose keys are text.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import datetime
import decimal
import enum
import importlib
import json
import math
import re
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterable, Mapping
from typing import Any

# Containers within containers. Guess: nobody's data is half as deep. A value that holds itself ends
# here.
DEPTH_MAX = 100
# Levels of JSON that those take: an object, its list of pairs and a pair for each, and the message.
_LEVELS = 3 * DEPTH_MAX + 16
# The longest text that is read. Raising it lets one answer take more memory. The muscles bound a
# call's input and output far below it.
SIZE_MAX = 64 * 1024 * 1024
# Larger integers are written in hex: Python reads no more than 4,300 decimal digits at once.
_INT_MAX = 1 << 64
# Standard modules that do something when they are imported, or are no library.
_NOT_BY_NAME = frozenset({"__main__", "antigravity", "idlelib", "this", "turtledemo"})
_FUNCTIONS = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
)
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


class Unfit(TypeError):
    """A value that cannot travel. Its text begins with the place. ``unknown``: the class or
    function that the other side has not."""

    def __init__(self, reason: str, at: str = "", unknown: Any = None) -> None:
        super().__init__(f"{at}: {reason}" if at else reason)
        self.reason, self.at, self.unknown = reason, at, unknown

    def below(self, step: str) -> Unfit:
        """The same, seen from one level up."""
        return Unfit(self.reason, step + self.at, self.unknown)


class Malformed(ValueError):
    """Bytes that this encoding does not give."""


class Names:
    """Which classes and functions travel by name: the standard library's, and what is shipped.

    ``shipped``: by module, the names of its top level that the other side has too, or None for all
    of them; ``top.*`` is a package with all its modules. ``may_import``: a module that is not there
    yet is imported.
    """

    def __init__(self, shipped: Mapping[str, Iterable[str] | None], *, may_import: bool) -> None:
        self._shipped = {
            module: None if names is None else frozenset(names) for module, names in shipped.items()
        }
        self._may_import = may_import
        self._known: dict[Any, str] = {}
        self.reader = _Reader(self)

    def has(self, module: str, qualname: str) -> bool:
        """Whether the other side has this too."""
        top = module.partition(".")[0]
        key = module if module in self._shipped else f"{top}.*"
        if key in self._shipped:
            names = self._shipped[key]
            return names is None or qualname.partition(".")[0] in names
        return top in sys.stdlib_module_names and top not in _NOT_BY_NAME

    def name_of(self, held: Any) -> str:
        """``module:qualname`` of a class or function. Raises ``Unfit``."""
        try:
            known = self._known.get(held)
        except TypeError:
            raise Unfit(f"{_a(type(held))} cannot travel") from None
        if known is None:
            known = self._known[held] = self._named(held)
        return known

    def _named(self, held: Any) -> str:
        qualname = getattr(held, "__qualname__", "")
        owner = getattr(held, "__objclass__", None) or getattr(held, "__self__", None)
        if owner is not None and not isinstance(owner, type | types.ModuleType):
            raise Unfit(f"{qualname} is bound to an object, which does not travel with it")
        module = getattr(held, "__module__", None) or getattr(owner, "__module__", "") or ""
        shown = f"{module}.{qualname}"
        if "<" in qualname:
            raise Unfit(f"{shown} is defined within a function, and has no name outside")
        if not self.has(module, qualname):
            raise Unfit(f"{shown} is not known on the other side", unknown=held)
        try:
            found = self._find(module, qualname)
        except LookupError:
            found = None
        if found != held:
            raise Unfit(f"{shown} is not found by that name")
        return f"{module}:{qualname}"

    def find(self, name: Any) -> Any:
        """The class or function of that name. Raises ``Malformed``."""
        if not isinstance(name, str):
            raise Malformed("a name is text")
        module, _, qualname = name.partition(":")
        if not self.has(module, qualname):
            raise Malformed(f"{name[:120]!r} is neither shipped nor of the standard library")
        try:
            held = self._find(module, qualname)
        except LookupError:
            raise Malformed(f"{name[:120]!r} is not here") from None
        if not callable(held):
            raise Malformed(f"{name[:120]!r} is neither a class nor a function")
        return held

    def _find(self, module: str, qualname: str) -> Any:
        held: Any = sys.modules.get(module)
        if held is None and self._may_import:
            try:
                held = importlib.import_module(module)
            except ImportError:
                held = None
        for part in qualname.split("."):
            # Through modules and classes alone: those run no code when they are asked.
            if not isinstance(held, types.ModuleType | type) or part.startswith("__"):
                raise LookupError(qualname)
            held = getattr(held, part, None)
        if held is None:
            raise LookupError(qualname)
        return held


def _a(kind: type) -> str:
    """A class with its article."""
    name = kind.__qualname__ if kind.__module__ == "builtins" else _path(kind)
    return f"{'an' if name[:1].lower() in 'aeiou' else 'a'} {name}"


def _path(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def encode(value: Any, names: Names, root: str = "") -> bytes:
    """The bytes of a value. ``root`` is how an error calls it. Raises ``Unfit``."""
    return dumps(plain(value, names, root))


def dumps(held: Any) -> bytes:
    """The text of what ``plain`` made."""
    return "".join(_pieces(held, 0)).encode("ascii")


def _no_default(value: Any) -> Any:
    raise Unfit(f"{_a(type(value))} cannot travel")


# What ``JSONEncoder.encode`` makes anew for each value. ``plain`` bounds the depth, so nothing
# keeps account of what was seen.
_pieces: Any = json.encoder.c_make_encoder(  # type: ignore[attr-defined]
    None, _no_default, json.encoder.encode_basestring_ascii, None, ":", ",", False, False, False
)


def plain(value: Any, names: Names, root: str = "") -> Any:
    """A value as JSON has it, tags in place. Raises ``Unfit``."""
    try:
        return _walk(value, names, DEPTH_MAX)
    except Unfit as error:
        raise error.below(root) from None


def _walk(value: Any, names: Names, depth: int) -> Any:
    kind = type(value)
    if kind is str:
        return value if value.isascii() else _text(value)
    if kind is int:
        is_small = -_INT_MAX < value < _INT_MAX
        return value if is_small else {"$": "int", "v": hex(value)}
    if value is None or kind is bool:
        return value
    if kind is float:
        return value if math.isfinite(value) else {"$": "float", "v": repr(value)}
    if depth <= 0:
        raise Unfit(f"it is nested deeper than {DEPTH_MAX} levels, or holds itself")
    write = _WRITERS.get(kind)
    return _other(value, names, depth) if write is None else write(value, names, depth - 1)


def _text(value: str) -> Any:
    try:
        value.encode()
    except UnicodeEncodeError:
        data = value.encode("utf-8", "surrogatepass")
        return {"$": "str", "v": base64.b64encode(data).decode()}
    return value


def _items(values: Iterable[Any], names: Names, depth: int) -> list[Any]:
    out: list[Any] = []
    try:
        for value in values:
            out.append(_walk(value, names, depth))
    except Unfit as error:
        raise error.below(f"[{len(out)}]") from None
    return out


def _tagged(tag: str, write: Callable[[Any, Names, int], Any]) -> Callable[..., Any]:
    return lambda value, names, depth: {"$": tag, "v": write(value, names, depth)}


def _dict(value: dict[Any, Any], names: Names, depth: int) -> Any:
    is_plain = all(type(key) is str and key.isascii() for key in value) and "$" not in value
    key: Any = None
    try:
        if is_plain:
            out = {}
            for key, held in value.items():
                out[key] = _walk(held, names, depth)
            return out
        pairs = []
        for key, held in value.items():
            pairs.append([_walk(key, names, depth), _walk(held, names, depth)])
        return {"$": "dict", "v": pairs}
    except Unfit as error:
        raise error.below(f"[{key!r:.80}]") from None


def _zone(zone: datetime.tzinfo | None) -> Any:
    if zone is None:
        return None
    if type(zone) is datetime.timezone:
        offset, *name = zone.__getinitargs__()  # type: ignore[attr-defined]
        return [_span(offset), *name]
    if type(zone) is zoneinfo.ZoneInfo and zone.key:
        return zone.key
    raise Unfit(f"its time zone is {_a(type(zone))}, which cannot travel")


def _span(value: datetime.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _clock(value: Any, *_: Any) -> list[Any]:
    """A datetime or a time: without its zone as text, the fold, the zone."""
    return [value.replace(tzinfo=None).isoformat(), value.fold, _zone(value.tzinfo)]


_WRITERS: dict[type, Callable[[Any, Names, int], Any]] = {
    list: _items,
    dict: _dict,
    tuple: _tagged("tuple", _items),
    set: _tagged("set", _items),
    frozenset: _tagged("frozenset", _items),
    bytes: _tagged("bytes", lambda value, *_: base64.b64encode(value).decode()),
    bytearray: _tagged("bytearray", lambda value, *_: base64.b64encode(value).decode()),
    complex: _tagged("complex", lambda value, *_: [repr(value.real), repr(value.imag)]),
    datetime.datetime: _tagged("datetime", _clock),
    datetime.date: _tagged("date", lambda value, *_: value.isoformat()),
    datetime.time: _tagged("time", _clock),
    datetime.timedelta: _tagged("timedelta", lambda value, *_: _span(value)),
    decimal.Decimal: _tagged("decimal", lambda value, *_: str(value)),
    uuid.UUID: _tagged("uuid", lambda value, *_: value.hex),
}


def _other(value: Any, names: Names, depth: int) -> Any:
    """What has a class or a name of its own."""
    kind = type(value)
    if isinstance(value, (type, *_FUNCTIONS)):
        return {"$": "name", "v": names.name_of(value)}
    if isinstance(value, enum.Enum):
        held = value.value if isinstance(value, enum.Flag) else value.name
        return {"$": "enum", "c": names.name_of(kind), "v": held}
    if dataclasses.is_dataclass(kind) and kind.__new__ is object.__new__:
        name, fields = names.name_of(kind), {}
        for field in dataclasses.fields(kind):
            try:
                fields[field.name] = _walk(getattr(value, field.name), names, depth - 1)
            except AttributeError:
                raise Unfit(f"the field {field.name!r} has no value") from None
            except Unfit as error:
                raise error.below(f".{field.name}") from None
        return {"$": "record", "c": name, "v": fields}
    if isinstance(value, tuple) and hasattr(kind, "_fields"):
        name = names.name_of(kind)
        return {"$": "named", "c": name, "v": _items(value, names, depth - 1)}
    raise Unfit(f"{_a(kind)} cannot travel; send what it is made of")


def decode(data: bytes, names: Names) -> Any:
    """The value of such bytes. Raises ``Malformed`` for any others."""
    if len(data) > SIZE_MAX:
        raise Malformed(f"{len(data)} bytes, over {SIZE_MAX}")
    if _is_too_deep(data):
        raise Malformed("it is nested too deeply")
    try:
        return names.reader.read(data.decode("ascii"))
    except Malformed:
        raise
    except RecursionError:
        raise Malformed("it is nested too deeply") from None
    except ValueError as error:
        raise Malformed(f"not such a text: {error}"[:200]) from None


def _is_too_deep(data: bytes) -> bool:
    """Few brackets are never deep; of many, pairs are taken out until none is left. Brackets within
    texts are taken for others at first: only where that looks too deep are the texts left out."""
    if len(data) <= _LEVELS or data.count(b"[") + data.count(b"{") <= _LEVELS:
        return False
    return _is_deep(data) and _is_deep(_STRING.sub(b"", data))


def _is_deep(data: bytes) -> bool:
    left = data.translate(None, _NO_BRACKETS)
    for _ in range(_LEVELS):
        less = left.replace(b"[]", b"").replace(b"{}", b"")
        if not less:
            return False
        if len(less) == len(left):
            # Closed more than opened, or in another order: no JSON, which the decoder tells.
            return less.count(b"[") + less.count(b"{") > _LEVELS
        left = less
    return True


class _Reader(json.JSONDecoder):
    """JSON whose tagged objects become what they stand for, the inner ones first."""

    def __init__(self, names: Names) -> None:
        super().__init__(object_hook=self._object, parse_constant=self._no_constant)
        self._names = names

    def read(self, text: str) -> Any:
        """The value of a text. What begins or ends with space is rare, and takes longer."""
        try:
            value, end = self.scan_once(text, 0)  # type: ignore[attr-defined]
        except StopIteration:
            return self.decode(text)
        return value if end == len(text) else self.decode(text)

    @staticmethod
    def _no_constant(name: str) -> Any:
        raise Malformed(f"{name} is no JSON number")

    def _object(self, held: dict[str, Any]) -> Any:
        tag = held.get("$")
        if tag is None and "$" not in held:
            return held
        try:
            by_class = _BY_CLASS.get(tag) if len(held) == 3 else None
            if by_class is not None:
                return by_class(self._names.find(held["c"]), held["v"])
            if tag == "name" and len(held) == 2:
                return self._names.find(held["v"])
            if len(held) != 2:
                raise Malformed("a tagged object has other keys")
            return _READERS[tag](held["v"])
        except Malformed:
            raise
        except Exception as error:  # of any kind: the bytes may say anything
            raise Malformed(f"not a {str(tag)[:40]!r}: {type(error).__name__}") from None


def _listed(value: Any) -> list[Any]:
    if type(value) is not list:
        raise Malformed("a list is expected")
    return value


def _bytes_of(value: str) -> bytes:
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        raise Malformed("not base64") from None


def _number(value: str) -> float:
    if value not in ("nan", "inf", "-inf"):
        raise Malformed("a float that JSON has")
    return float(value)


def _pairs(value: Any) -> dict[Any, Any]:
    return dict(map(_listed, _listed(value)))


def _span_of(value: Any) -> datetime.timedelta:
    days, seconds, micros = map(_whole, _listed(value))
    return datetime.timedelta(days, seconds, micros)


def _whole(value: Any) -> int:
    if type(value) is not int:
        raise Malformed("a whole number is expected")
    return value


def _worded(value: Any) -> str:
    if type(value) is not str:
        raise Malformed("a text is expected")
    return value


def _zone_of(value: Any) -> datetime.tzinfo | None:
    if value is None:
        return None
    if type(value) is str:
        return zoneinfo.ZoneInfo(value)
    offset, *name = _listed(value)
    return datetime.timezone(_span_of(offset), *name)


def _clock_of(kind: Any) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        text, fold, zone = _listed(value)
        return kind.fromisoformat(text).replace(fold=_whole(fold), tzinfo=_zone_of(zone))

    return read


_READERS: dict[Any, Callable[[Any], Any]] = {
    "int": lambda value: int(value, 16),
    "float": _number,
    "str": lambda value: _bytes_of(value).decode("utf-8", "surrogatepass"),
    "dict": _pairs,
    "tuple": lambda value: tuple(_listed(value)),
    "set": lambda value: set(_listed(value)),
    "frozenset": lambda value: frozenset(_listed(value)),
    "bytes": _bytes_of,
    "bytearray": lambda value: bytearray(_bytes_of(value)),
    "complex": lambda value: complex(*map(float, _listed(value))),
    "datetime": _clock_of(datetime.datetime),
    "date": datetime.date.fromisoformat,
    "time": _clock_of(datetime.time),
    "timedelta": _span_of,
    "decimal": lambda value: decimal.Decimal(_worded(value)),
    "uuid": lambda value: uuid.UUID(hex=_worded(value)),
}


def _member(kind: Any, value: Any) -> Any:
    if not issubclass(kind, enum.Enum):
        raise Malformed("it is not an enumeration")
    return kind(_whole(value)) if issubclass(kind, enum.Flag) else kind[value]


def _record(kind: Any, value: Any) -> Any:
    """An instance with these fields: neither ``__init__`` nor ``__post_init__`` runs again."""
    is_one = isinstance(kind, type) and dataclasses.is_dataclass(kind)
    if not is_one or type(value) is not dict:
        raise Malformed("it is not a dataclass")
    if {field.name for field in dataclasses.fields(kind)} != value.keys():
        raise Malformed(f"{kind.__qualname__} has other fields")
    made: Any = object.__new__(kind)
    for name, held in value.items():
        object.__setattr__(made, name, held)
    return made


def _named_tuple(kind: Any, value: Any) -> Any:
    fields = getattr(kind, "_fields", None)
    if not issubclass(kind, tuple) or fields is None or len(_listed(value)) != len(fields):
        raise Malformed("it is not such a named tuple")
    return tuple.__new__(kind, value)


_BY_CLASS: dict[Any, Callable[[Any, Any], Any]] = {
    "enum": _member,
    "record": _record,
    "named": _named_tuple,
}
