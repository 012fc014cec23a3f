"""Which services the guests of a seed may ask, and who lets them in.

Decides: the sentences of ``pln why call`` on that.
Does not know: what a guest says to a service; the muscles carry it.
Invariants: as at the gates: a provider must let in the publisher of the seed, and the node where
    the guest runs. A question changes nothing.
Source: docs/design/services.md#guests.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pollen.core.ids import PeerId
from pollen.core.services.directory import Directory
from pollen.core.services.records import Service
from pollen.core.trust import Members


def why_asked(
    directory: Directory,
    members: Members,
    names: Iterable[str],
    publisher: PeerId,
    hosts: Sequence[PeerId],
) -> list[str]:
    """A sentence a service that a seed names: whether its guests on these hosts may ask it."""
    return [_sentence(directory, members, name, publisher, hosts) for name in names]


def _sentence(
    directory: Directory,
    members: Members,
    name: str,
    publisher: PeerId,
    hosts: Sequence[PeerId],
) -> str:
    found = directory.providers(name)
    if not found:
        return f"it may ask service {name}, which nobody serves"
    open_to = [service for service in found if lets(service, members, publisher)]
    if not open_to:
        at = ", ".join(members.name_of(service.owner) for service in found)
        whom = members.name_of(publisher)
        return f"it may not ask service {name}: the gate at {at} does not let in {whom}, {_WHOSE}"
    shut = [host for host in hosts if not any(lets(s, members, host) for s in open_to)]
    at = ", ".join(members.name_of(service.owner) for service in open_to)
    but = ", ".join(members.name_of(host) for host in shut)
    if not shut:
        return f"it may ask service {name} at {at}"
    if len(shut) == len(hosts):
        return f"it may not ask service {name}: the gate at {at} does not let in its hosts: {but}"
    return f"it may ask service {name} at {at}, but not from {but}: the gate does not let it in"


_WHOSE = "who published the seed"


def lets(service: Service, members: Members, peer: PeerId) -> bool:
    """Whether a service's gate lets a member in."""
    certificate = members.certificates.get(peer)
    return certificate is not None and service.lets(certificate.party)
