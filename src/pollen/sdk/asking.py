"""What a call asks for, checked before anything is sent; no I/O.

Decides: which inputs and options a call may have, and what is said of others.
Does not know: connections; ``client`` has one kind, ``blocking`` the other.
Invariants: a wrong type is a ``TypeError`` and a wrong value ``bad-request``, each with what to
give instead; nothing is guessed (``bytes(5)`` is five zero bytes, and nobody means them).
Source: docs/guide/call-it.md.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec

from pollen.errors import BadRequest, CallError, TooLarge
from pollen.options import DEFAULTS, OPTIONS, SeedKeywords
from pollen.sdk import door
from pollen.sizes import HEAD_MAX_BYTES

Payload = bytes | bytearray | memoryview | str
UNSET: Any = object()
# The wire has 32 bits for the milliseconds of a budget.
_TIMEOUT_MAX: Final = 0xFFFF_FFFF / 1000


class Call(msgspec.Struct, frozen=True):
    """What one call asks for, checked."""

    seed: str
    function: str | None
    data: bytes
    timeout: float
    retries: int
    idempotent: bool
    traceparent: str | None
    head: bytes = b""
    credit: int = 0

    def within(self, seconds: float) -> Call:
        """The same call with so much time."""
        return msgspec.structs.replace(self, timeout=seconds)

    def encode(self, conversation: door.Conversation) -> tuple[int, bytes]:
        """The call's id in this conversation and the bytes to send."""
        return conversation.call(
            self.seed,
            self.function,
            self.data,
            budget_ms=min(max(1, round(self.timeout * 1000)), 0xFFFF_FFFF),
            retries=self.retries,
            idempotent=self.idempotent,
            traceparent=self.traceparent,
            head=self.head,
            credit=self.credit,
        )


def seed_options(given: SeedKeywords) -> dict[str, Any]:
    """The keywords as the node takes them; raises ``TypeError`` for one that there is not."""
    for name in given:
        if name not in SeedKeywords.__annotations__:
            hint = f"; give {_KEYWORDS[name]}" if name in _KEYWORDS else ""
            raise TypeError(f"seed() got an unexpected keyword argument '{name}'{hint}")
    for name, pairs in (("allow", given.get("allow")), ("host", given.get("host"))):
        if isinstance(pairs, str):
            hint = f"give an expression as {name}_if={pairs!r}"
            raise TypeError(f"{name} of seed() takes pairs of key and value; {hint}")
    return {**given}


def _keyword_hints() -> dict[str, str]:
    """For each flag of ``pln seed`` whose keyword has another name, the keyword with a value."""
    hints = {}
    for name, option in OPTIONS.items():
        flag, default = option.flag.removeprefix("--").replace("-", "_"), getattr(DEFAULTS, name)
        value = option.example or repr(not default if option.is_negated else default)
        if flag != name:
            hints[flag] = f"{name}={value}"
    return hints


_KEYWORDS: Final = _keyword_hints()


class Options(msgspec.Struct, frozen=True):
    """How a handle calls unless a call says otherwise."""

    timeout: float
    retries: int
    idempotent: bool


class Handle:
    """A seed's function and how to call it; no I/O."""

    def __init__(self, seed: str, function: str | None, options: Options) -> None:
        _check_type("a seed's name", seed, str)
        _check_type("a function's name", function, str, type(None))
        _check_type("retries", options.retries, int)
        if not 0 <= options.retries <= 255:
            raise BadRequest("bad-request", "retries must be 0 to 255", "3 is the default")
        _check_type("idempotent", options.idempotent, bool)
        _check_timeout(options.timeout)
        self.seed = seed
        self.name = function
        self._options = options

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.seed}/{self.name or '(only export)'}>"

    def _asks(
        self,
        data: Payload,
        json: object = UNSET,
        timeout: float | None = None,
        idempotent: bool | None = None,
        traceparent: str | None = None,
        head: Payload = b"",
        credit: int = 0,
    ) -> Call:
        if timeout is None:
            timeout = self._options.timeout
        if idempotent is None:
            idempotent = self._options.idempotent
        _check_timeout(timeout)
        _check_type("idempotent", idempotent, bool)
        _check_type("a traceparent", traceparent, str, type(None))
        return Call(
            self.seed,
            self.name,
            _input(data, json),
            timeout,
            self._options.retries,
            idempotent,
            traceparent,
            _head(head) if head else b"",
            credit,
        )


def _head(given: Payload) -> bytes:
    head = _bytes(given, "a request head")
    if len(head) > HEAD_MAX_BYTES:
        reason = f"the request head is {len(head)} bytes, the limit {HEAD_MAX_BYTES}"
        raise TooLarge("input-too-large", reason, "send the rest as input")
    return head


def _input(data: Payload, json: object) -> bytes:
    raw = _bytes(data)
    if json is not UNSET:
        if raw:
            raise BadRequest("bad-request", "data and json were both given", "give one of them")
        raw = msgspec.json.encode(json)
        if b"null" in raw and _is_endless(msgspec.to_builtins(json)):
            reason = "the input has a number that JSON cannot carry: NaN or an infinity"
            raise BadRequest("bad-request", reason, "send None or a text in its place")
    if len(raw) > door.MAX_INPUT:
        reason = f"the input is {len(raw)} bytes, the limit {door.MAX_INPUT}"
        raise TooLarge("input-too-large", reason, "send less at once")
    return raw


def _is_endless(value: object) -> bool:
    """Whether a float in it is not finite: the encoder would write null without a word."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, dict):
        return any(_is_endless(held) for pair in value.items() for held in pair)
    return isinstance(value, list | tuple) and any(map(_is_endless, value))


def _bytes(data: Payload, what: str = "an input") -> bytes:
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, bytes):
        return data
    try:
        return memoryview(data).tobytes()
    except TypeError:
        kind = type(data).__name__
        hint = "; give json=... for anything else" if what == "an input" else ""
        reason = f"{what} is bytes or str, not {kind}{hint}"
        raise TypeError(reason) from None


def _check_type(what: str, value: object, *kinds: type) -> None:
    # A bool is an int to Python, and to nobody who reads "retries=True".
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join("None" if kind is type(None) else kind.__name__ for kind in kinds)
        raise TypeError(f"{what} is {wanted}, not {type(value).__name__}: {value!r:.80}")


def _check_timeout(timeout: float) -> None:
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        kind = type(timeout).__name__
        reason = f"a time-out is a number of seconds, not {kind}: timeout=5 is five seconds"
        raise TypeError(reason)
    if not 0 < timeout <= _TIMEOUT_MAX:
        reason = f"a time-out of {timeout} seconds"
        remedy = f"give a number above 0 and up to {_TIMEOUT_MAX:.0f}; 60 is usual"
        raise BadRequest("bad-request", reason, remedy)


def check_in_flight(in_flight: int) -> None:
    """Raises when so many calls of a ``map`` cannot be under way."""
    _check_type("in_flight", in_flight, int)
    if in_flight < 1:
        raise BadRequest("bad-request", "in_flight must be at least 1", "64 is the default")


def placed(error: Exception, index: int, *, is_kept: bool) -> CallError:
    """The error of a ``map``'s input, which it names; raised unless it is one to keep."""
    if not isinstance(error, CallError):
        error.add_note(f"input {index}")
        raise error
    error.index = index
    if not is_kept:
        raise error
    return error
