"""Calls in a simulated world: the side of one node's muscles that runs them.

Decides: nothing of its own: what passes, is admitted or refused is asked of ``core.rules``.
Does not know: where a call came from but the link; how tables came to be; whom a caller tries.
Invariants: an attempt that came over a link is run once within the window, and so is a call that
    may not run twice. A slot means running: a
    call that waits for its own child holds none. Who comes first to a cold seed loads it, the
    others wait with it.
Source: docs/internals/seam.md#the-rules-of-a-request;
docs/internals/placement.md#claims-and-hosting.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pollen.core import effects as fx
from pollen.core.ids import MILLISECOND, Hash, PeerId
from pollen.core.policy import CALLERS, HOSTS, Party, Scope, read_policy
from pollen.core.rng import Rng
from pollen.core.rules import numbers, routing
from pollen.core.rules.backlog import Backlog
from pollen.sim.muscles import modules
from pollen.sim.muscles.end import End
from pollen.sim.muscles.modules import Module

if TYPE_CHECKING:
    from pollen.sim.muscles.calls import Call, Calls, Sent
    from pollen.sim.muscles.plane import Plane, Stage

# The machine of the model has two cores. No module burns for long, so that all calls are fresh.
SLOTS = 2 * numbers.FRESH_A_CORE
# Shorter than that of the muscles, so that runs fill it.
QUEUE = 64
# A frozen process looks again so often.
_THAW_NS = 100 * MILLISECOND

# Why a node does not wake a seed: slug and reason. Nothing was executed.
_REFUSALS = {
    routing.Wake.REFUSE: ("seed-not-found", "the seed is not loaded here"),
    routing.Wake.SILENT: ("unreachable", "this node's brain is silent"),
    routing.Wake.OVERLOADED: ("overloaded", "no memory is free"),
}


def may_pass(plane: Plane, principal: PeerId, row: fx.SeedRow) -> bool:
    """The gate, and the policy of the row as the muscles read it."""
    peer = plane.peers.get(principal)
    if peer is None or not routing.match_gate(row.options.allow, peer.properties):
        return False
    return _is_true(row.policy, row.options.allow_if, CALLERS, peer)


def may_have(plane: Plane, principal: PeerId, row: fx.SeedRow) -> bool:
    """Whether a member gets its content: of a module its hosts, of a blob whoever may read it. What
    is sealed is held by others as well."""
    if row.kind == fx.SEALED:
        return principal in plane.peers
    if row.kind != fx.MODULE:
        return may_pass(plane, principal, row)
    peer = plane.peers.get(principal)
    if peer is None or not routing.match_gate(row.host, peer.properties):
        return False
    return _is_true(row.host_policy, row.options.host_if, HOSTS, peer)


def _is_true(held: fx.PolicyRow | None, text: str, scope: Scope, peer: fx.PeerRow) -> bool:
    if held is None:
        return True
    carried, seed = [text, held.tree], dict(held.seed)
    policy = read_policy(carried, scope, seed=seed["name"], owner=seed["owner"])
    return policy.passes(Party(**dict(peer.words), properties=peer.properties))


@dataclass(slots=True, eq=False)
class Arrived:
    """A call at the node that is to run it. ``answer`` (slug, reason, executed) goes back.
    ``attempt``: its number, from 1; 0 at its caller's own node."""

    call: Call
    seed: Hash
    principal: PeerId
    deadline: int
    answer: Callable[[str, str, bool], None]
    attempt: int = 0


