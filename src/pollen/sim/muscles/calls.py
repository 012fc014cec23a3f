"""Calls in a simulated world: the side of one node's muscles that makes them.

Decides: nothing of its own: where a call goes and whether it is tried again is asked of
    ``core.rules.routing``.
Does not know: how tables came to be, records, who is a member; how a call is run (``serving``).
Invariants: a link that is silent while calls are under way is left out after the seam's time and
    taken back on a byte. A call ends exactly once, and says whether any attempt of it may have run.
Source: docs/internals/seam.md#the-six-per-call-algorithms; docs/design/protocol.md#liveness
(ejection).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core.ids import MILLISECOND, SECOND, Hash, PeerId
from pollen.core.rng import Rng
from pollen.core.rules import routing
from pollen.sim.muscles.end import End
from pollen.sim.muscles.serving import Arrived, Serving

if TYPE_CHECKING:
    from pollen.sim.muscles.plane import Plane, Stage

# The muscles' numbers: how long a call waits for the first replica of a seed, and for a link to a
# replica that is alive; how often the brain hears of that; how long a full peer is left alone.
COLD_NS = 10 * SECOND
REACH_NS = 5 * SECOND
WANTED_NS = SECOND
SATURATED_NS = 100 * MILLISECOND
HOPS = 16
CALLS = 1_000
RETRIES = 3
# A link with calls under way is probed so often; the least time before it is left out.
SILENCE_NS = 100 * MILLISECOND
EJECT_FLOOR_NS = 400 * MILLISECOND
# A peer whose brain is silent for so long is left out. Source: the muscles' watchdog.
DRAIN_NS = 15 * SECOND


def eject_after(srtt_ns: int) -> int:
    """max(6 x srtt + 75 ms, 400 ms): the seam's formula."""
    return max(6 * srtt_ns + 75 * MILLISECOND, EJECT_FLOOR_NS)


