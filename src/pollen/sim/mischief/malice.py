"""A member that lies: it forges, withholds, replays, says two things at once, and floods.

Decides: what the malicious node sends instead of, and beside, what its own brain wants.
Does not know: anybody's secret but its own: what it forges does not verify.
Invariants: it runs a true ``Node``, so that it is a believable member, and every lie leaves
    through its own links. Each kind of lie is counted.
Source: docs/internals/simulator.md#faults; docs/design/protocol.md#records
    (signatures, equal versions, caps).
"""

from __future__ import annotations

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.codec import RECORD_DOMAIN, decode, encode
from pollen.core.ids import MILLISECOND, PeerId
from pollen.core.kinds import SPEC
from pollen.core.records.record import Body
from pollen.core.rng import Rng
from pollen.sim.world.keys import sign_with
from pollen.sim.world.machine import Machine
from pollen.sim.world.world import World

_TICK_NS = 500 * MILLISECOND
_HEARD_MAX = 256
_FLOOD = 40


class Malice:
    """One malicious machine of a world, from ``begin`` to ``end``."""

    def __init__(self, world: World, machine: Machine, rng: Rng) -> None:
        self.world = world
        self.machine = machine
        self.rng = rng
        self.counts: dict[str, int] = {}
        self._heard: list[ev.SignedRecord] = []
        self._floods = 0
        self._is_on = False
        machine.is_malicious = True

    def begin(self) -> None:
        """It lies from now on."""
        self._is_on = True
        self.world.twist = self._twist
        self.world.watchers.append(self._listen)
        self.world.schedule(_TICK_NS, self._tick)

    def end(self) -> None:
        """It behaves: what it said before stays said."""
        self._is_on = False
        self.world.twist = None

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    def _listen(self, machine: Machine, event: ev.Event, out: list[fx.Effect]) -> None:
        if machine is self.machine and isinstance(event, ev.RecordsReceived):
            self._heard += event.records
            del self._heard[:-_HEARD_MAX]

    def _twist(self, machine: Machine, effect: fx.Effect) -> list[fx.Effect]:
        """Withhold: half of what it should pass on never leaves."""
        is_speech = isinstance(effect, fx.SendRecords | fx.SendMessage)
        if is_speech and self.rng.below(2):
            self._count("withheld")
            return []
        return [effect]

    def _tick(self) -> None:
        if not self._is_on:
            return
        if self.machine.is_up:
            lies = (self._forge, self._replay, self._babble, self._equivocate, self._flood)
            lies[self.rng.below(len(lies))]()
        self.world.schedule(_TICK_NS, self._tick)

    # -- the lies ---------------------------------------------------------------------------------

    def _victims(self) -> list[PeerId]:
        ends = self.world.network.ends_of(self.machine)
        return list(dict.fromkeys(end.peer for end in ends if end.is_speaking))

    def _say(self, records: list[ev.SignedRecord]) -> None:
        for peer in self._victims():
            self.world.network.send_records(self.machine, peer, records)

    def _forge(self) -> None:
        """Somebody else's record with a higher version, a tombstone or another payload."""
        if not self._heard:
            return
        held = self._heard[self.rng.below(len(self._heard))]
        body = decode(Body, held.body, "record")
        if not isinstance(body, Body) or body.owner == self.machine.key:
            return
        lies = Body(
            body.cluster, body.owner, body.kind, body.key, body.epoch, body.seq + 1_000,
            body.schema, bool(self.rng.below(2)), body.payload[::-1],
        )  # fmt: skip
        raw = encode(lies)
        # Its own key is the only one it can sign with; the old signature is for other bytes.
        own = sign_with(self.machine.key, RECORD_DOMAIN + raw)
        self._say([ev.SignedRecord(held.owner, raw, s) for s in (own, held.signature)])
        self._count("forged")

    def _replay(self) -> None:
        """Old records, genuine and stale, to everybody."""
        if self._heard:
            self._say(self._heard[: 1 + self.rng.below(len(self._heard))])
            self._count("replayed")

    def _babble(self) -> None:
        """Messages that no brain speaks."""
        for peer in self._victims():
            size = 1 + self.rng.below(60)
            body = b"".join(self.rng.draw().to_bytes(8, "big") for _ in range(size))
            self.world.network.send_message(self.machine, peer, body)
        self._count("babbled")

    def _equivocate(self) -> None:
        """Two records of its own with one version, each to one half of its peers."""
        victims = self._victims()
        seq = self._next()
        for i, peer in enumerate(victims):
            record = self._own(f"two-faces-{seq}".encode(), seq, b"heads" if i % 2 else b"tails")
            self.world.network.send_records(self.machine, peer, [record])
        self._count("equivocated")

    def _flood(self) -> None:
        """Many records of its own under keys that nobody asked for."""
        seq = self._next()
        records = [
            self._own(f"flood-{seq}-{i}".encode(), seq + i, b"x" * self.rng.below(200))
            for i in range(_FLOOD)
        ]
        self._floods += _FLOOD
        self._say(records)
        self._count("flooded")

    def _next(self) -> int:
        self._floods += 1
        # Far above what its own brain writes: it must not mistake a lie for its own word.
        return 1_000_000 + self._floods

    def _own(self, key: bytes, seq: int, payload: bytes) -> ev.SignedRecord:
        body = Body(
            self.world.cluster_id, self.machine.key, SPEC, key, max(self.machine.boots, 1), seq,
            limits.SCHEMA, False, payload,
        )  # fmt: skip
        raw = encode(body)
        signature = sign_with(self.machine.key, RECORD_DOMAIN + raw)
        return ev.SignedRecord(self.machine.key, raw, signature)
