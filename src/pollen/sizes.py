"""Sizes that the client and the brain both obey, in bytes.

Decides: nothing. Does not know: who enforces a size; the muscles have the same numbers.
Invariants: ``tests/contract/test_sizes.py`` holds each to the muscles' own.
Source: docs/design/guest-abi.md#limits.
"""

from __future__ import annotations

from typing import Final

# The largest module. Raising it lets an upload and a fetch take more memory for a moment: the whole
# module, about twice. Guess: a Python runtime with the modules of an app has 30 to 50 MiB.
MODULE_MAX_BYTES: Final = 64 * 1024 * 1024
# The largest input or output of a call.
INPUT_MAX_BYTES: Final = 4 * 1024 * 1024
# The largest request head.
HEAD_MAX_BYTES: Final = 64 * 1024
