"""What this node says of itself in its node record, from its start until it has left.

Decides: the content of the node record: addresses, the phase of this run, and whether it restarts
    too often.
Does not know: how the record travels, what others make of it (``liveness``).
Invariants: a run says UP, LEAVING, LEFT in this order and never goes back. Restarts are counted
    from the starts on disk that no good end followed. So a node sees its own crash loop. All others
    read the signed number, and all agree.
Source: docs/internals/liveness.md#records. Refused: counting another node's epochs as they
    come, which every observer would do at other times and so with another result.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollen.core import limits, timers
from pollen.core.config import NodeConfig
from pollen.core.effects import SetTimer
from pollen.core.ids import Nanos
from pollen.core.peers import Phase
from pollen.core.restoring import starts_row
from pollen.core.trust import NodeInfo
from pollen.core.turn import Turn


class Presence:
    """This run. ``starts``: the wall times at which earlier ones began, as the disk kept them."""

    def __init__(self, config: NodeConfig, starts: Sequence[int]) -> None:
        self._config = config
        self._starts = list(starts)
        self._restarts = 0
        self.phase = Phase.UP
        self.addresses: list[str] = []

    def start(self, addresses: Sequence[str], turn: Turn) -> None:
        """This run begins: write when, and set the timer that ends its quarantine if it is in one.

        Starts in the future are of a clock that was wrong; they are forgotten.
        """
        self.addresses = list(addresses[: limits.OWN_ADDRESSES_MAX])
        recent = [at for at in self._starts if at <= turn.now.wall]
        self._starts = [*recent, turn.now.wall][-limits.RESTARTS_QUARANTINE :]
        turn.write(starts_row(self._starts))
        self.recount(turn)

    def move(self, addresses: Sequence[str]) -> bool:
        """The machine has other addresses now; False when they are the same."""
        held, self.addresses = self.addresses, list(addresses[: limits.OWN_ADDRESSES_MAX])
        return held != self.addresses

    def recount(self, turn: Turn) -> None:
        """Count the starts in the window; set a timer for when they are few enough again."""
        since = turn.now.wall - limits.RESTARTS_WITHIN_NS
        within = [at for at in self._starts if at > since]
        self._restarts = len(within) if len(within) >= limits.RESTARTS_QUARANTINE else 0
        if self._restarts:
            at = Nanos(turn.now.mono + within[-limits.RESTARTS_QUARANTINE] - since)
            turn.do(SetTimer(token=timers.token_for(timers.QUARANTINE), at=at))

    def begin_leaving(self) -> None:
        """The run is ending: nothing new is placed here."""
        self.phase = max(self.phase, Phase.LEAVING)

    def finish_leaving(self, turn: Turn) -> None:
        """The run has left. A run that ended in good order is not a sign of a crash loop."""
        self.phase = Phase.LEFT
        turn.write(starts_row(self._starts[:-1]))

    def info(self) -> NodeInfo:
        """The payload of the node record."""
        config = self._config
        return NodeInfo(
            name=config.name,
            addresses=self.addresses,
            boot=config.boot,
            version=config.version,
            memory_bytes=config.memory_bytes,
            minor_min=limits.MINOR_MIN,
            minor_max=limits.MINOR_MAX,
            plan_version=limits.PLAN_VERSION,
            phase=int(self.phase),
            restarts=self._restarts,
            speaks=limits.SPEAKS,
            relays=config.relays,
        )
