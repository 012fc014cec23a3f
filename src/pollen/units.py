"""Numbers as people read them.

Decides: the unit of a size.
Does not know: who prints.
Invariants: pure; loads nothing.
Source: docs/design/cli.md#status.
"""

from __future__ import annotations


def human_bytes(count: int) -> str:
    """``512 B``, ``1.5 MiB``, ``63.2 GiB``."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" or size >= 100 else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("the last unit takes everything")
