"""Many signed records of many members at once, and a node that takes them in, turn by turn.

Times are processor time of this thread, so that a busy machine is no slow node. The interpreter's
full collections are left out: the daemon has them between turns (``runtime.loop.driver``).
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator

from pollen.core import timers
from pollen.core.codec import RECORD_DOMAIN, encode, signing_bytes
from pollen.core.config import NodeConfig
from pollen.core.effects import Effect, Persist, SetTimer
from pollen.core.events import Event, Persisted, RecordsReceived, SignedRecord, Started, TimerFired
from pollen.core.ids import (
    DAY,
    ClusterId,
    Hash,
    KeyRole,
    LinkId,
    Nanos,
    Now,
    PeerId,
    Sign,
    Verify,
    hash_of,
)
from pollen.core.kinds import CERT, CLAIM, LEASE, NODE, SPEC
from pollen.core.node import Node
from pollen.core.peers import Phase
from pollen.core.placement import State
from pollen.core.placement.claims import Claim
from pollen.core.records.record import Body, in_frames
from pollen.core.rng import Rng
from pollen.core.seeds import specs
from pollen.core.trust import Certificate, NodeInfo, Tier, certs, leases
from pollen.core.trust.leases import Lease, founding_credentials
from pollen.options import SeedOptions

CLUSTER = ClusterId(b"c" * 32)
WALL = Nanos(20_000 * DAY)
SPECS = 7
CLAIMS = 40
EACH = 3 + SPECS + CLAIMS


class Ring:
    """Keys by number, and who can sign with them: number 0 is the root."""

    def __init__(
        self,
        public: Callable[[int], PeerId],
        sign: Callable[[int, bytes], bytes],
        verify: Verify,
    ) -> None:
        self.public, self.sign, self.verify = public, sign, verify

    def signer(self, number: int) -> Sign:
        return lambda role, data: self.sign(0 if role is KeyRole.ROOT else number, data)


class Writer:
    """One member that writes its records in order."""

    def __init__(self, ring: Ring, number: int) -> None:
        self.ring, self.number = ring, number
        self.key = ring.public(number)
        self.said: list[SignedRecord] = []
        self.taken = 0

    def say(self, kind: str, key: bytes, payload: object) -> None:
        data = payload if isinstance(payload, bytes) else encode(payload)
        seq = len(self.said) + 1
        before = (1, seq - 1) if seq > 1 else (0, 0)
        raw = encode(Body(CLUSTER, self.key, kind, key, 1, seq, 1, False, data, *before))
        signature = self.ring.sign(self.number, signing_bytes(RECORD_DOMAIN, raw))
        self.said.append(SignedRecord(self.key, raw, signature))


def certificate_of(ring: Ring, number: int) -> Certificate:
    tier = Tier.ADMIN if number == 1 else Tier.PUBLISHER
    return Certificate(
        CLUSTER, ring.public(number), ring.public(0), tier, "{}", [], 1, Nanos(WALL - DAY)
    )


def make_node(ring: Ring) -> Node:
    """The node number 1, an admin, with an empty disk."""
    certificate = certificate_of(ring, 1)
    config = NodeConfig(
        node=ring.public(1), cluster=CLUSTER, root=ring.public(0),
        chain=founding_credentials(certificate, ring.signer(1)), boot=b"b" * 16, name="n1",
        version="1", memory_bytes=1 << 30, has_root=False,
    )  # fmt: skip
    return Node(config, Rng(1), ring.signer(1), ring.verify, {})


def info_of(number: int, phase: Phase = Phase.UP) -> NodeInfo:
    memory = 1 << (30 + number % 5)
    where = ["192.0.2.1:60611"]
    return NodeInfo(f"n{number}", where, b"b" * 16, "1", memory, 1, 1, phase=int(phase))


def make_flood(ring: Ring, members: int) -> list[list[SignedRecord]]:
    """Frames with everything of so many members (from number 2 on), ``EACH`` records of each."""
    return framed(make_writers(ring, members, SPECS, CLAIMS))


def framed(writers: list[Writer]) -> list[list[SignedRecord]]:
    """What they said and was not taken from them before."""
    frames = in_frames(record for writer in writers for record in writer.said[writer.taken :])
    for writer in writers:
        writer.taken = len(writer.said)
    return frames


def make_writers(ring: Ring, members: int, count: int, claims: int) -> list[Writer]:
    """Members that say who they are, ``count`` specs and ``claims`` claims each."""
    seeds: list[Hash] = []
    writers = [Writer(ring, 2 + n) for n in range(members)]
    for writer in writers:
        number = writer.number
        chain = certs.issue_certificate(certificate_of(ring, number), ring.signer(number))
        lease = Lease(
            CLUSTER, ring.public(0), writer.key, certs.certificate_hash(chain[-1]),
            Nanos(WALL - DAY), Nanos(WALL + 9 * DAY),
        )  # fmt: skip
        writer.say(CERT, b"", chain)
        writer.say(LEASE, writer.key, leases.issue_lease(lease, ring.signer(number), KeyRole.ROOT))
        writer.say(NODE, b"", info_of(number))
        for n in range(count):
            name = f"seed-{number}-{n}"
            spec = specs.make_spec(
                name=name, name_epoch=1, content=hash_of("content", name.encode()), size=100,
                functions=["run"], options=SeedOptions(),
            )  # fmt: skip
            payload = specs.encode_record(encode(spec))
            writer.say(SPEC, name.encode(), payload)
            seeds.append(specs.seed_hash(writer.key, encode(spec)))
    for writer in writers:
        for n in range(claims):
            seed = seeds[(writer.number * claims + n) % len(seeds)]
            writer.say(CLAIM, seed, Claim(int(State.READY)))
    return writers


class Turns:
    """A node whose turns are timed; what is due at once follows at once, nothing else happens."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.seconds: list[float] = []
        self._mono = 1
        self._take(Started(addresses=["192.0.2.9:60611"]))
        self.seconds.clear()

    def take(self, frames: list[list[SignedRecord]]) -> None:
        """Frames of one peer, as fast as they come; then turns until nothing is left to do."""
        peer = frames[0][0].owner
        with without_full_collections():
            for frame in frames:
                event = RecordsReceived(link=LinkId(1), peer=peer, records=frame, rejected=0)
                self._take(event)

    def _take(self, event: Event) -> None:
        due = [event]
        while due:
            event = due.pop(0)
            self._mono += 1
            now = Now(Nanos(self._mono), Nanos(WALL + self._mono))
            began = time.thread_time()
            out = self.node.handle(event, now)
            self.seconds.append(time.thread_time() - began)
            due += follow_ups(out)


@contextlib.contextmanager
def without_full_collections() -> Iterator[None]:
    """As the driver of a daemon has it: what is measured is the turn, not the heap of all tests."""
    held = gc.get_threshold()
    gc.collect()
    gc.set_threshold(held[0], held[1], 1_000_000)
    try:
        yield
    finally:
        gc.set_threshold(*held)


def follow_ups(out: list[Effect]) -> list[Event]:
    """The disk answers at once, and so does the timer for work that is left."""
    events: list[Event] = [Persisted(token=e.token) for e in out if isinstance(e, Persist)]
    work = timers.token_for(timers.WORK)
    if any(isinstance(effect, SetTimer) and effect.token == work for effect in out):
        events.append(TimerFired(token=work))
    return events


def records_in(node: Node) -> int:
    """How many records a node holds of others."""
    own = node._config.node
    return sum(record.body.owner != own for record in node._records.all_records())
