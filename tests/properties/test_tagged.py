"""Values of functions travel as they are; any bytes at all are a value or ``Malformed``."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from pollen.sdk.functions.tagged import Malformed, Names, decode, encode
from tests.unit.functions.kinds import Colour, Order, Point, Rights, Slotted

NAMES = Names({"tests.unit.functions.kinds": None}, may_import=False)

texts = st.text(st.characters(), max_size=20)
keys = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), texts, st.binary(),
    st.dates(), st.times(), st.datetimes(), st.timedeltas(), st.uuids(),
    st.decimals(allow_nan=False), st.sampled_from(Colour), st.sampled_from([len, int, Order]),
    st.datetimes(timezones=st.timezones(no_cache=False)), st.complex_numbers(allow_nan=False),
    st.integers(0, 3).map(Rights),
)  # fmt: skip
hashable = st.recursive(
    keys,
    lambda inner: st.one_of(
        st.tuples(inner, inner), st.frozensets(inner, max_size=4), st.builds(Order, texts, inner)
    ),
    max_leaves=6,
)
values = st.recursive(
    st.one_of(keys, st.floats(), st.builds(bytearray, st.binary())),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5), st.tuples(inner, inner), st.sets(hashable, max_size=5),
        st.dictionaries(hashable, inner, max_size=5), st.dictionaries(texts, inner, max_size=5),
        st.builds(Slotted, inner, inner), st.builds(Point, inner, inner),
    ),
    max_leaves=20,
)  # fmt: skip


def shape(value: Any) -> Any:
    """A value with the types of all its parts: ``1 == True == 1.0``, and nan is nan."""
    kind = type(value).__qualname__
    if isinstance(value, float):
        return kind, "nan" if math.isnan(value) else repr(value)
    if isinstance(value, set | frozenset):
        return kind, sorted(map(repr, map(shape, value)))
    if isinstance(value, Slotted):
        return kind, shape(value.x), shape(value.y)
    if isinstance(value, Order):
        return kind, shape(value.item), shape(value.count), shape(value.parts)
    if isinstance(value, list | tuple):
        return kind, [shape(item) for item in value]
    if isinstance(value, dict):
        return kind, [(shape(key), shape(held)) for key, held in value.items()]
    if isinstance(value, datetime.datetime | datetime.time):
        return kind, value.isoformat(), value.fold, str(value.tzinfo)
    return kind, repr(value)


@given(values)
def test_a_value_comes_back_with_all_its_types(value: Any) -> None:
    """Order of dicts included."""
    data = encode(value, NAMES)
    assert shape(decode(data, NAMES)) == shape(value)
    assert encode(decode(data, NAMES), NAMES) == data or b'set"' in data


TAGS = (
    "int float str dict tuple set frozenset bytes bytearray complex datetime date time timedelta"
    " decimal uuid name enum record named x"
)
tags = st.sampled_from(TAGS.split(" "))
names = st.sampled_from(
    ["tests.unit.functions.kinds:Order", "builtins:int", "os:system", "x", "a:b", "builtins:"]
)
junk = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, names),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.sampled_from(["$", "v", "c", "a"]), inner, max_size=4),
        st.fixed_dictionaries({"$": tags, "v": inner}, optional={"c": names}),
    ),
    max_leaves=20,
)


@given(junk)
@example({"$": "decimal", "v": [0, [1], "N"]})
@example({"$": "uuid", "v": None})
def test_any_json_is_a_value_or_malformed(value: Any) -> None:
    """Never another error."""
    with contextlib.suppress(Malformed):
        decode(json.dumps(value).encode(), NAMES)


@given(st.binary(max_size=200), values, st.integers(0, 10_000), st.integers(0, 255))
def test_any_bytes_are_a_value_or_malformed(data: bytes, value: Any, at: int, byte: int) -> None:
    """Also those of a value with one byte changed."""
    good = bytearray(encode(value, NAMES))
    good[at % len(good)] = byte
    for bad in (data, bytes(good)):
        with contextlib.suppress(Malformed):
            decode(bad, NAMES)
