"""Names of things as types: ids, hashes, links, times; and deadlines, of which 0 is never.

Decides: how an id is printed and parsed, and how everything but content is hashed.
Does not know: what an id stands for, or whether its holder exists.
Invariants: a ``PeerId``, ``Hash`` or ``ClusterId`` is 32 raw bytes; text is lower-case hex.
Source: docs/design/protocol.md#encoding; docs/design/style.md#sans-io-core (newtypes).
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Callable, Sequence
from typing import NewType

import msgspec

from pollen.errors import BadRequest

PeerId = NewType("PeerId", bytes)
Hash = NewType("Hash", bytes)
ClusterId = NewType("ClusterId", bytes)
LinkId = NewType("LinkId", int)
RequestId = NewType("RequestId", int)
Token = NewType("Token", str)
Nanos = NewType("Nanos", int)

ID_BYTES = 32
BOOT_BYTES = 16
SIGNATURE_BYTES = 64
SHORT_HEX = 8

MICROSECOND = 1_000
MILLISECOND = 1_000_000
SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
DAY = 24 * HOUR


class KeyRole(enum.Enum):
    """Which of this machine's two private keys is meant; the keys themselves stay outside."""

    NODE = "node"
    ROOT = "root"


Sign = Callable[[KeyRole, bytes], bytes]
Verify = Callable[[Sequence[tuple[bytes, bytes, bytes]]], list[bool]]


class Now(msgspec.Struct, frozen=True):
    """The two clocks: timers read ``mono``, validity reads ``wall``."""

    mono: Nanos
    wall: Nanos


def hash_of(use: str, *parts: bytes) -> Hash:
    """BLAKE2b-256 of the parts, personalised as ``pln/<use>``.

    Each part is preceded by its length, so that no two lists of parts share a preimage.
    """
    state = hashlib.blake2b(digest_size=ID_BYTES, person=b"pln/" + use.encode())
    for part in parts:
        state.update(len(part).to_bytes(8, "big"))
        state.update(part)
    return Hash(state.digest())


def cluster_id_of(root: bytes, nonce: bytes) -> ClusterId:
    """The cluster id: a hash of the first root's public key and a nonce."""
    return ClusterId(hash_of("cluster", root, nonce))


def outlives(deadline: int, other: int) -> bool:
    """True when the first deadline is later than the second; 0 is never."""
    return other != 0 and (deadline == 0 or deadline > other)


def earlier(deadline: int, other: int) -> int:
    """The earlier of two deadlines, of which 0 is never."""
    return min(deadline or other, other or deadline)


def short(raw: bytes) -> str:
    """The first eight hex digits, as logs and messages print an id."""
    return raw.hex()[:SHORT_HEX]


def parse_peer(text: str) -> PeerId:
    """A peer id from 64 hex digits. Raises ``BadRequest`` that quotes what was given."""
    return PeerId(_parse(text, "node id"))


def parse_hash(text: str) -> Hash:
    """A hash from 64 hex digits. Raises ``BadRequest`` that quotes what was given."""
    return Hash(_parse(text, "hash"))


def is_hash_text(text: str) -> bool:
    """True for 64 lower-case hex digits: such a text is a hash and never a name."""
    return len(text) == 2 * ID_BYTES and all(c in "0123456789abcdef" for c in text)


def _parse(text: str, noun: str) -> bytes:
    if is_hash_text(text):
        return bytes.fromhex(text)
    raise BadRequest(
        "bad-request",
        f"{text[:80]!r} is not a {noun}",
        f"a {noun} is 64 lower-case hex digits",
    )
