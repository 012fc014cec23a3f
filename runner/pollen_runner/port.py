"""The node, as the runner asks it: the one place that holds the imported host functions.

``app`` puts the component's imports here, a test its own. Each function is as the world has it
(runner/wit/world.wit); ``answer`` tells a result from an error, whose classes only the component
has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol


class Host(Protocol):
    """The functions of the interface ``host``."""

    def bundle(self) -> bytes: ...
    def read(self, path: str) -> bytes | None: ...
    def log(self, level: int, message: str) -> None: ...
    def request(self, uri: str, input: bytes) -> bytes: ...
    def start(self, uri: str, input: bytes) -> int: ...
    def wait(self, timeout_ms: int | None) -> list[tuple[int, Any]]: ...
    def write(self, bytes: bytes) -> bool: ...
    def caller_info(self) -> str: ...
    def config(self, key: str) -> str | None: ...
    def tail_call(self, uri: str, input: bytes) -> bool: ...


class Refused(Exception):
    """What the node said instead of an answer."""


class _Port:
    """``host`` and the way to read its results are set once, before anything is called."""

    host: Host
    # The error text of a failed ``request``, out of the exception that the binding raises.
    error_of: Callable[[BaseException], str | None] = staticmethod(
        lambda error: str(error) if isinstance(error, Refused) else None
    )
    # One answer of ``wait``: its bytes, or its error text.
    answer: Callable[[Any], bytes | str] = staticmethod(lambda result: result)


port = _Port()
