"""JSON in and out: what arrives is checked before it is read, what leaves as it is written.

Refused on the way in: what is not UTF-8 or not JSON, NaN and infinities (JSON has none), integers
of more digits than Python reads at once, nesting deeper than ``DEPTH_MAX``.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import decimal
import enum
import json
import pathlib
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

# Deeper values would end the instance in the C parser, without a sentence. Guess: nobody's data is
# half as deep.
DEPTH_MAX = 200
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number; send null or text")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
_scan = _decoder.scan_once


def loads(data: bytes) -> Any:
    """The value of a JSON text. Raises ``ValueError`` with a reason for people."""
    if _is_too_deep(data):
        raise ValueError(f"it is nested deeper than {DEPTH_MAX} levels")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"byte {error.start} is not UTF-8") from None
    try:
        value, end = _scan(text, 0)
    except StopIteration:
        return _decoder.decode(text)
    # What begins or ends with space is rare.
    return value if end == len(text) else _decoder.decode(text)


def _is_too_deep(data: bytes) -> bool:
    """Few brackets are never deep; of many, pairs are taken out until none is left."""
    if len(data) <= DEPTH_MAX or data.count(b"[") + data.count(b"{") <= DEPTH_MAX:
        return False
    left = _STRING.sub(b"", data).translate(None, _NO_BRACKETS)
    for _ in range(DEPTH_MAX):
        if not left:
            return False
        left = left.replace(b"[]", b"").replace(b"{}", b"")
    return bool(left) and left.count(b"[") + left.count(b"{") > 0


def plain(value: Any) -> Any:
    """What JSON has no word for, as one that it has. Raises ``TypeError``."""
    if isinstance(value, enum.Enum):
        return value.value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode()
    if isinstance(value, uuid.UUID | decimal.Decimal | pathlib.PurePath):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, set | frozenset) or hasattr(value, "__iter__"):
        return _listed(value)
    raise TypeError(f"the result holds a {type(value).__name__}, which JSON cannot carry")


def _listed(values: Iterable[Any]) -> list[Any]:
    """Sets in an order that does not change from call to call, where their values have one."""
    if isinstance(values, set | frozenset):
        try:
            return sorted(values)
        except TypeError:
            pass
    return list(values)


_quoted = json.encoder.encode_basestring
# What ``JSONEncoder.encode`` makes for each value, without the layers above it.
_writer: Any = json.encoder.c_make_encoder  # type: ignore[attr-defined]


def _encode(value: Any) -> str:
    if type(value) is str:
        return _quoted(value)
    return "".join(_writer({}, plain, _quoted, None, ":", ",", False, False, False)(value, 0))


def dumps(value: Any) -> bytes:
    """The JSON text of a result. Raises ``TypeError`` or ``ValueError``, worded for people."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        value = value._asdict()
    try:
        if type(value) is int:
            return b"%d" % value
        return _encode(value).encode()
    except UnicodeEncodeError:
        raise ValueError("the result holds text with lone surrogates, which is not UTF-8") from None
    except ValueError as error:
        if "JSON compliant" in str(error):
            raise ValueError("the result holds NaN or an infinity, which JSON has not") from None
        raise ValueError(f"the result cannot be sent: {error}") from None
    except RecursionError:
        raise ValueError("the result is nested too deeply") from None
