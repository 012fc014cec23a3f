"""How an input becomes arguments, and a result an output; what does not fit is told by name."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.unit.runner.stage import Node, calls, seeded

TYPED = """
from __future__ import annotations
import dataclasses, datetime, decimal, enum, typing, uuid

class Colour(enum.Enum):
    red = "r"
    blue = "b"

@dataclasses.dataclass
class Order:
    item: str
    count: int = 1
    parts: list[Order] = dataclasses.field(default_factory=list)

class Point(typing.TypedDict):
    x: int
    y: typing.NotRequired[int]

class Pair(typing.NamedTuple):
    left: int
    right: int = 2

def kind(v): return type(v).__name__
def text(v: str): return kind(v)
def whole(v: int): return kind(v)
def number(v: float): return kind(v)
def truth(v: bool): return kind(v)
def raw(v: bytes, w: int = 0): return [kind(v), len(v)]
def maybe(v: int | None = None): return kind(v)
def either(v: int | str): return kind(v)
def words(v: list[str]): return v
def distinct(v: set[int]): return v
def pair(v: tuple[int, str]): return [kind(v), v]
def many(v: tuple[int, ...]): return [kind(v), v]
def table(v: dict[int, float]): return [kind(k) for k in v]
def one(v: typing.Literal["a", 3]): return v
def colour(v: Colour): return v
def order(v: Order): return v
def point(v: Point): return v
def named(v: Pair): return [kind(v), v.left, v.right]
def when(v: datetime.datetime): return v.year
def day(v: datetime.date): return v
def money(v: decimal.Decimal): return v * 2
def ident(v: uuid.UUID): return kind(v)
def anything(v): return v
def wait(v: datetime.timedelta): return v.total_seconds()
"""

GOOD: list[tuple[str, Any, Any]] = [
    ("text", "a", "str"),
    ("whole", 10**30, "int"),
    ("number", 3, "float"),
    ("truth", True, "bool"),
    ("raw", "AAEC", ["bytes", 3]),
    ("maybe", None, "NoneType"),
    ("maybe", 3, "int"),
    ("either", "a", "str"),
    ("words", ["a"], ["a"]),
    ("distinct", [3, 1, 3], [1, 3]),
    ("pair", [1, "a"], ["tuple", [1, "a"]]),
    ("many", [1, 2], ["tuple", [1, 2]]),
    ("table", {"1": 2}, ["int"]),
    ("one", 3, 3),
    ("colour", "b", "b"),
    (
        "order",
        {"item": "nut", "parts": [{"item": "x"}]},
        {"item": "nut", "count": 1, "parts": [{"item": "x", "count": 1, "parts": []}]},
    ),
    ("point", {"x": 1}, {"x": 1}),
    ("named", {"left": 1}, ["Pair", 1, 2]),
    ("when", "2026-11-28T07:00:00+00:00", 2026),
    ("day", "2026-11-28", "2026-11-28"),
    ("money", "0.1", "0.2"),
    ("ident", "12345678-1234-5678-1234-567812345678", "UUID"),
    ("anything", {"a": [1, None]}, {"a": [1, None]}),
    ("wait", 1.5, 1.5),
]

BAD: list[tuple[str, Any, str]] = [
    ("text", 3, "argument v: expected text, got an integer"),
    ("whole", "3", "argument v: expected an integer, got text"),
    ("whole", True, "argument v: expected an integer, got a truth value"),
    ("whole", 1.0, "argument v: expected an integer, got a number"),
    ("number", "1", "argument v: expected a number, got text"),
    ("number", 10**400, "argument v: the number is too large"),
    ("truth", 1, "argument v: expected true or false, got an integer"),
    ("raw", "?", "argument v: the text is not base64"),
    ("maybe", "x", "argument v: expected an integer, got text; or expected null, got text"),
    ("words", ["a", 1], "argument v[1]: expected text, got an integer"),
    ("words", "ab", "argument v: expected a list, got text"),
    ("distinct", [[1]], "argument v[0]: expected an integer, got a list"),
    ("pair", [1], "argument v: expected 2 values, got 1"),
    ("table", {"x": 1}, "argument v['x']: expected an integer, got text"),
    ("one", "3", "argument v: expected one of 'a', 3, got '3'"),
    ("colour", "green", "argument v: expected one of 'r', 'b', got 'green'"),
    ("order", {"count": 1}, "argument v: the field 'item' is missing"),
    ("order", {"item": "x", "cost": 1}, "argument v: there is no field 'cost'"),
    (
        "order",
        {"item": "x", "parts": [{"item": 3}]},
        "argument v.parts[0].item: expected text, got an integer",
    ),
    ("point", {"y": 1}, "argument v: the field 'x' is missing"),
    ("when", "yesterday", "argument v: 'yesterday' is not a date with a time"),
    ("ident", "x", "argument v: 'x' is not a UUID"),
]


def call(name: str, *args: Any, **kwargs: Any) -> Any:
    data = json.dumps(kwargs or list(args)).encode()
    return json.loads(calls.handle(name, data))


def failure(name: str, data: bytes) -> calls.Failure:
    with pytest.raises(calls.Failure) as caught:
        calls.handle(name, data)
    return caught.value


@pytest.mark.parametrize(("name", "value", "wanted"), GOOD)
def test_a_value_becomes_what_the_annotation_says(name: str, value: Any, wanted: Any) -> None:
    with seeded(TYPED):
        assert call(name, v=value) == wanted
        assert call(name, value) == wanted


@pytest.mark.parametrize(("name", "value", "told"), BAD)
def test_what_does_not_fit_is_named_and_nothing_ran(name: str, value: Any, told: str) -> None:
    with seeded(TYPED):
        caught = failure(name, json.dumps({"v": value}).encode())
    assert caught.kind == "bad-argument"
    assert caught.text.startswith(told)


PLACES = """
def plain(a, b=2): return [a, b]
def only(a, /, b, *, c=3): return [a, b, c]
def spread(a, *rest: int, z=0): return [a, rest, z]
def open(a, **rest: int): return [a, rest]
def both(a=1, /, b=2, *rest): return [a, b, rest]
def none(): return None
def raw(data: bytes) -> bytes: return data[::-1]
"""


@pytest.mark.parametrize(
    ("name", "given", "wanted"),
    [
        ("plain", [1], [1, 2]),
        ("plain", {"b": 5, "a": 1}, [1, 5]),
        ("only", {"a": 1, "b": 2}, [1, 2, 3]),
        ("only", [1, 2], [1, 2, 3]),
        ("spread", [1, 2, 3], [1, [2, 3], 0]),
        ("spread", {"a": 1, "rest": [2], "z": 9}, [1, [2], 9]),
        ("open", {"a": 1, "x": 2}, [1, {"x": 2}]),
        ("both", {"rest": [7]}, [1, 2, [7]]),
        ("both", {"b": 5}, [1, 5, []]),
        ("none", [], None),
    ],
)
def test_arguments_go_where_the_signature_has_them(name: str, given: Any, wanted: Any) -> None:
    with seeded(PLACES):
        assert json.loads(calls.handle(name, json.dumps(given).encode())) == wanted


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("plain", b"", "plain needs the argument 'a'"),
        ("plain", b"[1,2,3]", "plain takes 2 at most, by place, and 3 were given"),
        ("plain", b'{"a":1,"bb":2}', "plain has no argument 'bb'; did you mean 'b'"),
        ("only", b'{"a":1}', "only needs the argument 'b'"),
        ("spread", b'{"a":1,"rest":2}', "argument rest: expected a list of values"),
        ("spread", b'[1,"x"]', "argument rest: expected an integer, got text"),
        ("open", b'{"a":1,"x":"y"}', "argument x: expected an integer, got text"),
        ("none", b"[1]", "none takes no arguments, and 1 were given"),
        ("plain", b"world", "the input is not JSON"),
        ("plain", b"3", "the input is one value"),
        ("plain", b"[NaN]", "the input is not JSON: NaN is no JSON number"),
        ("plain", b"\xff", "the input is not JSON: byte 0 is not UTF-8"),
        ("plain", b"[" * 5000, "the input is not JSON: it is nested deeper than 200 levels"),
        ("plain", b"[" + b"9" * 5000 + b"]", "the input is not JSON: Exceeds the limit"),
    ],
)
def test_arguments_that_are_not_those_of_the_function(name: str, data: bytes, told: str) -> None:
    with seeded(PLACES):
        caught = failure(name, data)
    assert caught.kind == "bad-argument"
    assert caught.text.startswith(told)


def test_many_brackets_side_by_side_or_in_text_are_not_deep() -> None:
    with seeded(PLACES):
        assert call("plain", [[1]] * 500) == [[[1]] * 500, 2]
        assert call("plain", "[" * 500) == ["[" * 500, 2]


def test_bytes_are_taken_and_given_as_they_are() -> None:
    with seeded(PLACES):
        assert calls.handle("raw", b"\x00\xffab") == b"ba\xff\x00"


def test_what_is_not_public_is_no_function() -> None:
    source = "from json import dumps\ndef _a(): pass\ndef b(): pass\nclass C: pass\n"
    with seeded(source):
        for name in ("dumps", "_a", "C", "__import__", "absent"):
            caught = failure(name, b"")
            assert (caught.kind, "functions: b" in caught.text) == ("no-function", True)


def test_what_all_lists_is_public_wherever_it_is_from() -> None:
    with seeded("from json import dumps\n__all__ = ['dumps']\ndef b(): pass\n"):
        assert call("dumps", [1]) == "[1]"
        assert failure("b", b"").kind == "no-function"


RESULTS = """
import math
class Thing: pass
def thing(): return {"a": Thing()}
def nan(): return [math.nan]
def loop():
    a = []
    a.append(a)
    return a
