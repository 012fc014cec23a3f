"""Keys of a simulated world: a keyed hash stands for ed25519.

Decides: who can sign what. A secret is known to this ring only, so that a malicious node, which is
    given its own key and no other, can forge nothing.
Does not know: records, certificates; it signs and checks bytes.
Invariants: a signature checks only for its key and its exact bytes. A result is remembered by
    signature, with the key and the bytes it was for: one world checks each record once, however
    many nodes receive it, and a forged copy never profits from that.
Source: docs/design/protocol.md#records (the simulator injects a keyed hash).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from pollen.core.ids import SIGNATURE_BYTES, KeyRole, PeerId, Sign

_SECRETS: dict[bytes, bytes] = {}
_CHECKED_MAX = 1 << 20
_checked: dict[bytes, tuple[bytes, bytes]] = {}


def make_key(name: str) -> PeerId:
    """A public key whose secret only this ring knows; the same name gives the same key."""
    secret = hashlib.blake2b(b"secret" + name.encode(), digest_size=32).digest()
    public = hashlib.blake2b(b"public" + secret, digest_size=32).digest()
    _SECRETS[public] = secret
    return PeerId(public)


def sign_with(public: bytes, message: bytes) -> bytes:
    """The signature of a key of this ring. Raises ``KeyError`` for any other key."""
    return hashlib.blake2b(message, key=_SECRETS[public], digest_size=SIGNATURE_BYTES).digest()


def is_genuine(key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether the holder of this key signed these bytes."""
    held = _checked.get(signature)
    if held is not None and held[0] == key and held[1] == message:
        return True
    if key not in _SECRETS or sign_with(key, message) != signature:
        return False
    if len(_checked) >= _CHECKED_MAX:
        _checked.clear()
    _checked[signature] = (key, message)
    return True


def verify(items: Sequence[tuple[bytes, bytes, bytes]]) -> list[bool]:
    """What the core is given as ``verify``: (key, message, signature) each."""
    return [is_genuine(*item) for item in items]


def signer(node: PeerId, root: PeerId | None) -> Sign:
    """What the core of one node is given as ``sign``. Without a root key it cannot sign as root."""

    def sign(role: KeyRole, message: bytes) -> bytes:
        if role is KeyRole.NODE:
            return sign_with(node, message)
        if root is None:
            raise KeyError("the root key is not here")
        return sign_with(root, message)

    return sign
