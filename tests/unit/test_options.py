"""The table of a seed's options: one place, from which every door and page is made.

Source: docs/design/cli.md#options-of-a-seed.
"""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from pollen import options
from pollen.cli.app import pln
from pollen.cli.options import options_given
from pollen.core.codec import decode, encode
from pollen.core.ids import Hash, PeerId
from pollen.core.policy import Party
from pollen.core.seeds import specs
from pollen.options import DEFAULTS, OPTIONS, Kind, SeedKeywords, SeedOptions, left_out

PAGE = Path(__file__).parents[2] / "docs" / "design" / "cli.md"
SIGNED = Path(__file__).parents[1] / "vectors" / "signed.json"
MODULE = Hash(b"m" * 32)
# A value of each option that is not its default.
OTHERS = {
    "min_replicas": 3, "everywhere": True, "memory_bytes": 1 << 20, "timeout_ms": 77,
    "program": True, "library": True, "check": "run",
    "allow": [("team", "red")], "host": [("gpu", "yes")],
    "allow_if": 'caller.tier == "admin"', "host_if": "has(node.props.gpu)", "act_as": "publisher",
    "allow_hosts": ["example.org"], "allow_services": ["api"],
    "tail_call": False, "idempotent": True, "isolate": True, "shared": True,
    "public": True, "config": {"k": "v"}, "env": {"TZ": "UTC"},
    "sealed": True, "withdraw_unused_ms": 77, "keep": 7,
}  # fmt: skip


def row_of(name: str) -> str:
    """An option as the page has it."""
    option, default = OPTIONS[name], getattr(DEFAULTS, name)
    if option.kind is Kind.MILLIS and not default:
        told = "none"
    elif option.kind in (Kind.COUNT, Kind.BYTES, Kind.MILLIS):
        told = options.text_of(name, default)
    elif option.kind is Kind.CHOICE:
        told = default
    elif option.kind in (Kind.TEXT, Kind.POLICY):
        told = default or "none"
    else:
        told = "none" if not isinstance(default, bool) else "on" if default else "off"
    return f"| `{option.flag}` | `{name}` | {told} | {option.help} |"


def spec_of(given: SeedOptions) -> specs.Spec:
    """A spec with these options."""
    return specs.make_spec(
        name="echo", name_epoch=1, content=MODULE, size=3, functions=["run"], options=given
    )


def seed_of(spec: specs.Spec) -> specs.Seed:
    """What a node reads of that spec's record."""
    seed = specs.decode_seed(PeerId(b"o" * 32), specs.encode_record(encode(spec)))
    assert isinstance(seed, specs.Seed)
    return seed


def test_the_page_has_the_rows_of_the_table() -> None:
    """In its order; the failure shows what the page should have."""
    expected = "\n".join(row_of(name) for name in OPTIONS)
    assert expected in PAGE.read_text()


def test_keywords_are_the_table_and_whether_to_take_over() -> None:
    """The type checker reads no class that is made, so they are written twice in one file."""
    told = typing.get_type_hints(SeedKeywords)
    assert told.pop("take_over") is bool
    fields = typing.get_type_hints(SeedOptions)
    assert list(told) == list(fields)
    for name, kind in fields.items():
        origins = {typing.get_origin(kind) or kind, typing.get_origin(told[name]) or told[name]}
        assert len(origins) == 1 or any(issubclass(a, b) for a in origins for b in origins - {a})


def test_each_option_has_a_place_in_a_spec_that_no_other_has() -> None:
    """A bit, a field, or the map."""
    places = [option.slot or option.bit for option in OPTIONS.values() if option.slot or option.bit]
    assert len(places) == len(set(places))
    assert sum(option.bit for option in OPTIONS.values()) < 1 << 8


@pytest.mark.parametrize("name", OTHERS)
def test_an_option_comes_back_from_a_spec_as_it_was_given(name: str) -> None:
    """Set alone, and left out."""
    for given in (SeedOptions(**{name: OTHERS[name]}), DEFAULTS):
        assert seed_of(spec_of(given)).options == given


def test_every_option_has_another_value_to_test_with() -> None:
    """So that the test above leaves none out."""
    assert list(OTHERS) == list(OPTIONS)
    assert not [name for name in OTHERS if OTHERS[name] == getattr(DEFAULTS, name)]


