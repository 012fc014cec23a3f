"""What must hold: one function an invariant, named as the invariant.

Decides: whether an invariant holds now, and what to say when it does not.
Does not know: faults or how a node comes to its decisions; it looks from outside (``sim.observe``).
Invariants: a checker changes nothing. Those in ``ALWAYS`` hold in every moment, faults or not;
    those in ``SETTLED`` hold some time after everything healed. Each look is counted.
Source: STYLE (Simulator); PROTOCOL 2 to 6; docs/internals/simulator.md lists them.
"""

from __future__ import annotations

from collections.abc import Callable

from pollen.core import limits
from pollen.core.codec import decode
from pollen.core.effects import Effect, SendRecords
from pollen.core.events import Event
from pollen.core.ids import SECOND, short
from pollen.core.names import Holding
from pollen.core.record import ACCUSE, FAST, REFUTE, Body
from pollen.core.routing import match_gate
from pollen.sim import observe
from pollen.sim.faults import Faults
from pollen.sim.machine import Machine
from pollen.sim.workload import Name, Workload
from pollen.sim.world import World


class Case:
    """What a checker looks at: the world, its misfortune and what its users were promised."""

    def __init__(self, world: World, faults: Faults, workload: Workload) -> None:
        self.world = world
        self.faults = faults
        self.workload = workload
        self.started: dict[str, tuple[int, int]] = {}
        self.held_up: dict[str, int] = {}
        self.counts: dict[str, int] = {}
        self.odd_versions: list[str] = []
        self._epochs: dict[tuple[str, int], dict[str, int]] = {}
        self._signed: dict[tuple[bytes, int, int], bytes] = {}
        self._known: dict[bytes, None] = {}
        world.watchers.append(self._watch)

    def _watch(self, machine: Machine, event: Event, out: list[Effect]) -> None:
        """Remember which bytes each version of a machine stood for when it was first sent."""
        if machine.is_malicious or machine.name in self.faults.spoiled:
            return
        for effect in out:
            if not isinstance(effect, SendRecords):
                continue
            for record in effect.records:
                if record.owner != machine.key or record.signature in self._known:
                    continue
                self._known[record.signature] = None
                body = decode(Body, record.body, "record")
                if not isinstance(body, Body):
                    continue
                version = (machine.key, body.epoch, body.seq)
                held = self._signed.setdefault(version, record.body)
                if held != record.body:
                    text = f"{machine.name} said two things as {body.epoch}.{body.seq}"
                    self.odd_versions.append(f"{text}, {body.kind}/{body.key[:12]!r}")

    def seen_epochs(self, machine: Machine) -> dict[str, int]:
        """The name epochs that this run of a node showed before."""
        return self._epochs.setdefault((machine.name, machine.boots), {})

    def has_content(self, holding: Holding) -> bool:
        """Whether any machine that runs still has the module."""
        return any(holding.seed.spec.content in m.content for m in self.honest())

    def honest(self) -> list[Machine]:
        """The machines that run, move, do not lie and are not denied."""
        return [m for m in self.members() if not m.is_malicious]

    def members(self) -> list[Machine]:
        """The machines that run, move and are not denied."""
        return [m for m in self.world.machines.values() if m.is_up and not m.is_denied]

    def look(self, checker: Checker) -> list[str]:
        """Ask one checker, and count that it was asked."""
        name = name_of(checker)
        self.counts[name] = self.counts.get(name, 0) + 1
        return checker(self)


Checker = Callable[[Case], list[str]]


def name_of(checker: Checker) -> str:
    """The invariant's name, as messages and documents write it."""
    return checker.__name__.replace("_", "-")


# -- always ---------------------------------------------------------------------------------------


