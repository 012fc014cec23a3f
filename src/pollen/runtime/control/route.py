"""One line of the table of routes: its query string, and the body that makes a command."""

from __future__ import annotations

import typing
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from pollen.core import commands as cmd
from pollen.errors import error_from


@dataclass(frozen=True)
class Query:
    """One parameter of a query string; a number is from 0 to ``most``."""

    name: str
    kind: Literal["string", "integer", "boolean"]
    summary: str
    most: int = 0

    def read(self, text: str) -> str | int | bool:
        """What stands there; ``bad-request`` when it is none of that kind."""
        if self.kind == "string":
            return text
        if self.kind == "integer":
            if text.isascii() and text.isdigit() and int(text[:18]) <= self.most:
                return int(text)
            wanted = f"a number from 0 to {self.most}"
        elif text in ("true", "false"):
            return text == "true"
        else:
            wanted = "true or false"
        reason = f"{text[:40]!r} is not a value for {self.name}"
        raise error_from("bad-request", reason, f"give {wanted}")


@dataclass(frozen=True)
class Route:
    """One line of the table. ``response`` None: a body of the media type ``media``.

    With a ``command`` nothing else is to be written: path, query and body give its fields by name,
    and its result is the answer. Without one a method of the application has the route's name.
    """

    name: str
    method: str
    path: str
    summary: str
    request: type[msgspec.Struct] | None = None
    response: type[msgspec.Struct] | None = None
    errors: tuple[str, ...] = field(default=())
    query: tuple[Query, ...] = field(default=())
    media: str = "application/json"
    command: type[cmd.Command] | None = None


def body_of(
    command: type[cmd.Command],
    title: str,
    summary: str,
    /,
    *,
    without: Collection[str] = (),
    **told: object,
) -> type[msgspec.Struct]:
    """The body that makes a command: its fields and no others, with its defaults.

    ``told``: for a field, what a reader of the schema should know of its values. ``without``:
    fields that the route itself gives.
    """
    hints = typing.get_type_hints(command)
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for held in msgspec.structs.fields(command):
        if held.name in without:
            continue
        kind = told.get(held.name, hints[held.name])
        has_none = held.default is msgspec.NODEFAULT and held.default_factory is msgspec.NODEFAULT
        fields.append((held.name, kind) if has_none else (held.name, kind, _default_of(held)))
    made = msgspec.defstruct(
        title,
        fields,
        module=__name__,
        frozen=True,
        kw_only=True,
        forbid_unknown_fields=True,
    )
    made.__doc__ = summary
    return made


def _default_of(held: msgspec.structs.FieldInfo) -> Any:
    is_made = held.default is msgspec.NODEFAULT
    return msgspec.field(default_factory=held.default_factory) if is_made else held.default
