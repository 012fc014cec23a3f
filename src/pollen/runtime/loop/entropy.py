"""The entropy that the loop hands to the core, read from the operating system."""

from __future__ import annotations

import os

from pollen.core.ids import BOOT_BYTES


def draw_seed() -> int:
    """A seed for the core's generator."""
    return int.from_bytes(os.urandom(8), "big")


def draw_boot() -> bytes:
    """What tells this run of the process from every other (docs/design/protocol.md#records)."""
    return os.urandom(BOOT_BYTES)


def draw_nonce() -> bytes:
    """Thirty-two bytes that nobody guesses."""
    return os.urandom(32)
