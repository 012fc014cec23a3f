"""Keys of the fake muscles: they sign with a keyed hash whose secret the verifier looks up.

So a forged signature fails as it does in reality.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence

_SECRETS: dict[bytes, bytes] = {}


class NativeError(Exception):
    """As the real one: ``args`` is (slug, reason)."""

    def __init__(self, slug: str, reason: str) -> None:
        super().__init__(slug, reason)
        self.slug = slug
        self.reason = reason


class FakeKey:
    """A key pair whose signatures only this process can check."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._public = hashlib.blake2b(b"public" + secret, digest_size=32).digest()
        _SECRETS[self._public] = secret

    @property
    def public(self) -> bytes:
        return self._public

    def save(self, path: str) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self._secret)

    def sign(self, message: bytes) -> bytes:
        return hashlib.blake2b(message, key=self._secret, digest_size=64).digest()


def verify_signatures(items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
    return [
        key in _SECRETS and FakeKey(_SECRETS[key]).sign(message) == signature
        for key, message, signature in items
    ]
