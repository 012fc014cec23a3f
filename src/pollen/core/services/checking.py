"""The checks of the programs that this node serves: when one is due, and what came of it.

Decides: when a program is checked, and what the others are told of it.
Does not know: how a program is asked (the muscles do); who is tried first (``directory``).
Invariants: a program has one check under way at most, and none while its name does not count. A
    result of another target than the one that is served now changes nothing. Others are told when
    the state changes, and then only.
Source: docs/design/services.md#health.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from pollen.core import timers
from pollen.core.effects import Log, ProbeService, SetTimer
from pollen.core.events import Event, ServiceProbed
from pollen.core.ids import MILLISECOND, SECOND, Nanos, PeerId, Token
from pollen.core.kinds import HEALTH
from pollen.core.services.directory import Directory
from pollen.core.services.health import (
    Check,
    Health,
    HealthRecord,
    State,
    judged,
    plain,
    record_of,
)
from pollen.core.services.serving import Target
from pollen.core.servicewords import Checks, CheckView
from pollen.core.turn import Handler, Room, Turn

# A look again, where a result is on its way; and where the name does not count, or not yet.
_SOON = 100 * MILLISECOND
_AGAIN = 10 * SECOND


class Checked(msgspec.Struct, kw_only=True):
    """What is known of one program. ``number`` is that of its last check, ``error`` why that
    failed, empty when it did not. ``ends``: when its result is waited for no longer. ``good`` and
    ``bad`` count the checks by their results. ``is_told``: the others know the state."""

    target: Target
    check: Check
    number: int = 0
    due: Nanos = Nanos(0)
    ends: Nanos = Nanos(0)
    health: Health = Health()
    since_unix_ms: int = 0
    error: str = ""
    error_unix_ms: int = 0
    good: int = 0
    bad: int = 0
    is_told: bool = True


class Checking(Room):
    """``targets``: where this node's services are, by name; ``has_room`` says whether a record of
    its own fits."""

    def __init__(
        self,
        own: PeerId,
        directory: Directory,
        targets: Mapping[str, Target],
        has_room: Callable[[tuple[str, bytes], int], bool],
    ) -> None:
        self._own = own
        self._directory = directory
        self._targets = targets
        self._has_room = has_room
        self._held: dict[str, Checked] = {}
        self._by_number: dict[int, str] = {}
        self._numbers = 0

    def events(self) -> Mapping[type[Event], Handler]:
        """What came of a check."""
        return {ServiceProbed: self.on_probed}

    def timers(self) -> Mapping[str, Handler]:
        """When one is due."""
        return {timers.PROBE: self.on_due}

    def start(self, turn: Turn) -> None:
        """The muscles run: check what was served before."""
        for name in self._targets:
            self.note_target(name, turn)

    def note_target(self, name: str, turn: Turn) -> None:
        """Another target or another check under a name begins anew; one that stays goes on."""
        target, held = self._targets.get(name), self._held.get(name)
        if held is not None and held.target == target:
            return
        if held is not None:
            self._forget(name, held, turn)
            del self._held[name]
        if target is not None and target.check is not None:
            self._held[name] = Checked(target=target, check=target.check, due=turn.now.mono)
            turn.do(SetTimer(token=_token(name), at=turn.now.mono))

    def _forget(self, name: str, held: Checked, turn: Turn) -> None:
        """Nothing is known of a program any more."""
        self._by_number.pop(held.number, None)
        held.error = ""
        if held.health.state is not State.UNKNOWN:
            turn.publish(HEALTH, name.encode(), None)
        held.health = Health()

    def on_due(self, subject: bytes, turn: Turn) -> None:
        """Check a program, unless its name does not count any more."""
        name = subject.decode("utf-8", "replace")
        held, now = self._held.get(name), turn.now.mono
        if held is None or now < held.due:
            return
        if held.number in self._by_number and now < held.ends:
            # The one before takes all of its time, and its result is on its way.
            self._look_at(name, held, Nanos(now + _SOON), turn)
            return
        every = held.check.every_ms * MILLISECOND
        if self._directory.of_node(name, self._own) is None:
            # Its record may be read a moment later.
            self._look_at(name, held, Nanos(now + min(every, _AGAIN)), turn)
            self._forget(name, held, turn)
            return
        self._look_at(name, held, Nanos(now + every), turn)
        # One that the muscles never answered is given up.
        self._by_number.pop(held.number, None)
        held.ends = Nanos(now + held.check.timeout_ms * MILLISECOND + SECOND)
        self._numbers += 1
        held.number = self._numbers
        self._by_number[held.number] = name
        turn.do(
            ProbeService(
                number=held.number,
                target=held.target.text,
                path=held.check.path,
                proxy_header=held.target.proxy_header,
                timeout_ms=held.check.timeout_ms,
            )
        )

    @staticmethod
    def _look_at(name: str, held: Checked, at: Nanos, turn: Turn) -> None:
        held.due = at
        turn.do(SetTimer(token=_token(name), at=at))

    def on_probed(self, event: ServiceProbed, turn: Turn) -> None:
        """A result: the health that it leads to, told where it is another one."""
        name = self._by_number.pop(event.number, None)
        held = None if name is None else self._held.get(name)
        if name is None or held is None:
            return
        if event.slug == "overloaded":
            # This node had no file left to ask with: that says nothing of the program.
            return
        now_ms = turn.now.wall // MILLISECOND
        is_good = not event.slug
        if is_good:
            held.good, held.error = held.good + 1, ""
        else:
            held.bad, held.error, held.error_unix_ms = held.bad + 1, event.reason, now_ms
        before, held.health = held.health.state, judged(held.health, is_good=is_good)
        if held.health.state is not before:
            held.since_unix_ms, held.is_told = now_ms, False
            self._log(name, held, before, turn)
        if not held.is_told:
            self._tell(name, held, turn)

    def _tell(self, name: str, held: Checked, turn: Turn) -> None:
        """Publish the state; where there is no room for it, the next result tries again."""
        payload = record_of(held.health.state, held.since_unix_ms, held.error)
        held.is_told = self._has_room((HEALTH, name.encode()), len(payload))
        if held.is_told:
            turn.publish(HEALTH, name.encode(), payload)

    @staticmethod
    def _log(name: str, held: Checked, before: State, turn: Turn) -> None:
        state = held.health.state
        fields: dict[str, str | int] = {"service": name, "check": held.check.text}
        if state is State.FAILING:
            fields["reason"] = held.error
            turn.do(Log(level="warning", event="service-failing", fields=fields))
        elif before is State.FAILING:
            turn.do(Log(level="info", event="service-healthy", fields=fields))

    # -- views ----------------------------------------------------------------------------------

    def view(self, name: str) -> CheckView | None:
        """What is known of a program of this node; None where nothing is checked."""
        held = self._held.get(name)
        if held is None:
            return None
        return CheckView(
            check=held.check.text,
            every_ms=held.check.every_ms,
            timeout_ms=held.check.timeout_ms,
            state=held.health.state.label,
            since_unix_ms=held.since_unix_ms if held.health.state is not State.UNKNOWN else 0,
            against=max(held.health.run, 0),
            needed=held.health.needed,
            error=held.error,
            error_unix_ms=held.error_unix_ms,
            good=held.good,
            bad=held.bad,
        )

    def said(self, name: str, peer: PeerId) -> HealthRecord | None:
        """What a node that is online says of its program; of this node with the newest reason."""
        said, held = self._directory.health(name, peer), self._held.get(name)
        if said is None or held is None or peer != self._own or not said.is_failing:
            return said
        return msgspec.structs.replace(said, reason=plain(held.error or said.reason))

    def figures(self) -> Checks:
        """All of them in numbers."""
        return {
            name: (int(held.health.state is State.HEALTHY), held.good, held.bad)
            for name, held in self._held.items()
        }


def _token(name: str) -> Token:
    return timers.token_for(timers.PROBE, name.encode())
