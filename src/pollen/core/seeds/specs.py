"""What a seed is: its spec, the hash that names it, and the rules of a valid one.

Decides: whether a set of options and a module make a spec, and the spec's hash.
Does not know: who holds a name already (``names``), where it runs (``plan``).
Invariants: the seed's hash covers its owner and every byte of its spec as carried, so that an
    update is another seed; a spec is never over ``limits.SPEC_MAX_BYTES``.
Source: docs/design/protocol.md#names-and-specs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final

import msgspec

from pollen.core import limits
from pollen.core.codec import U8, U32, U64, Refusal, Rejection, WireHash, decode, encode
from pollen.core.effects import BLOB, MODULE, SEALED, SITE
from pollen.core.ids import ID_BYTES, Hash, PeerId, hash_of
from pollen.core.labels import check_name
from pollen.core.policy import CALLERS, HOSTS, Policy, parse, read_policy
from pollen.core.policy import packed as packed_tree
from pollen.core.seeds import sealing
from pollen.options import DEFAULTS, KEPT_MOST, OPTIONS, Kind, SeedOptions, text_of

# Where the map of options has the description of what the functions take. It is no option: nobody
# asks for it. A node of a version before it refuses to host such a seed, as it should.
DESCRIPTION = "description"
# Where the map says what the spec is of, when that is no module. No option, either.
KIND = "kind"
KINDS = (MODULE, BLOB, SITE)
# Where the map says for which nodes a blob was sealed. No option, either.
RECIPIENTS = "recipients"
# What of a record is left for its specs. Its head, key and signature take some hundred bytes.
_PAYLOAD_MAX_BYTES: Final = limits.RECORD_MAX_BYTES - 2 * 1024
# The options that are policies, each with the subject of its expression.
_SCOPES = {"allow_if": CALLERS, "host_if": HOSTS}


class Spec(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What a user asked for under a name. Positional; fields are only appended.

    ``manifest`` names by role the contents that a seed needs beside its module (``content``).
    ``options`` holds each option that has no field or bit of its own and is not as by default. A
    policy stands there as its text and its tree.
    """

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
    manifest: dict[str, WireHash] = {}
    options: dict[str, bool | int | str | list[str] | dict[str, str]] = {}


class SpecRecord(msgspec.Struct, frozen=True, array_like=True):
    """The payload of a spec record: the bytes of a ``Spec``, and of the one that it replaced.

    One level is embedded, with its owner, so that a rollout can fall back
    (docs/design/protocol.md#names-and-specs). ``older`` are those before it that its owner may come
    back to, the newest first. All are the record's owner's own: nobody states for another one what
    is kept, and for whom.
    """

    spec: bytes
    previous_owner: bytes = b""
    previous: bytes = b""
    older: list[bytes] = []


class Seed(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A spec with its owner, its exact bytes and its hash: what a name stands for.

    ``allow_if`` and ``host_if`` are its policies, None where it has none. ``previous`` is the
    version that it replaced, and ``older`` are those before that one which its record has.
    """

    seed: Hash
    owner: PeerId
    spec: Spec
    options: SeedOptions
    raw: bytes
    previous: Seed | None = None
    older: tuple[Seed, ...] = ()
    allow_if: Policy | None = None
    host_if: Policy | None = None
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
    def kept(self) -> tuple[Seed, ...]:
        """The former versions that its owner may come back to, the newest first."""
        former = self.older if self.previous is None else (self.previous, *self.older)
        return tuple(seed for seed in former if seed.owner == self.owner)[: self.options.keep]

    @property
    def is_withdrawn(self) -> bool:
        """Whether the owner took the name back."""
        return self.spec.withdrawn

    @property
    def unknown(self) -> list[str]:
        """Options that a newer version of Pollen wrote, and that this one cannot obey."""
        policies = (self.allow_if, self.host_if)
        unread = {p.scope.flag for p in policies if p is not None and p.tree is None}
        known = {DESCRIPTION, RECIPIENTS} | ({KIND} if self.kind in KINDS else set())
        return sorted(self.spec.options.keys() - OPTIONS.keys() - known | unread)

    @property
    def kind(self) -> str:
        """What it is of: a word of ``KINDS``, or one that a newer version of Pollen wrote."""
        return str(self.spec.options.get(KIND, MODULE))

    @property
    def is_blob(self) -> bool:
        """Whether it is held and handed out, and not run. A site is a blob of many files."""
        return self.kind in (BLOB, SITE)

    @property
    def form(self) -> str:
        """The kind as the muscles take it: a sealed blob is of a kind of its own."""
        return SEALED if self.options.sealed and self.is_blob else self.kind

    @property
    def recipients(self) -> list[str]:
        """For whom a sealed blob was sealed, by the first digits of their ids."""
        held = self.spec.options.get(RECIPIENTS, [])
        return held if isinstance(held, list) else []

    @property
    def description(self) -> str:
        """What its functions take, as JSON; empty when it says nothing."""
        text = self.spec.options.get(DESCRIPTION, "")
        return text if isinstance(text, str) else ""

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
    before = [(PeerId(record.previous_owner), record.previous)]
    before += [(owner, raw) for raw in record.older[:KEPT_MOST]]
    former: list[Seed] = []
    for who, raw in before:
        decoded = _decode_spec(who, raw)
        if isinstance(decoded, Rejection):
            return decoded
        former.append(decoded)
    return msgspec.structs.replace(seed, previous=former[0], older=tuple(former[1:]))


def _decode_spec(owner: PeerId, raw: bytes) -> Seed | Rejection:
    if len(raw) > limits.SPEC_MAX_BYTES:
        return Rejection("spec-too-large", f"{len(raw)} bytes")
    spec = decode(Spec, raw, "spec")
    if isinstance(spec, Rejection):
        return spec
    if check_name(spec.name) is not None:
        return Rejection("spec-name", spec.name[:80])
    options = _options_of(spec)
    if isinstance(options, Rejection):
        return options
    return Seed(
        seed=seed_hash(owner, raw),
        owner=owner,
        spec=spec,
        options=options,
        raw=raw,
        allow_if=_policy_of(spec, owner, "allow_if"),
        host_if=_policy_of(spec, owner, "host_if"),
    )


def _policy_of(spec: Spec, owner: PeerId, key: str) -> Policy | None:
    carried = _carried(spec, key)
    if not carried:
        return None
    return read_policy(carried, _SCOPES[key], seed=spec.name, owner=owner.hex())


def _carried(spec: Spec, key: str) -> list[str]:
    """A policy's text and tree; of another form, a tree that nobody can read."""
    held = spec.options.get(key)
    if held is None or (isinstance(held, list) and len(held) == 2):
        return held or []
    return ["".join(held[:1]) if isinstance(held, list) else str(held), ""]


def encode_record(raw: bytes, former: Sequence[Seed] = ()) -> bytes:
    """The payload of a spec record for the bytes of a spec and the versions before it, the newest
    first; but the first of them all are of the record's owner. The last ones are left out where the
    record would be too large."""
    if not former:
        return encode(SpecRecord(raw))
    previous, *older = former
    room = _PAYLOAD_MAX_BYTES - len(raw) - len(previous.raw)
    kept: list[bytes] = []
    for seed in older:
        room -= len(seed.raw)
        if room < 0:
            break
        kept.append(seed.raw)
    return encode(SpecRecord(raw, previous.owner, previous.raw, kept))


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
        manifest={},
        options={},
    )


