"""Values come back as they were, or the place of what cannot travel is named; no bytes do harm."""

from __future__ import annotations

import datetime
import decimal
import http
import json
import math
import operator
import os.path
import threading
import uuid
import zoneinfo
from typing import Any

import pytest

from pollen.sdk.functions import tagged
from pollen.sdk.functions.tagged import Malformed, Names, Unfit, decode, encode
from tests.unit.functions.kinds import Colour, Made, Order, Plain, Point, Rights, Slotted

NAMES = Names({"tests.unit.functions.kinds": None}, may_import=False)
VALUES: list[Any] = [
    None, True, 0, -1, 2**64, -(2**64) - 1, 10**5000, 0.0, -0.0, 1.5, math.inf, -math.inf,
    "", "x", "é", "\ud800", "\ud83d\ude00", "😀", b"", b"\x00\xff", bytearray(b"x"), 1 + 2j,
    [], [1, [2]], (), (1, (2,)), set(), {1, "x"}, frozenset({(1, 2)}), {}, {"a": 1}, {"$": 1},
    {1: 2, (3, 4): None, None: [5], "é": 1, 1.5: b"x"}, {"$": "bytes", "v": "eA=="},
    {frozenset({1}): {Colour.RED: Order("nut")}},
    datetime.datetime(2026, 1, 2, 3, 4, 5, 6),
    datetime.datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
    datetime.datetime(1, 1, 1, tzinfo=datetime.UTC),
    datetime.datetime(9999, 1, 1, tzinfo=datetime.timezone(datetime.timedelta(seconds=-1), "x")),
    datetime.date(1, 1, 1), datetime.time(1, 2, 3, 4, fold=1), datetime.timedelta(-1, 2, 3),
    decimal.Decimal("-0.00"), decimal.Decimal("1E+999999"), decimal.Decimal("Infinity"),
    uuid.UUID(int=7), Colour.GREEN, Rights.READ, Rights.READ | Rights.WRITE, Rights(0),
    http.HTTPStatus.OK, Order("nut", 3, (1, Colour.RED)), Slotted(1), Point(1, [2]),
    len, int, str.upper, dict.fromkeys, operator.add, math.sqrt, os.path.join, Order, Colour,
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    """Its type too, all the way down, and the bytes are plain ASCII."""
    data = encode(value, NAMES)
    back = decode(data, NAMES)
    assert (type(back), back) == (type(value), value)
    is_shown = not isinstance(value, int | set | frozenset)
    assert not is_shown or repr(back) == repr(value)
    assert data.isascii()


def test_not_a_number_and_signals_come_back() -> None:
    """They equal nothing, themselves included."""
    assert math.isnan(decode(encode(math.nan, NAMES), NAMES))
    for text in ("NaN", "sNaN", "-NaN123"):
        assert str(decode(encode(decimal.Decimal(text), NAMES), NAMES)) == text


def test_plain_values_are_plain_json() -> None:
    """So a request can be read with any tool, and costs no more than JSON does."""
    value = {"a": [1, None, True, 1.5, "x"], "b": {}}
    assert encode(value, NAMES) == json.dumps(value, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (Plain(), "root: a tests.unit.functions.kinds.Plain cannot travel"),
        ([1, {"a": (2, Plain())}], "root[1]['a'][1]: "),
        (Order("x", parts=(Plain(),)), "root.parts[0]: "),
        ({1: Plain()}, "root[1]: "),
        ({(1, Plain): 2, (Plain(),): 1}, "Plain"),
        (threading.Lock(), "root: a _thread.lock cannot travel"),
        (lambda: None, "root: tests.unit.functions.test_tagged.<lambda> is defined within"),
        (encode, "root: pollen.sdk.functions.tagged.encode is not known on the other side"),
        ([].append, "root: list.append is bound to an object"),
        (json, "root: a module cannot travel"),
        ((x for x in ()), "root: a generator cannot travel"),
        (datetime.datetime(1, 1, 1, tzinfo=type("Z", (datetime.tzinfo,), {})()), "time zone"),
        (True.__class__.__base__, ""),
    ],
)  # fmt: skip
def test_what_cannot_travel_is_named_with_its_place(value: Any, told: str) -> None:
    """As a ``TypeError``."""
    if not told:
        assert decode(encode(value, NAMES), NAMES) is int
        return
    with pytest.raises(TypeError) as caught:
        encode(value, NAMES, "root")
    assert told in str(caught.value)


def test_a_class_that_is_not_shipped_is_told() -> None:
    """So that the program can ship it."""
    with pytest.raises(Unfit, match="is not known on the other side") as caught:
        encode([Order("x")], Names({}, may_import=False))
    assert caught.value.unknown is Order


