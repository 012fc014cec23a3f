"""Whether a name of a service leads where its records say, read without the room's code.

Decides: who serves a name by the records alone; which rows of the muscles differ from that.
Does not know: how a node projects records (``core.services``).
Invariants: a look changes nothing.
Source: docs/design/services.md#names.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from pollen.core.ids import PeerId
from pollen.core.kinds import SERVICE
from pollen.core.trust import Tier
from pollen.sim.verdict import observe
from pollen.sim.world.machine import Machine


class _Said(msgspec.Struct, array_like=True):
    """The beginning of a service record, as its bytes say it."""

    name: str
    name_epoch: int
    withdrawn: bool
    datagrams: bool


def servers_by_records(machine: Machine) -> dict[str, list[set[PeerId]]]:
    """By what a node holds: who serves each name, alive or not. Of streams and datagrams under one
    name, served in two halves, either may stay."""
    certificates = observe.certificates_of(machine)
    said: dict[str, dict[PeerId, _Said]] = {}
    for (owner, kind, _key), record in observe.records_of(machine).items():
        certificate = certificates.get(owner)
        is_able = certificate is not None and certificate.tier >= Tier.PUBLISHER
        if kind == SERVICE and record.is_live and is_able:
            one = msgspec.msgpack.decode(record.body.payload, type=_Said)
            said.setdefault(one.name, {})[owner] = one
    found: dict[str, list[set[PeerId]]] = {}
    for name, held in said.items():
        top = max(one.name_epoch for one in held.values())
        counts = {o: one for o, one in held.items() if one.name_epoch == top and not one.withdrawn}
        kinds = {one.datagrams for one in counts.values()}
        found[name] = [{o for o, one in counts.items() if one.datagrams == k} for k in kinds]
    return found


def services_wrongly_told(machines: Sequence[Machine]) -> list[str]:
    """``services-agree``, once all heard of everything: the muscles of a node try somebody who
    serves a name no more or is down, miss somebody who does, or serve what does not count."""
    names = {machine.key: machine.name for machine in machines}
    found = []
    seen: dict[str, set[PeerId]] = {}
    for machine in machines:
        wanted = servers_by_records(machine)
        told = {row.name: set(row.providers) for row in machine.services.values()}
        for name in sorted(wanted.keys() | told.keys()):
            allowed = [peers & names.keys() for peers in wanted.get(name, ())] or [set()]
            tried = told.get(name, set())
            if tried not in allowed or tried != seen.setdefault(name, tried):
                tries = sorted(names.get(peer, "?") for peer in tried)
                found.append(f"{machine.name} tries {tries} for {name}, not who serves it")
        own = {name for name, peers in told.items() if machine.key in peers}
        for name in sorted({row.name for row in machine.served.values()} ^ own):
            word = "does not serve" if name in own else "serves"
            found.append(f"{machine.name} {word} {name}, against the records")
    return found
