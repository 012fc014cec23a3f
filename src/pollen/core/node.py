"""The composition root: one node, events in, effects out.

Decides: which machine gets an event, and in which order what follows from it leaves.
Does not know: sockets, clocks, disks, threads; every decision of substance is in a machine below.
Invariants: ``handle`` never raises for what a peer or a user sent: that is a ``Rejection``, counted
    and logged, or a ``Reply`` with a slug. A reply that promises durability leaves after its
    ``Persisted``. A seed's row leaves before its ``LoadSeed``. The same seed of chance, state and
    events give the same effects on every run.
Source: docs/ARCHITECTURE.md#the-brain; docs/design/protocol.md#durability.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pollen.core import limits, timers
from pollen.core.admission import Carrying, Consequences, Granting, Redeeming
from pollen.core.clocks import Clocks, Jump
from pollen.core.codec import Rejection, encode
from pollen.core.commands import ClockView, DrainCommand, Drained, Seeded, Unseeded
from pollen.core.config import NodeConfig
from pollen.core.desk import Admin, News, Questions, Roster, Screen, Waits
from pollen.core.disk import Disk
from pollen.core.durability import Durability
from pollen.core.early import publishes
from pollen.core.effects import Effect, LoadSeed, Log, SetTimer
from pollen.core.events import (
    Commanded,
    Event,
    HelloReceived,
    LinkClosed,
    LoadFinished,
    MessageReceived,
    PeerFound,
    Persisted,
    Started,
    Telemetry,
    TimerFired,
)
from pollen.core.faults import Faults
from pollen.core.ids import MILLISECOND, SECOND, Nanos, Now, PeerId, RequestId, Sign, Verify
from pollen.core.kinds import ACT, CERT, NEAR, NODE
from pollen.core.messages import decode_message
from pollen.core.paths import Paths
from pollen.core.peers import Facts, Mesh, Phase
from pollen.core.placement import Placing, Situation
from pollen.core.presence import Presence
from pollen.core.records import Change, Gossip, Intake, Interned, Records, Retention
from pollen.core.restoring import Restored, gone_row, record_row, restore, wall_row
from pollen.core.rng import Rng
from pollen.core.seeds import SeedRequests, Writer
from pollen.core.services import Services
from pollen.core.servicewords import Checks
from pollen.core.trust import Certificate, Members
from pollen.core.turn import Asked, Handler, Heard, Room, Turn, merged
from pollen.core.work import Work


class Node(Room):
    """One node's brain. ``restored`` is what the store held, by table; ``interned`` may be shared
    by nodes of one process, so that each record is decoded once.

    Raises ``PollenError`` (``state-unusable``) when that cannot be read or the own certificate
    does not hold; afterwards nothing raises but a broken invariant.
    """

    def __init__(
        self,
        config: NodeConfig,
        rng: Rng,
        sign: Sign,
        verify: Verify,
        restored: Restored,
        interned: Interned | None = None,
    ) -> None:
        self._config = config
        self._members = Members(config.cluster, config.root, verify)
        self._clocks = Clocks()
        self._certificate = Consequences.own_certificate(config, self._members.trust)
        self._records = Records(config.cluster, config.node, sign)
        is_denied = self._members.trust.is_denied
        self._mesh = Mesh(config.node, rng, is_denied, lambda peer: bool(self._paths.hops(peer)))
        self._peers, self._membership = self._mesh.peers, self._mesh.membership
        self._paths = Paths(config, self._members, self._mesh, lambda: self._presence.addresses)
        self._redeeming = Redeeming(config, self._members.trust, rng, sign, verify)
        self._situation = Situation(config.node, self._members, self._membership)
        self._consequences = Consequences(
            config, self._members, self._mesh, self._redeeming, self._records, self._clocks
        )
        self._placing = Placing.of(
            config,
            self._certificate.party,
            self._members,
            self._situation,
            self._peers.has_link,
            self._mesh.estimate,
            self._paths.hops,
        )
        self._situation.kinds[NEAR] = lambda record, now: self._paths.note_record(record)
        self._durability, self._disk, self._faults = Durability(), Disk(), Faults()
        tier_of, owner, cluster = self._members.tier_of, config.node, config.cluster
        self._intake = Intake(owner, cluster, self._records, tier_of, interned)
        self._gossip = Gossip(owner, self._records, self._intake, self._clocks, rng)
        self._is_started = False
        self._started = Nanos(0)
        self._early: list[Event] = []
        self._drains: list[tuple[RequestId, int]] = []
        # Peers that let this node in no more, when they last said so, and in which words.
        self._shut_out: dict[PeerId, tuple[Nanos, str]] = {}
        places = (self._situation, self._placing)
        self._services = Services(
            owner, self._members, *places, self._own_certificate, self._has_room
        )
        self._retention = Retention(owner, cluster, self._records)
        self._presence = Presence(config, self._restore(restored))
        known = (self._peers, self._clocks, self._disk)
        self._carrying = Carrying(
            self._redeeming, self._consequences, lambda: self._presence.addresses, *known
        )
        self._admin = Admin(owner, self._peers.has_link, self._mesh.on_wanted, tier_of)
        self._news = News(owner, self._situation, self._members.name_of)
        held_by = self._services.held_by
        self._granting = Granting(
            self._members, self._redeeming, sign, verify, rng, self._situation, held_by
        )
        self._waits = Waits(self._screen)
        self._wire(self._rooms())
        # Machines with long work, see ``core.work``.
        self._work = Work([self._gossip, self._retention])

    def _restore(self, restored: Restored) -> list[int]:
        """Take over what is on disk; returns when the last runs began."""
        machines = (self._records, self._retention, self._peers, self._redeeming, self._services)
        kept = restore(restored, self._config.cluster, *machines, self._placing)
        self._clocks.restore(kept.wall)
        for record in self._records.all_records():
            is_own = record.body.owner == self._config.node
            if not (is_own and record.body.kind in (NODE, CERT)):
                self._situation.note_change(Change(record, None), Nanos(0))
        return kept.starts

    def _rooms(self) -> list[Room]:
        requests = self._requests = SeedRequests(
            self._writer,
            lambda: self._situation.names,
            self._has_room,
            self._on_published,
            self._situation.is_called,
        )
        questions = Questions(self._screen, self._placing.price)
        spread = [self._gossip, self._mesh, self._paths, self._consequences, self._carrying]
        roster = Roster(self._screen, lambda: self._records.live_of(ACT))
        asked = [self._granting, requests, self._admin, questions, roster, self._waits]
        return [*spread, self._placing, *asked, *self._services.rooms(), self._disk, self]

    def _on_published(self, answer: Seeded | Unseeded, turn: Turn) -> None:
        self._news.of_publication(answer, turn)
        self._placing.note_published(answer, turn)

    def _has_room(self, slot: tuple[str, bytes], size: int) -> bool:
        return self._intake.has_room(slot, size)

    def _wire(self, rooms: Sequence[Room]) -> None:
        """Who takes what, of all rooms; raises ``InvariantError`` where two take the same."""
        self._events = merged(room.events() for room in rooms)
        self._messages = merged(room.messages() for room in rooms)
        self._commands = merged(room.commands() for room in rooms)
        self._timers = merged(room.timers() for room in rooms)

    # -- what concerns more than one room ---------------------------------------------------------

    def events(self) -> Mapping[type[Event], Handler]:
        """Each goes to several rooms, in an order that matters, or is opened here."""
        return {
            Started: self._on_started,
            TimerFired: self._on_timer,
            HelloReceived: self._on_hello,
            LinkClosed: self._on_link_closed,
            PeerFound: self._on_found,
            MessageReceived: self._on_message,
            LoadFinished: self._on_load_finished,
            Telemetry: self._on_telemetry,
            Commanded: self._on_commanded,
            Persisted: self._on_persisted,
        }

    def commands(self) -> Mapping[type[object], Handler]:
        """To leave."""
        return {DrainCommand: self._on_drain}

    def timers(self) -> Mapping[str, Handler]:
        """Those of the whole node, and those that only give it a turn."""
        return {
            timers.DRAIN: lambda subject, turn: self._on_drained(turn),
            timers.QUARANTINE: self._on_quarantine,
            timers.SWEEP: self._on_sweep,
            **dict.fromkeys(timers.TURN_ONLY, lambda subject, turn: None),
        }

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Take one event in; what the world must do about it comes out, in order."""
        self._clocks.raise_floor(self._members.trust.newest_not_before)
        now, jump = self._clocks.read(now, self._members.others(self._config.node))
        turn = Turn(now, self._records, self._durability, self._faults)
        self._on_time(jump, turn)
        self._take(event, turn)
        self._settle(turn)
        return turn.effects()

    def _take(self, event: Event, turn: Turn) -> None:
        """Give an event to who takes it; what publishes waits for this run's epoch."""
        if self._disk.refuses(event, turn):
            return
        if not self._records.is_open and publishes(event):
            self._early.append(event)
        else:
            self._events[type(event)](event, turn)

    def _on_time(self, jump: Jump, turn: Turn) -> None:
        """What follows when time did not go on as it should have, or was not what it seemed."""
        if jump is not Jump.NONE:
            self._membership.on_jump(turn.now.mono)
        given_up = self._clocks.take_given_up()
        if given_up or jump is Jump.STEPPED:
            self._consequences.on_jump(is_earlier=bool(given_up))
        if given_up:
            fields: dict[str, str | int] = {"seconds": given_up // SECOND}
            turn.do(Log(level="warning", event="wall-floor-given-up", fields=fields))

    # -- start ----------------------------------------------------------------------------------

    def _on_started(self, event: Started, turn: Turn) -> None:
        self._started, self._is_started = turn.now.mono, True
        self._presence.start(event.addresses, turn)
        self._declare_self(turn)
        self._consequences.start(turn)
        self._mesh.start(turn)
        self._paths.start(turn)
        self._gossip.start(turn)
        self._retention.start(turn)
        self._services.start(turn)

    def _declare_self(self, turn: Turn) -> None:
        """Publish our node record; we are a member before it is on disk."""
        own, info, epoch = self._config.node, self._presence.info(), self._records.wanted_epoch
        self._members.declare(own, info, epoch)
        self._situation.note_member(own)
        facts = Facts(epoch=epoch, phase=info.phase, restarts=info.restarts)
        self._membership.note_member(own, facts, turn.now.mono)
        turn.publish(NODE, b"", encode(info))

    # -- links ----------------------------------------------------------------------------------

    def _on_hello(self, event: HelloReceived, turn: Turn) -> None:
        if not self._consequences.admits(event, turn):
            return
        self._shut_out.pop(event.peer, None)
        if not self._mesh.on_hello(event, turn):
            return
        self._paths.on_hello(event, turn)
        self._gossip.on_link(event.peer, event.dialled, turn)
        self._placing.note_link(turn.now.mono)
        self._consequences.on_linked(event.peer)
        self._admin.on_link(event.peer, turn)

    def _on_link_closed(self, event: LinkClosed, turn: Turn) -> None:
        if event.code in (limits.CLOSE_NOT_A_MEMBER, limits.CLOSE_DENIED):
            self._shut_out[event.peer] = turn.now.mono, event.reason
        self._mesh.on_link_closed(event, turn)
        if not self._peers.has_link(event.peer):
            self._paths.on_unlinked(event.peer, turn)
            self._placing.note_unlinked(event.peer)
            self._gossip.on_link_closed(event.peer, turn)

    def _on_found(self, event: PeerFound, turn: Turn) -> None:
        if event.peer != self._config.node:
            self._mesh.on_found(event, turn)
            return
        before = self._presence.addresses
        if self._presence.move(event.addresses):
            self._declare_self(turn)
        if any(address not in event.addresses for address in before):
            self._peers.on_moved(turn.now.mono)

    def _on_message(self, event: MessageReceived, turn: Turn) -> None:
        """Give a peer's message to who takes its kind."""
        message = decode_message(event.body)
        if isinstance(message, Rejection):
            turn.note(message, event.peer)
        else:
            self._messages[type(message)](Heard(event.peer, message), turn)

    # -- what the muscles and users say -----------------------------------------------------------

    def _on_load_finished(self, event: LoadFinished, turn: Turn) -> None:
        self._placing.on_load_finished(event, turn)
        self._news.of_load(event.seed, event.slug, event.reason, turn)

    def _on_telemetry(self, event: Telemetry, turn: Turn) -> None:
        self._mesh.on_telemetry(event, self._situation.bundles.place_of, turn)
        self._paths.on_telemetry(event, turn)
        self._placing.note_coordinate(self._mesh.coords.told)
        self._placing.note_telemetry(event, turn, is_level=self._gossip.is_level)
        self._requests.note_telemetry(event, turn)

    def _on_commanded(self, event: Commanded, turn: Turn) -> None:
        self._commands[type(event.command)](Asked(event.request, event.command), turn)

    def _on_drain(self, asked: Asked, turn: Turn) -> None:
        self._drains.append((asked.request, self._placing.leave(turn)))
        if self._presence.phase < Phase.LEAVING:
            self._presence.begin_leaving()
        else:
            self._presence.finish_leaving(turn)
        self._declare_self(turn)
        at = Nanos(turn.now.mono + limits.DRAIN_MAX_NS)
        turn.do(SetTimer(token=timers.token_for(timers.DRAIN), at=at))

    # -- timers and the disk --------------------------------------------------------------------

    def _on_timer(self, event: TimerFired, turn: Turn) -> None:
        purpose, subject = timers.parse_token(event.token)
        take = self._timers.get(purpose)
        if take is not None:
            take(subject, turn)

    def _on_quarantine(self, subject: bytes, turn: Turn) -> None:
        self._presence.recount(turn)
        self._declare_self(turn)

    def _on_sweep(self, subject: bytes, turn: Turn) -> None:
        """Forget what is old; write the kinds that all who live speak by now."""
        live = self._situation.live
        self._records.note_spoken(self._members.spoken_by(live))
        self._retention.sweep(live, turn)
        self._consequences.forget(turn)

    def _on_drained(self, turn: Turn) -> None:
        """We have left: the answer goes when that is on disk, and so on its way."""
        self._presence.finish_leaving(turn)
        self._declare_self(turn)
        for request, seeds in self._drains:
            turn.answer(request, Drained(seeds=seeds), when_durable=True)
        self._drains = []

    def _on_persisted(self, event: Persisted, turn: Turn) -> None:
        purpose, lease = timers.parse_token(event.token)
        turn.do(*self._durability.release(event.token))
        if purpose == timers.EPOCH:
            self._records.open_lease(lease)
        if self._records.is_open and self._early:
            early, self._early = self._early, []
            for waited in early:
                self._take(waited, turn)

    # -- what follows from whatever happened ----------------------------------------------------

    def _settle(self, turn: Turn) -> None:
        """Bring names, hosting, records, disk and tables up to date, in an order that holds.

        A row leaves before the ``LoadSeed`` that needs it and before its record: whoever hears of
        a seed may fetch it here at once, and the muscles must know it by then.
        """
        self._work.go_on(turn)
        changes = self._apply_changes(turn)
        changes += self._mind_standing(turn)
        changes += self._mind_members(turn)
        if self._is_started:
            changes += self._place(turn)
            self._news.follow_halted(turn)
            self._news.of_hosting(turn)
            is_urgent = any(isinstance(effect, LoadSeed) for effect in turn.last)
            self._placing.note_ways(self._paths.follow(turn))
            self._placing.push(turn, is_urgent=is_urgent, follow=self._services.follow)
        self._waits.settle(turn)
        self._persist(changes, turn)
        self._gossip.spread(changes, turn)

    def _apply_changes(self, turn: Turn) -> list[Change]:
        changes = self._records.take_changes()
        for change in changes:
            member = self._situation.note_change(change, turn.now.mono)
            if isinstance(member, Rejection):
                turn.note(member, change.record.body.owner)
            elif member is not None and change.source is not None:
                self._mesh.learn(member, turn)
        return changes

    def _mind_standing(self, turn: Turn) -> list[Change]:
        """Cut who is no member any more, renew leases, and spread what was signed for that."""
        changed = self._consequences.settle(turn)
        for peer in changed:
            self._situation.note_standing(peer, turn.now.mono)
        own = self._members.certificates.get(self._config.node)
        if self._config.node in changed and own is not None:
            self._placing.note_party(own.party)
        return self._apply_changes(turn)

    def _mind_members(self, turn: Turn) -> list[Change]:
        """Accuse, refute, and take over the verdicts that follow."""
        changes: list[Change] = []
        is_moving = self._is_started
        while is_moving:
            if self._mesh.advance(turn):
                self._situation.is_stale = True
                moved = self._mesh.take_moved()
                self._paths.note_live(self._membership.live)
                self._news.follow_live(moved, self._membership.live, turn)
            more = self._apply_changes(turn)
            changes += more
            is_moving = bool(more)
        return changes

    def _place(self, turn: Turn) -> list[Change]:
        """Follow the plan, and what this node's own claims change in it; in slices."""
        changes: list[Change] = []
        self._placing.converge(turn)
        for _ in range(limits.PLACE_ROUNDS):
            own = self._apply_changes(turn)
            if not own:
                break
            changes += own
            self._placing.converge(turn, limits.PLAN_FOLLOW_PAIRS)
        if self._drains and self._placing.is_gone:
            self._on_drained(turn)
        changes += self._apply_changes(turn)
        if self._placing.has_work:
            turn.do(SetTimer(token=timers.token_for(timers.WORK), at=turn.now.mono))
        return changes

    def _persist(self, changes: Sequence[Change], turn: Turn) -> None:
        """Write what must last, and the epoch before anything is published under it."""
        lasting = [c for c in changes if not c.record.is_ephemeral]
        turn.write(*[(gone_row if c.is_gone else record_row)(c.record) for c in lasting])
        wall = self._clocks.take_save(turn.now.wall)
        if wall is not None:
            turn.write_last(wall_row(wall))
        turn.flush()
        if self._is_started:
            self._records.ask_lease(turn)

    def figures(self) -> tuple[dict[str, int], dict[str, int], dict[str, int], Checks]:
        """Counters and gauges by metric, peers' faults by kind, packets through the mesh by their
        way, and the checks of services here, for the metrics page."""
        numbers = {f"pollen_gossip_{name}": n for name, n in self._gossip.figures().items()}
        numbers["pollen_records"] = self._records.count
        gauges, mesh = self._paths.figures()
        return {**numbers, **gauges}, dict(self._faults.counts), mesh, self._services.checks()

    # -- views ----------------------------------------------------------------------------------

    def _own_certificate(self) -> Certificate:
        return self._members.certificates.get(self._config.node, self._certificate)

    def _writer(self) -> Writer:
        return Writer(
            node=self._config.node,
            certificate=self._own_certificate(),
            certificates=self._members.certificates,
            halted=self._situation.halted,
            refusal=lambda name, certificate: (
                self._members.trust.publishers.refusal(name, certificate)
                or self._services.refusal_for_seed(name)
            ),
            top_epoch=self._situation.top_epoch,
            fallen=self._situation.fallen,
        )

    def _screen(self, now: Now) -> Screen:
        return Screen(
            node=self._config.node,
            cluster=self._config.cluster,
            version=self._config.version,
            has_root=self._redeeming.issuer().signing_root is not None,
            members=self._members,
            situation=self._situation,
            paths=self._paths,
            services=self._services,
            telemetry=self._placing.telemetry,
            is_pinned=self._placing.is_pinned,
            disk=self._disk.warning,
            twins=list(dict.fromkeys([*self._peers.twins(now.mono), *self._records.forked()])),
            frozen=sorted(self._intake.frozen),
            shut_out={
                peer: why
                for peer, (at, why) in sorted(self._shut_out.items())
                if now.mono < at + limits.SHUT_OUT_TOLD_NS and peer in self._members.certificates
            },
            rejections=self._faults.counts,
            started=self._started,
            pushed=self._placing.pushed_at,
            now=now.mono,
            clock=ClockView(
                raw_unix_ms=self._clocks.raw_wall // MILLISECOND,
                wall_unix_ms=now.wall // MILLISECOND,
                in_doubt=self._clocks.is_in_doubt,
                members_ahead_ms=[ahead // MILLISECOND for ahead in self._clocks.heard()],
            ),
        )