def table_lease_respected(case: Case) -> list[str]:
    """A brain that takes turns renews its lease before it ends (PROTOCOL 5)."""
    found = []
    lease = limits.TABLE_LEASE_MS * SECOND // 1_000
    for machine in case.world.machines.values():
        since = case.held_up.get(machine.name, 0)
        if not machine.is_up or case.world.now < machine.busy_until:
            case.held_up[machine.name] = case.world.now
            continue
        started = case.started.get(machine.name)
        if started is None or started[0] != machine.boots:
            case.started[machine.name] = (machine.boots, case.world.now)
            continue
        calm_since = max(since, started[1])
        is_calm = case.world.now > calm_since + lease
        if is_calm and machine.plane is not None and not machine.plane.is_leased:
            found.append(f"{machine.name} let its tables expire")
    return found


def replicas_known_to_be_members(case: Case) -> list[str]:
    """A row names no host that has no row of its own: it could not be priced or cut off."""
    found = []
    for machine in case.honest():
        for row in machine.seeds.values():
            for peer in row.replicas:
                if peer not in machine.peers:
                    found.append(f"{machine.name} routes {row.name!r} to a stranger {short(peer)}")
    return found


def names_never_go_back(case: Case) -> list[str]:
    """Within one run of a node the meaning of a name only moves on (PROTOCOL 3)."""
    found = []
    for machine in case.honest():
        seen: dict[str, int] = case.seen_epochs(machine)
        for name, holding in observe.names_of(machine).items():
            epoch = holding.seed.spec.name_epoch
            if epoch < seen.get(name, 0):
                found.append(f"{machine.name}: {name} went from epoch {seen[name]} to {epoch}")
            seen[name] = epoch
    return found


def no_version_twice(case: Case) -> list[str]:
    """A node that kept its disk never signs two different bodies with one version (PROTOCOL 2)."""
    found, case.odd_versions = case.odd_versions, []
    return found


# -- settled --------------------------------------------------------------------------------------


def views_converge(case: Case) -> list[str]:
    """All nodes hold the same records."""
    views = [(m, _versions(m)) for m in case.honest()]
    found = []
    for machine, view in views[1:]:
        first, base = views[0]
        if view == base:
            continue
        odd = sorted(k for k in {**base, **view} if base.get(k) != view.get(k))
        owner, kind, key = odd[0]
        found.append(
            f"{machine.name} and {first.name} differ in {len(odd)} records, "
            f"first {kind}/{key[:12]!r} of {_label(case, owner)}"
        )
    return found


def _versions(machine: Machine) -> dict[tuple[bytes, str, bytes], bytes]:
    return {
        key: record.digest
        for key, record in observe.records_of(machine).items()
        if record.body.kind not in _RESTLESS
    }


# What moves by itself: load and rates; who doubts whom.
_RESTLESS = frozenset({FAST, ACCUSE, REFUTE})


def members_agree(case: Case) -> list[str]:
    """Every node's table lists exactly the members that run."""
    wanted = tuple(sorted(m.key.hex() for m in case.members()))
    found = []
    for machine in case.honest():
        held = observe.members_of(machine)
        missing = [_label(case, bytes.fromhex(p)) for p in wanted if p not in held]
        extra = [_label(case, bytes.fromhex(p)) for p in held if p not in wanted]
        if missing:
            found.append(f"{machine.name} misses {' '.join(missing)}")
        if extra:
            found.append(f"{machine.name} still counts {' '.join(extra)}")
    return found


def plans_agree(case: Case) -> list[str]:
    """Every node routes each name to the same hosts."""
    views = [(m, observe.routes_of(m)) for m in case.honest()]
    found = []
    for machine, view in views[1:]:
        first, base = views[0]
        for name in sorted({**base, **view}):
            if base.get(name) != view.get(name):
                found.append(
                    f"{name}: {first.name} routes to {_route(case, base.get(name))}, "
                    f"{machine.name} to {_route(case, view.get(name))}"
                )
    return found


def no_orphan_claim(case: Case) -> list[str]:
    """What a table calls ready is loaded there, and nothing is loaded that nobody may call."""
    found = []
    for machine in case.honest():
        for row in machine.seeds.values():
            for peer in row.replicas:
                host = case.world.by_key.get(peer)
                if host is None or not (host.is_malicious or row.seed in host.loaded):
                    text = f"{machine.name} routes {row.name!r} to {_label(case, peer)}"
                    found.append(f"{text}, which has not loaded it")
        for seed in machine.loaded:
            if seed not in machine.seeds:
                found.append(f"{machine.name} has loaded {short(seed)}, which has no row")
    return found


