"""Calls in a simulated world: the side of one node's muscles that makes them.

Decides: nothing: where a call goes, for what it waits and whether it is tried again is asked of
    ``core.rules.attempts``, and when a link is left out of ``core.rules.silence``.
Does not know: how tables came to be, records, who is a member; how a call is run (``serving``).
Invariants: a link that is silent while calls are under way is left out after the seam's time and
    taken back on a byte. A call ends exactly once, and says whether any attempt of it may have run.
Source: docs/internals/seam.md#the-rules-of-a-request; docs/design/protocol.md#liveness
(ejection).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.ids import MILLISECOND, Hash, PeerId
from pollen.core.rng import Rng
from pollen.core.rules import numbers, routing
from pollen.core.rules.attempts import (
    Attempts,
    End,
    Failure,
    Look,
    Over,
    Place,
    Try,
    View,
    Wait,
)
from pollen.core.rules.silence import Heard
from pollen.sim.muscles.end import End as LinkEnd
from pollen.sim.muscles.serving import Arrived, Serving

if TYPE_CHECKING:
    from pollen.sim.muscles.plane import Plane, Stage


@dataclass(slots=True, eq=False)
class Call:
    """One call from its beginning at a door to its end. ``ended`` is 0 until then.

    ``retries``: those left to it and to the calls beneath it.
    """

    call: int
    origin: str
    name: str
    began: int
    deadline: int
    idempotent: bool
    seed: bytes = b""
    hops: int = numbers.HOPS
    calls_left: int = numbers.CALLS
    retries: int = numbers.RETRIES
    attempts: int = 0
    slug: str = ""
    reason: str = ""
    may_have_executed: bool = False
    ran_on: PeerId | None = None
    ended: int = 0
    is_counted: bool = False
    # Its last attempt is marked ``wake``.
    is_wake: bool = False
    # The row of its last attempt.
    row: fx.SeedRow | None = None
    parent: Callable[[Call], None] | None = None
    attempting: Attempts[PeerId] = field(init=False)

    @property
    def depth(self) -> int:
        """0 for a call from a door, more for one of a guest."""
        return 1 if self.hops < numbers.HOPS else 0

    def nested(
        self, call: int, name: str, share: routing.Share, parent: Callable[[Call], None]
    ) -> Call:
        """A call that this one's guest makes, within its share of the tree."""
        return Call(
            call=call, origin=self.origin, name=name, began=self.began, deadline=self.deadline,
            idempotent=self.idempotent, hops=share.hops, calls_left=share.calls,
            retries=share.retries, parent=parent,
        )  # fmt: skip

    @property
    def has_failed(self) -> bool:
        """Whether the caller was told an error."""
        return self.ended > 0 and self.slug != ""


@dataclass(slots=True, eq=False)
class Sent:
    """One attempt over a link, until it is answered or given up."""

    call: Call
    target: PeerId
    end: LinkEnd
    deadline: int
    # From 1.
    attempt: int
    is_done: bool = False


