"""The engine of a simulated world: a clock, a queue, turns of nodes, effects carried out.

Decides: the order of everything, and how each effect is carried out.
Does not know: how a cluster comes to be (``sim.world.world``), what a fault is for, what must hold.
Invariants: happenings of one moment keep the order in which they were asked for. An event reaches a
    node only in the boot it was meant for, and never within another turn of it. No effect is
    carried out for a process that is gone.
Source: docs/design/style.md#simulator; TigerBeetle's VOPR.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core.ids import MILLISECOND, SECOND, PeerId, RequestId, Token
from pollen.core.rng import Rng
from pollen.sim.muscles.calls import Call
from pollen.sim.muscles.end import End
from pollen.sim.muscles.network import Network
from pollen.sim.muscles.plane import Plane
from pollen.sim.world.machine import Machine
from pollen.sim.world.trace import Trace

TELEMETRY_NS = 500 * MILLISECOND
_PERSIST_NS = MILLISECOND
# So many steps in one simulated second and machine are no life but a storm.
STORM = 2_000


class Storm(Exception):
    """Nodes talk without end: the world was stopped. ``args`` is the reason in words."""


class Engine:
    """Machines in virtual time. ``run`` lets it pass."""

    def __init__(self, number: int = 1, *, trace_depth: int = 1, keeps_traces: bool = True) -> None:
        self.number = number
        self.rng = Rng(number)
        self.now = 1
        self.machines: dict[str, Machine] = {}
        self.by_key: dict[PeerId, Machine] = {}
        self.network = Network(self, Rng(self.rng.draw()))
        self.trace = Trace(trace_depth)
        self.counts: dict[str, int] = {}
        self.breaches: list[tuple[int, str, str]] = []
        self.watchers: list[Callable[[Machine, ev.Event, list[fx.Effect]], None]] = []
        self.call_ended: list[Callable[[Call], None]] = []
        self.twist: Callable[[Machine, fx.Effect], list[fx.Effect]] | None = None
        self.persist_ns = _PERSIST_NS
        self._disk_rng = Rng(self.rng.draw())
        self.keeps_traces = keeps_traces
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._requests = 0
        self._executions: dict[int, list[tuple[str, int, int]]] = {}
        self._asking: dict[RequestId, tuple[str, int]] = {}

    # -- running --------------------------------------------------------------------------------

    def schedule(self, after: int, call: Callable[..., None], *args: Any) -> None:
        """Run ``call(*args)`` after so many nanoseconds of the world's time."""
        self._order += 1
        heapq.heappush(self._queue, (self.now + max(after, 0), self._order, call, args))

    def post(self, name: str, event: ev.Event, after: int = 0) -> None:
        """Give an event to the process that now runs on a machine."""
        machine = self.machines[name]
        self.schedule(after, self.hand, machine, machine.boots, event)

    def run(self, nanos: int) -> None:
        """Let this much virtual time pass. Raises ``Storm`` when it has no end."""
        end = self.now + nanos
        queue = self._queue
        left = STORM * (len(self.machines) + 1) * (nanos // SECOND + 1)
        while queue and queue[0][0] <= end:
            left -= 1
            if not left:
                raise Storm(f"{len(queue)} steps wait at {self.now / SECOND:.3f} s and no end")
            at, _, call, args = heapq.heappop(queue)
            if at > self.now:
                self.now = at
            call(*args)
        self.now = end

    def run_until(self, holds: Callable[[], bool], within: int, step: int = SECOND // 10) -> bool:
        """Let time pass until a condition holds, at the most ``within``."""
        end = self.now + within
        while not holds():
            if self.now >= end:
                return False
            self.run(min(step, end - self.now))
        return True

    def hand(self, machine: Machine, boots: int, event: ev.Event) -> None:
        """Give an event to a brain: now, or in order when it takes a turn again."""
        if machine.boots != boots or machine.node is None:
            return
        if machine.is_frozen or self.now < machine.busy_until:
            if type(event) is ev.Telemetry:
                held = [e for e in machine.inbox if type(e) is not ev.Telemetry]
                machine.inbox.clear()
                machine.inbox.extend(held)
            machine.inbox.append(event)
            return
        self.deliver(machine, event)

    def wake(self, machine: Machine, boots: int) -> None:
        """A brain takes turns again: what waited for it comes in order."""
        while (
            machine.inbox
            and machine.boots == boots
            and not machine.is_frozen
            and self.now >= machine.busy_until
        ):
            self.deliver(machine, machine.inbox.popleft())

    def deliver(self, machine: Machine, event: ev.Event) -> list[fx.Effect]:
        """One turn of a node."""
        node = machine.node
        if node is None:
            raise ValueError(f"{machine.name} does not run")
        if type(event) is ev.Telemetry:
            machine.told_bytes = machine.reported_bytes
        out = node.handle(event, machine.clock.now(self.now))
        machine.handled += 1
        self.trace.note_turn(self.now, machine.index, event, out)
        if machine.keeps_trace:
            machine.trace += out
        for watch in self.watchers:
            watch(machine, event, out)
        for effect in out:
            if self.twist is not None and machine.is_malicious:
                for twisted in self.twist(machine, effect):
                    self._carry_out(machine, twisted)
            else:
                self._carry_out(machine, effect)
        return out

    # -- effects --------------------------------------------------------------------------------

    def _carry_out(self, machine: Machine, effect: fx.Effect) -> None:
        match effect:
            case fx.SendRecords(peer=peer, records=records):
                self.network.send_records(machine, peer, records)
            case fx.SendMessage(peer=peer, body=body):
                self.network.send_message(machine, peer, body)
            case fx.SetTimer(token=token, at=at):
                machine.timers[token] = at
                self.arm(machine, token, at)
            case fx.PushTables():
                self._push(machine, effect)
            case fx.Persist():
                self._persist(machine, effect)
            case fx.Dial():
                self.network.dial(machine, effect)
            case fx.AdmitLink(link=link):
                self.network.admit(machine, link)
            case fx.CloseLink(link=link, code=code, reason=reason):
                self.network.close(machine, link, code, reason)
            case fx.AnswerJoin(request=request, body=body):
                machine.answers[request] = body
                self._answer_join(machine, request, body)
            case fx.AskJoin():
                self._ask_join(machine, effect)
            case fx.SetHello(chain=chain):
                machine.show(chain)
            case fx.InspectModule():
                _plane(machine).inspect(effect)
            case fx.LoadSeed():
                _plane(machine).load(effect)
            case fx.UnloadSeed(seed=seed, keep=keep):
                _plane(machine).unload(seed, keep=keep)
            case fx.BeginCall():
                _plane(machine).begin_call(effect)
            case fx.OpenListener(listener=listener, bind=bind):
                # Nobody comes through a listener here: it stands or not, and that is told.
                self.post(machine.name, machine.opened(listener, bind), MILLISECOND)
            case fx.CloseListener():
                pass
            case fx.ProbeService(number=number, target=target):
                self.post(machine.name, machine.probed(number, target), machine.probe_ns)
            case fx.SetRelay(relays=relays):
                _plane(machine).relays = relays
            case fx.SetSeen(addresses=addresses):
                _plane(machine).seen_at = addresses
            case fx.RunVerb(peer=peer, key=key, args=args):
                # Nobody makes loads here: a verb gives back what it was given, a second later.
                self.post(machine.name, ev.VerbEnded(peer=peer, key=key, body=args), SECOND)
            case fx.Reply(request=request):
                machine.replies[request] = effect
            case fx.Log():
                machine.logs.append(effect)
            case _:
                raise AssertionError(f"nobody carries out {effect!r}")

    def _ask_join(self, machine: Machine, effect: fx.AskJoin) -> None:
        """A running member asks another one over ``pollen-join/1``."""
        target = self.network.find(machine, effect.peer, effect.addresses)
        if target is None:
            event = ev.JoinAnswered(peer=effect.peer, body=b"", slug="unreachable")
            self.post(machine.name, event, SECOND)
            return
        request = self.new_request()
        self._asking[request] = machine.name, machine.boots
        asked = ev.JoinRequested(
            request=request, peer=machine.key, remote=machine.address, body=effect.body
        )
        self.post(target.name, asked, 4 * self.network.weather.way_ns(machine, target))

    def _answer_join(self, machine: Machine, request: RequestId, body: bytes) -> None:
        name, boots = self._asking.pop(request, ("", 0))
        asker = self.machines.get(name)
        if asker is None or asker.boots != boots:
            return
        event = ev.JoinAnswered(peer=machine.key, body=body)
        self.post(name, event, self.network.weather.way_ns(machine, asker))

    def _push(self, machine: Machine, effect: fx.PushTables) -> None:
        if not _plane(machine).push(effect):
            self.count("stale-pushes")
            self.post(machine.name, ev.TablesStale())

    def arm(self, machine: Machine, token: Token, at: int) -> None:
        """The timer of this token is due at ``at`` of the machine's own clock."""
        after = max(machine.clock.true_at(at) - self.now, 1)
        self.schedule(after, self._fire, machine, machine.boots, token, at)

    def _fire(self, machine: Machine, boots: int, token: Token, at: int) -> None:
        if machine.boots != boots or machine.timers.get(token) != at:
            return
        if machine.is_frozen:
            # The process fires it when it goes on; a sleeping machine's clock is set then.
            self.schedule(SECOND // 10, self._fire, machine, boots, token, at)
            return
        if machine.clock.mono(self.now) < at:
            return
        del machine.timers[token]
        self.hand(machine, boots, ev.TimerFired(token=token))

    def _persist(self, machine: Machine, effect: fx.Persist) -> None:
        disk = machine.disk
        disk.submit(effect.batch)
        wait = self.persist_ns + self._disk_rng.below(self.persist_ns + 1)
        # One writer: batches are committed in their order.
        disk.free_at = max(disk.free_at, self.now + wait)
        after = disk.free_at - self.now
        self.schedule(after, self._persisted, machine, machine.boots, effect.token)

    def _persisted(self, machine: Machine, boots: int, token: Token) -> None:
        if machine.boots != boots or machine.node is None:
            return
        machine.disk.commit()
        self.hand(machine, boots, ev.Persisted(token=token))

    def report(self, machine: Machine, boots: int) -> None:
        """The muscles' telemetry, twice a second while the process runs."""
        if machine.boots != boots or machine.node is None:
            return
        if not machine.is_frozen:
            self.hand(machine, boots, _plane(machine).telemetry())
        self.schedule(TELEMETRY_NS, self.report, machine, boots)

    # -- what the parts tell the world ----------------------------------------------------------

    def link_ready(self, end: End) -> None:
        """Calls that waited for a link."""
        if end.machine.plane is not None:
            end.machine.plane.link_ready()

    def link_gone(self, end: End) -> None:
        """Calls on a link that is no more."""
        if end.machine.plane is not None:
            end.machine.plane.link_lost(end)

    def count(self, name: str, by: int = 1) -> None:
        """Note that something happened."""
        self.counts[name] = self.counts.get(name, 0) + by

    def note_breach(self, name: str, text: str) -> None:
        """An invariant was seen broken: its name, and what was seen."""
        self.breaches.append((self.now, name, text))
        self.trace.note(self.now, "", "breach", f"{name}: {text}")

    def take_breaches(self) -> list[tuple[int, str, str]]:
        """What was seen broken since the last call."""
        breaches, self.breaches = self.breaches, []
        return breaches

    def note_execution(self, machine: Machine, call: Call, attempt: int, *, is_safe: bool) -> None:
        """Count an attempt that begins to run: in one process once, its call once in all if not
        safe.

        A process that was started again has forgotten which calls were here.
        """
        self.count("executions")
        runs = self._executions.setdefault(call.call, [])
        text = f"call {call.call:x} to {call.name} on {machine.name}"
        run = (machine.name, machine.boots, attempt)
        if run in runs:
            self.note_breach("no-attempt-twice-on-one-node", text)
        elif runs and not is_safe:
            self.note_breach("no-call-twice-at-all", f"{text} after {runs[0][0]}")
        runs.append(run)

    def note_end(self, call: Call) -> None:
        """A call came to its end; whoever asked to be told is told."""
        for tell in self.call_ended:
            tell(call)

    def note_load(self, machine: Machine, seed: bytes, state: str) -> None:
        """A seed began to load, is ready, failed or is gone on a machine."""
        row = machine.seeds.get(seed)
        label = (row.name if row is not None else "") or seed.hex()[:8]
        self.trace.note(self.now, machine.name, "load", f"{label} {state}")

    def new_request(self) -> RequestId:
        """A number for a request, never used twice."""
        self._requests += 1
        return RequestId(self._requests)

    @property
    def all_machines(self) -> list[Machine]:
        """Every machine, running or not."""
        return list(self.machines.values())

    def up(self) -> list[Machine]:
        """The machines on which a process runs."""
        return [machine for machine in self.machines.values() if machine.node is not None]


def _plane(machine: Machine) -> Plane:
    if machine.plane is None:
        raise ValueError(f"{machine.name} does not run")
    return machine.plane
