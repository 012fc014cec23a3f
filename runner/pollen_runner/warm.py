"""Before the snapshot: the runner runs a seed of its own, forgets it, and fills the heap's holes.

What a first call does for the first time is then done in every instance: caches of ``typing`` and
``inspect`` are filled, and the interpreter has chosen the quick forms of the runner's code. It
writes them into the code itself, and each page that an instance writes to is its own.
Source: docs/design/python.md#the-runner.
"""

from __future__ import annotations

import json
import linecache
import sys
from typing import Any

from pollen_runner import calls
from pollen_runner.bundle import bundle, compiled
from pollen_runner.port import port

# More than the interpreter counts before it chooses a form. Guess: no count of CPython's is half as
# high.
TIMES = 64

# A function of each kind. The name is that of no other seed.
SOURCE = """
from __future__ import annotations
import asyncio
import dataclasses
import enum
import logging
import typing
import pollen

class Colour(enum.Enum):
    red = "r"

@dataclasses.dataclass
class Order:
    item: str
    count: int = 1
    colour: Colour = Colour.red

class Point(typing.TypedDict):
    x: int

def greet(name: str, times: int = 1, *, loud: bool = False) -> str:
    print("greets", name)
    pollen.log.info("greets", name=name)
    logging.info("greets")
    return "hello " * times + name

def total(orders: list[Order], rate: float | None = None) -> dict[str, float]:
    return {order.item: order.count * (rate or 1.0) for order in orders}

def table(v: dict[str, int], p: Point) -> list[tuple[str, int]]:
    return list(v.items())

def one(v: typing.Literal["a", 3]) -> Order:
    return Order("x")

def raw(data: bytes) -> bytes:
    return data

def spread(*all: int, **rest: str) -> int:
    return sum(all)

def asks(n: int) -> int:
    return pollen.use("warm").double(n)

async def both(n: int) -> list[int]:
    other = pollen.use("warm")
    await asyncio.sleep(0)
    return await asyncio.gather(other.double(n), other.double(n=n))

def count(n: int) -> typing.Iterator[int]:
    yield from range(n)

async def ticks(n: int) -> typing.AsyncIterator[int]:
    for i in range(n):
        yield i

def fails(n: int) -> None:
    raise ValueError(f"no {n}")
"""

NAME = "pollen_warm"

CALLS: list[tuple[str, Any]] = [
    ("greet", {"name": "you", "times": 2, "loud": True}),
    ("greet", ["you"]),
    ("total", {"orders": [{"item": "nut", "count": 2, "colour": "r"}], "rate": 1.5}),
    ("table", {"v": {"a": 1}, "p": {"x": 1}}),
    ("one", {"v": "a"}),
    ("spread", [1, 2, 3]),
    ("asks", [1]),
    ("both", [1]),
    ("count", [2]),
    ("ticks", [2]),
]
REFUSED: list[tuple[str, Any]] = [
    ("greet", {"name": 1}),
    ("greet", {"nam": "you"}),
    ("fails", [1]),
    ("nothing", []),
]


class Node:
    """Stands where the node is: one file, and answers to all requests."""

    def __init__(self) -> None:
        self._code = compiled(f"{NAME}.py", SOURCE.encode())
        self._begun: list[int] = []

    def bundle(self) -> bytes:
        return json.dumps({"main": NAME, "files": [f"{NAME}.py", f"{NAME}.pyc"]}).encode()

    def read(self, path: str) -> bytes | None:
        return {f"{NAME}.py": SOURCE.encode(), f"{NAME}.pyc": self._code}.get(path)

    def log(self, level: int, message: str) -> None:
        pass

    def request(self, uri: str, input: bytes) -> bytes:
        return b"2"

    def start(self, uri: str, input: bytes) -> int:
        self._begun.append(len(self._begun))
        return self._begun[-1]

    def wait(self, timeout_ms: int | None) -> list[tuple[int, Any]]:
        begun, self._begun = self._begun, []
        return [(number, b"2") for number in begun]

    def write(self, bytes: bytes) -> bool:
        return True

    def caller_info(self) -> str:
        return "{}"

    def config(self, key: str) -> str | None:
        return None

    def tail_call(self, uri: str, input: bytes) -> bool:
        return True


def run(times: int = TIMES) -> None:
    """Publish, import and call the seed so many times. Raises whatever does not work."""
    held = dict(vars(port))
    port.host, port.answer = Node(), lambda answer: answer
    try:
        for _ in range(times):
            calls.describe()
            for name, given in CALLS:
                calls.handle(name, json.dumps(given).encode())
            calls.handle("raw", b"x")
            for name, given in REFUSED:
                try:
                    calls.handle(name, json.dumps(given).encode())
                except calls.Failure:
                    continue
                raise AssertionError(f"{name} did not fail")
            _forget()
    finally:
        vars(port).clear()
        vars(port).update(held)


# Blocks that the heap's holes are filled with. They stay, so that no instance gets them.
_filling: list[bytes] = []


def fill_holes() -> None:
    """Fill what is free between the objects of the heap; call it last.

    An instance that takes a hole writes to the page around it, which is then its own. After this it
    takes what lies behind all objects: the same pages one after another. Only for an allocator that
    takes its end when nothing else fits, as that of WASI does."""
    beyond = id(bytes(_LARGEST))
    for size in (*_LARGE, *range(_SMALL, 0, -8)):
        while True:
            block = bytes(size)
            if id(block) >= beyond:
                break
            _filling.append(block)
            if len(_filling) > _MOST:
                raise RuntimeError("this allocator does not take its end when nothing else fits")


# More holes than a heap of 24 MB has.
_MOST = 1_000_000
# Sizes of blocks in bytes: halves of the largest, then each that the allocator tells apart.
_LARGEST = 1 << 20
_SMALL = 1 << 10
_LARGE = tuple(_LARGEST >> step for step in range(11))


def _forget() -> None:
    """As if no seed had been there."""
    calls.forget()
    bundle.close()
    sys.modules.pop(NAME, None)
    linecache.clearcache()