def lone(): return "\\ud800"
def wrong() -> bytes: return "text"
def leave(): raise SystemExit(3)
"""


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("thing", "the result holds a Thing, which JSON cannot carry"),
        ("nan", "the result holds NaN or an infinity"),
        ("loop", "the result cannot be sent: Circular reference"),
        ("lone", "lone surrogates"),
        ("wrong", "wrong is to return bytes, and returned str"),
        ("leave", "SystemExit: 3"),
    ],
)
def test_a_result_that_cannot_be_sent_is_said(name: str, told: str) -> None:
    with seeded(RESULTS):
        caught = failure(name, b"")
        assert caught.kind == "failed"
        assert told in caught.text


def test_a_traceback_has_the_seeds_own_frames_alone() -> None:
    files = {
        "hello.py": "import helper, json\n\ndef go():\n    return helper.run('x')\n",
        "helper.py": "import json\n\n\ndef run(text):\n    return json.loads(text)\n",
    }
    with seeded(files):
        text = failure("go", b"").text
    assert 'File "hello.py", line 4, in go' in text
    assert 'File "helper.py", line 5, in run' in text
    assert "return helper.run('x')" in text
    assert "json/decoder" not in text and "pollen_runner" not in text
    assert text.endswith("JSONDecodeError: Expecting value: line 1 column 1 (char 0)")


def test_a_generator_writes_each_item_and_ends_when_nobody_reads() -> None:
    source = """
