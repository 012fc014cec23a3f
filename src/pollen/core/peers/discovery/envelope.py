"""The datagrams of surveys: signed, then sealed under a key of the cluster and the day.

Decides: the bytes of a datagram, and which datagrams say anything.
Does not know: sockets, when to send, who is a member; the ciphers (``seal`` is injected).
Invariants: a datagram has at most 2,048 bytes. To who does not know the cluster id it is noise of
    another look each time: neither cluster nor node can be followed. Whoever is named signed it.
Source: docs/internals/discovery.md#surveys. Format: ``nonce(24) | seal(key, nonce, [body,
    signature])`` with key = hash("discovery", cluster, day) and body = ``[kind, cluster, signer,
    nonce(16), …]``, the signature over ``pollen-discovery/1\\0`` and the body. The seal is
    XChaCha20-Poly1305, in the muscles. Refused: a cipher put together from keyed BLAKE2b in Python,
    which would be ours alone to get right.
"""

from __future__ import annotations

from typing import Annotated, Any, Union

import msgspec

from pollen.core import limits
from pollen.core.codec import (
    DISCOVERY_DOMAIN,
    U8,
    Rejection,
    Signed,
    WireClusterId,
    WirePeerId,
    decode,
    encode,
    signing_bytes,
)
from pollen.core.ids import DAY, ClusterId, Hash, KeyRole, Nanos, hash_of
from pollen.core.peers.discovery.contract import Context

SEAL_NONCE_BYTES = 24
ASK_NONCE_BYTES = 16

AskNonce = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class Said(msgspec.Struct, frozen=True, array_like=True):
    """Base of a datagram's body. ``nonce`` is the asker's; an answer echoes it."""

    cluster: WireClusterId
    signer: WirePeerId
    nonce: AskNonce


class Survey(Said, frozen=True, array_like=True, tag=1):
    """Who is there, within this distance of my id? Asked of a group; answered to the group."""

    distance: U8


class Response(Said, frozen=True, array_like=True, tag=2):
    """The signer can be dialled at these addresses."""

    addresses: list[str]


_kinds: Any = Union[Survey, Response]  # noqa: UP007 - mypy takes no union from a variable
_decoder: msgspec.msgpack.Decoder[Survey | Response] = msgspec.msgpack.Decoder(_kinds)


def key_of(cluster: ClusterId, day: int) -> Hash:
    """The key of one day."""
    return hash_of("discovery", cluster, day.to_bytes(8, "big"))


def encode_datagram(said: Survey | Response, context: Context, wall: Nanos) -> bytes | None:
    """A datagram to send; None when it would be too large or nothing can be sealed here."""
    if context.seal is None:
        return None
    body = encode(said)
    signature = context.sign(KeyRole.NODE, signing_bytes(DISCOVERY_DOMAIN, body))
    draws = (context.rng.draw().to_bytes(8, "big") for _ in range(SEAL_NONCE_BYTES // 8))
    nonce = b"".join(draws)
    key, plain = key_of(context.cluster, wall // DAY), encode(Signed(body, signature))
    data = nonce + context.seal(key, nonce, plain)
    return data if len(data) <= limits.DATAGRAM_MAX_BYTES else None


def decode_datagram(data: bytes, context: Context, wall: Nanos) -> Survey | Response | Rejection:
    """What a datagram says: of this cluster, of yesterday to tomorrow, signed by whom it names."""
    if context.unseal is None or not SEAL_NONCE_BYTES < len(data) <= limits.DATAGRAM_MAX_BYTES:
        return Rejection("datagram-size", f"{len(data)} bytes")
    nonce, sealed = data[:SEAL_NONCE_BYTES], data[SEAL_NONCE_BYTES:]
    today = wall // DAY
    for day in (today, today - 1, today + 1):
        raw = context.unseal(key_of(context.cluster, max(0, day)), nonce, sealed)
        if raw is not None:
            return _opened(raw, context)
    return Rejection("datagram-foreign")


def _opened(raw: bytes, context: Context) -> Survey | Response | Rejection:
    signed = decode(Signed, raw, "datagram")
    if isinstance(signed, Rejection):
        return signed
    try:
        said = _decoder.decode(signed.body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return Rejection("datagram-malformed", str(error)[:200])
    if said.cluster != context.cluster:
        return Rejection("datagram-of-another-cluster")
    message = signing_bytes(DISCOVERY_DOMAIN, signed.body)
    if context.verify([(said.signer, message, signed.signature)]) != [True]:
        return Rejection("datagram-signature")
    return said
