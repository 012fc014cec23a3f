"""The reference of silence: whether calls are routed around a link.

Decides: when a link with calls under way is left out, and when it is taken back.
Does not know: links, packets, probes; the clock is an argument.
Invariants: a link that was heard is never left out. The crate of the muscles computes the same;
    ``tests/vectors/silence.json`` holds both.
Source: docs/internals/seam.md#the-rules-of-a-request; docs/design/protocol.md#liveness.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from pollen.core.rules import numbers


class Heard(enum.Enum):
    """What a look at a link leads to: calls over it, a probe, or a probe and calls around it."""

    AGAIN = "again"
    NOTHING = "nothing"
    EJECTED = "ejected"


def eject_after(srtt_ns: int) -> int:
    """The time without a byte after a probe at which a link is ejected, nanoseconds."""
    far = numbers.EJECT_TRIPS * srtt_ns + numbers.EJECT_EXTRA_NS
    return max(far, numbers.EJECT_FLOOR_NS)


@dataclass(slots=True)
class Silence:
    """One link with calls under way, looked at every ``SILENCE_NS``. ``asked``: when it was first
    probed in vain.
    """

    asked: int | None = None

    def poll(self, *, heard: bool, srtt_ns: int, now: int) -> Heard:
        """``heard``: a byte came since the last look. ``now``: nanoseconds of any steady clock."""
        if heard:
            self.asked = None
            return Heard.AGAIN
        if self.asked is None:
            self.asked = now
        is_over = now - self.asked > eject_after(srtt_ns)
        return Heard.EJECTED if is_over else Heard.NOTHING