def test_depth_is_bounded_both_ways() -> None:
    """A value that holds itself ends there."""
    value: Any = []
    for _ in range(tagged.DEPTH_MAX - 1):
        value = [value]
    assert decode(encode(value, NAMES), NAMES) == value
    with pytest.raises(Unfit, match="nested deeper"):
        encode([value], NAMES)
    ring: list[Any] = []
    ring.append(ring)
    with pytest.raises(Unfit, match="or holds itself"):
        encode(ring, NAMES)
    for data in (b"[" * 100_000, b"[" * 100_000 + b"]" * 100_000, b'{"a":' * 10_000):
        with pytest.raises(Malformed, match="nested too deeply"):
            decode(data, NAMES)


def test_brackets_within_texts_are_no_depth() -> None:
    """They are texts."""
    value = ["[" * 1000, "}" * 5000, '"[' * 900]
    assert decode(encode(value, NAMES), NAMES) == value


def test_the_deepest_value_of_each_kind_is_read_back() -> None:
    """What may be written may be read."""
    wraps = (
        lambda inner: (inner,),
        lambda inner: {1: inner},
        lambda inner: Order("x", parts=inner),
        lambda inner: Point(inner, 1),
    )
    for wrap in wraps:
        value: Any = 1
        while True:
            try:
                data = encode(wrap(value), NAMES)
            except Unfit:
                break
            value = wrap(value)
        assert decode(encode(value, NAMES), NAMES) == value
        assert data


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "NaN", "[Infinity]", "\xff", '{"$":"nothing","v":1}', '{"$":"int","v":5}',
        '{"$":"int","v":"zz"}', '{"$":[],"v":1}', '{"$":"bytes","v":"!"}', '{"$":"bytes"}',
        '{"$":"bytes","v":"eA==","w":1}', '{"$":"set","v":[[1]]}', '{"$":"dict","v":[[1]]}',
        '{"$":"dict","v":[[[],1]]}', '{"$":"float","v":"1.5"}', '{"$":"date","v":"x"}',
        '{"$":"datetime","v":["2026-01-01",0,"../../etc/passwd"]}',
        '{"$":"datetime","v":["2026-01-01",0,[[0,0,1],"a","b"]]}', '{"$":"timedelta","v":[1]}',
        '{"$":"timedelta","v":[1e9,0,0]}', '{"$":"decimal","v":"x"}', '{"$":"uuid","v":"x"}',
        '{"$":"name","v":"os:system.__globals__"}', '{"$":"name","v":"os"}',
        '{"$":"name","v":"antigravity:geohash"}', '{"$":"name","v":"__main__:x"}',
        '{"$":"name","v":"pollen.sdk.client:connect"}', '{"$":"name","v":7}',
        '{"$":"name","v":"builtins:object.__subclasses__"}', '{"$":"name","v":"builtins:None"}',
        '{"$":"enum","c":"tests.unit.functions.kinds:Colour","v":"BLUE"}',
        '{"$":"enum","c":"tests.unit.functions.kinds:Rights","v":"READ"}',
        '{"$":"enum","c":"builtins:dict","v":"x"}', '{"$":"enum","c":"builtins:len","v":"x"}',
        '{"$":"record","c":"tests.unit.functions.kinds:Order","v":{"item":"x"}}',
        '{"$":"record","c":"tests.unit.functions.kinds:Order","v":[]}',
        '{"$":"record","c":"tests.unit.functions.kinds:Made","v":{}}',
        '{"$":"record","c":"subprocess:Popen","v":{"args":"true"}}',
        '{"$":"named","c":"tests.unit.functions.kinds:Point","v":[1]}',
        '{"$":"named","c":"builtins:int","v":[1]}', '{"$":"complex","v":["x","1"]}',
        "9" * 5000, '{"a":1}{', "[1] x",
    ],
)  # fmt: skip
def test_bytes_that_are_no_value_are_malformed(text: str) -> None:
    """No constructor ran, and no module was imported."""
    before = Made.made
    with pytest.raises(Malformed):
        decode(text.encode("latin-1"), NAMES)
    assert Made.made == before


def test_decoding_imports_nothing_unless_it_may() -> None:
    """A host's answer cannot make a program import what it did not."""
    import sys

    sys.modules.pop("this", None)
    sys.modules.pop("sndhdr_absent", None)
    kept = sys.modules.pop("colorsys", None)
    data = b'{"$":"name","v":"colorsys:rgb_to_hsv"}'
    with pytest.raises(Malformed, match="is not here"):
        decode(data, NAMES)
    assert "colorsys" not in sys.modules
    assert decode(data, Names({}, may_import=True)).__name__ == "rgb_to_hsv"
    if kept is not None:
        sys.modules["colorsys"] = kept


def test_what_is_too_large_is_not_read() -> None:
    """Whatever it says."""
    with pytest.raises(Malformed, match="over"):
        decode(b" " * (tagged.SIZE_MAX + 1), NAMES)
