"""Classes of a program, as its functions are given them."""

from __future__ import annotations

import dataclasses
import enum
from typing import NamedTuple


class Colour(enum.Enum):
    RED = "red"
    GREEN = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclasses.dataclass(frozen=True)
class Order:
    item: str
    count: int = 1
    parts: tuple[object, ...] = ()


@dataclasses.dataclass(slots=True)
class Slotted:
    x: object
    y: object = None


class Point(NamedTuple):
    x: object
    y: object


class Plain:
    """Has no form that travels."""


class Made:
    """Tells whether somebody made one."""

    made = 0

    def __init__(self) -> None:
        Made.made += 1
