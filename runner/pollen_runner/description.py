"""The description of a bundle: what its functions are called, take, give and say of themselves.

JSON, made when the seed is published: ``{"functions": {NAME: {"signature", "doc", "input", "order",
"takes", "gives", "returns"}}, "doc", "python"}``. ``input`` is the JSON schema of the object of
arguments, ``order`` their names by place. ``takes`` is ``json`` or ``bytes``; ``gives`` is
``json``, ``bytes`` or ``stream``. Source: docs/design/python.md#the-description.
"""

from __future__ import annotations

import inspect
import json
import platform
from types import ModuleType
from typing import Any

from pollen_runner.functions import Function
from pollen_runner.shapes import parameter_shape

Parameter = inspect.Parameter


def describe(module: ModuleType, functions: dict[str, Function]) -> str:
    """The description as text."""
    held = {
        "functions": {name: _function(function) for name, function in functions.items()},
        "doc": inspect.getdoc(module) or "",
        "python": platform.python_version(),
    }
    return json.dumps(held, ensure_ascii=False, separators=(",", ":"), default=str)


def _function(function: Function) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    required = []
    for parameter in function.parameters:
        schema = dict(function.shapes[parameter.name].schema)
        if parameter.kind is Parameter.VAR_KEYWORD:
            continue
        if parameter.kind is Parameter.VAR_POSITIONAL:
            schema = {"type": "array", "items": schema}
        elif parameter.default is Parameter.empty:
            required.append(parameter.name)
        else:
            schema |= _default(parameter.default)
        properties[parameter.name] = schema
    rest = next((p for p in function.parameters if p.kind is Parameter.VAR_KEYWORD), None)
    by_place = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    gives = "bytes" if function.gives_bytes else "stream" if function.streams else "json"
    returned = function.yields if function.streams else function.returns
    return {
        "signature": shown(function),
        "doc": inspect.getdoc(function.call) or "",
        "input": {
            "type": "object",
            "properties": properties,
            "required": required,
            "additionalProperties": False if rest is None else function.shapes[rest.name].schema,
        },
        "order": [p.name for p in function.parameters if p.kind in by_place],
        "takes": "bytes" if function.takes_bytes else "json",
        "gives": gives,
        "returns": parameter_shape(returned).schema,
    }


def _default(value: Any) -> dict[str, Any]:
    if isinstance(value, str | int | float | bool | None):
        return {"default": value} if value == value else {}
    return {}


def shown(function: Function) -> str:
    """The signature as its author would write it: ``(name: str, times: int = 1) -> str``."""
    text = str(function.signature)
    for module in {"typing", "datetime", "collections.abc", function.call.__module__}:
        text = text.replace(f"{module}.", "")
    return text