ended = []
def count(n: int):
    try:
        for i in range(n):
            yield {"i": i}
    finally:
        ended.append(1)
async def later(n: int):
    for i in range(n):
        yield i
def raw():
    yield b"a"
    yield b"b"
def over(): return len(ended)
"""
    with seeded(source) as node:
        assert calls.handle("count", b"[2]") == b""
        assert node.pieces == [b'{"i":0}\n', b'{"i":1}\n']
        node.pieces.clear()
        assert calls.handle("later", b"[2]") == b""
        assert node.pieces == [b"0\n", b"1\n"]
        node.pieces.clear()
        assert calls.handle("raw", b"") == b""
        assert node.pieces == [b"a", b"b"]
        node.pieces.clear()
        node.reads_until = 3
        calls.handle("count", b"[1000000]")
        assert len(node.pieces) == 3
        assert calls.handle("over", b"") == b"2"


GUEST = """
import asyncio, pollen

def ask(n: int): return pollen.use("twice").run(n) + 1
async def both(n: int):
    other = pollen.use("twice")
    return await asyncio.gather(other.run(n), other.run(n + 1), other.run(v=5))
def absent():
    try:
        pollen.request("pln://seed/absent/x", b"")
    except pollen.CallError as error:
        return error.slug
async def absent_later():
    try:
        await pollen.use("absent").x()
    except pollen.CallError as error:
        return error.slug
def plain(): return pollen.request("pln://seed/shout/run", "abc").decode()
def who():
    held = pollen.caller()
    return [held.node, held.deadline, pollen.config("units"), pollen.config("x", "y")]
def say():
    print("a\\nb")
    print("c", end="")
    pollen.log.warning("careful", n=3)
def sleepy(): return asyncio.run(asyncio.sleep(0, "woke"))
def thread(): return asyncio.run(asyncio.to_thread(lambda: 5))
def left():
    async def main():
        asyncio.create_task(asyncio.sleep(1000))
        return 1
    return asyncio.run(main())
"""


def _twice(data: bytes) -> bytes:
    held = json.loads(data)
    value = held["v"] if isinstance(held, dict) else held[0]
    return json.dumps(value * 2).encode()


@pytest.fixture
def guest() -> Any:
    with seeded(GUEST) as node:
        node.seeds = {
            "pln://seed/twice/run": _twice,
            "pln://seed/shout/run": lambda data: data.upper(),
        }
        yield node


def test_other_seeds_are_called_at_once_or_awaited(guest: Node) -> None:
    assert calls.handle("ask", b"[20]") == b"41"
    assert calls.handle("both", b"[1]") == b"[2,4,10]"
    assert calls.handle("absent", b"") == b'"seed-not-found"'
    assert calls.handle("absent_later", b"") == b'"seed-not-found"'
    assert calls.handle("plain", b"") == b'"ABC"'


def test_the_seed_knows_who_calls_and_its_configuration(guest: Node) -> None:
    assert json.loads(calls.handle("who", b"")) == ["ab12", 1.5, "metric", "y"]


def test_what_is_printed_is_in_the_log() -> None:
    with seeded(GUEST) as node:
        calls.handle("say", b"")
    assert node.lines == [(1, "a"), (1, "b"), (2, "careful n=3"), (1, "c")]


def test_asyncio_runs_without_threads_and_leaves_no_task(guest: Node) -> None:
    calls.loop.install()
    assert calls.handle("sleepy", b"") == b'"woke"'
    assert calls.handle("thread", b"") == b"5"
    assert calls.handle("left", b"") == b"1"
