"""How packets go between two simulated machines: directly, or through other members.

Decides: what stands before a machine and lets through, whom its muscles hand a packet to, and when
    a link's packets take another way.
Does not know: what a packet says; why a row names a member.
Invariants: a packet is passed on only by machines whose muscles hold rows of both its ends, at most
    three times, and only over links whose own packets go directly. A link that began on the mesh
    finds the direct path when address translation allows one and both sides' addresses were told,
    and falls back when that path is cut; one that began directly has no other way.
Source: docs/decisions/the-mesh-is-the-relay.md; the kinds of translation: RFC 4787, 4.1 and 5.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from itertools import islice, pairwise
from typing import TYPE_CHECKING

from pollen.core.ids import MILLISECOND, PeerId
from pollen.sim.muscles.end import End
from pollen.sim.muscles.weather import Weather
from pollen.sim.world.machine import Machine

if TYPE_CHECKING:
    from pollen.sim.muscles.network import Network

# A packet's ttl: it is handed over so often. Source: docs/design/protocol.md#transport.
TTL = 4
# A silent direct path is given up. Source: the idle time of a path in the muscles.
PATH_IDLE_NS = 2_500 * MILLISECOND


class Router(Enum):
    """What stands before a machine. ``CONE`` lets everybody in who knows the mapping, ``HOME`` only
    those that were sent something; ``SYMMETRIC`` has another mapping for each peer."""

    NONE = "none"
    CONE = "cone"
    HOME = "home"
    SYMMETRIC = "symmetric"


class Ways:
    """The routers of one world, and who can reach whom."""

    def __init__(self, weather: Weather) -> None:
        self._weather = weather
        self._routers: dict[str, Router] = {}
        self.passed_on: dict[str, int] = {}

    def put_behind(self, machine: Machine, router: Router) -> None:
        """A machine stands behind a router from now on."""
        self._routers[machine.name] = router

    def router_of(self, machine: Machine) -> Router:
        """What stands before a machine."""
        return self._routers.get(machine.name, Router.NONE)

    def seen_at(self, machine: Machine, by: Machine) -> str:
        """Where another machine sees this one."""
        router = self.router_of(machine)
        if router is Router.NONE:
            return machine.address
        port = 60_611 if router is not Router.SYMMETRIC else 20_000 + by.index
        return f"203.0.113.{machine.index & 255}:{port}"

    def answers(self, machine: Machine, target: Machine, address: str) -> bool:
        """Whether a first packet to this address comes to the target."""
        router = self.router_of(target)
        if router is Router.NONE:
            return address == target.address
        return router is Router.CONE and address == self.seen_at(target, machine)

    def may_be_direct(self, one: Machine, other: Machine) -> bool:
        """Whether both can open a direct path by sending at the same time: what plain UDP does
        behind these routers, when each knows where the other is seen."""
        routers = {self.router_of(one), self.router_of(other)}
        if Router.SYMMETRIC not in routers:
            return True
        return bool(routers & {Router.NONE, Router.CONE})

    def is_told(self, machine: Machine) -> bool:
        """Whether the muscles know where this machine is seen, as far as that helps."""
        if self.router_of(machine) in (Router.NONE, Router.SYMMETRIC):
            return True
        plane = machine.plane
        return plane is not None and self.seen_at(machine, machine) in plane.seen_at

    # -- through the mesh -------------------------------------------------------------------------

    def through(self, network: Network, source: Machine, target: Machine) -> list[Machine] | None:
        """The machines that a packet passes on its way, as each one's muscles decide; None when it
        does not arrive."""
        steps = list(islice(self.steps(network, source, target), TTL))
        return steps[:-1] if steps and steps[-1] is target else None

    def steps(self, network: Network, source: Machine, target: Machine) -> Iterator[Machine]:
        """To which machine a packet is handed, again and again; without an end when it turns."""
        here, before = source, source
        while here is not target:
            following = self._next(network, here, before, source, target)
            if following is None:
                return
            yield following
            before, here = here, following

    def _next(
        self, network: Network, here: Machine, before: Machine, source: Machine, target: Machine
    ) -> Machine | None:
        """Whom a machine hands the packet to."""
        plane = here.plane
        row = None if plane is None or not plane.is_leased else plane.peers.get(target.key)
        if plane is None or row is None:
            return None
        if here is not source:
            if not plane.relays or source.key not in plane.peers:
                return None
            last = self._neighbour(network, here, target.key)
            if last is not None:
                return last
        hops = [self._neighbour(network, here, hop) for hop in row.hops]
        return next((hop for hop in hops if hop is not None and hop is not before), None)

    def _neighbour(self, network: Network, here: Machine, peer: PeerId) -> Machine | None:
        """The machine at the other end of a link that carries packets directly."""
        end = network.routed(here, peer)
        if end is None or end.other is None or end.is_meshed or not end.other.machine.is_up:
            return None
        other = end.other.machine
        is_cut = self._weather.is_cut(here, other) or self._weather.is_cut(other, here)
        return None if is_cut else other

    def has_way(self, network: Network, one: Machine, other: Machine) -> bool:
        """Whether packets pass through the mesh both ways."""
        there = self.through(network, one, other)
        return bool(there) and bool(self.through(network, other, one))

    # -- a link's way -----------------------------------------------------------------------------

    def look(self, network: Network, end: End) -> bool:
        """Whether the packets of a link take another way from now on; told at both its ends.

        Only the side that dialled opens paths.
        """
        other = end.other
        if other is None or not (end.dialled and end.began_meshed):
            return False
        one, two = end.machine, other.machine
        is_cut = self._weather.is_cut(one, two) or self._weather.is_cut(two, one)
        if end.is_meshed:
            is_open = not is_cut and self.may_be_direct(one, two)
            moves = is_open and self.is_told(one) and self.is_told(two)
        else:
            end.cut_looks = end.cut_looks + 1 if is_cut else 0
            moves = end.cut_looks * network.LOOK_NS >= PATH_IDLE_NS
            moves = moves and self.has_way(network, one, two)
        if moves:
            end.is_meshed = other.is_meshed = not end.is_meshed
            end.cut_looks = 0
            end.way_ns = other.way_ns = self.way_ns(network, one, two, end.is_meshed)
        return moves

    def way_ns(self, network: Network, one: Machine, two: Machine, is_meshed: bool) -> int:
        """The one-way time of a link's packets on a calm day."""
        between = self.through(network, one, two) or [] if is_meshed else []
        steps = [one, *between, two]
        return sum(self._weather.way_ns(a, b) for a, b in pairwise(steps))

    def address_of(self, end: End) -> str:
        """Where this end sees the other; empty on the mesh."""
        other = end.other
        return "" if other is None or end.is_meshed else self.seen_at(other.machine, end.machine)
