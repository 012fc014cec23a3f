"""What must hold of blobs: so many copies, none lost while a disk lives, found by readers.

Decides: whether an invariant of blobs holds now, and what to say when it does not.
Does not know: how copies are placed and moved; the moments in which a copy is let go or a disk is
    overfilled, which the model of the muscles sees itself (``sim.muscles.blobs``).
Invariants: a checker changes nothing. A content counts as held where all of it is on the disk.
Source: docs/internals/simulator.md#checkers, which lists them.
"""

from __future__ import annotations

from pollen.core.placement.claims import Host, State
from pollen.core.policy import Party
from pollen.core.rules import match_gate
from pollen.core.seeds import Seed
from pollen.sim.verdict import observe
from pollen.sim.verdict.case import Case, Checker
from pollen.sim.world.machine import Machine

# How a refusal begins that speaks of the disk.
_NO_ROOM = ("no room", "storage-full")


def _live_blobs(case: Case) -> dict[str, Seed]:
    """The blobs that names stand for and the former versions that are kept, to the first honest
    node; each by its name and number."""
    names = observe.names_of(case.honest()[0]) if case.honest() else {}
    live = [held.holder for held in names.values() if held.is_live]
    seeds = [seed for holder in live for seed in (holder, *holder.kept)]
    return {f"{seed.name}@{seed.name_epoch}": seed for seed in seeds if seed.is_blob}


def _may_hold(machine: Machine, seed: Seed) -> bool:
    """A holder passes the gates of hosts and those of readers."""
    own = machine.peers.get(machine.key)
    if own is None or not match_gate([*seed.spec.host, *seed.spec.allow], own.properties):
        return False
    party = Party(**dict(own.words), properties=own.properties)
    return all(policy is None or policy.passes(party) for policy in (seed.host_if, seed.allow_if))


def _is_short_of_room(machine: Machine, seed: Seed, host: Host | None) -> bool:
    """A node that refused for its disk stands by that for a while."""
    if seed.spec.content in machine.content:
        return False
    is_refused = host is not None and host.state is State.REFUSED
    if is_refused and host is not None and host.reason.startswith(_NO_ROOM):
        return True
    return machine.free_bytes < seed.spec.size_bytes


def copies_kept(case: Case) -> list[str]:
    """Each live blob has min(min_copies, eligible nodes with room) ready holders, less those that
    are awaited, and at least one."""
    found = []
    for name, seed in _live_blobs(case).items():
        if not case.has_content(seed):
            continue  # The only copies were on disks that are gone.
        claims = {h.node: h for h in observe.hosts_of(case.honest()[0], seed.seed)}
        able = [
            m
            for m in case.members()
            if _may_hold(m, seed) and not _is_short_of_room(m, seed, claims.get(m.key))
        ]
        held = [m for m in able if seed.seed in m.loaded and seed.spec.content in m.content]
        ready = [m.name for m in held if _is_ready(claims.get(m.key))]
        up = {m.key for m in case.world.up()}
        awaited = observe.awaited_of(case.honest()[0], seed.seed, case.world.now)
        away = sum(node not in up for node in awaited)
        wanted = min(max(seed.spec.min_replicas - away, 1), seed.spec.min_replicas, len(able))
        if len(ready) < wanted:
            found.append(f"{name} has {len(ready)} of {wanted} copies: {' '.join(ready)}")
    return found


def pins_kept(case: Case) -> list[str]:
    """Where a user pinned a blob there is a copy of what its name leads to, as far as that machine
    may hold it, has room for it, and was never given another disk."""
    found = []
    members = {m.name: m for m in case.members()}
    for pin in case.workload.pins.values():
        machine = members.get(pin.machine)
        if machine is None or not pin.is_pinned or pin.is_open or pin.asked is not None:
            continue
        holding = observe.names_of(machine).get(pin.name)
        if holding is None or not holding.is_live or machine.losses != pin.losses:
            continue
        seed = holding.holder
        claim = {h.node: h for h in observe.hosts_of(machine, seed.seed)}.get(machine.key)
        if not seed.is_blob or not _may_hold(machine, seed) or not case.has_content(seed):
            continue
        is_held = seed.seed in machine.loaded and seed.spec.content in machine.content
        if not is_held and not _is_short_of_room(machine, seed, claim):
            found.append(f"{machine.name} has no copy of {pin.name}, which is pinned there")
    return found


def _is_ready(host: Host | None) -> bool:
    return host is not None and host.state in (State.READY, State.DRAINING)


def note_disks(case: Case) -> None:
    """Remember which disks have each blob, from look to look."""
    for seed in _live_blobs(case).values():
        content = seed.spec.content
        machines = case.world.machines.values()
        disks = [(m, m.losses) for m in machines if content in m.content]
        if disks:
            case.disks[content] = disks


def no_wanted_blob_lost(case: Case) -> list[str]:
    """A blob that was acknowledged is on a disk that readers are led to, while one disk lives."""
    found = []
    for name, seed in _live_blobs(case).items():
        content = seed.spec.content
        holders = [m for m in case.members() if content in m.content]
        noted = case.disks.get(content, [])
        alive = [m.name for m, losses in noted if m.losses == losses and not m.is_gone]
        if not holders:
            if alive:
                found.append(f"{name} is nowhere: it was on the disk of {' '.join(alive)}")
            continue
        keys = {m.key for m in holders}
        for machine in case.honest():
            row = machine.seeds.get(seed.seed)
            if row is None or (keys.isdisjoint(row.replicas) and machine not in holders):
                names = " ".join(m.name for m in holders)
                found.append(f"{machine.name} finds no copy of {name}, which {names} holds")
    return found


SETTLED: list[Checker] = [copies_kept, pins_kept, no_wanted_blob_lost]
