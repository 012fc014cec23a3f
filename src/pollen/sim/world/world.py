"""A cluster in a simulated world: machines join, start, stop, and users ask for things.

Decides: what a machine has when it starts, and what each way of stopping leaves behind.
Does not know: why anybody stops (``faults``), what must hold (``checkers``).
Invariants: one number draws everything; two runs of one number are equal to the byte.
Source: docs/design/style.md#simulator, docs/design/cli.md#starting-and-joining.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import restoring
from pollen.core.admission import invites
from pollen.core.codec import Refusal, encode
from pollen.core.commands import Command, DrainCommand, InviteCommand, SeedCommand
from pollen.core.config import NodeConfig
from pollen.core.ids import (
    DAY,
    MILLISECOND,
    SECOND,
    ClusterId,
    Nanos,
    PeerId,
    RequestId,
    Token,
    cluster_id_of,
)
from pollen.core.kinds import DENY
from pollen.core.node import Node
from pollen.core.records import Change, Interned, Record
from pollen.core.rng import Rng
from pollen.core.trust import Certificate, Tier
from pollen.core.trust.denies import Deny, deny_key, issue_deny
from pollen.core.trust.leases import founding_credentials
from pollen.options import SeedOptions
from pollen.sim.muscles import modules
from pollen.sim.muscles.plane import Plane
from pollen.sim.world.engine import TELEMETRY_NS, Engine
from pollen.sim.world.keys import make_key, signer, verify
from pollen.sim.world.machine import WALL_ZERO, Clock, Machine


class World(Engine):
    """A cluster in virtual time."""

    def __init__(self, number: int = 1, *, trace_depth: int = 1, keeps_traces: bool = True) -> None:
        super().__init__(number, trace_depth=trace_depth, keeps_traces=keeps_traces)
        self._root = make_key("root")
        self.cluster_id = cluster_id_of(self._root, b"nonce")
        # Nodes of one world decode a record once; what they make of it is each one's own.
        self._interned = Interned()

    # -- building -------------------------------------------------------------------------------

    def add(
        self, name: str, *, zone: int = 0, root: bool = False, key: PeerId | None = None
    ) -> Machine:
        """A machine that is on the network and runs nothing yet; ``key`` makes it a twin."""
        index = len(self.machines)
        machine = Machine(
            name=name,
            key=key or make_key(name),
            index=index,
            address=f"10.{index >> 16}.{index >> 8 & 255}.{index & 255}:60611",
            root=self._root if root else None,
            keeps_trace=self.keeps_traces,
        )
        self.machines[name] = machine
        self.by_key.setdefault(machine.key, machine)
        self.network.settle(machine, zone)
        return machine

    def found(self, name: str, **where: Any) -> Machine:
        """The first node, with the root key and an admin certificate."""
        machine = self.add(name, root=True, **where)
        self.enrol(machine, Tier.ADMIN, '{"role":["web"]}')
        self.start(name)
        return machine

    def found_all(
        self,
        names: Sequence[str],
        *,
        zones: int = 1,
        leaves: Sequence[str] = (),
        admins: Sequence[str] = (),
    ) -> None:
        """A whole cluster at once: each node enrolled, knowing the others' addresses, started."""
        machines = [self.add(n, zone=i % zones, root=i == 0) for i, n in enumerate(names)]
        peers = [(machine.key, [machine.address]) for machine in machines]
        for machine in machines:
            is_admin = machine.root is not None or machine.name in admins
            tier = Tier.ADMIN if is_admin else Tier.PUBLISHER
            tier = Tier.LEAF if machine.name in leaves else tier
            self.enrol(machine, tier, peers=peers)
            self.start(machine.name)

    def copy(self, name: str, of: str, *, zone: int = 0) -> Machine:
        """Another machine with the disk, the content and the key that one has now."""
        source = self.machines[of]
        machine = self.add(name, zone=zone, root=source.root is not None, key=source.key)
        machine.disk.replace(source.disk.image())
        machine.content |= source.content
        return machine

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
        request = self.new_request()
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
            successor=machine.root if machine.root != identity.root else None,
            relays=machine.relays,
        )
        rng = Rng(self.rng.draw())
        sign = signer(machine.key, machine.root)
        self._start_clock(machine)
        machine.timers, machine.is_frozen, machine.busy_until = {}, False, 0
        machine.inbox.clear()
        machine.node = Node(config, rng, sign, verify, restored, self._interned)
        machine.plane = Plane(self, machine, Rng(self.rng.draw()))
        machine.told_bytes = machine.line_free_at = 0
        self.trace.note(self.now, name, "process", "starts")
        self.post(name, ev.Started(addresses=[machine.address]))
        first = TELEMETRY_NS // 10 + self.rng.below(TELEMETRY_NS)
        self.schedule(first, self.report, machine, machine.boots)

    def implant(self, machine: Machine, records: Sequence[Record]) -> None:
        """A process that was just started holds these as well, and nothing is missing between
        them; one decoded record serves all machines. Raises ``ValueError`` without a process.
        """
        node = machine.node
        if node is None:
            raise ValueError(f"{machine.name} does not run")
        others = [record for record in records if record.body.owner != machine.key]
        known = node._records
        known.restore(others, known.wanted_epoch - 1)
        for record in others:
            node._situation.note_change(Change(record, None), Nanos(0))
        for owner in dict.fromkeys(record.body.owner for record in others):
            owned = known.set_of(owner)
            known.reach(owned, owned.top)

    def kill(self, name: str) -> None:
        """An orderly end: the links close with a word. What was not yet on disk gets there."""
        machine = self.machines[name]
        if machine.node is None:
            return
        machine.disk.crash(len(machine.disk.pending))
        self._end(machine, is_told=True)
        self.trace.note(self.now, name, "process", "stops")

    def leave(self, name: str) -> None:
        """What ``pln down`` does: hand over, say so, then an orderly end."""
        request = self.ask_later(name, DrainCommand())
        replies = self.machines[name].replies
        self.run_until(lambda: request in replies, 6 * SECOND, MILLISECOND)
        self.run(SECOND // 10)
        self.kill(name)

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
            self.schedule(nanos, self.wake, machine, machine.boots)

    def freeze(self, name: str) -> None:
        """The whole process stands still (SIGSTOP)."""
        self.machines[name].is_frozen = True

    def thaw(self, name: str) -> None:
        """The process goes on."""
        machine = self.machines[name]
        self._start_clock(machine)
        self._arm_all(machine)
        machine.is_frozen = False
        self.wake(machine, machine.boots)

    def sleep(self, name: str, nanos: int) -> None:
        """The lid closes for so long, or until ``thaw``: frozen, and the monotonic clock stands."""
        self.freeze(name)
        machine = self.machines[name]
        machine.asleep_since = self.now
        self.schedule(nanos, self._open_lid, machine, self.now)

    def _start_clock(self, machine: Machine) -> None:
        if machine.asleep_since is not None:
            machine.clock.stop_for(self.now, self.now - machine.asleep_since)
            machine.asleep_since = None

    def _open_lid(self, machine: Machine, closed: int) -> None:
        if machine.asleep_since == closed:
            self.thaw(machine.name)

    def _arm_all(self, machine: Machine) -> None:
        for token, at in list(machine.timers.items()):
            self.arm(machine, Token(token), at)

    def skip(self, nanos: int) -> None:
        """So much time goes by at once: nobody takes a turn in it, every clock shows it after.

        The monotonic clock of a machine whose process stands still does not: it sleeps.
        """
        for machine in self.machines.values():
            machine.clock.wall_offset += nanos
            if not machine.is_frozen:
                machine.clock.mono_zero += nanos
                self._arm_all(machine)
        self.trace.note(self.now, "", "phase", f"{nanos / DAY:.1f} days go by")

    # -- asking ---------------------------------------------------------------------------------

    def command(self, name: str, command: Command, wait: int = SECOND) -> fx.Reply:
        """A user's command at a node, and its answer. Raises ``KeyError`` when none came."""
        request = self.ask_later(name, command)
        self.run(wait)
        return self.machines[name].replies[request]

    def ask_later(self, name: str, command: Command) -> RequestId:
        """A user's command at a node; its answer will stand in ``Machine.replies``."""
        request = self.new_request()
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

    def deny(self, by: str, subject: str) -> None:
        """An admin or, with the root key, the root denies a member."""
        machine, denied = self.machines[by], self.machines[subject]
        if machine.node is None:
            raise ValueError(f"{by} does not run")
        trust = machine.node._members.trust
        chain = trust.chain_of(denied.key)
        generation = 1 if chain is None else chain.leaf.generation
        issuer = machine.root or machine.key
        issued = machine.clock.now(self.now).wall
        document = Deny(self.cluster_id, denied.key, generation, issuer, issued)
        evidence = [] if machine.root or chain is None else chain.carried
        payload = issue_deny(document, signer(machine.key, machine.root), evidence)
        machine.node._records.publish(DENY, deny_key(payload), payload)
        # What was published leaves with the next turn, and any event is one.
        self.post(by, ev.TablesStale())
        denied.is_denied = True
        self.trace.note(self.now, by, "trust", f"denies {subject}")

    def seed_command(
        self, name: str, seed: str, data: bytes = b"module", **options: Any
    ) -> SeedCommand:
        """The command that publishes a module which this machine then holds."""
        content = modules.content_id(data)
        self.machines[name].upload(content)
        take_over = options.pop("take_over", False)
        return SeedCommand(
            name=seed,
            content=content.hex(),
            kind=fx.BLOB if modules.find(content).is_file else fx.MODULE,
            options=SeedOptions(**options),
            take_over=take_over,
        )

    def seed(self, name: str, seed: str, data: bytes = b"module", **options: Any) -> fx.Reply:
        """What ``pln seed`` does, and its answer."""
        return self.command(name, self.seed_command(name, seed, data, **options))

    def cluster(self) -> ClusterId:
        """The id of the only cluster of this world."""
        return self.cluster_id


def reset_clock(machine: Machine, now: int, mono_zero: int, drift_ppm: int) -> None:
    """A machine's clocks from now on: a new monotonic origin (a reboot), another drift."""
    offset = machine.clock.wall_offset
    machine.clock = Clock(now, mono_zero, drift_ppm, offset)


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