class Calls:
    """The calls of one node's muscles."""

    def __init__(self, stage: Stage, plane: Plane, rng: Rng) -> None:
        self._stage = stage
        self._plane = plane
        self._rng = rng
        self._machine = plane.machine
        self._boots = plane.machine.boots
        self._waiting: list[Call] = []
        self._saturated: dict[PeerId, int] = {}
        self._wanted: dict[PeerId, int] = {}
        self.serving = Serving(stage, plane, self, rng)

    # -- the caller's side ------------------------------------------------------------------------

    def begin(self, call: Call) -> None:
        """Make a call from this node."""
        call.attempting = Attempts(
            deadline=call.deadline, idempotent=call.idempotent, retries=call.retries
        )
        self._look(call)

    def begin_own(
        self, effect: fx.BeginCall, name: str, ended: Callable[[fx.BeginCall, str, str, int], None]
    ) -> None:
        """A call that the brain of this node begins, and who is to hear how it ended."""
        now, number = self._stage.now, self._rng.draw() << 64 | self._rng.draw()
        deadline = now + effect.budget_ms * MILLISECOND
        call = Call(
            call=number, origin=self._machine.name, name=name, began=now, deadline=deadline,
            idempotent=False, parent=lambda call: ended(effect, call.slug, call.reason, 0),
        )  # fmt: skip
        self.begin(call)

    def _look(self, call: Call) -> None:
        """What a call sees now, and what the rule makes of it."""
        row = self._plane.seeds.get(self._plane.names.get(call.name, b""))
        if row is None:
            self._finish(call, "seed-not-found", "no seed of that name here", False)
            return
        if not call.is_counted:
            # Before any wait: a seed that runs nowhere comes to life by being called.
            call.is_counted = True
            self.serving.counters_of(row.seed)[0] += 1
        view = self._view(row, call)
        step = call.attempting.poll(view, self._stage.now)
        if step.wanted is not None:
            self._want(view.places[step.wanted].node)
        match step.action:
            case Try(index):
                self._try(call, row, view.places[index].node)
            case Wait(until):
                self._waiting.append(call)
                self._stage.schedule(until - self._stage.now, self._lose_patience, call)
            case Over(End.LAST):
                self._finish(call, call.slug, call.reason, call.may_have_executed)
            case Over(End.DEADLINE):
                self._finish(call, "deadline", "out of time", False)
            case _:
                reason = f"none of {len(view.places)} replicas can be reached"
                self._finish(call, "unreachable", reason, False)

    def _try(self, call: Call, row: fx.SeedRow, target: PeerId) -> None:
        call.attempts += 1
        call.retries = call.attempting.retries
        call.seed, call.is_wake, call.row = row.seed, not row.replicas, row
        if target == self._machine.key:
            self._take_here(call, row.seed)
        else:
            self._send(call, target)

    def _lose_patience(self, call: Call) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
            self._look(call)

    def look_again(self) -> None:
        """The tables changed, or a link came: calls that waited for it go on."""
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self._look(call)

    def _view(self, row: fx.SeedRow, call: Call) -> View[PeerId]:
        service = self.serving.counters_of(row.seed)[2]
        return View(
            places=[self._place(node, service) for node in row.replicas or row.wake],
            cold=not row.replicas,
            idempotent=row.options.idempotent,
            changed=call.row is not None and call.row != row,
            draw=self._rng.draw(),
        )

    def _want(self, peer: PeerId) -> None:
        """The brain hears, once a second a peer, that calls would use a link to it."""
        now = self._stage.now
        if now >= self._wanted.get(peer, 0):
            self._wanted[peer] = now + numbers.WANTED_NS
            self._stage.hand(self._machine, self._boots, ev.LinkWanted(peer=peer))

    def _place(self, node: PeerId, service: int) -> Place[PeerId]:
        if node == self._machine.key:
            return Place(
                node=node,
                in_flight=self.serving.running,
                service_us=service,
                saturated=self.serving.fullness == numbers.FULL,
            )
        end = self._stage.network.routed(self._machine, node)
        peer = self._plane.peers.get(node)
        is_usable = end is not None and peer is not None and self._is_usable(end)
        return Place(
            node=node,
            price_us=peer.price_us if peer else 0,
            in_flight=end.calls if end else 0,
            service_us=service,
            ejected=not is_usable,
            saturated=self._stage.now < self._saturated.get(node, 0),
            unlinked=peer is not None and end is None,
            silent=peer is not None and end is not None and end.is_ejected,
        )

    def _is_usable(self, end: LinkEnd) -> bool:
        age = end.peer_age + self._stage.now - end.probed
        return not end.is_ejected and age < limits.BRAIN_DRAIN_MS * MILLISECOND

    def _take_here(self, call: Call, seed: Hash) -> None:
        def answer(slug: str, reason: str, executed: bool) -> None:
            if slug:
                # Not loaded here any more: that speaks of the place, as it does from afar.
                remote = slug == "seed-not-found"
                self._failed(call, slug, reason, executed, remote=remote)
            else:
                call.ran_on = self._machine.key
                self._finish(call, "", "", True)

        self.serving.serve(Arrived(call, seed, self._machine.key, call.deadline, answer))

    def _send(self, call: Call, target: PeerId) -> None:
        end = self._stage.network.routed(self._machine, target)
        if end is None or end.other is None:
            self._failed(call, "unreachable", "no link", False, remote=True, is_cut=True)
            return
        sent = Sent(call, target, end, call.deadline, call.attempts)
        end.calls += 1
        end.waits.append(sent)
        self._stage.schedule(call.deadline - self._stage.now, self._overdue, sent)
        if not end.is_watched:
            end.is_watched = True
            self._stage.schedule(numbers.SILENCE_NS, self._watch, end)
        self._stage.network.stream(end, self._arrive, end.other, sent)

    def _arrive(self, end: LinkEnd, sent: Sent) -> None:
        """The call's stream reached the peer, whole."""
        machine = end.machine
        if machine.is_frozen:
            self._stage.schedule(numbers.SILENCE_NS, self._arrive, end, sent)
            return
        if end.is_open and end.boots == machine.boots and machine.plane is not None:
            machine.plane.calls.serving.take(end, sent, self)

    def _overdue(self, sent: Sent) -> None:
        if self._settle(sent):
            self._failed(sent.call, "deadline", "out of time", True, remote=True)

    def _settle(self, sent: Sent) -> bool:
        """An attempt is over; False when it was before."""
        if sent.is_done:
            return False
        sent.is_done = True
        sent.end.calls -= 1
        if sent in sent.end.waits:
            sent.end.waits.remove(sent)
        return True

    def on_answer(self, sent: Sent, slug: str, reason: str, executed: bool, fullness: int) -> None:
        """The peer's reply to one attempt is here, with how full it is."""
        if self._boots != self._machine.boots or not self._settle(sent):
            return
        if fullness == numbers.FULL:
            self._saturated[sent.target] = self._stage.now + numbers.SATURATED_NS
        if not slug:
            sent.call.ran_on = sent.target
            self._finish(sent.call, "", "", True)
            return
        self._failed(sent.call, slug, reason, executed, remote=True)

    def _watch(self, end: LinkEnd) -> None:
        """While calls are under way: probe a silent link, eject it, take it back."""
        if not end.is_open or (not end.calls and not end.is_ejected):
            end.is_watched = False
            return
        now = self._stage.now
        if self._stage.network.is_answering(end):
            end.heard = max(end.heard, now)
        heard = max(end.heard, end.probed) > end.looked
        end.looked = now
        judged = end.silence.poll(heard=heard, srtt_ns=end.srtt_ns, now=now)
        if judged is Heard.AGAIN:
            was_ejected, end.is_ejected = end.is_ejected, False
            if was_ejected:
                self.look_again()
        elif judged is Heard.EJECTED and not end.is_ejected:
            end.is_ejected = True
            self._stage.count("ejections")
            self.on_link_lost(end)
        self._stage.schedule(numbers.SILENCE_NS, self._watch, end)

    def on_link_lost(self, end: LinkEnd) -> None:
        """Calls under way on a link that broke or was ejected: they may have executed."""
        for sent in list(end.waits):
            if self._settle(sent):
                reason = "the link broke"
                self._failed(sent.call, "unreachable", reason, True, remote=True, is_cut=True)

    def _failed(
        self,
        call: Call,
        slug: str,
        reason: str,
        executed: bool,
        *,
        remote: bool,
        is_cut: bool = False,
    ) -> None:
        """One attempt failed. ``is_cut``: no answer came."""
        failure = Failure(slug=slug, may_have_executed=executed, remote=remote, cut=is_cut)
        step = call.attempting.poll(failure, self._stage.now)
        is_gone = self._boots != self._machine.boots or self._machine.node is None
        if is_gone or not isinstance(step.action, Look):
            self._finish(call, slug, reason, executed)
            return
        call.slug, call.reason = slug, reason
        call.may_have_executed = call.may_have_executed or executed
        self._stage.count("retries")
        self._look(call)

    def _finish(self, call: Call, slug: str, reason: str, executed: bool) -> None:
        if call.ended:
            self._stage.note_breach("a-call-ends-once", f"call {call.call:x} to {call.name}")
            return
        call.slug, call.reason = slug, reason
        call.may_have_executed = call.may_have_executed or executed
        call.ended = self._stage.now
        self._stage.note_end(call)
        if call.parent is not None:
            call.parent(call)

    def end_all(self) -> None:
        """The process is gone, and with it the clients at its doors: nobody waits any more."""
        self._waiting = []
        self.serving.end_all()
