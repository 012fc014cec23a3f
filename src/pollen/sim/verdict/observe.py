"""What an observer sees of a node: records, names, members, tables.

Decides: nothing. It is the one place of the simulator that looks inside a node.
Does not know: what should be there.
Invariants: nothing here changes a node. What the muscles hold is read from the model of the
    muscles, not from the brain that pushed it.
Source: docs/design/style.md#simulator.
"""

from __future__ import annotations

from collections.abc import Mapping

from pollen.core import timers
from pollen.core.codec import decode
from pollen.core.ids import Hash, PeerId, short
from pollen.core.kinds import ACCUSE, LEASE, NODE, REFUTE
from pollen.core.names import Holding
from pollen.core.peers import Verdict
from pollen.core.peers.liveness import Accusation, Refutation, decode_accusation
from pollen.core.placement.claims import Host
from pollen.core.records import Record
from pollen.core.records.owners import OwnerSet
from pollen.core.records.record import Key
from pollen.core.seeds import Seed
from pollen.core.trust import Certificate, Trust
from pollen.sim.world.machine import Machine


def records_of(machine: Machine) -> dict[Key, Record]:
    """All records that a node holds, tombstones included."""
    node = machine.node
    return {} if node is None else {r.key: r for r in node._records.all_records()}


def sets_of(machine: Machine) -> list[OwnerSet]:
    """The records that a node holds, by owner; not to be changed."""
    node = machine.node
    return [] if node is None else [node._records.peek(o) for o in node._records.owners()]


def root_of(machine: Machine) -> bytes:
    """The hash of everything that a node holds."""
    node = machine.node
    return b"" if node is None else node._records.sums.root()


def is_started(machine: Machine) -> bool:
    """Whether the process took its first turn."""
    node = machine.node
    return node is not None and node._is_started


def has_published(machine: Machine) -> bool:
    """Whether the node's own record of this run is out, so that others can judge it by that."""
    node = machine.node
    if node is None or not node._is_started:
        return False
    record = records_of(machine).get((machine.key, NODE, b""))
    facts = node._membership._evidence.facts.get(machine.key)
    return record is not None and facts is not None and record.body.epoch == facts.epoch


def verdicts_of(machine: Machine) -> dict[PeerId, Verdict]:
    """What a node's records say of each member, believed or not yet."""
    node = machine.node
    return {} if node is None else dict(node._membership._verdicts)


def has_left(machine: Machine) -> bool:
    """Whether a node said that it left, and only ends what is under way."""
    return verdicts_of(machine).get(machine.key) is Verdict.LEFT


def standing_accusations(machine: Machine) -> dict[PeerId, int]:
    """How many accusations each member has not refuted, by the records alone."""
    records = records_of(machine).values()
    live = [record for record in records if record.is_live and not record.is_opaque]
    epochs = {r.body.owner: r.body.epoch for r in live if r.body.kind == NODE}
    newest = {owner: (epoch, 0) for owner, epoch in epochs.items()}
    for record in live:
        if record.body.kind == REFUTE and record.body.epoch == epochs.get(record.body.owner):
            said = decode(Refutation, record.body.payload, "refutation")
            if isinstance(said, Refutation):
                newest[record.body.owner] = (record.body.epoch, said.incarnation)
    found: dict[PeerId, int] = {}
    for record in live:
        if record.body.kind != ACCUSE:
            continue
        accusation = decode_accusation(record)
        subject = PeerId(record.body.key)
        if isinstance(accusation, Accusation) and subject in newest:
            stands = (accusation.epoch, accusation.incarnation) == newest[subject]
            found[subject] = found.get(subject, 0) + stands
    return found


def given_up(machine: Machine) -> list[PeerId]:
    """The wanted peers with an address that are neither linked nor will be dialled."""
    node = machine.node
    if node is None or not node._is_started:
        return []
    return [
        peer
        for peer, known in sorted(node._peers._peers.items())
        if known.link is None
        and known.addresses
        and node._mesh._is_wanted(peer)
        and timers.token_for(timers.DIAL, peer) not in machine.timers
    ]


