"""What must hold: one function an invariant, named as the invariant.

Decides: whether an invariant holds now, and what to say when it does not.
Does not know: faults or how a node comes to its decisions; it looks from outside (``observe``).
Invariants: a checker changes nothing. Those in ``ALWAYS`` hold in every moment, faults or not;
    those in ``SETTLED`` hold some time after everything healed. Each look is counted.
Source: docs/internals/simulator.md#checkers, which lists them.
"""

from __future__ import annotations

from pollen.core import limits
from pollen.core.ids import SECOND, Hash, PeerId, short
from pollen.core.kinds import ACCUSE, FAST, REFUTE
from pollen.core.policy import Party
from pollen.core.rules import match_gate
from pollen.core.seeds import Seed
from pollen.sim.mischief.workload import Name
from pollen.sim.verdict import copies, living, observe
from pollen.sim.verdict.case import Case, Checker, label_of, name_of
from pollen.sim.world.machine import Machine

__all__ = ["ALWAYS", "NOTED", "SETTLED", "Case", "Checker", "label_of", "name_of"]


# -- always ---------------------------------------------------------------------------------------


def table_lease_respected(case: Case) -> list[str]:
    """A brain that takes turns renews its lease before it ends."""
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
    """Within one run of a node the meaning of a name only moves on.

    Unless its owner lost its disk and named it again before a peer could tell it of its past.
    """
    found = []
    for machine in case.honest():
        seen: dict[str, int] = case.seen_epochs(machine)
        for name, holding in observe.names_of(machine).items():
            epoch = holding.holder.spec.name_epoch
            owner = label_of(case, holding.holder.owner)
            if epoch < seen.get(name, 0) and owner not in case.faults.spoiled:
                found.append(f"{machine.name}: {name} went from epoch {seen[name]} to {epoch}")
            seen[name] = epoch
    return found


def no_version_twice(case: Case) -> list[str]:
    """A node that kept its disk never signs two different bodies with one version."""
    found, case.odd_versions = case.odd_versions, []
    return found


def equal_hashes_equal_sets(case: Case) -> list[str]:
    """Nodes whose root hashes are equal hold the same records."""
    seen: dict[bytes, tuple[Machine, set[Hash]]] = {}
    found = []
    for machine in case.honest():
        held = {record.digest for record in observe.records_of(machine).values()}
        first, base = seen.setdefault(observe.root_of(machine), (machine, held))
        if held != base:
            found.append(f"{machine.name} and {first.name} have one root and different records")
    return found


def nothing_below_the_floor(case: Case) -> list[str]:
    """Nothing at or below an owner's ``gc_version`` is held."""
    found = []
    for machine in case.honest():
        for owned in observe.sets_of(machine):
            low = [r for r in owned.rows.values() if r.version <= owned.floor]
            if low:
                text = f"{machine.name} holds {len(low)} records of {label_of(case, owned.owner)}"
                found.append(f"{text} below its floor")
    return found


# -- settled --------------------------------------------------------------------------------------


def a_right_clock_heals(case: Case) -> list[str]:
    """A member whose clock is right works with that clock and is a member, whatever its clock
    showed before.
    """
    found = []
    for machine in case.honest():
        ahead = observe.wall_error(machine, case.world.now)
        if ahead > limits.CLOCK_TOLERANCE_NS:
            found.append(f"{machine.name} takes it to be {ahead // SECOND} s later than it is")
        elif observe.is_started(machine) and not observe.is_current(machine):
            found.append(f"{machine.name} takes its own lease to have ended")
    return found


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
            f"first {kind}/{key[:12]!r} of {label_of(case, owner)}"
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
                    text = f"{machine.name} routes {row.name!r} to {label_of(case, peer)}"
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
            able = [m for m in case.members() if _may_host(m, holding.holder)]
            if not case.has_content(holding.holder):
                continue  # The only copies were on disks that are gone.
            hosts = [m.name for m in able if holding.holder.seed in m.loaded]
            wanted = min(holding.holder.spec.min_replicas, len(able))
            if len(hosts) < wanted:
                found.append(f"{name.name} runs on {len(hosts)} of {wanted} nodes: {hosts}")
    return found


