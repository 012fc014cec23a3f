"""What a seed imports as ``pollen``: other seeds, who calls, the configuration, the log.

Not the SDK of the same name, which a program outside the mesh imports. A request inside an
``async def`` is awaited; elsewhere it returns when the answer is there.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import logging
import sys
import types
from typing import Any

from pollen_runner import loop as loops
from pollen_runner.port import port
from pollen_runner.values import dumps, loads

__all__ = ["CallError", "caller", "config", "log", "request", "tail_call", "use"]


class CallError(RuntimeError):
    """A request to another seed failed. ``slug`` says why: ``seed-not-found``, ``guest-failed``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        head, bracket, _ = text.partition("]")
        self.slug = head[1:] if bracket and head.startswith("[") else ""


def request(uri: str, data: bytes | str = b"") -> Any:
    """Call ``pln://seed/NAME/FUNCTION`` with these bytes: the bytes that it gives, or in an
    ``async def`` what they are awaited from. Raises ``CallError``."""
    raw = data.encode() if isinstance(data, str) else bytes(data)
    if asyncio._get_running_loop() is not None:
        return _awaited(uri, raw)
    try:
        return port.host.request(uri, raw)
    except BaseException as error:
        raise _told(error) from None


async def _awaited(uri: str, data: bytes) -> bytes:
    running = asyncio.get_running_loop()
    assert isinstance(running, loops.Loop)
    try:
        return await running.begin(uri, data)
    except asyncio.CancelledError:
        raise
    except Exception as error:
        raise _told(error) from None


def _told(error: BaseException) -> BaseException:
    text = port.error_of(error)
    return error if text is None else CallError(text)


def tail_call(uri: str, data: bytes | str = b"") -> bool:
    """Hand this call on when the function returns: the output of the other one is the output. False
    when the seed may not."""
    return port.host.tail_call(uri, data.encode() if isinstance(data, str) else bytes(data))


class _Remote:
    """One function of another seed. Arguments go as JSON, and its output is read as JSON."""

    def __init__(self, seed: str, name: str) -> None:
        self._uri = f"pln://seed/{seed}/{name}"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if args and kwargs:
            raise TypeError("give all arguments by place or all by name")
        answer = request(self._uri, dumps(kwargs or list(args)))
        return self._awaited(answer) if asyncio.iscoroutine(answer) else self._value(answer)

    async def _awaited(self, answer: Any) -> Any:
        return self._value(await answer)

    def _value(self, data: bytes) -> Any:
        try:
            return loads(data) if data else None
        except ValueError as error:
            how = f"read its bytes with pollen.request({self._uri!r}, ...)"
            raise CallError(f"the output of {self._uri} is not JSON: {error}; {how}") from None

    def __repr__(self) -> str:
        return f"<function {self._uri}>"


class _Seed:
    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> _Remote:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Remote(self._name, name)

    def __repr__(self) -> str:
        return f"<seed {self._name}>"


def use(name: str) -> _Seed:
    """Another seed: ``use("prices").price("nut")``, awaited in an ``async def``."""
    return _Seed(name)


@dataclasses.dataclass(frozen=True)
class Caller:
    """Who calls. ``node``: the id of the node that asks; ``attributes``: what its certificate says;
    ``deadline``: when the answer must be there, a Unix time in seconds. Nobody checked what stands
    in ``unverified``."""

    node: str
    attributes: dict[str, Any]
    deadline: float | None
    unverified: dict[str, Any]


def caller() -> Caller:
    """Who calls, as the node knows it."""
    told = json.loads(port.host.caller_info() or "{}")
    until = told.get("deadlineUnixMs")
    return Caller(
        node=told.get("peerKey", ""),
        attributes=told.get("attributes", {}),
        deadline=None if until is None else until / 1000,
        unverified=told.get("unverified", {}),
    )


def config(key: str, default: str | None = None) -> str | None:
    """A value of ``pln seed --config key=value``."""
    value = port.host.config(key)
    return default if value is None else value


class _Log:
    """``log.info("priced", n=3)``: a line of the seed's log."""

    def debug(self, text: object, **fields: object) -> None:
        _write(0, text, fields)

    def info(self, text: object, **fields: object) -> None:
        _write(1, text, fields)

    def warning(self, text: object, **fields: object) -> None:
        _write(2, text, fields)

    def error(self, text: object, **fields: object) -> None:
        _write(3, text, fields)


def _write(level: int, text: object, fields: dict[str, object]) -> None:
    told = " ".join([str(text), *(f"{name}={value}" for name, value in fields.items())])
    port.host.log(level, told)


log = _Log()


class _Handler(logging.Handler):
    """``logging`` writes to the seed's log."""

    def emit(self, record: logging.LogRecord) -> None:
        level = min(max(record.levelno // 10 - 1, 0), 3)
        port.host.log(level, self.format(record))


class _Lines(io.TextIOBase):
    """``print``: each line is a line of the seed's log."""

    def __init__(self, level: int) -> None:
        self._level, self.held = level, ""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        *lines, self.held = (self.held + text).split("\n")
        for line in lines:
            port.host.log(self._level, line)
        return len(text)

    def flush(self) -> None:
        """A line that has not ended goes when the call does, see ``end_lines``."""

    def end(self) -> None:
        if self.held:
            port.host.log(self._level, self.held)
            self.held = ""


_streams = (_Lines(1), _Lines(2))


def end_lines() -> None:
    """The call ends: what ``print`` left without a line's end is a line."""
    if _streams[0].held or _streams[1].held:
        for stream in _streams:
            stream.end()


def install(*, is_logging: bool = True) -> None:
    """Make this module ``pollen``, and have print and logging write to the seed's log."""
    held = types.ModuleType("pollen", __doc__)
    for name in __all__:
        setattr(held, name, globals()[name])
    vars(held)["__all__"] = __all__
    sys.modules["pollen"] = held
    sys.stdout, sys.stderr = _streams  # type: ignore[assignment]
    if is_logging:
        logging.basicConfig(handlers=[_Handler()], level=logging.INFO, format="%(message)s")