def test_an_option_of_a_newer_version_is_kept_and_named() -> None:
    """A node that does not know it routes calls to the seed, and hosts it not."""
    spec = msgspec.structs.replace(spec_of(DEFAULTS), options={"warm": True})
    seed = seed_of(spec)
    assert (seed.unknown, seed.options) == (["warm"], DEFAULTS)
    assert decode(specs.Spec, seed.raw, "spec") == spec


def test_the_policies_of_a_golden_spec_are_read() -> None:
    """Text and tree of ``signed.json``: what a node of today reads in a year."""
    rows = {row["name"]: row for row in json.loads(SIGNED.read_text())}
    spec = decode(
        specs.Spec,
        bytes.fromhex(rows["a spec with a policy on callers and one on hosts"]["bytes"]),
        "spec",
    )
    assert isinstance(spec, specs.Spec)
    seed = seed_of(spec)
    assert (seed.unknown, seed.options.host_if) == ([], "!has(node.props.spare)")
    assert seed.allow_if is not None and seed.host_if is not None
    assert seed.allow_if.passes(Party("leaf", "ab", '{"team":"red"}'))
    assert not seed.allow_if.passes(Party("leaf", "ab", '{"team":"blue"}'))
    assert seed.host_if.passes(Party("leaf", "ab", "{}"))
    assert spec_of(seed.options).options == spec.options


@pytest.mark.parametrize("name", OTHERS)
def test_a_flag_of_pln_seed_gives_the_value_of_its_option(name: str) -> None:
    """As click reads it, by the kind of the option."""
    option, value = OPTIONS[name], OTHERS[name]
    pairs = value.items() if isinstance(value, dict) else value
    words = {
        Kind.SWITCH: [option.flag],
        Kind.COUNT: [option.flag, str(value)],
        Kind.BYTES: [option.flag, "1MiB"],
        Kind.MILLIS: [option.flag, "77ms"],
        Kind.CHOICE: [option.flag, str(value)],
        Kind.TEXT: [option.flag, str(value)],
        Kind.POLICY: [option.flag, str(value)],
        Kind.TEXTS: [option.flag, *value] if option.kind is Kind.TEXTS else [],
        Kind.VALUES: [option.flag, "k=v"],
        Kind.PAIRS: [option.flag, "=".join(*pairs)] if option.kind is Kind.PAIRS else [],
    }[option.kind]
    with click.Context(pln) as ctx:
        command = pln.get_command(ctx, "seed")
        assert command is not None
        given = command.make_context("seed", ["x.wasm", *words], parent=ctx).params
    expected = {key: value if key == name else getattr(DEFAULTS, key) for key in OPTIONS}
    read = options_given(given)
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in read.items()} == expected


def test_what_an_update_leaves_out_is_told_by_its_flags() -> None:
    """Given again with another value is not left out; secrets are not shown."""
    before = SeedOptions(
        keep=8, public=True, allow=[("team", "red")], timeout_ms=5000, config={"key": "secret"}
    )
    assert left_out(before, before) == []
    assert left_out(before, SeedOptions()) == [
        "--timeout 5s",
        "--allow-prop team=red",
        "--public",
        "--config key=…",
        "--keep 8",
    ]
    other = SeedOptions(keep=3, public=True, allow=[("a", "b")], timeout_ms=1, config={"k": "v"})
    assert left_out(before, other) == []
    assert left_out(SeedOptions(), before) == []


def test_each_option_that_is_left_out_has_a_text() -> None:
    """One rule for all of them; what a module is read as is asked on its own."""
    given = {
        name: not default if isinstance(default, bool) else _other(name, default)
        for name, default in msgspec.structs.asdict(DEFAULTS).items()
    }
    told = " ".join(left_out(SeedOptions(**given), DEFAULTS)) + " "
    for name, option in OPTIONS.items():
        assert (f"{option.flag} " in told) == (name not in ("program", "library")), name


def _other(name: str, default: Any) -> Any:
    """A value that is not the default."""
    option = OPTIONS[name]
    if option.kind is Kind.CHOICE:
        return option.choices[1]
    if option.kind is Kind.PAIRS:
        return [("k", "v")]
    if isinstance(default, int):
        return max(option.low, 1) if default != max(option.low, 1) else 3
    return {str: "x", list: ["x"], dict: {"k": "v"}}[type(default)]