def wall_error(machine: Machine, now: int) -> int:
    """By how many nanoseconds the time that a node works with is ahead of its machine's clock."""
    node = machine.node
    wall = machine.clock.now(now).wall
    return 0 if node is None else max(node._clocks._floor - wall, 0)


def is_current(machine: Machine) -> bool:
    """Whether a node takes itself for a member whose lease has not ended."""
    node = machine.node
    return node is not None and machine.key in node._members.trust.current


def ring_of(machine: Machine) -> list[PeerId]:
    """The peers beside a node on the rings of its view."""
    node = machine.node
    return [] if node is None else list(node._mesh.links._rings.neighbours_of(machine.key))


def trust_of(machine: Machine) -> Trust:
    """What a running node knows of everybody's authority."""
    assert machine.node is not None
    return machine.node._members.trust


def certificates_of(machine: Machine) -> dict[PeerId, Certificate]:
    """The certificate that counts of each key, to a node."""
    node = machine.node
    return {} if node is None else dict(node._members.certificates)


def has_record(machine: Machine, owner: PeerId, kind: str, key: bytes) -> bool:
    """Whether a node holds something of an owner under this key."""
    node = machine.node
    return node is not None and node._records.find(owner, kind, key) is not None


def live_of(machine: Machine) -> Mapping[PeerId, int]:
    """Who is alive to a node, with their epochs."""
    node = machine.node
    return {} if node is None else node._membership.live


def said_by(machine: Machine) -> int:
    """The highest sequence number of this run: how much a node said, whatever it was."""
    node = machine.node
    return 0 if node is None else node._records._versions.last[1]


def leases_of(machine: Machine, subject: bytes) -> set[bytes]:
    """The leases of one key that a node wrote."""
    own = machine.key
    found = (records_of(machine).get((own, LEASE, subject)),)
    return {record.digest for record in found if record is not None and record.is_live}


def claims_of(machine: Machine) -> list[tuple[bytes, PeerId, str]]:
    """The claims that count to a node: seed, host and the claim's state in a word, sorted."""
    node = machine.node
    if node is None:
        return []
    counted = node._situation.claims._counted
    return sorted((s, h.node, h.state.label) for s, held in counted.items() for h in held.values())


def hosts_of(machine: Machine, seed: Hash) -> list[Host]:
    """The claims on one seed that count to a node."""
    node = machine.node
    return [] if node is None else node._situation.claims.hosts(seed)


def awaited_of(machine: Machine, seed: Hash, now: int) -> list[PeerId]:
    """Who is awaited with a copy of a blob, to a node."""
    node = machine.node
    if node is None:
        return []
    claims, wall = node._situation.claims, machine.clock.now(now).wall
    return [n for n, claim in claims._announced.get(seed, {}).items() if claim.is_away(wall)]


def label_of(by_key: Mapping[PeerId, Machine], peer: bytes) -> str:
    """The name of the machine with this key, or the first digits of the key."""
    machine = by_key.get(PeerId(peer))
    return short(peer) if machine is None else machine.name


def names_of(machine: Machine) -> dict[str, Holding[Seed]]:
    """What each name means to a node."""
    node = machine.node
    return {} if node is None else dict(node._situation.names)


def routes_of(machine: Machine) -> dict[str, tuple[str, tuple[str, ...]]]:
    """By name: the seed's hash and the replicas, sorted, as the muscles were told."""
    plane = machine.plane
    if plane is None:
        return {}
    found = {}
    for name in sorted(plane.names):
        row = plane.seeds[plane.names[name]]
        found[name] = (row.seed.hex(), tuple(sorted(peer.hex() for peer in row.replicas)))
    return found


def members_of(machine: Machine) -> tuple[str, ...]:
    """The members of a node's tables, sorted."""
    return tuple(sorted(peer.hex() for peer in machine.peers))
