"""Where clients of this machine find services: from ``pln connect`` to a listener of the muscles.

Decides: which listeners stand, what they are for, and what is tried again.
Does not know: sockets; which clients come.
Invariants: a listener that was answered for stands again after a restart, at the same place. One
    that cannot be opened again is tried every ``records.LISTENER_AGAIN_NS`` and shown with its
    reason.
Source: docs/design/services.md#reaching.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from pollen.core import timers
from pollen.core.codec import Refusal, Rejection, decode, encode
from pollen.core.effects import CloseListener, Log, OpenListener, SetTimer
from pollen.core.events import Event, ListenerOpened
from pollen.core.ids import ID_BYTES, Nanos, PeerId, RequestId
from pollen.core.policy import Party
from pollen.core.services import records
from pollen.core.services.choosing import choose, parted
from pollen.core.services.directory import Directory
from pollen.core.services.records import LOOPBACK, Service
from pollen.core.servicewords import (
    ConnectCommand,
    Connected,
    DisconnectCommand,
    Disconnected,
    ListenerView,
)
from pollen.core.turn import Asked, Handler, Room, Turn

LISTENER_TABLE = "listener"
# Where a proxy listens. Source: RFC 1928 section 3, port 1080.
PROXY = f"{LOOPBACK}:1080"
OPEN, OPENING, FAILED = "open", "opening", "failed"


class Kept(msgspec.Struct, frozen=True, array_like=True):
    """A listener as kept on disk, by the text of where it listens. Fields are only appended."""

    service: str
    provider: bytes
    datagrams: bool
    any_user: bool
    idle_ms: int
    auth: str = ""


class Listener(msgspec.Struct, kw_only=True):
    """One listener. ``request`` waits for its first opening; ``may_move``: any port will do."""

    number: int
    bind: str
    kept: Kept
    state: str = OPENING
    reason: str = ""
    request: RequestId | None = None
    may_move: bool = False

    @property
    def provider(self) -> PeerId | None:
        """The only node that serves its clients."""
        return PeerId(self.kept.provider) if self.kept.provider else None


class Listeners(Room):
    """``party`` is what gates read of this node; ``name_of`` a node's name; ``targets`` where the
    services of this node are."""

    def __init__(
        self,
        directory: Directory,
        party: Callable[[], Party],
        name_of: Callable[[PeerId], str],
        targets: Callable[[], Collection[str]],
    ) -> None:
        self._directory = directory
        self._targets = targets
        self._party = party
        self._name_of = name_of
        self._held: dict[int, Listener] = {}
        self._numbers = 0

    def restore(self, rows: Sequence[tuple[bytes, bytes]]) -> list[Rejection]:
        """The listeners that stood when this node stopped; the faults in what its disk holds."""
        faults = []
        for key, raw in rows:
            kept = decode(Kept, raw, "listener-row")
            if isinstance(kept, Rejection) or len(kept.provider) not in (0, ID_BYTES):
                faults.append(kept if isinstance(kept, Rejection) else Rejection("listener-row"))
            else:
                _, _, bind = key.decode("utf-8", "replace").partition(" ")
                self._add(bind, kept)
        return faults

    def start(self, turn: Turn) -> None:
        """The muscles take clients: open what stood before."""
        for listener in self._held.values():
            turn.do(_opening(listener))

    def commands(self) -> Mapping[type[object], Handler]:
        """To open and to close."""
        return {ConnectCommand: self.on_connect, DisconnectCommand: self.on_disconnect}

    def events(self) -> Mapping[type[Event], Handler]:
        """What came of an opening."""
        return {ListenerOpened: self.on_opened}

    def timers(self) -> Mapping[str, Handler]:
        """To try again what could not be opened."""
        return {timers.LISTENER: self.on_again}

    # -- to open --------------------------------------------------------------------------------

    def on_connect(self, asked: Asked, turn: Turn) -> None:
        """Open a listener; it is answered for when it is open and on disk."""
        command: ConnectCommand = asked.command
        planned = self._plan(command)
        if isinstance(planned, Refusal):
            turn.answer(asked.request, planned)
            return
        bind, kept = planned
        may_move = not command.local and bool(command.service)
        same = [h for h in self._held.values() if h.kept == kept and (h.bind == bind or may_move)]
        if same:
            is_open = same[0].state == OPEN
            answer = self._answer(same[0], unchanged=True) if is_open else _taken(same[0])
            turn.answer(asked.request, answer)
            return
        there = self._at(bind, kept)
        is_target = bind in self._targets()
        if may_move and (is_target or there is not None):
            bind = f"{LOOPBACK}:0"
        elif is_target:
            turn.answer(asked.request, _circle(bind))
            return
        elif there is not None:
            turn.answer(asked.request, _taken(there))
            return
        listener = self._add(bind, kept)
        listener.request, listener.may_move = asked.request, may_move
        turn.do(_opening(listener))

    def is_at(self, place: records.Place) -> bool:
        """Whether a listener of this node stands, or is to stand, at a place."""
        held = (h for h in self._held.values() if h.kept.datagrams == place.datagrams)
        return any(h.bind == place.text for h in held)

    def _at(self, bind: str, kept: Kept) -> Listener | None:
        """The listener of this node at a place; any port is no place."""
        if bind.endswith(":0"):
            return None
        key = _key(bind, kept)
        return next((h for h in self._held.values() if _key(h.bind, h.kept) == key), None)

    def _plan(self, command: ConnectCommand) -> tuple[str, Kept] | Refusal:
        if not command.service:
            return _plan_proxy(command)
        if command.auth:
            return Refusal(
                "usage",
                "a listener of one service has no protocol in which a password could be given",
                "a proxy has: pln connect --proxy LOCAL --auth FILE",
            )
        read = parted(command.service)
        if isinstance(read, Refusal):
            return read
        name, node = read
        found = self._directory.find(name)
        if isinstance(found, Refusal):
            return found
        chosen = choose(name, node, found, self._name_of) if node else None
        if isinstance(chosen, Refusal):
            return chosen
        asked = found if chosen is None else [chosen]
        if not any(service.lets(self._party()) for service in asked):
            return _shut_out(name, [self._name_of(s.owner) for s in asked], asked[0])
        datagrams = asked[0].record.datagrams
        text = command.local or f"{LOOPBACK}:{asked[0].record.port}"
        place = records.read_local(text, datagrams=datagrams)
        if isinstance(place, Refusal):
            return place
        if not place.is_loopback and not command.any_user:
            return Refusal(
                "denied",
                f"{place.text} is open to others than this user: they would come as this node",
                "if that is meant: --any-user; else leave the address out",
            )
        refusal = records.check_idle(command.idle_ms, datagrams=datagrams)
        if refusal is not None:
            return refusal
        idle_ms = command.idle_ms or records.SESSION_IDLE_MS
        kept = Kept(
            service=name,
            provider=b"" if chosen is None else chosen.owner,
            datagrams=datagrams,
            any_user=command.any_user,
            idle_ms=idle_ms,
        )
        return place.text, kept

    def _add(self, bind: str, kept: Kept) -> Listener:
        self._numbers += 1
        listener = Listener(number=self._numbers, bind=bind, kept=kept)
        self._held[listener.number] = listener
        return listener

    def on_opened(self, event: ListenerOpened, turn: Turn) -> None:
        """It stands, or it does not: somebody is told, or it is tried again."""
        listener = self._held.get(event.listener)
        if listener is None:
            return
        if not event.slug:
            listener.state, listener.reason = OPEN, ""
            listener.bind = event.bound
            if listener.request is not None:
                key = _key(listener.bind, listener.kept)
                turn.write((LISTENER_TABLE, key, encode(listener.kept)))
                turn.answer(listener.request, self._answer(listener), when_durable=True)
                listener.request = None
            return
        if listener.request is None:
            self._note_failed(listener, event, turn)
        elif listener.may_move:
            # Taken, or not for this user to take: it was not asked for.
            listener.may_move = False
            listener.bind = f"{LOOPBACK}:0"
            turn.do(_opening(listener))
        else:
            del self._held[listener.number]
            turn.answer(listener.request, Refusal(event.slug, event.reason, event.remedy))

    def _note_failed(self, listener: Listener, event: ListenerOpened, turn: Turn) -> None:
        """One that stood before cannot be opened: a line of the log when the reason is new."""
        if listener.reason != event.reason:
            fields: dict[str, str | int] = {
                "service": listener.kept.service,
                "at": listener.bind,
                "slug": event.slug,
                "reason": event.reason,
            }
            turn.do(Log(level="warning", event="listener-failed", fields=fields))
        listener.state, listener.reason = FAILED, event.reason
        token = timers.token_for(timers.LISTENER, listener.number.to_bytes(8, "big"))
        at = Nanos(turn.now.mono + records.LISTENER_AGAIN_NS)
        turn.do(SetTimer(token=token, at=at))

    def on_again(self, subject: bytes, turn: Turn) -> None:
        """Try once more, unless it is gone or stands by now."""
        listener = self._held.get(int.from_bytes(subject, "big"))
        if listener is not None and listener.state == FAILED:
            turn.do(_opening(listener))

    def _answer(self, listener: Listener, *, unchanged: bool = False) -> Connected:
        provider = listener.provider
        return Connected(
            service=listener.kept.service,
            bound=listener.bind,
            datagrams=listener.kept.datagrams,
            provider="" if provider is None else self._name_of(provider),
            unchanged=unchanged,
        )

    # -- to close -------------------------------------------------------------------------------

    def on_disconnect(self, asked: Asked, turn: Turn) -> None:
        """Close what a user names, and forget it."""
        target = asked.command.target
        meant = [held for held in self._held.values() if self._is_meant(held, target)]
        if not meant:
            at = ", ".join(held.bind for held in self._held.values())
            remedy = f"listeners stand at: {at}" if at else "no listener stands on this node"
            reason = f"nothing listens here for {target[:80]!r}"
            turn.answer(asked.request, Refusal("service-not-found", reason, remedy))
            return
        for held in meant:
            del self._held[held.number]
            turn.do(CloseListener(listener=held.number))
            turn.write((LISTENER_TABLE, _key(held.bind, held.kept), None))
            if held.request is not None:
                gone = Refusal("service-not-found", "the listener was closed again", "")
                turn.answer(held.request, gone)
        answer = Disconnected(bound=[held.bind for held in meant])
        turn.answer(asked.request, answer, when_durable=True)

    def _is_meant(self, held: Listener, target: str) -> bool:
        provider = held.provider
        words = {held.bind, held.bind.removeprefix(f"{LOOPBACK}:"), held.kept.service}
        if provider is not None:
            words.add(f"{held.kept.service}@{self._name_of(provider)}")
        return target in words

    # -- views ----------------------------------------------------------------------------------

    def views(self) -> list[ListenerView]:
        """All of them, by service."""
        return [
            ListenerView(
                service=held.kept.service,
                bound=held.bind,
                datagrams=held.kept.datagrams,
                state=held.state,
                provider="" if held.provider is None else self._name_of(held.provider),
                any_user=held.kept.any_user,
                reason=held.reason,
            )
            for held in sorted(self._held.values(), key=lambda h: (h.kept.service, h.bind))
        ]


def _key(bind: str, kept: Kept) -> bytes:
    """The key of a listener's row: a place of streams and one of datagrams may have one port."""
    return f"{'udp' if kept.datagrams else 'tcp'} {bind}".encode()


