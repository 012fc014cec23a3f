"""What an admin has another member's node do, and how the answer comes back.

Decides: who may ask (an admin of the cluster), how many verbs run here at once, and what a user
    hears when the other node does not answer.
Does not know: what a verb does (the runtime runs it), who sits at the other node.
Invariants: a command is answered once: by us, by what came back, or when the wait ends. A request
    is sent once at most, so nothing runs twice. Nothing waits for a link longer than its asker.
Source: docs/design/protocol.md#admin-requests. Refused: a second attempt after a lost link; a load
    that runs twice measures neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from pollen.core import limits, timers
from pollen.core.codec import Refusal
from pollen.core.commands import AdminCommand, Administered
from pollen.core.effects import Log, RunVerb, SendMessage, SetTimer
from pollen.core.events import Event, LinkWanted, VerbEnded
from pollen.core.ids import Nanos, PeerId, RequestId, short
from pollen.core.messages import AdminReply, AdminRequest, Message, encode_message
from pollen.core.trust import Tier
from pollen.core.turn import Asked, Handler, Heard, Room, Turn

# These change nothing. A line for each would be news to who follows the log by them.
_LOOKS = frozenset({"status", "figures", "logs", "upgrade-look"})
# These take no time: they have as much room again as all have. end-load ends a load.
_QUICK = _LOOKS | {"end-load"}
# The verbs that this version runs for others.
VERBS = _QUICK | {"load", "upgrade"}


class Waiting(msgspec.Struct, frozen=True, kw_only=True):
    """A command whose answer another node owes us."""

    request: RequestId
    peer: PeerId
    wait_ms: int


class Parked(msgspec.Struct, frozen=True, kw_only=True):
    """A message for a node that is not linked yet, of use until then."""

    until: Nanos
    body: bytes


class Admin(Room):
    """Both sides of admin requests. ``want`` asks for a link; ``tier_of`` is -1 for a stranger."""

    def __init__(
        self,
        own: PeerId,
        has_link: Callable[[PeerId], bool],
        want: Callable[[LinkWanted, Turn], None],
        tier_of: Callable[[PeerId], int],
    ) -> None:
        self._own = own
        self._has_link = has_link
        self._want = want
        self._tier_of = tier_of
        self._waiting: dict[bytes, Waiting] = {}
        self._held: dict[PeerId, list[Parked]] = {}
        self._running: dict[tuple[PeerId, bytes], Nanos] = {}
        self._count = 0

    def events(self) -> Mapping[type[Event], Handler]:
        """What a verb came to here."""
        return {VerbEnded: self.on_ended}

    def messages(self) -> Mapping[type[Message], Handler]:
        """What an admin asks, and what another node answers."""
        return {AdminRequest: self.on_request, AdminReply: self.on_reply}

    def commands(self) -> Mapping[type[object], Handler]:
        """To have another node do something."""
        return {AdminCommand: self.on_asked}

    def timers(self) -> Mapping[str, Handler]:
        """The end of a wait for an answer."""
        return {timers.ADMIN: self.on_timer}

    # -- the asker ------------------------------------------------------------------------------

    def on_asked(self, asked: Asked, turn: Turn) -> None:
        """A user asks another node for something: send it as soon as there is a link to it."""
        command: AdminCommand = asked.command
        if self._tier_of(self._own) < Tier.ADMIN:
            turn.answer(asked.request, not_admin(self._own))
            return
        if len(command.args) > limits.ADMIN_ARGS_MAX_BYTES:
            reason = f"{len(command.args)} bytes cannot be sent to another node at once"
            refusal = Refusal("input-too-large", reason, "send less, or do it here")
            turn.answer(asked.request, refusal)
            return
        peer = PeerId(bytes.fromhex(command.node))
        self._count += 1
        key = self._count.to_bytes(8, "big")
        self._waiting[key] = Waiting(request=asked.request, peer=peer, wait_ms=command.wait_ms)
        at = Nanos(turn.now.mono + command.wait_ms * 1_000_000)
        message = AdminRequest(key, command.verb, command.args, command.wait_ms)
        self._send(peer, message, at, turn)
        turn.do(SetTimer(token=timers.token_for(timers.ADMIN, key), at=at))

    def on_reply(self, heard: Heard, turn: Turn) -> None:
        """The answer; from anybody else, or late, it is nothing."""
        message: AdminReply = heard.message
        waiting = self._waiting.get(message.key)
        if waiting is None or waiting.peer != heard.peer:
            return
        del self._waiting[message.key]
        if message.slug:
            refusal = Refusal(message.slug, message.reason, message.remedy)
            turn.answer(waiting.request, refusal)
        else:
            turn.answer(waiting.request, Administered(body=message.body))

    def on_timer(self, key: bytes, turn: Turn) -> None:
        """It did not answer in time."""
        waiting = self._waiting.pop(key, None)
        if waiting is None:
            return
        reason = f"node {short(waiting.peer)} did not answer within {waiting.wait_ms / 1000:g} s"
        remedy = "see whether it is up, and of this version: pln status"
        turn.answer(waiting.request, Refusal("unreachable", reason, remedy))

    # -- the node that is asked -----------------------------------------------------------------

    def on_request(self, heard: Heard, turn: Turn) -> None:
        """Run it, or say why not."""
        peer, message, now = heard.peer, heard.message, turn.now.mono
        until = Nanos(now + min(message.wait_ms, limits.ADMIN_WAIT_MAX_MS) * 1_000_000)
        refusal = self._judge(message, peer, now)
        fields: dict[str, str | int] = {"peer": short(peer), "verb": message.verb}
        if refusal is not None:
            said = AdminReply(message.key, b"", refusal.slug, refusal.reason, refusal.remedy)
            fields["slug"] = refusal.slug
            turn.do(Log(level="warning", event="admin-refused", fields=fields))
            self._send(peer, said, until, turn)
            return
        self._running[peer, message.key] = until
        level = "debug" if message.verb in _LOOKS else "info"
        turn.do(Log(level=level, event="admin", fields=fields))
        turn.do(RunVerb(peer=peer, key=message.key, verb=message.verb, args=message.args))

    def _judge(self, message: AdminRequest, peer: PeerId, now: Nanos) -> Refusal | None:
        if self._tier_of(peer) < Tier.ADMIN:
            return not_admin(peer)
        if message.verb not in VERBS:
            reason = f"node {short(self._own)} knows no verb {message.verb!r}"
            return Refusal("usage", reason, "bring it to the version of the asker")
        if (peer, message.key) in self._running:
            return Refusal("bad-request", "this request runs already", "ask once")
        self._running = {key: until for key, until in self._running.items() if until > now}
        if len(self._running) >= limits.ADMIN_RUNS_MAX * (1 + (message.verb in _QUICK)):
            reason = f"node {short(self._own)} does {len(self._running)} things for admins already"
            return Refusal("overloaded", reason, "wait for them")
        return None

    def on_ended(self, event: VerbEnded, turn: Turn) -> None:
        """What came of it goes back; to somebody who gave up it is nothing."""
        until = self._running.pop((event.peer, event.key), None)
        if until is None or until <= turn.now.mono:
            return
        said = AdminReply(event.key, event.body, event.slug, event.reason, event.remedy)
        self._send(event.peer, said, until, turn)

    # -- links ----------------------------------------------------------------------------------

    def _send(self, peer: PeerId, message: Message, until: Nanos, turn: Turn) -> None:
        body = encode_message(message)
        if self._has_link(peer):
            turn.do(SendMessage(peer=peer, body=body))
            return
        held = self._held.setdefault(peer, [])
        held[:] = [one for one in held if one.until > turn.now.mono][-limits.ADMIN_RUNS_MAX :]
        held.append(Parked(until=until, body=body))
        self._want(LinkWanted(peer=peer), turn)

    def on_link(self, peer: PeerId, turn: Turn) -> None:
        """What waited for this link goes out."""
        for one in self._held.pop(peer, []):
            if one.until > turn.now.mono:
                turn.do(SendMessage(peer=peer, body=one.body))


def not_admin(peer: PeerId) -> Refusal:
    """Who may not have others' nodes do things."""
    reason = f"node {short(peer)} is not an admin of this cluster"
    return Refusal("denied", reason, "ask from an admin's node; one joins by: pln invite --admin")