def check_options(options: SeedOptions) -> Refusal | None:
    """The first thing wrong with the options, in words, or None."""
    for name, option in OPTIONS.items():
        value = getattr(options, name)
        if option.high and not option.low <= value <= option.high:
            return Refusal(
                "config-invalid",
                f"{name} is {text_of(name, value)}, which is out of range",
                f"give {option.flag} from {text_of(name, option.low)}"
                f" to {text_of(name, option.high)}",
            )
        if option.choices and value not in option.choices:
            return Refusal(
                "config-invalid",
                f"{name} is {value[:40]!r}, which is not one of its words",
                f"give {option.flag} {' or '.join(option.choices)}",
            )
    for name, scope in _SCOPES.items():
        text = getattr(options, name)
        tree = parse(text, scope) if text else None
        if isinstance(tree, Refusal):
            return tree
    refusal = sealing.check_options(options)
    if refusal is not None:
        return refusal
    for name in options.allow_services:
        refusal = check_name(name)
        if refusal is not None:
            return refusal
    if options.program and options.library:
        return Refusal(
            "config-invalid",
            "a module is a program or a library, not both",
            "give one: --program or --library",
        )
    if options.act_as == "publisher" and not (options.host or options.host_if):
        return Refusal(
            "config-invalid",
            "who may host this seed may wield its publisher's authority",
            "say who may: --host-prop key=value, or --host-if EXPR",
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
    manifest: dict[str, Hash] | None = None,
    description: str = "",
    kind: str = MODULE,
    recipients: Sequence[str] = (),
) -> Spec:
    """The spec of checked options: each stands in its slot, and without one in the map."""
    fields: dict[str, Any] = {}
    flags, beside = 0, {}
    for key, option in OPTIONS.items():
        value = getattr(options, key)
        is_set = value != getattr(DEFAULTS, key)
        if isinstance(value, dict):
            value = dict(sorted(value.items()))
        if option.slot:
            fields[option.slot] = value
        elif option.bit:
            flags |= option.bit if is_set else 0
        elif is_set:
            beside[key] = _with_tree(key, value) if option.kind is Kind.POLICY else value
    if description:
        beside[DESCRIPTION] = description
    if kind != MODULE:
        beside[KIND] = kind
    if recipients:
        beside[RECIPIENTS] = list(recipients)
    return Spec(
        name=name,
        name_epoch=name_epoch,
        withdrawn=False,
        content=content,
        size_bytes=size,
        functions=functions,
        flags=flags,
        manifest=manifest or {},
        options=dict(sorted(beside.items())),
        **fields,
    )


def _with_tree(key: str, text: str) -> list[str]:
    """A checked policy as a spec carries it."""
    tree = parse(text, _SCOPES[key])
    return [text, "" if isinstance(tree, Refusal) else packed_tree(tree)]


def _options_of(spec: Spec) -> SeedOptions | Rejection:
    """The options that a spec was made with. An option that it leaves out is as by default."""
    given: dict[str, Any] = {}
    for key, option in OPTIONS.items():
        if option.slot:
            given[key] = getattr(spec, option.slot)
        elif option.bit and spec.flags & option.bit:
            given[key] = option.choices[1] if option.choices else not getattr(DEFAULTS, key)
        elif option.kind is Kind.POLICY:
            given[key] = "".join(_carried(spec, key)[:1])
        elif key in spec.options:
            given[key] = spec.options[key]
    try:
        return msgspec.convert(given, SeedOptions)
    except msgspec.ValidationError as error:
        return Rejection("spec-options", str(error)[:80])


def options_view(options: SeedOptions) -> SeedOptions:
    """The options as anybody may see them: values of ``config`` and ``env`` stay hidden."""
    hidden = {key: dict.fromkeys(getattr(options, key), "…") for key in ("config", "env")}
    return msgspec.structs.replace(options, **hidden)


def changed_options(before: SeedOptions, now: SeedOptions) -> list[str]:
    """What an update changed beside the module, in words: it is easy to leave an option out."""
    held, new = (msgspec.structs.asdict(options_view(options)) for options in (before, now))
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
