"""Who serves a name and how far they are: the numbers of ``pln why service``.

Decides: nothing; the words and the numbers.
Does not know: whom a gate lets in (``services``); what a provider answered: the runtime adds it.
Invariants: pure; the order is that in which providers are tried.
Source: docs/design/cli.md#why.
"""

from __future__ import annotations

from collections.abc import Callable

from pollen.core.codec import Refusal
from pollen.core.desk.views import Screen, absence_of, path_of
from pollen.core.ids import PeerId
from pollen.core.whywords import ProviderWay, WhyService


def why_service(
    screen: Screen, target: str, price: Callable[[PeerId], tuple[int, str]]
) -> WhyService | Refusal:
    """The answer to ``WhyServiceCommand``."""
    known = screen.services.why(target)
    if isinstance(known, Refusal):
        return known
    ways = []
    for service in known.providers:
        peer = service.owner
        micros, source = price(peer)
        said = screen.services.health(known.name, peer)
        ways.append(
            ProviderWay(
                node=peer.hex(),
                name=screen.members.name_of(peer),
                state=_state_of(screen, peer),
                lets=peer in known.open_here,
                gate=service.gate,
                price_us=micros,
                price_source=source,
                path=_path_to(screen, peer),
                health="" if said is None else said.label,
                health_unix_ms=0 if said is None else said.since_unix_ms,
                health_reason="" if said is None else said.reason,
            )
        )
    first = known.providers[0].record if known.providers else None
    return WhyService(
        name=known.name,
        datagrams=first is not None and first.datagrams,
        name_epoch=0 if first is None else first.name_epoch,
        allowed=bool(known.open_here),
        why=known.why,
        providers=ways,
    )


def _state_of(screen: Screen, peer: PeerId) -> str:
    if peer == screen.node:
        return "self"
    return "online" if peer in screen.situation.live else absence_of(screen, peer)


def _path_to(screen: Screen, peer: PeerId) -> str:
    samples = screen.telemetry.peers if screen.telemetry else []
    sample = next((sample for sample in samples if sample.peer == peer), None)
    return path_of(screen, peer, sample)[0]
