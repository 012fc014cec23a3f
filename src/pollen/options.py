"""The options of a seed: one table from which every door takes them.

Decides: which options there are; of each its name, type, default, range, flag, help and its place
    in a spec.
Does not know: what an option does. The brain and the muscles act on them.
Invariants: the fields of ``SeedOptions`` are the table. ``SeedKeywords`` is the same table as the
    type checker reads it, and a test compares the two. An option without a slot of its own travels
    in the map of a spec, so the format has room for any number of them.
Source: docs/design/cli.md#options-of-a-seed; docs/design/protocol.md#names-and-specs.
"""

from __future__ import annotations

import enum
import typing
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, TypedDict

import msgspec


class Kind(enum.Enum):
    """How an option is typed on a command line."""

    COUNT = "a number"
    BYTES = "a size with its unit"
    MILLIS = "a duration with its unit"
    SWITCH = "no value"
    CHOICE = "one of a few words"
    TEXT = "a text"
    PAIRS = "key=value, any number of times"
    TEXTS = "a text, any number of times"
    VALUES = "key=value or @file, any number of times"
    POLICY = "an expression"


class Option(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table, beside the name, type and default of its field.

    ``flag`` is that of ``pln seed``. Where it begins with ``--no-`` it switches a true default off.
    ``slot``: a field of the spec's format 1, or one bit of its ``flags`` (``bit``), or neither for
    the map of options. ``low`` and ``high``: the range of a number, both included.
    ``choices``: the words of a choice. The first is the default.
    """

    flag: str
    kind: Kind
    help: str
    slot: str = ""
    bit: int = 0
    low: int = 0
    high: int = 0
    choices: tuple[str, ...] = ()
    example: str = ""

    @property
    def is_negated(self) -> bool:
        """Whether the flag switches the option off."""
        return self.flag.startswith("--no-")


_KIB: Final = 1024
_MIB: Final = 1024 * _KIB
_GIB: Final = 1024 * _MIB
_DAY_MS: Final = 24 * 60 * 60 * 1000
# Former versions of one name at the most. Each is a spec in its record, of some hundred bytes.
KEPT_MOST: Final = 8


class SeedOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How a seed runs and who may call or host it; the defaults are those of ``pln seed``.

    ``allow`` and ``host`` are (key, value) pairs; values of one key are alternatives. ``allow_if``
    and ``host_if`` are expressions (docs/design/policy.md), true for all when empty.
    """

    min_replicas: Annotated[
        int,
        Option(
            flag="--min-replicas",
            kind=Kind.COUNT,
            help="So many nodes at least; 0 lets it sleep when nobody calls.",
            slot="min_replicas",
            high=16,
        ),
    ] = 2
    everywhere: Annotated[
        bool,
        Option(
            flag="--everywhere",
            kind=Kind.SWITCH,
            help="A replica on every node that may host it.",
            bit=64,
        ),
    ] = False
    memory_bytes: Annotated[
        int,
        Option(
            flag="--memory",
            kind=Kind.BYTES,
            help="Limit of a guest.",
            slot="memory_bytes",
            low=64 * _KIB,
            high=4 * _GIB,
        ),
    ] = 64 * _MIB
    timeout_ms: Annotated[
        int,
        Option(
            flag="--timeout",
            kind=Kind.MILLIS,
            help="Limit of a call.",
            slot="timeout_ms",
            low=1,
            high=_DAY_MS,
        ),
    ] = 30_000
    program: Annotated[
        bool,
        Option(
            flag="--program",
            kind=Kind.SWITCH,
            help="Run _start, with the input on stdin; for a module that may be either.",
        ),
    ] = False
    library: Annotated[
        bool,
        Option(
            flag="--library",
            kind=Kind.SWITCH,
            help="Call its functions by name; for a module that may be either.",
        ),
    ] = False
    check: Annotated[
        str,
        Option(
            flag="--check",
            kind=Kind.TEXT,
            help="A function that must succeed on a new replica before it is called.",
        ),
    ] = ""
    allow: Annotated[
        list[tuple[str, str]],
        Option(
            flag="--allow-prop",
            kind=Kind.PAIRS,
            help="Callers need this property.",
            slot="allow",
            example='[("team", "red")]',
        ),
    ] = []
    host: Annotated[
        list[tuple[str, str]],
        Option(
            flag="--host-prop",
            kind=Kind.PAIRS,
            help="Hosts need this property.",
            slot="host",
            example='[("gpu", "yes")]',
        ),
    ] = []
    allow_if: Annotated[
        str,
        Option(
            flag="--allow",
            kind=Kind.POLICY,
            help="An expression that must be true of a caller.",
            example="'caller.tier == \"admin\"'",
        ),
    ] = ""
    host_if: Annotated[
        str,
        Option(
            flag="--host-if",
            kind=Kind.POLICY,
            help="An expression that must be true of a host.",
            example="'node.props.gpu == \"yes\"'",
        ),
    ] = ""
    act_as: Annotated[
        str,
        Option(
            flag="--act-as",
            kind=Kind.CHOICE,
            help="Whose rights its own calls have; that of its host, or of its publisher.",
            bit=128,
            choices=("host", "publisher"),
        ),
    ] = "host"
    allow_hosts: Annotated[
        list[str],
        Option(
            flag="--allow-host",
            kind=Kind.TEXTS,
            help="A host that http_request may reach.",
            slot="allow_hosts",
            example='["example.org"]',
        ),
    ] = []
    allow_services: Annotated[
        list[str],
        Option(
            flag="--allow-service",
            kind=Kind.TEXTS,
            help="A service that pln://service/NAME may reach.",
            example='["api"]',
        ),
    ] = []
    tail_call: Annotated[
        bool,
        Option(
            flag="--no-tail-call",
            kind=Kind.SWITCH,
            help="Output is never read as a tail call.",
            bit=32,
        ),
    ] = True
    idempotent: Annotated[
        bool,
        Option(
            flag="--idempotent",
            kind=Kind.SWITCH,
            help="Running a call twice does no harm.",
            bit=2,
        ),
    ] = False
    isolate: Annotated[
        bool,
        Option(
            flag="--isolate",
            kind=Kind.SWITCH,
            help="A fresh instance for each call.",
            bit=4,
        ),
    ] = False
    shared: Annotated[
        bool,
        Option(
            flag="--shared",
            kind=Kind.SWITCH,
            help="Instances serve all callers.",
            bit=8,
        ),
    ] = False
    public: Annotated[
        bool,
        Option(
            flag="--public",
            kind=Kind.SWITCH,
            help="Anonymous clients of the TCP door may call it.",
            bit=16,
        ),
    ] = False
    config: Annotated[
        dict[str, str],
        Option(
            flag="--config",
            kind=Kind.VALUES,
            help="A value for config_get, or @file.",
            slot="config",
            example='{"units": "metric"}',
        ),
    ] = {}
    env: Annotated[
        dict[str, str],
        Option(
            flag="--env",
            kind=Kind.PAIRS,
            help="An environment variable of the guest.",
            slot="env",
            example='{"TZ": "UTC"}',
        ),
    ] = {}
    sealed: Annotated[
        bool,
        Option(
            flag="--sealed",
            kind=Kind.SWITCH,
            help="A file that only the nodes can read that may now; its holders cannot.",
        ),
    ] = False
    withdraw_unused_ms: Annotated[
        int,
        Option(
            flag="--withdraw-unused",
            kind=Kind.MILLIS,
            help="Withdraw it when nobody called it for so long.",
            high=30 * _DAY_MS,
        ),
    ] = 0
    keep: Annotated[
        int,
        Option(
            flag="--keep",
            kind=Kind.COUNT,
            help="So many former versions stay, for pln rollback.",
            high=KEPT_MOST,
        ),
    ] = 2


class SeedKeywords(TypedDict, total=False):
    """The keywords of ``Mesh.seed``: those of ``SeedOptions``, and whether to take a name over.

    What is left out is as with ``pln seed``.
    """

    min_replicas: int
    everywhere: bool
    memory_bytes: int
    timeout_ms: int
    program: bool
    library: bool
    check: str
    allow: Sequence[tuple[str, str]]
    host: Sequence[tuple[str, str]]
    allow_if: str
    host_if: str
    act_as: str
    allow_hosts: Sequence[str]
    allow_services: Sequence[str]
    tail_call: bool
    idempotent: bool
    isolate: bool
    shared: bool
    public: bool
    config: Mapping[str, str]
    env: Mapping[str, str]
    sealed: bool
    withdraw_unused_ms: int
    keep: int
    take_over: bool


def _table() -> dict[str, Option]:
    hints = typing.get_type_hints(SeedOptions, include_extras=True)
    return {name: hints[name].__metadata__[0] for name in SeedOptions.__struct_fields__}


# Each option by its name, in the order of the table.
OPTIONS: Final = _table()
DEFAULTS: Final = SeedOptions()


def flag_of(name: str, value: Any) -> str:
    """The word for an option that is not as by default, without its dashes; empty for another.

    Source: docs/design/cli.md#options-of-a-seed.
    """
    option = OPTIONS[name]
    if value == getattr(DEFAULTS, name):
        return ""
    word = option.flag.removeprefix("--")
    return f"{word} {value}" if option.kind is Kind.CHOICE else word


# What a module is read as, where it may be either: asked about on its own.
_READINGS: Final = ("program", "library")


def left_out(before: SeedOptions, now: SeedOptions) -> list[str]:
    """The flags that an update leaves out: they were given, and are at their defaults now.

    An option that is given again with another value is none of them. Values of ``config`` and
    ``env`` stay hidden.
    """
    told = []
    for name, option in OPTIONS.items():
        held, default = getattr(before, name), getattr(DEFAULTS, name)
        if name not in _READINGS and held != default and getattr(now, name) == default:
            told.append(_flag_text(name, option, held))
    return told


def _flag_text(name: str, option: Option, held: Any) -> str:
    match option.kind:
        case Kind.SWITCH:
            return option.flag
        case Kind.COUNT | Kind.BYTES | Kind.MILLIS:
            return f"{option.flag} {text_of(name, held)}"
        case Kind.PAIRS:
            return " ".join(f"{option.flag} {key}={value}" for key, value in held)
        case Kind.VALUES:
            return " ".join(f"{option.flag} {key}=…" for key in held)
        case Kind.TEXTS:
            return " ".join(f"{option.flag} {text}" for text in held)
        case _:
            return f"{option.flag} {held}"


def text_of(name: str, value: int) -> str:
    """A number of an option as it is typed: ``64KiB``, ``24h``, ``16``."""
    kind = OPTIONS[name].kind
    units = {
        Kind.BYTES: (("GiB", _GIB), ("MiB", _MIB), ("KiB", _KIB), ("B", 1)),
        Kind.MILLIS: (("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)),
    }.get(kind, (("", 1),))
    fits = (f"{value // size}{unit}" for unit, size in units if value and value % size == 0)
    return next(fits, f"{value}{units[-1][0]}")