class Serving:
    """The calls that run on one node, and those that wait to."""

    def __init__(self, stage: Stage, plane: Plane, calls: Calls, rng: Rng) -> None:
        self._stage = stage
        self._plane = plane
        self._calls = calls
        self._rng = rng
        self._machine = plane.machine
        self._boots = plane.machine.boots
        self._seen: dict[tuple[int, int], int] = {}
        self._woken: dict[bytes, list[Arrived]] = {}
        # With its module, and since when it waits.
        self._queue: list[tuple[Arrived, Module, int]] = []
        self._backlog = Backlog()
        self.running = 0
        self.counters: dict[bytes, list[int]] = {}

    def take(self, end: End, sent: Sent, caller: Calls) -> None:
        """A call came over a link: everything that is decided before the gate."""
        call = sent.call

        def answer(slug: str, reason: str, executed: bool) -> None:
            said = (slug, reason, executed, self.fullness)
            self._stage.network.stream(end, caller.on_answer, sent, *said)

        if not self._plane.is_leased:
            self._stage.count("refused-unleased")
            answer("unreachable", "this node's brain is silent", False)
            return
        row = self._plane.seeds.get(call.seed)
        if row is None:
            answer("seed-not-found", "no such version here", False)
            return
        if call.is_wake:
            verdict = self._judge_wake(row, asked=True)
            if verdict in _REFUSALS:
                answer(*_REFUSALS[verdict], False)
                return
        # The way here may have broken under it: where that does no harm, it runs once more.
        is_again = sent.attempt > 1 and self._is_safe(call, row)
        was_seen = self._was_seen(call)
        if was_seen and not is_again:
            self._stage.count("duplicates")
            answer("unreachable", "this call was here before", True)
            return

        def end_of(slug: str, reason: str, executed: bool) -> None:
            if slug and not executed and not was_seen:
                # It did not run. When this node has the seed again the call may come again.
                self._seen.pop((call.call, call.hops), None)
            answer(slug, reason, executed)

        self.serve(Arrived(call, Hash(call.seed), end.peer, sent.deadline, end_of, sent.attempt))

    def _was_seen(self, call: Call) -> bool:
        now = self._stage.now
        key = (call.call, call.hops)
        before = self._seen.get(key)
        self._seen[key] = now
        return before is not None and now - before < numbers.SEEN_NS

    def _is_safe(self, call: Call, row: fx.SeedRow | None) -> bool:
        return call.idempotent or (row is not None and row.options.idempotent)

    def _judge_wake(self, row: fx.SeedRow, *, asked: bool) -> routing.Wake:
        plane = self._plane
        return routing.admit_wake(
            asked=asked,
            ready=row.seed in plane.loaded,
            rank=self._machine.key in row.wake or self._machine.key in row.replicas,
            leased=plane.is_leased,
            loading=row.seed in plane.flights or row.seed in plane.closed,
            memory_free=self._machine.memory_bytes,
            memory_need=row.options.memory_bytes,
        )

    def serve(self, arrived: Arrived) -> None:
        """Run a call; the first to a cold seed that asks loads it, the others wait with it."""
        row = self._plane.seeds.get(arrived.seed)
        verdict = routing.Wake.READY
        if row is not None and may_pass(self._plane, arrived.principal, row):
            verdict = self._judge_wake(row, asked=arrived.call.is_wake)
        if verdict in _REFUSALS:
            arrived.answer(*_REFUSALS[verdict], False)
        elif verdict is routing.Wake.READY:
            self._execute(arrived)
        else:
            self._woken.setdefault(arrived.seed, []).append(arrived)
            self._plane.wake(arrived.seed)

    def on_loaded(self, seed: Hash) -> None:
        """A load ended, well or not: the calls that waited for it go on."""
        for arrived in self._woken.pop(seed, []):
            self._execute(arrived)

    def _execute(self, arrived: Arrived) -> None:
        """The gate, the module, admission, the guest."""
        plane = self._plane
        row = plane.seeds.get(arrived.seed)
        if row is None or not may_pass(self._plane, arrived.principal, row):
            arrived.answer("denied", "the gate does not let this caller pass", False)
            return
        if arrived.seed not in plane.loaded:
            arrived.answer("seed-not-found", "the seed is not loaded here", False)
            return
        admitted = routing.admit(
            running=self.running,
            slots=SLOTS,
            fresh=self.running,
            fresh_slots=SLOTS,
            service_us=self.counters_of(arrived.seed)[2],
            queued=len(self._queue),
            queue_limit=QUEUE,
            depth=arrived.call.depth,
            memory_free=self._machine.memory_bytes,
            memory_reserve=self._machine.memory_bytes // 4,
            memory_need=row.options.memory_bytes,
            # What guests use is not modelled, so nobody has memory to give back.
            tree_free=self._machine.memory_bytes,
            tree_need=0,
            under_way=0,
            seen=False,
        )
        module = modules.find(row.content)
        if admitted is routing.Admission.RUN:
            self._run(arrived, module)
        elif admitted is routing.Admission.QUEUE:
            self._enqueue(arrived, module)
        elif admitted is routing.Admission.SHED:
            self._shed(arrived, module)
        else:
            arrived.answer("overloaded", "no memory is free", False)

    def _enqueue(self, arrived: Arrived, module: Module) -> None:
        now = self._stage.now
        # Who was called by a guest of this node goes before all others.
        ahead = len(self._queue)
        if self._is_child(arrived):
            ahead = sum(self._is_child(held) for held, _, _ in self._queue)
        self._queue.insert(ahead, (arrived, module, now))
        self._backlog.came(now // 1_000, len(self._queue))

    def _is_child(self, arrived: Arrived) -> bool:
        return arrived.call.depth > 0 and arrived.principal == self._machine.key

    def _shed(self, arrived: Arrived, module: Module) -> None:
        now = self._stage.now
        budgets = [max(0, held.deadline - now) // 1_000 for held, _, _ in self._queue]
        wait = len(self._queue) * self.counters_of(arrived.seed)[2] // SLOTS
        victim = routing.shed(budgets, max(0, arrived.deadline - now) // 1_000, wait)
        self._stage.count("shed")
        self._backlog.refuse()
        refused = arrived
        if victim is not None:
            refused = self._queue.pop(victim)[0]
            self._enqueue(arrived, module)
        refused.answer("overloaded", "the queue is full", False)

    def _run(self, arrived: Arrived, module: Module) -> None:
        self.running += 1
        is_safe = self._is_safe(arrived.call, self._plane.seeds.get(arrived.seed))
        call, attempt = arrived.call, arrived.attempt
        self._stage.note_execution(self._machine, call, attempt, is_safe=is_safe)
        counters = self.counters_of(arrived.seed)
        counters[2] = (7 * counters[2] + module.run_ns // 1_000) // 8
        if module.child:
            self._nest(arrived, module)
        else:
            self._stage.schedule(module.run_ns, self._ran, arrived, "", "")

    def _nest(self, arrived: Arrived, module: Module) -> None:
        """The guest calls another seed: its slot is free meanwhile."""
        call = arrived.call
        share = routing.split(hops=call.hops, calls_left=call.calls_left, retries=call.retries)
        if isinstance(share, str):
            self._stage.schedule(module.run_ns, self._ran, arrived, share, "too deep")
            return
        call.calls_left = 0
        self.running -= 1
        self._stage.count("nested")

        def resume(child: Call) -> None:
            self.running += 1
            slug = child.slug and "guest-failed"
            self._stage.schedule(module.run_ns, self._ran, arrived, slug, child.reason)

        number = self._rng.draw() << 64 | self._rng.draw()
        child = call.nested(number, module.child, share, resume)
        child.origin, child.began = self._machine.name, self._stage.now
        child.deadline = arrived.deadline
        self._calls.begin(child)

    def _ran(self, arrived: Arrived, slug: str, reason: str) -> None:
        if self._boots != self._machine.boots or self._machine.node is None:
            return
        if self._machine.is_frozen:
            self._stage.schedule(_THAW_NS, self._ran, arrived, slug, reason)
            return
        self.running -= 1
        self.counters_of(arrived.seed)[1 if slug else 3] += 1
        arrived.answer(slug, reason, True)
        while self._queue and self._has_slot():
            self._hand_on()

    def _hand_on(self) -> None:
        """The oldest of the queue runs, or is refused when it waited too long."""
        now = self._stage.now
        arrived, module, since = self._queue.pop(0)
        self._backlog.left(now // 1_000, len(self._queue))
        is_late = routing.is_late(
            waited_us=(now - since) // 1_000,
            standing_us=self._backlog.standing_us(now // 1_000),
            quiet_us=self._backlog.quiet_us(now // 1_000),
            backlog=self._backlog.size(len(self._queue)),
            backlog_before=self._backlog.before,
            service_us=self.counters_of(arrived.seed)[2],
            depth=arrived.call.depth,
        )
        if is_late:
            self._stage.count("late")
            self._backlog.refuse()
            arrived.answer("overloaded", "it waited too long for a slot", False)
        else:
            # It was let in when it came, and holds the module since.
            self._run(arrived, module)

    # -- views ------------------------------------------------------------------------------------

    @property
    def fullness(self) -> int:
        """How full this node is, as its replies report it."""
        return routing.fullness(
            running=self.running,
            slots=SLOTS,
            fresh=self.running,
            fresh_slots=SLOTS,
            queued=len(self._queue),
            queue_limit=QUEUE,
        )

    def _has_slot(self) -> bool:
        # The seed of the first that waits is as good as any: no seed of the model is short.
        return routing.has_slot(
            running=self.running,
            slots=SLOTS,
            fresh=self.running,
            fresh_slots=SLOTS,
            service_us=self.counters_of(self._queue[0][0].seed)[2],
        )

    def counters_of(self, seed: bytes) -> list[int]:
        """[calls begun here, failures, smoothed run time in microseconds, good ends]."""
        held = self.counters.get(seed)
        if held is None:
            held = self.counters[seed] = [0, 0, 1_000, 0]
        return held

    def sample(self, seed: bytes) -> tuple[int, ...]:
        """What telemetry says of one seed."""
        calls, failures, run_us, good = self.counters_of(seed)
        in_flight = self.running if seed in self._plane.loaded else 0
        return calls, failures, in_flight, len(self._queue), run_us, good, failures

    def end_all(self) -> None:
        """The process is gone: nothing waits any more."""
        self._queue = []
