"""Machines, a clock and a queue: effects of one node become events of another, in virtual time.

Decides: the order of everything, and how each effect is carried out.
Does not know: what a fault is for, what must hold (``sim.faults``, ``sim.checkers``), or why a node
    does what it does.
Invariants: one seed draws everything; two runs of one seed are equal to the byte. Happenings of one
    moment keep the order in which they were asked for. An event reaches a node only in the boot it
    was meant for. No effect is carried out for a process that is gone.
Source: STYLE (Simulator), DESIGN 2; TigerBeetle's VOPR.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import Any

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import invites, restoring
from pollen.core.certs import Certificate, Tier, cluster_id_of
from pollen.core.codec import Refusal, encode
from pollen.core.commands import Command, InviteCommand, SeedCommand, SeedOptions
from pollen.core.config import NodeConfig
from pollen.core.ids import MILLISECOND, SECOND, ClusterId, PeerId, RequestId, Token
from pollen.core.leases import founding_credentials
from pollen.core.node import Node
from pollen.core.rng import Rng
from pollen.sim import modules
from pollen.sim.keys import make_key, signer, verify
from pollen.sim.machine import WALL_ZERO, Clock, Machine
from pollen.sim.network import End, Network
from pollen.sim.plane import Plane
from pollen.sim.trace import Trace

TELEMETRY_NS = 500 * MILLISECOND
_PERSIST_NS = MILLISECOND


# So many steps in one simulated second and machine are no life but a storm.
STORM = 2_000


class Storm(Exception):
    """Nodes talk without end: the world was stopped. ``args`` is the reason in words."""


class World:
    """A cluster in virtual time. ``run`` lets time pass; everything else asks for something."""

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
        self.twist: Callable[[Machine, fx.Effect], list[fx.Effect]] | None = None
        self.persist_ns = _PERSIST_NS
        self._disk_rng = Rng(self.rng.draw())
        self._keeps_traces = keeps_traces
        self._queue: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0
        self._requests = 0
        self._asking: dict[RequestId, tuple[str, int]] = {}
        self._root = make_key("root")
        self.cluster_id = cluster_id_of(self._root, b"nonce")

    # -- building -------------------------------------------------------------------------------

    def add(self, name: str, *, zone: int = 0, root: bool = False) -> Machine:
        """A machine that is on the network and runs nothing yet."""
        index = len(self.machines)
        machine = Machine(
            name=name,
            key=make_key(name),
            index=index,
            address=f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}:60611",
            root=self._root if root else None,
            keeps_trace=self._keeps_traces,
        )
        self.machines[name] = machine
        self.by_key[machine.key] = machine
        self.network.settle(machine, zone)
        return machine

    def found(self, name: str, **where: Any) -> Machine:
        """The first node, with the root key and an admin certificate."""
        machine = self.add(name, root=True, **where)
        self.enrol(machine, Tier.ADMIN, '{"role":["web"]}')
        self.start(name)
        return machine

    def found_all(
        self, names: Sequence[str], *, zones: int = 1, leaves: Sequence[str] = ()
    ) -> None:
        """A whole cluster at once: each node enrolled, knowing the others' addresses, started."""
        machines = [self.add(n, zone=i % zones, root=i == 0) for i, n in enumerate(names)]
        peers = [(machine.key, [machine.address]) for machine in machines]
        for machine in machines:
            tier = Tier.ADMIN if machine.root is not None else Tier.PUBLISHER
            tier = Tier.LEAF if machine.name in leaves else tier
            self.enrol(machine, tier, peers=peers)
            self.start(machine.name)

    def enrol(
        self,
        machine: Machine,
        tier: Tier,
        properties: str = "{}",
        peers: Sequence[tuple[PeerId, list[str]]] = (),
    ) -> None:
        """A certificate straight from the root, as ``init`` writes it: no exchange of messages."""
        certificate = Certificate(
            self.cluster_id, machine.key, self._root, tier, properties, [], 1, WALL_ZERO
        )
        chain = founding_credentials(certificate, signer(machine.key, self._root))
        others = [(peer, addresses) for peer, addresses in peers if peer != machine.key]
        reply = invites.JoinReply("", "", "", self.cluster_id, self._root, chain, others)
        machine.disk.write(restoring.enrolment_rows(reply, machine.name))

    def join(self, name: str, token: str, **where: Any) -> Machine | Refusal:
        """What ``pln join`` does, with the exchange through the issuer's node."""
        machine = self.machines.get(name) or self.add(name, **where)
        raw = invites.token_bytes(token)
        if isinstance(raw, Refusal):
            return raw
        invite = invites.open_token(raw, verify)
        if isinstance(invite, Refusal):
            return invite
        issuer = self.by_key[PeerId(invite.issuer)]
        body = self.ask_join(issuer, machine.key, encode(invites.JoinRequest(raw, name)))
        checked = invites.check_reply(body, invite, machine.key, verify)
        if isinstance(checked, Refusal):
            return checked
        machine.disk.write(restoring.enrolment_rows(checked[0], name))
        self.start(name)
        return machine

    def ask_join(self, issuer: Machine, joiner: PeerId, body: bytes) -> bytes:
        """One exchange of ``pollen-join/1``."""
        request = self._request()
        event = ev.JoinRequested(request=request, peer=joiner, remote="192.0.2.1:1", body=body)
        self.post(issuer.name, event)
        self.run(SECOND)
        return issuer.answers[request]

    # -- processes ------------------------------------------------------------------------------

    def start(self, name: str) -> None:
        """A process starts from what is on the disk."""
        machine = self.machines[name]
        machine.boots += 1
        restored = machine.disk.restored()
        identity = restoring.read_identity(restored)
        if identity is None:
            raise ValueError(f"{name} was never enrolled")
        machine.identity = identity
        config = NodeConfig(
            node=machine.key,
            cluster=identity.cluster,
            root=identity.root,
            chain=identity.chain,
            boot=machine.boot,
            name=identity.name,
            version="0.1.0",
            memory_bytes=machine.memory_bytes,
            has_root=machine.root is not None,
        )
        rng = Rng(self.rng.draw())
        sign = signer(machine.key, machine.root)
        machine.timers, machine.is_frozen, machine.busy_until = {}, False, 0
        machine.inbox.clear()
        machine.node = Node(config, rng, sign, verify, restored)
        machine.plane = Plane(self, machine, Rng(self.rng.draw()))
        self.trace.note(self.now, name, "process", "starts")
        self.post(name, ev.Started(addresses=[machine.address]))
        self.schedule(self.rng.below(TELEMETRY_NS), self._report, machine, machine.boots)

    def kill(self, name: str) -> None:
        """An orderly end: the links close with a word. What was not yet on disk gets there."""
        machine = self.machines[name]
        if machine.node is None:
            return
        machine.disk.crash(len(machine.disk.pending))
        self._end(machine, is_told=True)
        self.trace.note(self.now, name, "process", "stops")

    def crash(self, name: str) -> int:
        """Gone without a word, and with what was not yet on disk. Returns the batches lost."""
        machine = self.machines[name]
        if machine.node is None:
            return 0
        under_way = len(machine.disk.pending)
        lost = machine.disk.crash(self._disk_rng.below(under_way + 1))
        self._end(machine, is_told=False)
        self.trace.note(self.now, name, "process", f"crashes; {lost} unsynced writes lost")
        return lost

    def _end(self, machine: Machine, *, is_told: bool) -> None:
        machine.node = None
        if machine.plane is not None:
            machine.plane.calls.end_all()
        machine.timers = {}
        machine.inbox.clear()
        self.network.shut(machine, is_told=is_told)
        machine.plane = None

    def stall(self, name: str, nanos: int) -> None:
        """The brain takes no turn for so long; the muscles go on."""
        machine = self.machines[name]
        until = self.now + nanos
        if machine.busy_until <= self.now:
            machine.stalled_since = self.now
        if until > machine.busy_until:
            machine.busy_until = until
            self.schedule(nanos, self._wake, machine, machine.boots)

    def freeze(self, name: str) -> None:
        """The whole process stands still (SIGSTOP)."""
        self.machines[name].is_frozen = True

    def thaw(self, name: str) -> None:
        """The process goes on."""
        machine = self.machines[name]
        machine.is_frozen = False
        self._wake(machine, machine.boots)

    def sleep(self, name: str, nanos: int) -> None:
        """The lid closes for so long: frozen, and the monotonic clock stands still."""
        self.freeze(name)
        self.schedule(nanos, self._open_lid, self.machines[name], nanos)

    def _open_lid(self, machine: Machine, nanos: int) -> None:
        machine.clock.stop_for(self.now, nanos)
        for token, at in list(machine.timers.items()):
            self._arm(machine, Token(token), at)
        self.thaw(machine.name)

    # -- asking ---------------------------------------------------------------------------------

    def command(self, name: str, command: Command, wait: int = SECOND) -> fx.Reply:
        """A user's command at a node, and its answer. Raises ``KeyError`` when none came."""
        request = self.ask_later(name, command)
        self.run(wait)
        return self.machines[name].replies[request]

    def ask_later(self, name: str, command: Command) -> RequestId:
        """A user's command at a node; its answer will stand in ``Machine.replies``."""
        request = self._request()
        self.post(name, ev.Commanded(request=request, command=command))
        return request

    def ask(self, name: str, command: Command) -> Any:
        """The result of a command that must succeed."""
        reply = self.command(name, command)
        if reply.slug:
            raise AssertionError(f"{reply.slug}: {reply.reason}")
        return reply.result

    def invite(self, name: str, tier: str = "publisher", **options: Any) -> str:
        """A token for another machine."""
        return str(self.ask(name, InviteCommand(tier=tier, **options)).token)

    def seed_command(
        self, name: str, seed: str, data: bytes = b"module", **options: Any
    ) -> SeedCommand:
        """The command that publishes a module which this machine then holds."""
        content = modules.content_id(data)
        self.machines[name].content.add(content)
        take_over = options.pop("take_over", False)
        return SeedCommand(
            name=seed,
            content=content.hex(),
            options=SeedOptions(**options),
            take_over=take_over,
        )

    def seed(self, name: str, seed: str, data: bytes = b"module", **options: Any) -> fx.Reply:
        """What ``pln seed`` does, and its answer."""
        return self.command(name, self.seed_command(name, seed, data, **options))

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

    def _wake(self, machine: Machine, boots: int) -> None:
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
                self._arm(machine, token, at)
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
            case fx.UnloadSeed(seed=seed):
                _plane(machine).unload(seed)
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
        request = self._request()
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

    def _arm(self, machine: Machine, token: Token, at: int) -> None:
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

    def _report(self, machine: Machine, boots: int) -> None:
        if machine.boots != boots or machine.node is None:
            return
        if not machine.is_frozen:
            self.hand(machine, boots, _plane(machine).telemetry())
        self.schedule(TELEMETRY_NS, self._report, machine, boots)

    # -- what the parts tell the world ----------------------------------------------------------

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

    def note_load(self, machine: Machine, seed: bytes, state: str) -> None:
        """A seed began to load, is ready, failed or is gone on a machine."""
        row = machine.seeds.get(seed)
        label = (row.name if row is not None else "") or seed.hex()[:8]
        self.trace.note(self.now, machine.name, "load", f"{label} {state}")

    def _request(self) -> RequestId:
        self._requests += 1
        return RequestId(self._requests)

    def cluster(self) -> ClusterId:
        """The id of the only cluster of this world."""
        return self.cluster_id

    def up(self) -> list[Machine]:
        """The machines on which a process runs."""
        return [machine for machine in self.machines.values() if machine.node is not None]


def reset_clock(machine: Machine, now: int, mono_zero: int, drift_ppm: int) -> None:
    """A machine's clocks from now on: a new monotonic origin (a reboot), another drift."""
    offset = machine.clock.wall_offset
    machine.clock = Clock(now, mono_zero, drift_ppm, offset)


def _plane(machine: Machine) -> Plane:
    if machine.plane is None:
        raise ValueError(f"{machine.name} does not run")
    return machine.plane


def three(seed: int = 1) -> World:
    """A founded cluster of a, b and c, linked."""
    world = World(seed)
    world.found("a")
    world.run(SECOND)
    for name in ("b", "c"):
        joined = world.join(name, world.invite("a"))
        if isinstance(joined, Refusal):
            raise AssertionError(joined.reason)
        world.run(3 * SECOND)
    return world
