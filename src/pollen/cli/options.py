"""The flags of ``pln seed`` that say how a seed runs, made from the table of options.

Decides: how each kind of option is typed.
Does not know: which options there are (``pollen.options``), what becomes of them.
Invariants: each option has one flag, and a flag that is left out has the table's default.
Source: docs/design/cli.md#options-of-a-seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from pollen.cli.values import DURATION, PAIR, SIZE, VALUES
from pollen.options import DEFAULTS, OPTIONS, Kind, Option, text_of

F = TypeVar("F", bound=Callable[..., Any])


def with_options(function: F) -> F:
    """Give a command the flags of all options, in the order of the table."""
    for name, option in reversed(OPTIONS.items()):
        function = click.option(option.flag, name, help=option.help, **_type_of(name, option))(
            function
        )
    return function


def _type_of(name: str, option: Option) -> dict[str, Any]:
    """How click reads one option."""
    default = getattr(DEFAULTS, name)
    match option.kind:
        case Kind.SWITCH:
            return {"is_flag": True}
        case Kind.COUNT:
            kind: Any = click.IntRange(option.low, option.high)
        case Kind.BYTES:
            kind = SIZE
        case Kind.MILLIS if not default:
            return {"type": DURATION, "default": default}
        case Kind.MILLIS:
            kind = DURATION
        case Kind.CHOICE:
            return {"type": click.Choice(option.choices), "default": default}
        case Kind.PAIRS:
            return {"type": PAIR, "multiple": True}
        case Kind.TEXT | Kind.POLICY:
            return {"default": default}
        case Kind.TEXTS:
            return {"multiple": True}
        case Kind.VALUES:
            return {"type": VALUES, "multiple": True}
    return {"type": kind, "default": text_of(name, default), "show_default": True}


def flags_typed(ctx: click.Context) -> set[str]:
    """The flags of options that stand on the line, be it with their defaults."""
    typed = click.core.ParameterSource.COMMANDLINE
    return {
        option.flag for name, option in OPTIONS.items() if ctx.get_parameter_source(name) is typed
    }


def options_given(given: dict[str, Any]) -> dict[str, Any]:
    """The options by name, as ``SeedOptions`` takes them, of what click read."""
    options: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        value = given[name]
        if option.is_negated:
            value = not value
        elif option.kind is Kind.VALUES:
            value = {key: text for held in value for key, text in held.items()}
        elif isinstance(getattr(DEFAULTS, name), dict):
            value = dict(value)
        options[name] = value
    return options