def _taken(held: Listener) -> Refusal:
    what = f"{held.kept.service!r}" if held.kept.service else "a proxy"
    return Refusal(
        "port-in-use",
        f"this node has a listener of {what} at {held.bind} ({held.state})",
        f"choose another place, or first: pln disconnect {held.bind}",
    )


def _circle(bind: str) -> Refusal:
    return Refusal(
        "port-in-use",
        f"a service of this node is at {bind}: clients would come back here for ever",
        "choose another place: pln connect NAME 0",
    )


def _plan_proxy(command: ConnectCommand) -> tuple[str, Kept] | Refusal:
    """A proxy is for programs of this machine, and for who has a password: whoever comes reaches
    everything as this node."""
    place = records.read_local(command.local or PROXY, datagrams=False)
    if isinstance(place, Refusal):
        return place
    if not (place.is_loopback or command.auth):
        return Refusal(
            "denied",
            f"{place.text} is open to other machines: they would reach every service as this node",
            "who may is told by a password: --auth FILE\n"
            "or give a port, an address of loopback or unix:PATH",
        )
    if command.auth and not command.auth.startswith("/"):
        reason = f"{command.auth[:80]!r} is not a whole path"
        return Refusal("usage", reason, "write it from / on")
    kept = Kept(
        service="",
        provider=b"",
        datagrams=False,
        any_user=command.any_user,
        idle_ms=0,
        auth=command.auth,
    )
    return place.text, kept


def _opening(listener: Listener) -> OpenListener:
    kept = listener.kept
    return OpenListener(
        listener=listener.number,
        bind=listener.bind,
        service=kept.service,
        datagrams=kept.datagrams,
        provider=listener.provider,
        any_user=kept.any_user,
        idle_ms=kept.idle_ms,
        auth=kept.auth,
    )


def _shut_out(name: str, providers: list[str], service: Service) -> Refusal:
    """Nobody who serves it lets this node in."""
    return Refusal(
        "denied",
        f"the gate of {name!r} at {', '.join(providers)} does not let this node in",
        f"it asks for: {service.gate}",
    )
