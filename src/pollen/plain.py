"""Text from elsewhere, made harmless for a terminal: what steers it is shown, not obeyed.

Decides: which characters steer (controls, and marks that turn the direction of writing).
Does not know: who prints.
Invariants: pure; printable text stays as it is; loads nothing heavy, for ``pln status`` loads it.
Source: ECMA-48 for C0 and C1, UAX 9 for directions.
"""

from __future__ import annotations

import re
from typing import Any

# Controls with DEL and C1, line and paragraph separators, marks of direction, and what of UTF-16
# could not be read.
_STEERS = "\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff"
_ALL = re.compile(f"[{_STEERS}]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def _shown(found: re.Match[str]) -> str:
    character = found[0]
    code = ord(character)
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def escaped(text: str) -> str:
    """One line: every character that steers a terminal by its escape, ends of lines too."""
    return _ALL.sub(_shown, text)


def escaped_lines(text: str) -> list[str]:
    """The lines of a text, each harmless."""
    return [escaped(line) for line in text.replace("\r\n", "\n").split("\n")]


def name_of_machine(text: str) -> str:
    """The name that a node takes from its machine's hostname; empty when nothing of it is one."""
    wild = text.split(".")[0].lower()
    return re.sub(r"[^a-z0-9._-]", "-", wild).lstrip("._-")[:63]


def tame(value: Any) -> Any:
    """A JSON value in which every text is ``escaped``, the names of fields too."""
    if isinstance(value, str):
        return escaped(value)
    if isinstance(value, list):
        return [tame(held) for held in value]
    if isinstance(value, dict):
        return {tame(key): tame(held) for key, held in value.items()}
    return value
