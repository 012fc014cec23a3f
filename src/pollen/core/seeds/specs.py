"""What a seed is: its spec, the hash that names it, and the rules of a valid one.

Decides: whether a set of options and a module make a spec, and the spec's hash.
Does not know: who holds a name already (``names``), where it runs (``plan``).
Invariants: the seed's hash covers its owner and every byte of its spec as carried, so that an
    update is another seed; a spec is never over ``limits.SPEC_MAX_BYTES``.
Source: docs/design/protocol.md#names-and-specs.
"""

from __future__ import annotations

import enum
from typing import ClassVar

import msgspec

from pollen.core import limits
from pollen.core.codec import U8, U32, U64, Refusal, Rejection, WireHash, decode, encode
from pollen.core.commands import SeedOptions
from pollen.core.ids import ID_BYTES, Hash, PeerId, hash_of
from pollen.core.labels import check_name


class Flag(enum.IntFlag):
    """The bits of ``Spec.flags``. Bit 1 has no meaning."""

    IDEMPOTENT = 2
    ISOLATE = 4
    SHARED = 8
    PUBLIC = 16
    NO_TAIL_CALL = 32
    EVERYWHERE = 64
    AS_PUBLISHER = 128


class Spec(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a user asked for under a name. Positional; fields are only appended."""

    name: str
    name_epoch: U32
    withdrawn: bool
    content: WireHash
    size_bytes: U64
    functions: list[str]
    min_replicas: U32
    memory_bytes: U64
    timeout_ms: U64
    flags: U8
    allow: list[tuple[str, str]]
    host: list[tuple[str, str]]
    allow_hosts: list[str]
    config: dict[str, str]
    env: dict[str, str]


class SpecRecord(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a spec record: the bytes of a ``Spec``, and of the one that it replaced.

    One level is embedded, with its owner, so that a rollout can fall back
    (docs/design/protocol.md#names-and-specs).
    """

    spec: bytes
    previous_owner: bytes = b""
    previous: bytes = b""


class Seed(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A spec with its owner, its exact bytes and its hash: what a name stands for."""

    seed: Hash
    owner: PeerId
    spec: Spec
    raw: bytes
    previous: Seed | None = None
    noun: ClassVar[str] = "seed"

    @property
    def name(self) -> str:
        """The name that it was published under."""
        return self.spec.name

    @property
    def name_epoch(self) -> int:
        """The number of this version."""
        return self.spec.name_epoch

    @property
    def is_withdrawn(self) -> bool:
        """Whether the owner took the name back."""
        return self.spec.withdrawn

    @property
    def digest(self) -> Hash:
        """The hash that names it."""
        return self.seed


def seed_hash(owner: PeerId, raw: bytes) -> Hash:
    """The hash that names a seed in calls, claims and tables."""
    return hash_of("seed", owner, raw)


def decode_seed(owner: PeerId, payload: bytes) -> Seed | Rejection:
    """The seed in a spec record's payload, when it obeys the rules of a spec."""
    record = decode(SpecRecord, payload, "spec-record")
    if isinstance(record, Rejection):
        return record
    seed = _decode_spec(owner, record.spec)
    if isinstance(seed, Rejection) or len(record.previous_owner) != ID_BYTES:
        return seed
    previous = _decode_spec(PeerId(record.previous_owner), record.previous)
    if isinstance(previous, Rejection):
        return previous
    return msgspec.structs.replace(seed, previous=previous)


def _decode_spec(owner: PeerId, raw: bytes) -> Seed | Rejection:
    if len(raw) > limits.SPEC_MAX_BYTES:
        return Rejection("spec-too-large", f"{len(raw)} bytes")
    spec = decode(Spec, raw, "spec")
    if isinstance(spec, Rejection):
        return spec
    if check_name(spec.name) is not None:
        return Rejection("spec-name", spec.name[:80])
    return Seed(seed=seed_hash(owner, raw), owner=owner, spec=spec, raw=raw)


def encode_record(raw: bytes, previous: Seed | None) -> bytes:
    """The payload of a spec record for the bytes of a spec and the seed that it replaces."""
    if previous is None:
        return encode(SpecRecord(raw))
    return encode(SpecRecord(raw, previous.owner, previous.raw))


def withdrawn(spec: Spec, name_epoch: int) -> Spec:
    """The value that withdraws a name: what nobody needs any more is left out."""
    return msgspec.structs.replace(
        spec,
        name_epoch=name_epoch,
        withdrawn=True,
        functions=[],
        allow=[],
        host=[],
        allow_hosts=[],
        config={},
        env={},
    )


def check_options(options: SeedOptions) -> Refusal | None:
    """The first thing wrong with the options, in words, or None."""
    low, high = limits.SPEC_MEMORY_MIN_BYTES, limits.SPEC_MEMORY_MAX_BYTES
    if not low <= options.memory_bytes <= high:
        return Refusal(
            "config-invalid",
            f"a memory limit of {options.memory_bytes} bytes is out of range",
            "give --memory from 64KiB to 4GiB",
        )
    if not 1 <= options.timeout_ms <= limits.SPEC_TIMEOUT_MAX_MS:
        return Refusal(
            "config-invalid",
            f"a time-out of {options.timeout_ms} ms is out of range",
            "give --timeout from 1ms to 24h",
        )
    if not 0 <= options.min_replicas <= limits.KNOWN_PEERS_MAX:
        return Refusal(
            "config-invalid",
            f"{options.min_replicas} replicas are out of range",
            "give --min-replicas from 0",
        )
    if options.act_as not in ("host", "publisher"):
        return Refusal(
            "config-invalid",
            f"{options.act_as[:40]!r} is nothing a seed can act as",
            "give --act-as host or --act-as publisher",
        )
    if options.act_as == "publisher" and not options.host:
        return Refusal(
            "config-invalid",
            "who may host this seed may wield its publisher's authority",
            "say who may: --host-prop key=value",
        )
    return None


def make_spec(
    *,
    name: str,
    name_epoch: int,
    content: Hash,
    size: int,
    functions: list[str],
    options: SeedOptions,
) -> Spec:
    """The spec of checked options."""
    flags = 0
    for is_set, bit in (
        (options.idempotent, Flag.IDEMPOTENT),
        (options.isolate, Flag.ISOLATE),
        (options.shared, Flag.SHARED),
        (options.public, Flag.PUBLIC),
        (not options.tail_call, Flag.NO_TAIL_CALL),
        (options.everywhere, Flag.EVERYWHERE),
        (options.act_as == "publisher", Flag.AS_PUBLISHER),
    ):
        flags |= bit if is_set else 0
    return Spec(
        name=name,
        name_epoch=name_epoch,
        withdrawn=False,
        content=content,
        size_bytes=size,
        functions=functions,
        min_replicas=options.min_replicas,
        memory_bytes=options.memory_bytes,
        timeout_ms=options.timeout_ms,
        flags=flags,
        allow=options.allow,
        host=options.host,
        allow_hosts=options.allow_hosts,
        config=dict(sorted(options.config.items())),
        env=dict(sorted(options.env.items())),
    )


def options_view(spec: Spec) -> SeedOptions:
    """The options that a spec was made with; values of ``config`` and ``env`` stay hidden."""
    return SeedOptions(
        min_replicas=spec.min_replicas,
        everywhere=bool(spec.flags & Flag.EVERYWHERE),
        memory_bytes=spec.memory_bytes,
        timeout_ms=spec.timeout_ms,
        allow=spec.allow,
        host=spec.host,
        act_as="publisher" if spec.flags & Flag.AS_PUBLISHER else "host",
        allow_hosts=spec.allow_hosts,
        tail_call=not spec.flags & Flag.NO_TAIL_CALL,
        idempotent=bool(spec.flags & Flag.IDEMPOTENT),
        isolate=bool(spec.flags & Flag.ISOLATE),
        shared=bool(spec.flags & Flag.SHARED),
        public=bool(spec.flags & Flag.PUBLIC),
        config=dict.fromkeys(spec.config, "…"),
        env=dict.fromkeys(spec.env, "…"),
    )


def changed_options(before: Spec, now: Spec) -> list[str]:
    """What an update changed beside the module, in words: it is easy to leave an option out."""
    held, new = (msgspec.structs.asdict(options_view(spec)) for spec in (before, now))
    words = [f"{name}: {held[name]}, now {new[name]}" for name in held if held[name] != new[name]]
    hidden = (("config", before.config, now.config), ("env", before.env, now.env))
    return words + [
        f"{name}: other values"
        for name, one, other in hidden
        if one.keys() == other.keys() and one != other
    ]


def is_same_wish(one: Spec, other: Spec) -> bool:
    """True when two specs differ in nothing that a user asked for."""
    return encode(one) == encode(msgspec.structs.replace(other, name_epoch=one.name_epoch))
