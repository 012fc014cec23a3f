"""The one parser for durations, sizes, key=value and inputs that people type. A duration or a size
needs a unit."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import click

from pollen.errors import error_from

_DURATIONS_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_SIZES = {
    "B": 1,
    "kB": 1_000,
    "MB": 1_000_000,
    "GB": 1_000_000_000,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_RATE_LEAST = 4096
F = TypeVar("F", bound=Callable[..., Any])

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)([A-Za-z]+)")


def _scaled(text: str, units: dict[str, int]) -> int | None:
    match = _QUANTITY.fullmatch(text)
    if match is None or match[2] not in units:
        return None
    return round(float(match[1]) * units[match[2]])


class Duration(click.ParamType[int]):
    """``250ms``, ``30s``, ``5m``, ``2h``, ``30d``; milliseconds. Above 0."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        millis = _scaled(value, _DURATIONS_MS)
        if millis is None:
            units = ", ".join(_DURATIONS_MS)
            self.fail(f"{value!r} is not a duration; write a unit: {units}", param)
        if millis == 0:
            self.fail(f"{value!r} is below 1 ms", param)
        return millis


class Size(click.ParamType[int]):
    """``64MiB``, ``1GB``; bytes. Above 0."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        size = _scaled(value, _SIZES)
        if size is None:
            self.fail(f"{value!r} is not a size; write a unit: {', '.join(_SIZES)}", param)
        if size == 0:
            self.fail(f"{value!r} is below 1 byte", param)
        return size


class Rate(Size):
    """A size that is moved in a second, at least 4 KiB. With less, a holder that sends looks like
    one that does not."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        rate = super().convert(value, param, ctx)
        if 0 < rate < _RATE_LEAST:
            self.fail(f"{value!r} is below 4 KiB a second", param)
        return rate


class Pair(click.ParamType[tuple[str, str]]):
    """``key=value``; the value may hold further ``=``."""

    name = "key=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        key, equals, text = value.partition("=")
        if not equals or not key:
            self.fail(f"{value!r} is not key=value", param)
        return key, text


class Values(click.ParamType[dict[str, str]]):
    """``key=value``, or ``@file``: a TOML file of such pairs."""

    name = "key=value or @file"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, str]:
        if isinstance(value, dict):
            return value
        if not value.startswith("@"):
            key, text = PAIR.convert(value, param, ctx)
            return {key: text}
        import tomllib

        path = Path(value[1:]).expanduser()
        try:
            held = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            self.fail(f"{path} cannot be read: {error.strerror}", param)
        except ValueError as error:
            self.fail(f"{path} is not TOML: {error}", param)
        for key, text in held.items():
            if not isinstance(text, str):
                self.fail(f"{path}: {key} is not text; write it in quotes", param)
        return held


DURATION = Duration()
SIZE = Size()
RATE = Rate()
PAIR = Pair()
VALUES = Values()


def read_input(text: str | None) -> bytes:
    """A call's input: the text itself, ``-`` stdin, ``@file`` its bytes, ``@@…`` a literal @.

    Raises ``input-too-large``. What never ends, a pipe or a device, is read up to the limit only.
    """
    if text is None:
        return b""
    if text == "-":
        return _read_whole(sys.stdin.buffer, "standard input")
    if text.startswith("@@"):
        return text[1:].encode()
    if text.startswith("@"):
        try:
            with Path(text[1:]).expanduser().open("rb") as file:
                return _read_whole(file, text[1:])
        except OSError as error:
            reason = f"the input file {text[1:]} cannot be read: {error.strerror}"
            raise error_from(
                "usage", reason, "name a file: @FILE; text that begins so: @@…"
            ) from None
    return text.encode(errors="surrogateescape")


def _read_whole(stream: BinaryIO, name: str) -> bytes:
    from pollen.sdk.door import MAX_INPUT

    try:
        data = stream.read(MAX_INPUT + 1)
    except OSError as error:
        raise click.BadParameter(f"{name} cannot be read: {error.strerror}") from None
    if len(data) > MAX_INPUT:
        reason = f"the input is over {MAX_INPUT >> 20} MiB, the limit"
        raise error_from("input-too-large", reason, "send less at once")
    return data


def with_properties(help_text: str) -> Callable[[F], F]:
    """The option ``--prop``: ``props``, the properties as a JSON object; ``{}`` when none is given.

    Pairs, or one object from standard input or a file.
    """

    def read(_ctx: click.Context, _param: click.Parameter, given: tuple[str, ...]) -> str:
        return properties_given(given)

    return click.option(
        "--prop",
        "props",
        multiple=True,
        metavar="KEY=VALUE",
        callback=read,
        help=f"{help_text}; a JSON object by - (standard input) or @FILE.",
    )


def properties_given(texts: tuple[str, ...]) -> str:
    """``--prop`` as a JSON object: ``k=v`` pairs, or one object from ``-`` or ``@FILE``."""
    whole = [text for text in texts if text == "-" or text.startswith("@")]
    if not whole:
        return properties_of(tuple(PAIR.convert(text, None, None) for text in texts))
    if len(texts) > 1:
        raise click.BadParameter(f"{whole[0]} gives all properties: leave the others out")
    return _json_object(read_input(whole[0]), whole[0])


def _json_object(data: bytes, source: str) -> str:
    import json

    try:
        found = json.loads(data)
    except ValueError as error:
        raise click.BadParameter(f"{source} is not JSON: {error}") from None
    if not isinstance(found, dict):
        raise click.BadParameter(f'{source} is not a JSON object such as {{"zone": "garden"}}')
    return json.dumps(found, ensure_ascii=False, separators=(",", ":"))


def properties_of(pairs: tuple[tuple[str, str], ...]) -> str:
    """``--prop k=v`` pairs as the JSON object of a certificate; a key given twice is a list.

    A dotted key makes nested objects, as gates read them.
    """
    import json

    held: dict[str, Any] = {}
    for key, value in pairs:
        *path, last = key.split(".")
        at = held
        for step in path:
            inner = at.setdefault(step, {})
            if not isinstance(inner, dict):
                raise click.BadParameter(f"{key}: {step} is a value already")
            at = inner
        if last not in at:
            at[last] = value
        elif isinstance(at[last], list):
            at[last].append(value)
        elif isinstance(at[last], dict):
            raise click.BadParameter(f"{key} is an object already")
        else:
            at[last] = [at[last], value]
    return json.dumps(held, ensure_ascii=False, separators=(",", ":"))
