"""What nodes, seeds and whatever else has a name may be called.

Decides: whether a text is a valid name, and the words of its refusal.
Does not know: what a name stands for, who holds it (``names``).
Invariants: no valid name is a hash in hex, so that a text is one of the two and never both.
Source: docs/design/protocol.md#names-and-specs.
"""

from __future__ import annotations

from pollen.core.codec import Refusal
from pollen.core.ids import is_hash_text

_FIRST = "abcdefghijklmnopqrstuvwxyz0123456789"
_REST = _FIRST + "._-"


def check_name(name: str) -> Refusal | None:
    """Whether it is ``[a-z0-9][a-z0-9._-]{0,62}``, and never 64 hex digits."""
    if is_hash_text(name):
        return Refusal(
            "name-invalid",
            f"{name[:16]}… is 64 hex digits, which always mean a hash",
            "choose a name with another letter or length",
        )
    if not (1 <= len(name) <= 63 and name[0] in _FIRST and all(c in _REST for c in name)):
        return Refusal(
            "name-invalid",
            f"{name[:80]!r} is not a valid name",
            "use 1 to 63 of a-z 0-9 . _ - and begin with a letter or digit",
        )
    return None


_DENIED_BY = "denied by "
_ROOT = "the root"


def denied_text(denier: str) -> str:
    """The reason with which a link to a former member is closed."""
    return _DENIED_BY + denier


def read_denier(text: str) -> str:
    """Who denied, of such a reason, which is the word of a peer; empty for any other text."""
    name = text.removeprefix(_DENIED_BY)
    is_name = name == _ROOT or check_name(name) is None
    return name if is_name and text.startswith(_DENIED_BY) else ""
