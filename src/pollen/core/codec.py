"""Bytes to values and back: positional msgpack, signed envelopes, refusals as data.

Decides: how a struct becomes bytes, which domain prefix a signature covers, and that bytes which do
    not fit their type become a ``Rejection``.
Does not know: what a value means, or whether its signer may say it.
Invariants: a signature covers ``<domain>\\0`` + the exact bytes carried, which are kept as received
    and never re-encoded; decoding any bytes returns, it never raises.
Source: docs/design/protocol.md#encoding. Refused: canonical re-encoding before a check, which makes
    every reader depend on every writer's encoder.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from pollen.core.ids import BOOT_BYTES, ID_BYTES, SIGNATURE_BYTES, ClusterId, Hash, PeerId
from pollen.errors import PollenError, error_from

T = TypeVar("T")

_ID = msgspec.Meta(min_length=ID_BYTES, max_length=ID_BYTES)
_BOOT = msgspec.Meta(min_length=BOOT_BYTES, max_length=BOOT_BYTES)
_SIGNATURE = msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)

WirePeerId = Annotated[PeerId, _ID]
WireHash = Annotated[Hash, _ID]
WireClusterId = Annotated[ClusterId, _ID]
WireBoot = Annotated[bytes, _BOOT]
WireSignature = Annotated[bytes, _SIGNATURE]
U8 = Annotated[int, msgspec.Meta(ge=0, le=255)]
U32 = Annotated[int, msgspec.Meta(ge=0, le=(1 << 32) - 1)]
# msgspec bounds must fit a signed 64-bit integer; a lower bound alone leaves the whole u64.
U64 = Annotated[int, msgspec.Meta(ge=0)]

RECORD_DOMAIN = b"pollen-record/1\0"
CERTIFICATE_DOMAIN = b"pollen-certificate/1\0"
INVITE_DOMAIN = b"pollen-invite/1\0"
LEASE_DOMAIN = b"pollen-lease/1\0"
DENY_DOMAIN = b"pollen-deny/1\0"
SUCCESSION_DOMAIN = b"pollen-succession/1\0"
POLICY_DOMAIN = b"pollen-policy/1\0"
RELEASE_DOMAIN = b"pollen-release/1\0"
DISCOVERY_DOMAIN = b"pollen-discovery/1\0"
ROOT_REQUEST_DOMAIN = b"pollen-root-request/1\0"

_encoder = msgspec.msgpack.Encoder()
_decoders: dict[type, msgspec.msgpack.Decoder[object]] = {}


class Rejection(msgspec.Struct, frozen=True):
    """A peer's fault, as data: a stable ``kind`` to count by, and the detail for the log."""

    kind: str
    detail: str = ""


class Refusal(msgspec.Struct, frozen=True):
    """An operating error as data: what becomes a ``Reply`` with a slug, or a typed exception."""

    slug: str
    reason: str
    remedy: str = ""

    def to_error(self) -> PollenError:
        """The exception of this slug, for callers outside the core."""
        return error_from(self.slug, self.reason, self.remedy)


class Signed(msgspec.Struct, frozen=True, array_like=True):
    """A signed document as carried: the exact bytes and the signature over domain + bytes."""

    body: bytes
    signature: WireSignature


def encode(value: object) -> bytes:
    """The msgpack bytes of a struct (positional where its type is ``array_like``)."""
    return _encoder.encode(value)


def decode(kind: type[T], raw: bytes, what: str) -> T | Rejection:
    """``raw`` as a ``kind``, or a ``Rejection`` named ``<what>-malformed``."""
    decoder = _decoders.get(kind)
    if decoder is None:
        decoder = _decoders[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(raw)  # type: ignore[return-value]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Rejection(f"{what}-malformed", str(error)[:200])


def signing_bytes(domain: bytes, body: bytes) -> bytes:
    """What a signature of ``body`` covers."""
    return domain + body
