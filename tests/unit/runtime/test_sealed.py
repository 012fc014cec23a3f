"""A sealed root key on a machine that is busy for a moment."""

from __future__ import annotations

import pytest

from pollen.runtime.folder import rootkey


class Slow:
    """An age that finds the machine too slow so often."""

    class DecryptError(Exception):
        pass

    def __init__(self, times: int) -> None:
        self.left, self.passphrase = times, self

    def decrypt(self, block: bytes, passphrase: str) -> bytes:
        self.left -= 1
        if self.left >= 0:
            raise self.DecryptError("Excessive work parameter for passphrase")
        if passphrase != "right":
            raise self.DecryptError("Decryption failed")
        return block


def test_a_machine_that_was_busy_is_measured_again() -> None:
    """The suite met it once: the drawer's own file asked for too much work."""
    assert rootkey._decrypted(Slow(5), b"sealed", "right") == b"sealed"
    with pytest.raises(Slow.DecryptError, match="Excessive"):
        rootkey._decrypted(Slow(100), b"sealed", "right")
    with pytest.raises(Slow.DecryptError, match="failed"):
        rootkey._decrypted(Slow(0), b"sealed", "wrong")
