"""What the functions of a seed take and give: made small for its spec, and read from it.

Decides: what of a description is left out when it is too long for a spec.
Does not know: who made it (the Python runner), who shows it.
Invariants: what ``fitted`` gives is at most ``DESCRIPTION_MAX_BYTES``; the names and signatures are
    the last to go. ``read_description`` never raises: the text is that of any publisher.
Source: docs/design/python.md#the-description.
"""

from __future__ import annotations

from typing import Any

import msgspec

# The longest description in a spec. Raising it costs each node memory for each seed; a longer one
# loses its docstrings, then the schemas. Guess: forty functions with a sentence each.
DESCRIPTION_MAX_BYTES = 8 * 1024


def fitted(text: str) -> str:
    """The description in at most ``DESCRIPTION_MAX_BYTES``; empty when even names are too many."""
    if len(text.encode(errors="replace")) <= DESCRIPTION_MAX_BYTES:
        return text
    held = read_description(text)
    for gone in (("doc",), ("doc", "returns"), ("doc", "returns", "input", "order")):
        less = _without(held, gone)
        if len(less) <= DESCRIPTION_MAX_BYTES:
            return less.decode()
    return ""


def _without(held: dict[str, Any], gone: tuple[str, ...]) -> bytes:
    functions = {
        name: {key: value for key, value in function.items() if key not in gone}
        for name, function in held.get("functions", {}).items()
    }
    return msgspec.json.encode({"functions": functions, "python": held.get("python", "")})


def read_description(text: str) -> dict[str, Any]:
    """The description as an object; ``{}`` for none and for what is none."""
    if not text:
        return {}
    try:
        held = msgspec.json.decode(text)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        return {}
    functions = held.get("functions") if isinstance(held, dict) else None
    if not isinstance(functions, dict):
        return {}
    functions = {name: f for name, f in functions.items() if isinstance(f, dict)}
    return {**held, "functions": functions}
