"""A call and its answer as bytes, seen from the program: the other end of ``glue``.

Decides: the words for what came back: a value, an error of the function as itself, or as text.
Does not know: connections, what is shipped.
Invariants: an error is raised as itself only when its class is a builtin's, the standard library's
    or shipped, is here already, and is an ``Exception``: no answer ends a program or imports a
    module. The remote traceback is its cause.
Source: docs/design/functions.md#errors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pollen.errors import GuestError
from pollen.sdk.functions import tagged
from pollen.sdk.functions.tagged import Malformed, Names, Unfit

# What a token, a function and its arguments stand for: done once by each instance.
First = tuple[str, str, tuple[Any, ...]]


class RemoteTraceback(Exception):
    """The cause of an error that a function raised on the mesh: its traceback there."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}\n"""'


class FirstFailed(Exception):
    """What each instance does first did not succeed. ``cause`` is its error."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


def _arguments(args: Sequence[Any], names: Names) -> list[Any]:
    return [tagged.plain(value, names, f"argument {at}") for at, value in enumerate(args)]


def _request(target: str, names: Names, first: First | None, **rest: Any) -> bytes:
    held = {"t": target, **rest}
    if first is not None:
        token, function, args = first
        held["i"] = [token, function, _arguments(args, names)]
    return tagged.dumps(held)


def request(
    target: str,
    args: Sequence[Any],
    kwargs: dict[str, Any],
    names: Names,
    first: First | None = None,
) -> bytes:
    """The bytes of one call. Raises ``TypeError`` that names the argument."""
    given = {
        key: tagged.plain(value, names, f"argument {key}") if key.isascii() else _no(key)
        for key, value in kwargs.items()
    }
    held = {"$": "dict", "v": [list(pair) for pair in given.items()]} if "$" in given else given
    return _request(target, names, first, a=_arguments(args, names), k=held)


def _no(key: str) -> Any:
    raise Unfit(f"the keyword {key!r} is not ASCII")


def requests(
    target: str, many: Sequence[Sequence[Any]], names: Names, first: First | None = None
) -> bytes:
    """The bytes of several calls in one: the arguments of each."""
    return _request(target, names, first, m=[_arguments(args, names) for args in many])


def value_of(data: bytes, names: Names, who: str) -> Any:
    """What the function returned. Raises what it raised; ``guest-failed`` for what cannot be."""
    answer = _read(data, names, who)
    if "r" in answer:
        return answer["r"]
    raise _raised(answer, names, who)


def values_of(data: bytes, names: Names, who: str) -> tuple[list[Any], BaseException | None]:
    """The values of several calls as far as they went, and the error of the first that failed."""
    answer = _read(data, names, who)
    if "m" not in answer:
        return [], _raised(answer, names, who)
    values: list[Any] = []
    for one in answer["m"]:
        if "r" not in one:
            return values, _raised(one, names, who)
        values.append(one["r"])
    return values, None


def _read(data: bytes, names: Names, who: str) -> dict[str, Any]:
    try:
        answer = tagged.decode(data, names)
    except Malformed as error:
        raise GuestError("guest-failed", f"what {who} gave cannot be read: {error}") from None
    if not isinstance(answer, dict):
        raise GuestError("guest-failed", f"what {who} gave is no answer")
    return answer


def _raised(answer: dict[str, Any], names: Names, who: str) -> BaseException:
    if isinstance(answer.get("b"), dict):
        return FirstFailed(_rebuilt(answer["b"], names))
    if isinstance(answer.get("e"), dict):
        return _rebuilt(answer["e"], names)
    return GuestError("guest-failed", f"what {who} gave is no answer")


def _rebuilt(held: dict[str, Any], names: Names) -> BaseException:
    """The error as itself where that can be, else its text."""
    text = str(held.get("t", ""))
    made = None
    try:
        kind = names.find(held.get("c"))
        if isinstance(kind, type) and issubclass(kind, Exception) and held.get("a") is not None:
            made = kind(*held["a"])
    except Exception:  # the class is unknown here, or is made in another way
        made = None
    if not isinstance(made, Exception):
        return GuestError("guest-failed", text or str(held.get("s", "")))
    made.__cause__ = RemoteTraceback(text)
    return made
