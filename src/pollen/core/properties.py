"""The properties of a member: a small JSON object that gates read.

Decides: whether a text is such an object, and whether somebody with bounds may give it.
Does not know: whose properties they are; gates (``rules``).
Invariants: only compact text of few levels and 64-bit integers is valid, so that two readers of one
    text see one object.
Source: docs/design/protocol.md#trust; docs/decisions/properties-of-a-child.md.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from pollen.core import limits
from pollen.core.codec import Refusal

# Objects and lists within each other. Guess; gates and policies look two or three levels deep.
DEPTH_MAX = 16


def excess_of(properties: str, gives: str) -> str:
    """The first property that somebody with these bounds may not give, or "".

    What the bounds state may only be repeated or left out: of a list any part, of an object by
    key. What they do not state is free. Both are checked JSON objects.
    """
    if gives == "{}":
        return ""
    return _excess(msgspec.json.decode(properties), msgspec.json.decode(gives))


def _excess(given: Mapping[str, object], bounds: Mapping[str, object]) -> str:
    for key, value in given.items():
        if key not in bounds:
            continue
        bound = bounds[key]
        if isinstance(value, dict) and isinstance(bound, dict):
            deeper = _excess(value, bound)
            if deeper:
                return f"{key}.{deeper}"
            continue
        allowed = [_text(item) for item in bound] if isinstance(bound, list) else [_text(bound)]
        values = value if isinstance(value, list) else [value]
        if any(_text(item) not in allowed for item in values):
            return key
    return ""


def _text(value: object) -> bytes:
    """A value as text, so that ``1``, ``true`` and ``"1"`` are three values."""
    return msgspec.json.encode(value)


def check_properties(text: str) -> str | Refusal:
    """The properties in compact text, or why they are refused: not an object, or too long."""
    wrong = Refusal(
        "bad-request",
        "the properties are no JSON object",
        'give them as an object, e.g. {"team": "red", "role": ["web", "db"]}',
    )
    if len(text) > 4 * limits.PROPERTIES_MAX_BYTES:
        return _too_long()
    try:
        value = msgspec.json.decode(text)
        compact = msgspec.json.encode(value).decode()
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return wrong
    if not isinstance(value, dict):
        return wrong
    if not _is_plain(value, DEPTH_MAX):
        reason = f"the properties are over {DEPTH_MAX} levels deep, or hold a number over 64 bits"
        return Refusal("bad-request", reason, "make them flatter; give such a number as text")
    if len(compact.encode()) > limits.PROPERTIES_MAX_BYTES:
        return _too_long()
    return compact


def _is_plain(value: object, levels: int) -> bool:
    """Whether every reader of JSON reads the same: some end at 128 levels, or at 64 bits."""
    if isinstance(value, dict | list):
        inner = value.values() if isinstance(value, dict) else value
        return levels > 0 and all(_is_plain(item, levels - 1) for item in inner)
    return not isinstance(value, int) or -(2**63) <= value < 2**63


def _too_long() -> Refusal:
    return Refusal(
        "bad-request",
        f"the properties are over {limits.PROPERTIES_MAX_BYTES} bytes",
        "shorten them: they travel in every handshake",
    )
