"""The room of services, put together.

Decides: in which order its parts follow a change.
Does not know: what each part decides.
Invariants: rows follow names, and names follow records, in the turn in which those came.
Source: docs/design/services.md.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from pollen.core import timers
from pollen.core.codec import Refusal, Rejection
from pollen.core.effects import SetTimer
from pollen.core.ids import PeerId
from pollen.core.kinds import HEALTH, SERVICE
from pollen.core.placement import Placing, Situation
from pollen.core.seeds import Seed
from pollen.core.services.asking import why_asked
from pollen.core.services.checking import Checking
from pollen.core.services.directory import Directory
from pollen.core.services.explaining import Explaining, Known
from pollen.core.services.health import HealthRecord
from pollen.core.services.listeners import LISTENER_TABLE, Listeners
from pollen.core.services.records import Place
from pollen.core.services.serving import SERVED_TABLE, Serving
from pollen.core.services.shown import Shown
from pollen.core.servicewords import Checks
from pollen.core.trust import Certificate, Members
from pollen.core.turn import Room, Turn


class Services:
    """``certificate`` is this node's own; ``has_room`` says whether a record of its own fits."""

    def __init__(
        self,
        own: PeerId,
        members: Members,
        situation: Situation,
        placing: Placing,
        certificate: Callable[[], Certificate],
        has_room: Callable[[tuple[str, bytes], int], bool],
    ) -> None:
        self._situation = situation
        self._members = members
        self._directory = Directory(own, members, situation, placing.price_of, placing.services)
        self._serving = Serving(
            own,
            members,
            situation,
            self._directory,
            certificate,
            has_room,
            placing.served,
            self._listens_at,
        )
        self._checking = Checking(own, self._directory, self._serving.targets, has_room)
        self._serving.watch = self._checking.note_target
        situation.kinds[SERVICE] = lambda record, now: self._directory.note_record(record)
        situation.kinds[HEALTH] = lambda record, now: self._directory.note_health(record)
        self._listeners = Listeners(
            self._directory, lambda: certificate().party, members.name_of, self._serving.places
        )
        self._shown = Shown(
            own,
            members,
            situation,
            self._directory,
            self._serving,
            self._listeners,
            self._checking,
            lambda: placing.telemetry,
        )
        self._explaining = Explaining(
            own,
            members,
            lambda: situation.live,
            self._directory,
            self._serving,
            self._listeners,
            self._checking,
        )

    def rooms(self) -> list[Room]:
        """Who takes what of it."""
        return [self._serving, self._listeners, self._checking, self._shown]

    def restore(self, restored: Mapping[str, Sequence[tuple[bytes, bytes]]]) -> list[Rejection]:
        """What was served here and listened here; the faults in what the disk holds."""
        faults = self._serving.restore(restored.get(SERVED_TABLE, ()))
        return faults + self._listeners.restore(restored.get(LISTENER_TABLE, ()))

    def start(self, turn: Turn) -> None:
        """The muscles run: open the listeners that stood before, end what programs served."""
        self._listeners.start(turn)
        self._serving.start(turn)
        self._checking.start(turn)

    def follow(self, moved: Collection[PeerId], turn: Turn) -> None:
        """Bring names and rows up to date, after these peers moved; the rest in the next turn."""
        for peer in moved:
            self._directory.note_peer(peer)
        self._directory.refresh()
        self._serving.refresh()
        if self._directory.has_work:
            turn.do(SetTimer(token=timers.token_for(timers.WORK), at=turn.now.mono))

    def _listens_at(self, place: Place) -> bool:
        return self._listeners.is_at(place)

    def held_by(self, peers: Collection[PeerId]) -> list[str]:
        """The names that these members serve, and nobody else."""
        return self._directory.held_by(peers)

    def checks(self) -> Checks:
        """The checks of this node's programs in numbers."""
        return self._checking.figures()

    def health(self, name: str, peer: PeerId) -> HealthRecord | None:
        """What a node that is online says of its program."""
        return self._checking.said(name, peer)

    def why(self, target: str) -> Known | Refusal:
        """Who serves a name, whom they let in, and what of it is here."""
        return self._explaining.why(target)

    def why_asked(self, seed: Seed, hosts: Sequence[PeerId]) -> list[str]:
        """A sentence a service that a seed names: whether its guests on these hosts may ask it."""
        names = seed.options.allow_services
        return why_asked(self._directory, self._members, names, seed.owner, hosts)

    def refusal_for_seed(self, name: str) -> Refusal | None:
        """Why no seed may have this name; one that has it already keeps it."""
        holding = self._situation.names.get(name)
        if holding is not None and holding.is_live:
            return None
        return self._directory.refusal_for_seed(name)
