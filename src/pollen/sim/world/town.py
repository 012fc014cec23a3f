"""A large cluster that begins converged: everybody holds everybody's records from the first moment.

Decides: what each node of such a cluster published before, and what all of them know.
Does not know: what is measured in it.
Invariants: what is implanted is byte for byte what its owner publishes when it starts: each node
    lived alone for a moment first, and starts from the disk that it had then. So a start makes
    no news, and a large world needs no hours of forming.
Source: docs/internals/simulator.md#figures (a converged start, 8 records each). Refused: forming
    1,000 nodes for each run, which takes a thousand times what is measured.
"""

from __future__ import annotations

from collections.abc import Sequence

from pollen.core.codec import encode
from pollen.core.events import TablesStale
from pollen.core.ids import MILLISECOND, SECOND, PeerId
from pollen.core.kinds import CERT, LEASE
from pollen.core.records import Record
from pollen.core.trust import Chain, Tier
from pollen.core.trust.certs import decode_chain
from pollen.sim.muscles.modules import content_id
from pollen.sim.muscles.weather import Cut
from pollen.sim.verdict import observe
from pollen.sim.verdict.trial import node_names
from pollen.sim.world.machine import Machine
from pollen.sim.world.world import World

# Seeds that run everywhere: their claims, a node record, a certificate and the fast values are
# eight records of each node.
_SEEDS = 5
# Until the first telemetry everywhere. The dials of the first moment are sent again after a second.
_ALONE_NS = 700 * MILLISECOND


class _Past:
    """The earlier runs of one machine, alone in a world of its own."""

    def __init__(self, of: Machine, way_us: int) -> None:
        self._way_us = way_us
        self.world = World(1, trace_depth=0, keeps_traces=False)
        self.machine = self.world.add(of.name, root=of.root is not None)
        self.machine.address, self.machine.index = of.address, of.index
        self.world.enrol(self.machine, tier_of(of))

    def start(self, known: Sequence[Record]) -> list[Record]:
        """Another run, which holds these records; what it says of itself in the first second."""
        self.world.kill(self.machine.name)
        self.image = self.machine.disk.image()
        self.machine.content.update(content_id(_module(number)) for number in range(_SEEDS))
        self.world.start(self.machine.name)
        self.world.implant(self.machine, known)
        place(self.machine, self._way_us)
        self.world.run(SECOND)
        records = observe.records_of(self.machine).values()
        return [record for record in records if record.body.owner == self.machine.key]


def found_converged(world: World, nodes: int) -> list[str]:
    """So many nodes in a world that is empty yet, linked by the next seconds of its time."""
    way_us = world.network.weather.near_ns // 1_000
    names = node_names(nodes)
    machines = [world.add(name, root=i == 0) for i, name in enumerate(names)]
    pasts = [_Past(machine, way_us) for machine in machines]
    admin = pasts[0]
    admin.start([])
    for number in range(_SEEDS):
        admin.world.seed(admin.machine.name, f"seed-{number}", _module(number), everywhere=True)
    said = admin.start([])
    known: list[Record] = []
    for past in pasts[1:]:
        past.start([])
        known += past.start(said)
    _lend(admin, known)
    known += admin.start(known)
    peers: list[tuple[PeerId, list[str]]] = [(m.key, [m.address]) for m in machines]
    for machine, past in zip(machines, pasts, strict=True):
        machine.boots = past.machine.boots - 1
        machine.content |= past.machine.content
        world.enrol(machine, tier_of(machine), peers=peers)
        machine.disk.merge(past.image)
        world.start(machine.name)
        world.implant(machine, known)
        place(machine, way_us)
    # Each says what it has to say before anybody tells it that it did.
    alone = Cut(frozenset(names), frozenset(names), False)
    world.network.weather.cuts.append(alone)
    world.run(_ALONE_NS)
    world.network.weather.cuts.remove(alone)
    return names


def _module(number: int) -> bytes:
    return f"everywhere {number}".encode()


def tier_of(machine: Machine) -> Tier:
    """The tier that a machine of a town is given."""
    return Tier.PUBLISHER if machine.root is None else Tier.ADMIN


def _lend(admin: _Past, others: Sequence[Record]) -> None:
    """The admin signs a lease for each certificate that it is shown."""
    node = admin.machine.node
    if node is None:
        raise ValueError(f"{admin.machine.name} does not run")
    wall = admin.machine.clock.now(admin.world.now).wall
    for record in others:
        if record.body.kind != CERT:
            continue
        carried = decode_chain(record.body.payload)
        subject = record.body.owner
        chain = node._members.trust.judge(subject, carried if isinstance(carried, tuple) else ())
        if isinstance(chain, Chain):
            held = node._redeeming.lend(chain, wall)
            node._records.publish(LEASE, subject, encode(held.carried))
    admin.world.post(admin.machine.name, TablesStale())
    admin.world.run(SECOND)


def place(machine: Machine, way_us: int) -> None:
    """The map of round trips is also at rest: all are equally far, as heights say exactly."""
    node = machine.node
    if node is None:
        raise ValueError(f"{machine.name} does not run")
    coords = node._mesh.coords
    spot = [float(machine.index * 7 % 400), float(machine.index * 11 % 400)]
    coords._place, coords._height = spot, float(way_us)
    coords._mean, coords._error, coords._rtt = [*spot, float(way_us)], 0.05, 2.0 * way_us
    coords._here = None
    coords.told = coords.coordinate().told()
