"""Whether authority is what the signed documents say, read without the code that decides it.

Decides: what must hold of certificates and denies once everybody has heard of everything.
Does not know: how a node chooses among chains (``core.trust``); only what each document says.
Invariants: a look changes nothing.
Source: docs/internals/trust.md#invariants.
"""

from __future__ import annotations

from collections.abc import Container

from pollen.core.codec import Rejection, decode
from pollen.core.ids import PeerId, hash_of
from pollen.core.kinds import DENY
from pollen.core.trust import Certificate
from pollen.core.trust.denies import Deny, DenyPayload
from pollen.sim.verdict import observe
from pollen.sim.world.machine import Machine
from pollen.sim.world.world import World


def looked_at(world: World) -> dict[str, list[str]]:
    """What is odd, by invariant."""
    honest = [m for m in world.machines.values() if m.is_up and not m.is_denied]
    return {
        "a-denied-peer-is-out": [text for m in honest for text in _still_in(world, m)],
        "no-authority-without-a-path": [text for m in honest for text in _unproved(world, m)],
        "authority-is-a-function": _differing(honest),
    }


def _still_in(world: World, machine: Machine) -> list[str]:
    """Denied machines that somebody still has in its tables, or is linked with."""
    denied: dict[bytes, str] = {m.key: m.name for m in world.machines.values() if m.is_denied}
    rows = [denied[peer] for peer in machine.peers if peer in denied]
    ends = [end for end in world.network.ends_of(machine) if end.is_routed]
    linked = [denied[end.peer] for end in ends if end.peer in denied]
    return [f"{machine.name} has {name} in its tables" for name in rows] + [
        f"{machine.name} is linked with {name}" for name in linked if name not in rows
    ]


def _unproved(world: World, machine: Machine) -> list[str]:
    """Certificates that count though a deny of somebody in their chain is neither cited nor named
    by what they cite, and the root did not give what an admin alone denied."""
    found = []
    trust = observe.trust_of(machine)
    denies = _denies_of(machine, trust.roots)
    for peer, certificate in trust.certificates.items():
        chain = trust.chain_of(peer)
        name = world.by_key[peer].name
        if chain is None or chain.leaf != certificate:
            found.append(f"{machine.name}: {name} counts without its chain")
            continue
        for link in chain.certificates:
            for key, deny in denies.get(PeerId(link.subject), {}).items():
                if not _is_answered(link, key, deny, denies, world):
                    found.append(f"{machine.name}: {name} counts in spite of a deny")
    return found


def _denies_of(machine: Machine, roots: Container[PeerId]) -> dict[PeerId, dict[bytes, Deny]]:
    """All but those of a root outside the line, or of an admin below one: they are void."""
    found: dict[PeerId, dict[bytes, Deny]] = {}
    for (_, kind, _key), record in observe.records_of(machine).items():
        if kind != DENY or not record.is_live:
            continue
        carried = decode(DenyPayload, record.body.payload, "deny")
        deny = (
            carried if isinstance(carried, Rejection) else decode(Deny, carried.deny.body, "deny")
        )
        if isinstance(carried, DenyPayload) and isinstance(deny, Deny):
            if _root_of(carried, deny) not in roots:
                continue
            key = hash_of("deny", carried.deny.body)
            found.setdefault(PeerId(deny.subject), {})[key] = deny
    return found


def _root_of(carried: DenyPayload, deny: Deny) -> PeerId:
    """Whom a deny goes back to: the issuer of the first certificate in its proof, or its own."""
    if not carried.evidence:
        return PeerId(deny.issuer)
    first = decode(Certificate, carried.evidence[0].body, "certificate")
    return PeerId(b"" if isinstance(first, Rejection) else first.issuer)


def _is_answered(
    link: Certificate, key: bytes, deny: Deny, denies: dict[PeerId, dict[bytes, Deny]], world: World
) -> bool:
    is_roots = PeerId(deny.issuer) not in world.by_key
    if not is_roots and not link.lineage:
        return True
    cited = denies[PeerId(link.subject)].get(link.cites)
    is_cited = link.cites == key or (cited is not None and key in cited.after)
    return is_cited and link.generation > deny.generation


def _differing(honest: list[Machine]) -> list[str]:
    views = [(m.name, observe.certificates_of(m)) for m in honest]
    return [f"{name} and {views[0][0]} differ" for name, view in views[1:] if view != views[0][1]]
