"""The exports: a call, the description, the code of a file. Errors of theirs are ``Failure``.

The seed's module is imported by the first call of an instance, and stays. A generator's items are
written as they come: bytes as they are, everything else as a line of JSON each.
"""

from __future__ import annotations

import gc
import importlib
import random
import types
from collections.abc import Iterator
from typing import Any

from pollen_runner import loop, trace
from pollen_runner.bundle import bundle, compiled
from pollen_runner.description import describe as described
from pollen_runner.functions import BadArgument, Function, functions_of
from pollen_runner.guest import end_lines
from pollen_runner.port import port
from pollen_runner.values import dumps


class Failure(Exception):
    """Why there is no result: ``kind`` is a case of the world's variant."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind, self.text = kind, text


class _Opened:
    """The seed's module and its functions, once it was imported."""

    module: Any = None
    functions: dict[str, Function] | None = None


def _functions() -> dict[str, Function]:
    if _Opened.functions is None:
        # The snapshot was taken in one process: its random numbers are those of every instance.
        random.seed()
        bundle.open()
        _Opened.module = importlib.import_module(bundle.main)
        _Opened.functions = functions_of(_Opened.module)
        gc.freeze()
        gc.enable()
    return _Opened.functions


def forget() -> None:
    """As if nothing had been imported; for tests and for what warms the snapshot."""
    _Opened.module = _Opened.functions = None


def handle(name: str, data: bytes) -> bytes:
    """Call a function. Raises ``Failure``."""
    try:
        functions = _functions()
    except BaseException as error:
        raise Failure("failed", trace.told(error)) from None
    function = functions.get(name)
    if function is None:
        has = ", ".join(functions) or "none"
        raise Failure("no-function", f"there is no function {name[:80]!r}; functions: {has}")
    try:
        args, kwargs = function.arguments(data)
    except BadArgument as error:
        raise Failure("bad-argument", str(error)) from None
    try:
        return _output(function, function.call(*args, **kwargs))
    except BaseException as error:
        raise Failure("failed", trace.told(error)) from None
    finally:
        end_lines()


def _output(function: Function, result: Any) -> bytes:
    if function.is_async:
        result = loop.run(result)
    # Neither type has a subclass: this is what ``inspect`` asks, without its call.
    if type(result) is types.AsyncGeneratorType:
        return _streamed(_drawn(result))
    if function.streams or type(result) is types.GeneratorType:
        return _streamed(result)
    if function.gives_bytes:
        if not isinstance(result, bytes | bytearray | memoryview):
            kind = type(result).__name__
            raise TypeError(f"{function.name} is to return bytes, and returned {kind}")
        return bytes(result)
    return dumps(result)


def _drawn(items: Any) -> Iterator[Any]:
    """The items of an asynchronous generator, one run of the loop each."""
    try:
        while True:
            try:
                yield loop.run(anext(items))
            except StopAsyncIteration:
                return
    finally:
        loop.run(items.aclose())


def _streamed(items: Any) -> bytes:
    """Write each item; when nobody reads any more the generator is closed."""
    try:
        for item in items:
            piece = item if isinstance(item, bytes) else dumps(item) + b"\n"
            if not port.host.write(piece):
                break
    finally:
        items.close()
    return b""


def describe() -> str:
    """The description of the bundle. Raises ``Failure`` with the user's traceback."""
    try:
        functions = _functions()
        if not functions:
            raise TypeError(
                f"{bundle.main}.py has no public function: define one at the top level, with a "
                "name that does not begin with _"
            )
        return described(_Opened.module, functions)
    except BaseException as error:
        raise Failure("failed", trace.told(error)) from None
    finally:
        end_lines()


def compile_source(path: str, source: bytes) -> bytes:
    """The code of one file. Raises ``Failure`` with the line that does not compile."""
    try:
        return compiled(path, source)
    except BaseException as error:
        raise Failure("failed", trace.told(error)) from None
