"""What can be called: the public functions of the seed's main module, each with its parameters.

The input of a call is a JSON object of arguments by name, or an array in their order; nothing at
all is no argument. A function whose one parameter is annotated ``bytes`` takes the input as it is.
What does not fit is ``BadArgument``: no line of the function ran.
"""

from __future__ import annotations

import difflib
import inspect
import typing
from collections.abc import Callable
from types import ModuleType
from typing import Any

from pollen_runner.shapes import Misfit, Shape, parameter_shape
from pollen_runner.values import loads

Parameter = inspect.Parameter
_STREAMS = (
    typing.get_origin(typing.Iterator[int]),
    typing.get_origin(typing.Generator[int, int, int]),
    typing.get_origin(typing.Iterable[int]),
    typing.get_origin(typing.AsyncIterator[int]),
    typing.get_origin(typing.AsyncGenerator[int, int]),
)


class BadArgument(ValueError):
    """The arguments are not those of the function."""


class Function:
    """One function and how an input becomes its arguments."""

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self.call = name, call
        try:
            self.signature = inspect.signature(call, eval_str=True)
        except NameError as error:
            raise TypeError(f"an annotation of {name} names what is not there: {error}") from None
        self.parameters = list(self.signature.parameters.values())
        self.is_async = inspect.iscoroutinefunction(call)
        self.streams = inspect.isgeneratorfunction(call) or inspect.isasyncgenfunction(call)
        self.returns = self.signature.return_annotation
        self.gives_bytes = self.returns is bytes
        self.takes_bytes = len(self.parameters) == 1 and (
            self.parameters[0].annotation is bytes
            and self.parameters[0].kind is not Parameter.VAR_POSITIONAL
        )
        self.shapes: dict[str, Shape] = {
            p.name: parameter_shape(p.annotation) for p in self.parameters
        }
        kinds = {p.kind for p in self.parameters}
        self._is_plain = kinds <= {Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY}
        self._ordered = [
            p
            for p in self.parameters
            if p.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        ]
        self._spread = next(
            (p for p in self.parameters if p.kind is Parameter.VAR_POSITIONAL), None
        )
        self._rest = next((p for p in self.parameters if p.kind is Parameter.VAR_KEYWORD), None)
        self._named = {p.name for p in self.parameters} - {self._rest.name if self._rest else ""}
        self._needed = [
            p.name
            for p in self.parameters
            if p.default is Parameter.empty
            and p.kind not in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
        ]
        # By place: which arguments are checked, and whether a list of this length has all.
        reads = [(at, self.shapes[p.name].read) for at, p in enumerate(self._ordered)]
        self._checks = [(at, read) for at, read in reads if read is not None]
        self._is_whole = {p.name for p in self._ordered} >= set(self._needed)

    @property
    def yields(self) -> Any:
        """What each item of a stream is, or ``inspect``'s empty."""
        args = typing.get_args(self.returns)
        is_stream = typing.get_origin(self.returns) in _STREAMS
        return args[0] if is_stream and args else Parameter.empty

    def arguments(self, data: bytes) -> tuple[list[Any], dict[str, Any]]:
        """The arguments of one call. Raises ``BadArgument``."""
        if self.takes_bytes:
            return [data], {}
        try:
            value = loads(data) if data and not data.isspace() else []
        except ValueError as error:
            raise BadArgument(
                f"the input is not JSON: {error}; give an object of arguments"
            ) from None
        if type(value) is dict:
            return self._by_name(value)
        if type(value) is list:
            return self._by_place(value)
        raise BadArgument(
            f"the input is one value; {self.name} takes an object of arguments, or a list of them"
        )

    def _read(self, name: str, value: Any) -> Any:
        read = self.shapes[name].read
        if read is None:
            return value
        try:
            return read(value)
        except Misfit as error:
            raise BadArgument(f"argument {error.below(name)}") from None

    def _by_name(self, given: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        for name in self._needed:
            if name not in given:
                raise BadArgument(f"{self.name} needs the argument {name!r}")
        named = {}
        for name, value in given.items():
            if name in self._named:
                if self._spread is None or name != self._spread.name:
                    named[name] = self._read(name, value)
            elif self._rest is not None:
                named[name] = self._read_rest(name, value)
            else:
                raise BadArgument(self._unknown(name))
        if self._is_plain:
            return [], named
        return self._placed(given, named)

    def _placed(
        self, given: dict[str, Any], named: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """What only has a place goes there; ``*args`` is a list under its name."""
        spread: list[Any] = []
        if self._spread is not None and self._spread.name in given:
            held = given[self._spread.name]
            if type(held) is not list:
                raise BadArgument(f"argument {self._spread.name}: expected a list of values")
            spread = self._many(self._spread.name, held)
        ordered = []
        for parameter in self._ordered:
            if spread or parameter.kind is Parameter.POSITIONAL_ONLY:
                ordered.append(named.pop(parameter.name, parameter.default))
        return [*ordered, *spread], named

    def _many(self, name: str, values: list[Any]) -> list[Any]:
        return [self._read(name, value) for value in values]

    def _read_rest(self, name: str, value: Any) -> Any:
        assert self._rest is not None
        read = self.shapes[self._rest.name].read
        try:
            return value if read is None else read(value)
        except Misfit as error:
            raise BadArgument(f"argument {error.below(name)}") from None

    def _by_place(self, given: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        most = len(self._ordered)
        if len(given) == most and self._is_whole:
            return self._checked(given), {}
        if len(given) > most and self._spread is None:
            takes = "no arguments" if not self.parameters else f"{most} at most, by place"
            raise BadArgument(f"{self.name} takes {takes}, and {len(given)} were given")
        ordered = self._checked(given[:most])
        if self._spread is not None:
            ordered += self._many(self._spread.name, given[most:])
        there = {p.name for p in self._ordered[: len(given)]}
        for name in self._needed:
            if name not in there:
                raise BadArgument(f"{self.name} needs the argument {name!r}")
        return ordered, {}

    def _checked(self, given: list[Any]) -> list[Any]:
        """The first arguments by place, each as its annotation says; ``given`` is changed."""
        at = 0
        try:
            for at, read in self._checks:
                if at >= len(given):
                    break
                given[at] = read(given[at])
        except Misfit as error:
            raise BadArgument(f"argument {error.below(self._ordered[at].name)}") from None
        return given

    def _unknown(self, name: str) -> str:
        near = difflib.get_close_matches(name, sorted(self._named), n=1)
        hint = f"; did you mean {near[0]!r}" if near else ""
        takes = ", ".join(p.name for p in self.parameters) or "none"
        return f"{self.name} has no argument {name[:80]!r}{hint}; it takes: {takes}"


def functions_of(module: ModuleType) -> dict[str, Function]:
    """The public functions of a module: those that ``__all__`` lists, else those that are defined
    there and whose name does not begin with ``_``. Raises ``TypeError`` for an annotation that
    cannot be read."""
    listed = getattr(module, "__all__", None)
    held: dict[str, Function] = {}
    for name in vars(module) if listed is None else listed:
        call = getattr(module, name, None)
        if not callable(call) or isinstance(call, type):
            continue
        is_own = getattr(call, "__module__", None) == module.__name__
        is_function = inspect.isfunction(call) or hasattr(call, "__wrapped__")
        if listed is None and (name.startswith("_") or not is_own or not is_function):
            continue
        held[name] = Function(name, call)
    return held