def _may_host(machine: Machine, seed: Seed) -> bool:
    own = machine.peers.get(machine.key)
    if own is None or machine.cannot_load or not match_gate(seed.spec.host, own.properties):
        return False
    party = Party(**dict(own.words), properties=own.properties)
    return seed.host_if is None or seed.host_if.passes(party)


def every_allowed_call_routable(case: Case) -> list[str]:
    """Each live name has a row everywhere, and the row leads to somebody linked."""
    found = []
    for machine in case.honest():
        for name, holding in observe.names_of(machine).items():
            if not holding.is_live or holding.holder.is_blob or machine.plane is None:
                continue
            if not case.has_content(holding.holder):
                continue
            if not any(_may_host(member, holding.holder) for member in case.members()):
                continue  # Nobody has what its publisher asks of hosts.
            row = machine.seeds.get(machine.plane.names.get(name, b""))
            if row is None:
                found.append(f"{machine.name} has no row for {name}")
                continue
            ways = [
                peer
                for peer in [*row.replicas, *row.wake]
                if peer == machine.key or _leads_there(case, machine, peer)
            ]
            if not ways:
                found.append(f"{machine.name} has no way to any host of {name}")
    return found


def _leads_there(case: Case, machine: Machine, peer: PeerId) -> bool:
    """Whether calls would reach the peer: a link whose other end is gone is found out in time."""
    end = case.world.network.routed(machine, peer)
    return end is not None and case.world.network.is_heard(end)


def nothing_acknowledged_lost(case: Case) -> list[str]:
    """What was acknowledged last of a name is what stands, unless the disk that held it is gone."""
    found = []
    for name in case.workload.all_names:
        promise = name.promises[-1] if name.promises else None
        if promise is None or not promise.seed or _is_excused(case, name):
            continue
        for machine in case.honest():
            holding = observe.names_of(machine).get(name.name)
            if holding is None or holding.holder.seed.hex() != promise.seed:
                found.append(f"{machine.name} does not know {name.name} as it was acknowledged")
    return found


def no_resurrection(case: Case) -> list[str]:
    """A name whose last acknowledged command withdrew it stays withdrawn."""
    found = []
    for name in case.workload.all_names:
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


def _route(case: Case, route: tuple[str, tuple[str, ...]] | None) -> str:
    if route is None:
        return "nothing"
    hosts = " ".join(label_of(case, bytes.fromhex(peer)) for peer in route[1])
    return f"{route[0][:8]} on {hosts or 'nobody'}"


ALWAYS: list[Checker] = [
    table_lease_respected,
    replicas_known_to_be_members,
    names_never_go_back,
    no_version_twice,
    equal_hashes_equal_sets,
    nothing_below_the_floor,
    *living.ALWAYS,
]
SETTLED: list[Checker] = [
    *living.SETTLED,
    *copies.SETTLED,
    a_right_clock_heals,
    views_converge,
    plans_agree,
    no_orphan_claim,
    minimum_of_replicas,
    every_allowed_call_routable,
    nothing_acknowledged_lost,
    no_resurrection,
]
# What the model itself sees broken, in the moment in which it happens.
NOTED: dict[str, str] = {
    "row-before-load": "No seed is loaded without a row for it.",
    "checked-before-ready": "No replica of a seed with a check is claimed ready before it passed.",
    "quota-kept": "No blob is fetched that the disk has no room for beside those on their way.",
    "no-last-copy-dropped": "No node lets go of the last copy of a blob that a name still needs.",
    "a-call-ends-once": "A call that was made ends once, well or not.",
    "no-attempt-twice-on-one-node": "No attempt of a call runs twice in one process.",
    "no-call-twice-at-all": "A call that is not idempotent runs at most once in the whole cluster.",
    "no-storm": "Nodes do not talk without end.",
    "counters": "In every run something went wrong, something was checked, and calls succeeded.",
}
