"""The guest's half of a call: finds the function, calls it, and sends what came of it.

Decides: what is loaded before the first call, and what of an error is sent.
Does not know: the program that calls.
Invariants: the runner runs this very file beside ``tagged`` and ``shipped``, which ``ship`` writes.
    So it imports the standard library and ``pollen``, which in a guest is the runner's. ``call``
    and ``acall`` are its only public functions. An error of the function is an answer.
Source: docs/design/functions.md#calls.

A request is ``{"t": "module:function", "a": [...], "k": {...}}``, or with ``m``, a list of lists of
arguments, in place of ``a`` and ``k``. ``i`` is what each instance does once: a token, a function,
its arguments. An answer is ``{"r": value}``, ``{"e": error}`` or ``{"m": [answers]}`` as far as the
first error; ``{"b": error}`` when that first deed failed.
"""

from __future__ import annotations

import importlib
import importlib.util
import linecache
import sys
import traceback
import types
from collections.abc import Callable
from typing import Any

from .tagged import Malformed, Names, Unfit, decode, dumps, plain

# What a program reads of a traceback. Guess.
_TEXT_MAX = 8_000
_PACKAGE = __name__.rpartition(".")[0]


def _remote(function: Any = None, **options: Any) -> Any:
    """``@pollen.remote`` in a guest: the function is here already."""

    def mark(inner: Any) -> Any:
        inner.local = inner
        return inner

    return mark if function is None else mark(function)


class _Side:
    """What was shipped, once it is loaded."""

    def __init__(self) -> None:
        held = importlib.import_module(f"{_PACKAGE}.shipped")
        sys.modules["pollen"].remote = _remote  # type: ignore[attr-defined]
        self.names = Names(held.SHIPPED, may_import=True)
        self.begun: dict[str, Any] = {}
        # The loader of each file that is part of a module of another name, for its source.
        self.parts: dict[str, tuple[str, Any]] = {}
        for name, package, parts, constants in held.SLICES:
            self._load(name, package, parts, constants)
        for name in held.MODULES:
            importlib.import_module(name)

    def _load(self, name: str, package: str, parts: list[str], constants: str) -> None:
        """A module of those statements that were shipped, and the constants that they read."""
        specs = [importlib.util.find_spec(part) for part in parts]
        module = types.ModuleType(name)
        vars(module).update(decode(constants.encode(), self.names))
        module.__package__ = package
        sys.modules[name] = module
        if above := name.rpartition(".")[0]:
            setattr(importlib.import_module(above), name.rpartition(".")[2], module)
        for part, spec in zip(parts, specs, strict=True):
            assert spec is not None
            module.__file__ = spec.origin
            self.parts[spec.origin or ""] = part, spec.loader
            exec(spec.loader.get_code(part), vars(module))  # type: ignore[union-attr]

    def frames_of(self, error: BaseException) -> str:
        """The traceback with the frames of the user's own files."""
        held = traceback.TracebackException.from_exception(error, lookup_lines=False)
        self._trim(held, set())
        text = "".join(held.format()).strip().replace(f'File "{_root()}', 'File "')
        if len(text) > _TEXT_MAX:
            text = f"{text[: _TEXT_MAX // 2]}\n  ...\n{text[-_TEXT_MAX // 2 :]}"
        return text

    def _trim(self, held: traceback.TracebackException, seen: set[int]) -> None:
        if id(held) in seen:
            return
        seen.add(id(held))
        held.stack[:] = [frame for frame in held.stack if self._is_own(frame.filename)]
        for below in (held.__cause__, held.__context__, *(held.exceptions or ())):
            if below is not None:
                self._trim(below, seen)

    def _is_own(self, file: str) -> bool:
        root = _root()
        if not file.startswith(root) or file.startswith(f"{root}.deps/"):
            return False
        if file in self.parts and file not in linecache.cache:
            part, loader = self.parts[file]
            text = loader.get_source(part) or ""
            linecache.cache[file] = len(text), None, text.splitlines(keepends=True), file
        return True


def _root() -> str:
    """Where the files of the bundle seem to be."""
    return __file__.partition(".deps/")[0]


_side = _Side()


def call(data: bytes) -> bytes:
    """Call a function. Its error is an answer."""
    request = _read(data)
    if isinstance(request, bytes):
        return request
    if "m" not in request:
        return _answer(request["t"], request["a"], request["k"])
    answers = []
    for args in request["m"]:
        answers.append(_answer(request["t"], args, {}))
        if answers[-1].startswith(b'{"e"'):
            break
    return b'{"m":[' + b",".join(answers) + b"]}"


async def acall(data: bytes) -> bytes:
    """Call a function that is awaited."""
    request = _read(data)
    if isinstance(request, bytes):
        return request
    answers = []
    for args, kwargs in _each(request):
        try:
            value = await _side.names.find(request["t"])(*args, **kwargs)
            answers.append(_result(value))
        except BaseException as error:
            answers.append(_failed(error))
            break
    return answers[0] if "m" not in request else b'{"m":[' + b",".join(answers) + b"]}"


def _each(request: dict[str, Any]) -> list[tuple[Any, Any]]:
    if "m" in request:
        return [(args, {}) for args in request["m"]]
    return [(request["a"], request["k"])]


def _read(data: bytes) -> Any:
    """The request, once this instance did what it does first; or the answer that it did not."""
    try:
        request = decode(data, _side.names)
        first = request.get("i")
        if first is not None:
            token, target, args = first
            if token not in _side.begun:
                _side.begun[token] = _first(_side.names.find(target), args)
            if _side.begun[token] is not None:
                return _side.begun[token]
        return request
    except (Malformed, AttributeError, ValueError) as error:
        return _failed(error)


def _first(function: Callable[..., Any], args: list[Any]) -> bytes | None:
    try:
        function(*args)
    except BaseException as error:
        return b'{"b":' + _failed(error)[len(b'{"e":') :]
    return None


def _answer(target: str, args: list[Any], kwargs: dict[str, Any]) -> bytes:
    try:
        return _result(_side.names.find(target)(*args, **kwargs))
    except BaseException as error:
        return _failed(error)


def _result(value: Any) -> bytes:
    try:
        return b'{"r":' + dumps(plain(value, _side.names, "the result")) + b"}"
    except Unfit as error:
        raise TypeError(str(error)) from None


def _failed(error: BaseException) -> bytes:
    """An error: its class and what made it as far as they travel, its text, its traceback."""
    held: dict[str, Any] = {"c": None, "a": None, "t": _side.frames_of(error)}
    try:
        made = error.__reduce__()
        args = made[1] if isinstance(made, tuple) and made[0] is type(error) else error.args
        held["c"] = _side.names.name_of(type(error))
        held["a"] = plain(list(args), _side.names)
    except Exception:  # an error of the user's own, which may do anything here
        held["a"] = None
    try:
        held["s"] = str(error)[:_TEXT_MAX]
    except Exception:
        held["s"] = type(error).__qualname__
    return b'{"e":' + dumps(plain(held, _side.names)) + b"}"


__all__ = ["acall", "call"]
