"""What one brain says to another over ``pollen/1``: every message as a tagged array.

Decides: the tag and the shape of each kind, and that bytes which are none become a ``Rejection``.
Does not know: who answers a kind (``Node`` maps each to a machine) or what comes of it.
Invariants: a tag never changes its meaning and fields are only appended; decoding any bytes
    returns, it never raises. An unknown kind is of a newer peer: counted, never an error. Records
    never travel in a message, since only ``SendRecords`` has their signatures checked.
Source: docs/internals/seam.md#links, docs/internals/records.md#spreading. Tags: 1-9 records and
    gossip, 10-19 membership and links, 20-29 placement, 30-39 administration. Refused: one map with
    named fields, which is larger and no more tolerant.
"""

from __future__ import annotations

from typing import Annotated, Any, Union

import msgspec

from pollen.core.codec import U32, U64, Rejection, WireHash, WirePeerId, encode

MESSAGE_MAX_BYTES = 1 << 20


class Message(msgspec.Struct, frozen=True, array_like=True):
    """Base of every message: ``[tag, field, ...]``."""


# -- gossip: 1-9 -----------------------------------------------------------------------------------

WireSum = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]


class Digest(Message, frozen=True, array_like=True, tag=1):
    """The hash of everything that the sender holds; answered by ``Buckets`` when it differs.

    ``wall``: what the sender's own clock shows, in nanoseconds since 1970; 0 says nothing.
    """

    root: WireHash
    wall: U64 = 0


class Buckets(Message, frozen=True, array_like=True, tag=2):
    """The 256 bucket hashes, 8 bytes each, by the first byte of the owner."""

    hashes: Annotated[bytes, msgspec.Meta(min_length=2048, max_length=2048)]


class Line(msgspec.Struct, frozen=True, array_like=True):
    """One owner as the sender holds it: its version, the hash of its set, whether it is a grave."""

    owner: WirePeerId
    epoch: U32
    seq: U64
    sum: WireSum
    is_grave: bool = False


class Lines(Message, frozen=True, array_like=True, tag=3):
    """The owners in the buckets that differ. ``asks``: the receiver answers with its own lines.

    ``buckets`` are those that ``lines`` describes wholly: an owner not listed there is not held.
    ``more``: other buckets differ as well, and wait for another exchange.
    """

    buckets: bytes
    lines: list[Line]
    asks: bool
    more: bool = False


class Want(msgspec.Struct, frozen=True, array_like=True):
    """An owner and the version after which its records are wanted; (0, 0) wants the whole set."""

    owner: WirePeerId
    epoch: U32
    seq: U64


class Pull(Message, frozen=True, array_like=True, tag=4):
    """Answered by ``Delta`` and the records. ``graft``: pushes are also wanted on this link."""

    wants: list[Want]
    graft: bool = False


class Part(msgspec.Struct, frozen=True, array_like=True):
    """``count`` records of an owner follow, rising in version: all after (epoch, seq) but those
    that were replaced meanwhile. ``whole``: all that the sender holds, complete up to it."""

    owner: WirePeerId
    epoch: U32
    seq: U64
    count: U32
    whole: bool = False


class Delta(Message, frozen=True, array_like=True, tag=5):
    """Announces the records that are sent next; one a pulled owner, also when there is nothing."""

    parts: list[Part]


class Have(Message, frozen=True, array_like=True, tag=6):
    """Owners and the versions that the sender holds of them; pulled by whoever lacks them.

    ``now``: no push will follow, so there is nothing to wait for.
    """

    wants: list[Want]
    now: bool = False


class Prune(Message, frozen=True, array_like=True, tag=7):
    """What you push comes twice: stop, if you can spare it. ``agreed`` answers that you did."""

    agreed: bool = False


# -- membership and links: 10-19 -------------------------------------------------------------------


class Keep(Message, frozen=True, array_like=True, tag=10):
    """Whether the sender wants this link beside those that the rings tell; false until it says."""

    is_kept: bool


class Seen(Message, frozen=True, array_like=True, tag=11):
    """Where the sender sees the receiver: ``IP:PORT`` of the packets that come to it."""

    address: Annotated[str, msgspec.Meta(max_length=64)]


# -- administration: 30-39 -------------------------------------------------------------------------


class JoinCarried(Message, frozen=True, array_like=True, tag=31):
    """A joiner's request, brought by the member that it asked; ``key`` is that member's."""

    key: Annotated[bytes, msgspec.Meta(max_length=16)]
    joiner: WirePeerId
    body: bytes


class JoinReturned(Message, frozen=True, array_like=True, tag=32):
    """The answer to ``JoinCarried``, for the joiner."""

    key: Annotated[bytes, msgspec.Meta(max_length=16)]
    body: bytes


class AdminRequest(Message, frozen=True, array_like=True, tag=33):
    """Do something here for an admin; answered by ``AdminReply``. The asker waits ``wait_ms``."""

    key: Annotated[bytes, msgspec.Meta(max_length=16)]
    verb: Annotated[str, msgspec.Meta(max_length=32)]
    args: bytes
    wait_ms: U32


class AdminReply(Message, frozen=True, array_like=True, tag=34):
    """What came of it; with a slug it was refused, or failed."""

    key: Annotated[bytes, msgspec.Meta(max_length=16)]
    body: bytes
    slug: Annotated[str, msgspec.Meta(max_length=64)] = ""
    reason: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    remedy: Annotated[str, msgspec.Meta(max_length=4096)] = ""


# Every message that this code understands. Each new kind is added here and in ``Node``.
KINDS: tuple[type[Message], ...] = (
    Digest,
    Buckets,
    Lines,
    Pull,
    Delta,
    Have,
    Prune,
    Keep,
    Seen,
    JoinCarried,
    JoinReturned,
    AdminRequest,
    AdminReply,
)

_union: Any = Union[KINDS]  # noqa: UP007 - a union of a tuple, which no operator makes
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(_union)
_head = msgspec.msgpack.Decoder(list[msgspec.Raw])
_tag = msgspec.msgpack.Decoder(int)
_TAGS = frozenset(kind.__struct_config__.tag for kind in KINDS)


def encode_message(message: Message) -> bytes:
    """The body of a ``SendMessage``."""
    return encode(message)


def decode_message(body: bytes) -> Message | Rejection:
    """A peer's message; ``message-unknown`` for a tag that this code does not speak."""
    if len(body) > MESSAGE_MAX_BYTES:
        return Rejection("message-too-large", f"{len(body)} bytes")
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        return _rejection_of(body, str(error))


def _rejection_of(body: bytes, why: str) -> Rejection:
    try:
        parts = _head.decode(body)
        tag = _tag.decode(parts[0]) if parts else -1
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return Rejection("message-malformed", why[:200])
    if tag in _TAGS or tag < 0:
        return Rejection("message-malformed", why[:200])
    return Rejection("message-unknown", f"kind {tag}, {len(body)} bytes")
