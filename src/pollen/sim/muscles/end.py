"""One end of a simulated link: what the machine that holds it knows of it.

Decides: nothing.
Does not know: when a frame arrives (``network``), what it says.
Invariants: calls begin on an end only while it is open, admitted here and there, and not given up.
Source: docs/internals/seam.md#links.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pollen.core import events as ev
from pollen.core.ids import LinkId, PeerId
from pollen.core.rules.silence import Silence
from pollen.sim.world.machine import Machine


@dataclass(slots=True, eq=False)
class End:
    """One end of a link, as the machine that holds it sees it."""

    link: LinkId
    machine: Machine
    boots: int
    peer: PeerId
    dialled: bool
    way_ns: int
    next_beat: int
    heard: int
    probed: int
    srtt_ns: int
    other: End | None = None
    is_open: bool = True
    is_admitted: bool = False
    is_routed: bool = False
    is_closing: bool = False
    peer_age: int = 0
    late: int = 0
    beats: int = 0
    free_at: int = 0
    under_way: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    calls: int = 0
    is_ejected: bool = False
    looked: int = 0
    silence: Silence = field(default_factory=Silence)
    is_watched: bool = False
    early: list[ev.Event] = field(default_factory=list)
    held: list[tuple[int, Any, int]] = field(default_factory=list)
    waits: list[Any] = field(default_factory=list)
    # Whether its packets go through other members now, and did so in the beginning.
    is_meshed: bool = False
    began_meshed: bool = False
    cut_looks: int = 0

    @property
    def is_speaking(self) -> bool:
        """This side's brain admitted it and has not given it up."""
        return self.is_open and self.is_admitted and not self.is_closing

    @property
    def carries_calls(self) -> bool:
        """Both brains admitted it, and this one has not given it up."""
        return self.is_speaking and self.is_routed
