"""Graves as peers tell of them: who was buried elsewhere, and who must hear that it was.

Decides: whether an owner that others buried is buried here as well, and who is told of a grave.
Does not know: how long anybody was absent (``retention``), how sets are compared (``gossip``).
Invariants: nobody buries for one peer's word while it has more links, nor an owner that it is
    linked to or knows a newer epoch of. Who speaks for itself and is buried here is sent the proof
    of its version and the grave: it goes on above, in a new epoch, which lifts the grave. Each is
    told at most once in ``GRAVE_TELL_NS``.
Source: docs/design/protocol.md#deleting (a grave; only a higher epoch lifts it). Why telling: a
    machine that slept while another was buried would count that one as alive for ever, with too few
    who could accuse it.
"""

from __future__ import annotations

from collections.abc import Container

from pollen.core import limits
from pollen.core.effects import SendMessage, SendRecords
from pollen.core.ids import Nanos, PeerId
from pollen.core.messages import Line, Lines, encode_message
from pollen.core.records.ledger import Records
from pollen.core.records.owners import OwnerSet
from pollen.core.turn import Turn


class Graves:
    """What is said about graves on one node."""

    def __init__(self, own: PeerId, records: Records) -> None:
        self._own = own
        self._records = records
        self._told: dict[PeerId, dict[PeerId, tuple[int, Nanos]]] = {}
        self._quiet: dict[tuple[PeerId, PeerId], Nanos] = {}
        self._stays_until = Nanos(0)

    def on_line(
        self, line: Line, owned: OwnerSet, peer: PeerId, links: Container[PeerId], turn: Turn
    ) -> None:
        """A peer's line and our set: one of the two is a grave, the other is not."""
        now = turn.now.mono
        if owned.is_grave:
            if line.epoch <= owned.top[0]:
                self._tell(owned, peer, turn)
        elif line.owner == self._own:
            self._on_own(line, now)
        elif line.owner in links:
            self._pass_on(line, turn)
        elif line.epoch >= owned.top[0] and owned.rows:
            until = Nanos(now + limits.GRAVE_TOLD_NS)
            self._told.setdefault(line.owner, {})[peer] = line.epoch, until

    def settle(self, links: list[PeerId], now: Nanos) -> None:
        """Bury whom enough of our links told to be buried; forget what was said long ago."""
        for key in [k for k, until in self._quiet.items() if until <= now]:
            del self._quiet[key]
        enough = min(limits.GRAVE_TELLERS, len(links))
        for owner, told in list(self._told.items()):
            epoch = self._records.peek(owner).top[0]
            fresh = [p for p, said in told.items() if said[0] >= epoch and said[1] > now]
            tellers = sum(peer in links for peer in fresh)
            if owner in links or not tellers:
                del self._told[owner]
            elif tellers >= enough:
                del self._told[owner]
                self._records.collect(owner)

    def _on_own(self, line: Line, now: Nanos) -> None:
        """We were buried. Why not at every word: one liar would keep us from ever being heard."""
        if line.epoch == self._records.epoch and now >= self._stays_until:
            self._stays_until = Nanos(now + limits.GRAVE_JUMP_NS)
            self._records.leave_epoch()

    def _tell(self, owned: OwnerSet, peer: PeerId, turn: Turn) -> None:
        if not self._may_speak(peer, owned.owner, turn.now.mono):
            return
        proof = self._records.proofs.get(owned.owner)
        if peer == owned.owner and proof is not None:
            turn.do(SendRecords(peer=peer, records=[proof.signed]))
        self._say(peer, owned.line(), turn)

    def _pass_on(self, line: Line, turn: Turn) -> None:
        """It lives, and must know where it is not heard."""
        if self._may_speak(line.owner, line.owner, turn.now.mono):
            self._say(line.owner, line, turn)

    def _may_speak(self, peer: PeerId, owner: PeerId, now: Nanos) -> bool:
        if now < self._quiet.get((peer, owner), Nanos(0)):
            return False
        self._quiet[peer, owner] = Nanos(now + limits.GRAVE_TELL_NS)
        return True

    def _say(self, peer: PeerId, line: Line, turn: Turn) -> None:
        turn.do(SendMessage(peer=peer, body=encode_message(Lines(b"", [line], False))))