@dataclass(slots=True, eq=False)
class Call:
    """One call from its beginning at a door to its end. ``ended`` is 0 until then.

    ``reach``: until when it waits for a link; 0 while it does not.
    """

    call: int
    origin: str
    name: str
    began: int
    deadline: int
    idempotent: bool
    seed: bytes = b""
    hops: int = HOPS
    calls_left: int = CALLS
    retries: int = RETRIES
    attempts: int = 0
    tried: list[PeerId] = field(default_factory=list)
    asked: list[PeerId] = field(default_factory=list)
    slug: str = ""
    reason: str = ""
    may_have_executed: bool = False
    ran_on: PeerId | None = None
    reach: int = 0
    ended: int = 0
    is_counted: bool = False
    # Its last attempt is marked ``wake``.
    is_wake: bool = False
    parent: Callable[[Call], None] | None = None

    @property
    def depth(self) -> int:
        """0 for a call from a door, more for one of a guest."""
        return 1 if self.hops < HOPS else 0

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
    end: End
    deadline: int
    is_done: bool = False
    # The reply says that the seed was loaded for it, or was to be.
    is_woken: bool = False


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
        """Make a call from this node, or its next attempt."""
        now = self._stage.now
        plane = self._plane
        row = plane.seeds.get(plane.names.get(call.name, b""))
        if row is None:
            self._finish(call, "seed-not-found", "no seed of that name here", False)
            return
        if not call.is_counted:
            # Before any wait: a seed that runs nowhere comes to life by being called.
            call.is_counted = True
            self.serving.counters_of(row.seed)[0] += 1
        is_other = call.seed != row.seed
        if call.may_have_executed and is_other and not (call.idempotent or row.options.idempotent):
            # The version that may have run allowed it; the one that came meanwhile does not.
            self._finish(call, call.slug, call.reason, True)
            return
        is_cold, replicas = not row.replicas, list(row.replicas) or list(row.wake)
        target, is_on_its_way = self._choose(row, replicas, call)
        if target is None and is_on_its_way:
            call.reach = call.reach or min(now + REACH_NS, call.deadline)
            if now < call.reach:
                self._wait(call, call.reach)
                return
        is_stale = call.slug == "seed-not-found" and not call.may_have_executed
        patience = min(call.began + COLD_NS, call.deadline)
        if target is None and (is_cold or is_stale) and now < patience:
            # The plan finds a host, or the row that named one is about to change.
            self._wait(call, patience)
            return
        if target is None:
            slug = call.slug or "unreachable"
            reason = call.reason or f"none of {len(replicas)} replicas can be reached"
            self._finish(call, slug, reason, call.may_have_executed)
            return
        if now >= call.deadline:
            self._finish(call, call.slug or "deadline", "out of time", call.may_have_executed)
            return
        call.attempts += 1
        call.seed, call.is_wake = row.seed, is_cold
        if target == self._machine.key:
            self._take_here(call, row.seed)
        else:
            self._send(call, target)

    def _wait(self, call: Call, until: int) -> None:
        """No replica, or none that is linked: the next push or link wakes it, or time does."""
        self._waiting.append(call)
        self._stage.schedule(until - self._stage.now, self._lose_patience, call)

    def _lose_patience(self, call: Call) -> None:
        if call in self._waiting:
            self._waiting.remove(call)
            self.begin(call)

    def look_again(self) -> None:
        """The tables changed, or a link came: calls that waited for it go on."""
        waiting, self._waiting = self._waiting, []
        for call in waiting:
            self.begin(call)

    def _choose(
        self, row: fx.SeedRow, replicas: list[PeerId], call: Call
    ) -> tuple[PeerId | None, bool]:
        """The replica to try, and whether one that is alive lacks only a link."""
        service = self.serving.counters_of(row.seed)[2]
        is_cold = not row.replicas
        tried = call.asked if is_cold else call.tried
        candidates = [self._candidate(replica, tried, service) for replica in replicas]
        index = routing.choose(candidates, self._rng.draw(), wake=is_cold)
        unlinked = [
            (candidate.price_us, replica)
            for replica, candidate in zip(replicas, candidates, strict=True)
            if not candidate.tried and self._lacks_link(replica)
        ]
        if unlinked and (index is None or min(unlinked)[0] < candidates[index].price_us):
            self._want(min(unlinked)[1])
        return None if index is None else replicas[index], bool(unlinked)

    def _lacks_link(self, replica: PeerId) -> bool:
        is_other = replica != self._machine.key and replica in self._plane.peers
        return is_other and self._stage.network.routed(self._machine, replica) is None

    def _want(self, peer: PeerId) -> None:
        """The brain hears, once a second a peer, that calls would use a link to it."""
        now = self._stage.now
        if now >= self._wanted.get(peer, 0):
            self._wanted[peer] = now + WANTED_NS
            self._stage.hand(self._machine, self._boots, ev.LinkWanted(peer=peer))

    def _candidate(self, replica: PeerId, tried: list[PeerId], service: int) -> routing.Candidate:
        is_tried = replica in tried
        if replica == self._machine.key:
            return routing.Candidate(
                price_us=0,
                in_flight=self.serving.running,
                service_us=service,
                tried=is_tried,
                saturated=self.serving.is_full,
            )
        end = self._stage.network.routed(self._machine, replica)
        peer = self._plane.peers.get(replica)
        is_usable = end is not None and peer is not None and self._is_usable(end)
        return routing.Candidate(
            price_us=peer.price_us if peer else 0,
            in_flight=end.calls if end else 0,
            service_us=service,
            ejected=not is_usable,
            saturated=self._stage.now < self._saturated.get(replica, 0),
            tried=is_tried,
        )

    def _is_usable(self, end: End) -> bool:
        age = end.peer_age + self._stage.now - end.probed
        return not end.is_ejected and age < DRAIN_NS

    def _take_here(self, call: Call, seed: Hash) -> None:
        def answer(slug: str, reason: str, executed: bool) -> None:
            if slug:
                # Not loaded here any more: that speaks of the place, as it does from afar.
                remote = slug == "seed-not-found"
                self._failed(call, self._machine.key, slug, reason, executed, remote=remote)
            else:
                call.ran_on = self._machine.key
                self._finish(call, "", "", True)

        self.serving.serve(Arrived(call, seed, self._machine.key, call.deadline, answer))

    def _send(self, call: Call, target: PeerId) -> None:
        end = self._stage.network.routed(self._machine, target)
        if end is None or end.other is None:
            self._failed(call, target, "unreachable", "no link", False, remote=True)
            return
        sent = Sent(call, target, end, call.deadline)
        end.calls += 1
        end.waits.append(sent)
        self._stage.schedule(call.deadline - self._stage.now, self._overdue, sent)
        if not end.is_watched:
            end.is_watched, end.asked = True, 0
            self._stage.schedule(SILENCE_NS, self._watch, end)
        self._stage.network.stream(end, self._arrive, end.other, sent)

    def _arrive(self, end: End, sent: Sent) -> None:
        """The call's stream reached the peer, whole."""
        machine = end.machine
        if machine.is_frozen:
            self._stage.schedule(SILENCE_NS, self._arrive, end, sent)
            return
        if end.is_open and end.boots == machine.boots and machine.plane is not None:
            machine.plane.calls.serving.take(end, sent, self)

    def _overdue(self, sent: Sent) -> None:
        if self._settle(sent):
            self._failed(sent.call, sent.target, "deadline", "out of time", True, remote=True)

    def _settle(self, sent: Sent) -> bool:
        """An attempt is over; False when it was before."""
        if sent.is_done:
            return False
        sent.is_done = True
        sent.end.calls -= 1
        if sent in sent.end.waits:
            sent.end.waits.remove(sent)
        return True

    def on_answer(self, sent: Sent, slug: str, reason: str, executed: bool) -> None:
        """The peer's reply to one attempt is here."""
        if self._boots != self._machine.boots or not self._settle(sent):
            return
        if not slug:
            sent.call.ran_on = sent.target
            self._finish(sent.call, "", "", True)
            return
        if slug == "overloaded":
            self._saturated[sent.target] = self._stage.now + SATURATED_NS
        is_noted = sent.is_woken or not sent.call.is_wake
        self._failed(sent.call, sent.target, slug, reason, executed, remote=True, is_noted=is_noted)

    def _watch(self, end: End) -> None:
        """While calls are under way: probe a silent link, eject it, take it back."""
        if not end.is_open or (not end.calls and not end.is_ejected):
            end.is_watched = False
            return
        now = self._stage.now
        if self._stage.network.is_answering(end):
            end.heard = max(end.heard, now)
            end.asked, end.is_ejected = 0, False
        else:
            end.asked = end.asked or now
            if now - end.asked > eject_after(end.srtt_ns) and not end.is_ejected:
                end.is_ejected = True
                self._stage.count("ejections")
                self.on_link_lost(end)
        self._stage.schedule(SILENCE_NS, self._watch, end)

    def on_link_lost(self, end: End) -> None:
        """Calls under way on a link that broke or was ejected: they may have executed."""
        for sent in list(end.waits):
            if self._settle(sent):
                reason = "the link broke"
                self._failed(sent.call, sent.target, "unreachable", reason, True, remote=True)

    def _failed(
        self,
        call: Call,
        target: PeerId,
        slug: str,
        reason: str,
        executed: bool,
        *,
        remote: bool,
        is_noted: bool = False,
    ) -> None:
        """One attempt failed: elsewhere, or the end of it (the retry class decides).

        ``is_noted``: the target knows the call's id. A rank that refuses to wake forgets it, and to
        ask it takes nothing from the retries: ranks are few, and each is asked once.
        """
        is_free = call.is_wake and not executed
        row = self._plane.seeds.get(call.seed)
        verdict = routing.classify_retry(
            slug=slug,
            may_have_executed=executed,
            idempotent=call.idempotent or (row is not None and row.options.idempotent),
            remote=remote,
            retries=max(call.retries, 1) if is_free else call.retries,
            budget_us=max(0, call.deadline - self._stage.now) // 1_000,
        )
        is_gone = self._boots != self._machine.boots or self._machine.node is None
        if is_gone or verdict is routing.Retry.GIVE_UP:
            self._finish(call, slug, reason, executed)
            return
        call.slug, call.reason = slug, reason
        call.may_have_executed = call.may_have_executed or executed
        if call.is_wake:
            call.asked.append(target)
        if not is_free:
            call.retries -= 1
        if not is_free or is_noted:
            call.tried.append(target)
        self._stage.count("retries")
        self.begin(call)

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
