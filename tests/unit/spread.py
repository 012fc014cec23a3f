"""Gossip alone: a few cells of records, intake, gossip and forgetting, links between them, faults.

No nodes, no seeds: what spreads is what docs/internals/records.md#spreading is about. Time is
virtual, a message takes a few milliseconds, in order on each link; a fault loses what is on its
way.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.clocks import Clocks
from pollen.core.codec import Rejection
from pollen.core.ids import MILLISECOND, LinkId, Nanos, Now, PeerId
from pollen.core.messages import decode_message
from pollen.core.records import Gossip, Intake, Record, Records, Retention
from pollen.core.rng import Rng
from pollen.core.timers import EPOCH, parse_token
from pollen.core.turn import Handler, Heard, Turn
from pollen.core.work import Work
from tests.strategies import CLUSTER
from tests.unit.turns import turn_at, written
from tests.unit.world import WALL_ZERO, make_key, signer

TIERS: dict[PeerId, int] = {}


def tier_of(owner: PeerId, node: Record | None) -> int:
    return TIERS.get(owner, 0)


@dataclass
class Cell:
    """One key, its disk, and the machines of its present run."""

    name: str
    key: PeerId
    rng: Rng
    disk: dict[tuple[bytes, str, bytes], Record] = field(default_factory=dict)
    lease: tuple[int, int] = (0, 0)
    tables: dict[str, dict[bytes, bytes]] = field(default_factory=dict)
    waking: int = 0
    linked: dict[PeerId, int] = field(default_factory=dict)
    timers: dict[str, int] = field(default_factory=dict)
    runs: int = 0
    records: Records = field(init=False)
    gossip: Gossip = field(init=False)
    intake: Intake = field(init=False)
    retention: Retention = field(init=False)
    work: Work = field(init=False)

    def begin(self) -> None:
        self.runs += 1
        self.timers, self.linked = {}, {}
        self.records = Records(CLUSTER, self.key, signer(self.key, None))
        self.retention = Retention(self.key, CLUSTER, self.records)
        tables = {name: list(rows.items()) for name, rows in self.tables.items()}
        proofs, faults = self.retention.restore(tables)
        assert faults == []
        self.records.restore(list(self.disk.values()), *self.lease, proofs)
        self.intake = Intake(self.key, CLUSTER, self.records, tier_of, None)
        self.gossip = Gossip(self.key, self.records, self.intake, Clocks(), self.rng)
        self.work = Work([self.gossip, self.retention])

    def wipe(self) -> None:
        self.disk, self.lease, self.tables = {}, (0, 0), {}

    def held(self) -> list[bytes]:
        return sorted(record.digest for record in self.records.all_records())

    def live(self, kind: str) -> list[tuple[bytes, bytes]]:
        return [(r.body.key, r.body.payload) for r in self.records.live_of(kind)]


class Spread:
    """Cells and what is on its way between them."""

    def __init__(self, count: int, seed: int = 1) -> None:
        self.rng = Rng(seed)
        self.now = 1
        self.cells = [Cell(f"n{i}", make_key(f"n{i}"), Rng(self.rng.draw())) for i in range(count)]
        self.by_key = {cell.key: cell for cell in self.cells}
        self.loses = False
        self.sent: dict[str, int] = {}
        self.bytes = 0
        self._queue: list[tuple[int, int, Cell, Any]] = []
        self._order = 0
        self._links = 0
        for cell in self.cells:
            self.start(cell)

    # -- faults and wishes ----------------------------------------------------------------------

    def start(self, cell: Cell) -> None:
        cell.begin()
        self._do(cell, cell.gossip.start)
        self.settle(cell)

    def restart(self, cell: Cell) -> None:
        for peer in list(cell.linked):
            self.cut(cell, self.by_key[peer])
        self.start(cell)

    def link(self, one: Cell, other: Cell) -> None:
        if other.key in one.linked:
            return
        self._links += 1
        one.linked[other.key] = other.linked[one.key] = self._links
        for cell, peer, dialled in ((one, other, True), (other, one, False)):
            turn = self._turn(cell)
            cell.gossip.on_link(peer.key, dialled, turn)
            self._carry_out(cell, turn.effects())
            self.settle(cell)

    def cut(self, one: Cell, other: Cell) -> None:
        if one.linked.pop(other.key, None) is None:
            return
        other.linked.pop(one.key, None)
        for cell, peer in ((one, other), (other, one)):
            self.take(cell, cell.gossip.on_link_closed, peer.key)
            self.settle(cell)

    def link_all(self) -> None:
        for i, one in enumerate(self.cells):
            for other in self.cells[i + 1 :]:
                self.link(one, other)

    def publish(self, cell: Cell, kind: str, key: bytes, payload: bytes) -> None:
        cell.records.publish(kind, key, payload)
        self.settle(cell)

    def bury(self, cell: Cell, kind: str, key: bytes) -> None:
        cell.records.bury(kind, key)
        self.settle(cell)

    def look(self, cell: Cell, times: int, *live: Cell) -> None:
        """The cell looks around so often, ``limits.SWEEP_NS`` apart, and sees these alive."""
        for _ in range(times):
            cell.waking += limits.SWEEP_NS
            now = Now(Nanos(cell.waking), Nanos(WALL_ZERO + cell.waking))
            turn = turn_at(now, cell.records)
            cell.retention.sweep({other.key: 1 for other in live}, turn)
            for table, key, value in written(turn):
                held = cell.tables.setdefault(table, {})
                held.pop(key, None)
                if value is not None:
                    held[key] = value
            self.settle(cell)

    def raise_gc(self, cell: Cell) -> None:
        """The cell raises its ``gc_version`` to what it has now."""
        version = cell.records.peek(cell.key).top
        cell.retention._raising = version
        cell.retention._due = cell.retention._find_due(version)
        self.settle(cell)

    # -- running --------------------------------------------------------------------------------

    def settle(self, cell: Cell) -> None:
        """What ``Node._settle`` does with records."""
        self._do(cell, cell.work.go_on)
        changes = cell.records.take_changes()
        for change in changes:
            record = change.record
            if change.is_gone and cell.disk.get(record.key) is record:
                del cell.disk[record.key]
            elif not change.is_gone and not record.is_ephemeral:
                cell.disk[record.key] = record
        self.take(cell, cell.gossip.spread, changes)
        self._do(cell, cell.records.ask_lease)

    def run(self, nanos: int) -> None:
        end = self.now + nanos
        while self._queue and self._queue[0][0] <= end:
            self.now, _, cell, item = heapq.heappop(self._queue)
            self._arrive(cell, item)
        self.now = end

    def _arrive(self, cell: Cell, item: Any) -> None:
        run, link, event = item
        if run != cell.runs:
            return
        match event:
            case ev.TimerFired(token=token):
                if cell.timers.get(token) != self.now:
                    return
                del cell.timers[token]
                purpose, _ = parse_token(token)
                self.take(cell, cell.gossip.timers().get(purpose, _nothing), b"")
            case ev.Persisted(token=token):
                subject = parse_token(token)[1]
                cell.records.open_lease(subject)
            case ev.RecordsReceived() if cell.linked.get(event.peer) == link:
                self.take(cell, cell.intake.on_records, event)
            case ev.MessageReceived(peer=peer, body=body) if cell.linked.get(peer) == link:
                message = decode_message(body)
                assert not isinstance(message, Rejection)
                self.take(cell, cell.gossip.messages()[type(message)], Heard(peer, message))
            case _:
                return
        self.settle(cell)

    def take(self, cell: Cell, take: Handler, what: object) -> None:
        """The cell takes something in, and what it asks for is carried out."""
        self._do(cell, lambda turn: take(what, turn))

    def _do(self, cell: Cell, act: Callable[[Turn], object]) -> None:
        turn = self._turn(cell)
        act(turn)
        self._carry_out(cell, turn.effects())

    def _turn(self, cell: Cell) -> Turn:
        now = Now(Nanos(self.now), Nanos(WALL_ZERO + self.now))
        return turn_at(now, cell.records)

    def _carry_out(self, cell: Cell, effects: list[fx.Effect]) -> None:
        for effect in effects:
            match effect:
                case fx.SetTimer(token=token, at=at):
                    at = max(at, self.now + 1)
                    cell.timers[token] = at
                    self._post(cell, 0, ev.TimerFired(token=token), at - self.now)
                case fx.Persist(token=token):
                    subject = parse_token(token)[1]
                    assert token.startswith(EPOCH)
                    cell.lease = (
                        int.from_bytes(subject[:4], "big"),
                        int.from_bytes(subject[4:], "big"),
                    )
                    self._post(cell, 0, ev.Persisted(token=token), MILLISECOND)
                case fx.SendRecords(peer=peer, records=records):
                    self.sent["records"] = self.sent.get("records", 0) + len(records)
                    event = ev.RecordsReceived(
                        link=LinkId(0), peer=cell.key, records=records, rejected=0
                    )
                    self._send(cell, peer, event, sum(len(r.body) + 96 for r in records))
                case fx.SendMessage(peer=peer, body=body):
                    self.sent["messages"] = self.sent.get("messages", 0) + 1
                    message = ev.MessageReceived(link=LinkId(0), peer=cell.key, body=body)
                    self._send(cell, peer, message, len(body))
                case fx.Log():
                    pass
                case _:
                    raise AssertionError(f"nobody carries out {effect!r}")

    def _send(self, cell: Cell, peer: PeerId, event: ev.Event, size: int) -> None:
        link = cell.linked.get(peer)
        if link is None or (self.loses and self.rng.below(4) == 0):
            return
        self.bytes += size
        self._post(self.by_key[peer], link, event, 5 * MILLISECOND)

    def _post(self, cell: Cell, link: int, event: ev.Event, after: int) -> None:
        self._order += 1
        item = (cell.runs, link, event)
        heapq.heappush(self._queue, (self.now + after, self._order, cell, item))

    def is_equal(self) -> bool:
        """Every cell holds the same, by content and by root."""
        contents = {tuple(cell.held()) for cell in self.cells}
        return len(contents) == 1

    def heal(self, rounds: int = 20) -> None:
        """No more faults, every link; then time for digests until all is equal."""
        self.loses = False
        self.link_all()
        for _ in range(rounds):
            self.run(limits.DIGEST_NS)
            if self.is_equal():
                return


def _nothing(subject: bytes, turn: Turn) -> None:
    """A timer of somebody else."""