def minimum_of_replicas(case: Case) -> list[str]:
    """Each live seed runs on at least as many nodes as it asks for, as far as there are any."""
    found = []
    for name in case.workload.names:
        for machine in case.honest()[:1]:
            holding = observe.names_of(machine).get(name.name)
            if holding is None or not holding.is_live:
                continue
            spec = holding.seed.spec
            able = [
                m
                for m in case.members()
                if not m.cannot_load and match_gate(spec.host, m.peers[m.key].properties)
            ]
            if not case.has_content(holding):
                continue  # The only copies were on disks that are gone.
            hosts = [m.name for m in able if holding.seed.seed in m.loaded]
            wanted = min(spec.min_replicas, len(able))
            if len(hosts) < wanted:
                found.append(f"{name.name} runs on {len(hosts)} of {wanted} nodes: {hosts}")
    return found


def every_allowed_call_routable(case: Case) -> list[str]:
    """Each live name has a row everywhere, and the row leads to somebody linked."""
    found = []
    for machine in case.honest():
        for name, holding in observe.names_of(machine).items():
            if not holding.is_live or machine.plane is None:
                continue
            if not case.has_content(holding):
                continue
            row = machine.seeds.get(machine.plane.names.get(name, b""))
            if row is None:
                found.append(f"{machine.name} has no row for {name}")
                continue
            ways = [
                peer
                for peer in [*row.replicas, *row.wake]
                if peer == machine.key or case.world.network.routed(machine, peer) is not None
            ]
            if not ways:
                found.append(f"{machine.name} has no way to any host of {name}")
    return found


def nothing_acknowledged_lost(case: Case) -> list[str]:
    """What was acknowledged last of a name is what stands, unless the disk that held it is gone."""
    found = []
    for name in case.workload.names:
        promise = name.promises[-1] if name.promises else None
        if promise is None or not promise.seed or _is_excused(case, name):
            continue
        for machine in case.honest():
            holding = observe.names_of(machine).get(name.name)
            if holding is None or holding.seed.seed.hex() != promise.seed:
                found.append(f"{machine.name} does not know {name.name} as it was acknowledged")
    return found


def no_resurrection(case: Case) -> list[str]:
    """A name whose last acknowledged command withdrew it stays withdrawn."""
    found = []
    for name in case.workload.names:
        promise = name.promises[-1] if name.promises else None
        if promise is None or promise.seed or _is_excused(case, name):
            continue
        for machine in case.honest():
            holding = observe.names_of(machine).get(name.name)
            if holding is not None and holding.is_live:
                found.append(f"{machine.name} has {name.name} again, which was withdrawn")
    return found


def _is_excused(case: Case, name: Name) -> bool:
    """The home's disk was lost or turned back before others can have had the promise, or the last
    command got no answer: then either outcome is right.
    """
    if name.is_open or name.asked is not None:
        return True
    spoiled = case.faults.spoiled.get(name.home)
    return spoiled is not None


def _label(case: Case, peer: bytes) -> str:
    machine = next((m for k, m in case.world.by_key.items() if k == peer), None)
    return short(peer) if machine is None else machine.name


def _route(case: Case, route: tuple[str, tuple[str, ...]] | None) -> str:
    if route is None:
        return "nothing"
    hosts = " ".join(_label(case, bytes.fromhex(peer)) for peer in route[1])
    return f"{route[0][:8]} on {hosts or 'nobody'}"


ALWAYS: list[Checker] = [
    table_lease_respected,
    replicas_known_to_be_members,
    names_never_go_back,
    no_version_twice,
]
SETTLED: list[Checker] = [
    members_agree,
    views_converge,
    plans_agree,
    no_orphan_claim,
    minimum_of_replicas,
    every_allowed_call_routable,
    nothing_acknowledged_lost,
    no_resurrection,
]
