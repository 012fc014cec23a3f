"""One line of the doctor's."""

from __future__ import annotations

from typing import Literal

import msgspec

Level = Literal["ok", "warning", "failure"]


class Finding(msgspec.Struct, frozen=True):
    """What was looked at, what is so, what to do."""

    name: str
    level: Level
    text: str
    remedy: str = ""
