"""The composition root: one node, events in, effects out.

Decides: which machine gets an event, and in which order what follows from it leaves.
Does not know: sockets, clocks, disks, threads; every decision of substance is in a machine below.
Invariants: ``handle`` never raises for what a peer or a user sent: that is a ``Rejection``, counted
    and logged, or a ``Reply`` with a slug. A reply that promises durability leaves after its
    ``Persisted``. A seed's row leaves before its ``LoadSeed``. The same seed of chance, state and
    events give the same effects on every run.
Source: DESIGN 2; PROTOCOL 2 (durability), 5 (tables). The Brain issue replaces the machines.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from pollen.core import limits, timers
from pollen.core.admission import Carrying, Consequences, Redeeming, own_certificate
from pollen.core.clocks import Clocks, Jump
from pollen.core.codec import Refusal, Rejection, encode
from pollen.core.commands import (
    AdminCommand,
    DrainCommand,
    Drained,
    InviteCommand,
    SeedCommand,
    Seeded,
    UnseedCommand,
)
from pollen.core.config import NodeConfig
from pollen.core.desk import Admin, News, Question, Screen, answer
from pollen.core.durability import Durability
from pollen.core.effects import Effect, InspectModule, LoadSeed, Log, Reply, SetTimer
from pollen.core.events import (
    Commanded,
    DialFailed,
    Event,
    HelloReceived,
    JoinAnswered,
    JoinRequested,
    LinkClosed,
    LinkWanted,
    LoadFinished,
    MessageReceived,
    ModuleInspected,
    PeerFound,
    Persisted,
    RecordsReceived,
    SeedWoken,
    Started,
    TablesStale,
    Telemetry,
    TimerFired,
    VerbEnded,
)
from pollen.core.faults import Faults
from pollen.core.ids import SECOND, Nanos, Now, PeerId, RequestId, Sign, Verify
from pollen.core.kinds import CERT, NODE, SPEC
from pollen.core.messages import (
    AdminReply,
    AdminRequest,
    JoinCarried,
    JoinReturned,
    Keep,
    Message,
    decode_message,
)
from pollen.core.peers import Facts, Mesh
from pollen.core.placement import Placing, Situation
from pollen.core.presence import Presence
from pollen.core.records import Change, Gossip, Intake, Interned, Records, Retention
from pollen.core.restoring import Restored, gone_row, record_row, restore, wall_row
from pollen.core.rng import Rng
from pollen.core.seeds import REFUSED_FULL, Publication, Writer, check_seed, plan_seed, plan_unseed
from pollen.core.trust import Members
from pollen.core.work import Work


class Node:
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
        self._certificate = own_certificate(config, self._members.trust)
        self._records = Records(config.cluster, config.node, sign)
        self._mesh = Mesh(config.node, rng, self._members.trust.is_denied)
        self._peers, self._membership = self._mesh.peers, self._mesh.membership
        self._redeeming = Redeeming(config, self._members.trust, rng, sign, verify)
        self._situation = Situation(config.node, self._members, self._membership)
        self._consequences = Consequences(
            config, self._members, self._mesh, self._redeeming, self._records, self._clocks
        )
        self._placing = Placing.of(
            config,
            self._certificate.properties,
            self._records,
            self._members,
            self._situation,
            self._peers.has_link,
            self._mesh.estimate,
        )
        self._durability = Durability()
        self._faults = Faults()
        tier_of = self._members.tier_of
        owner, cluster = config.node, config.cluster
        self._intake = Intake(owner, cluster, self._records, self._faults, tier_of, interned)
        self._gossip = Gossip(owner, self._records, self._intake, self._clocks, rng)
        self._is_started = False
        self._started = Nanos(0)
        self._inspecting: dict[RequestId, SeedCommand] = {}
        self._early: list[Event] = []
        self._drains: list[tuple[RequestId, int]] = []
        self._retention = Retention(owner, cluster, self._records)
        kept = restore(
            restored, cluster, self._records, self._retention, self._peers, self._redeeming
        )
        self._clocks.restore(kept.wall)
        self._presence = Presence(config, kept.starts)
        for record in self._records.all_records():
            is_own = record.body.owner == config.node
            if not (is_own and record.body.kind in (NODE, CERT)):
                self._situation.note_change(Change(record, None), Nanos(0))
        self._carrying = Carrying(
            self._redeeming,
            self._consequences,
            lambda: self._presence.addresses,
            self._peers,
            self._durability,
            self._clocks,
        )
        self._admin = Admin(owner, self._peers.has_link, self._mesh.on_wanted, tier_of)
        self._news = News(owner, self._situation, self._members.name_of)
        self._handlers = self._event_handlers()
        self._speech = self._message_handlers()
        # Machines with long work, see ``core.work``.
        self._work = Work([self._gossip, self._retention])

    def _event_handlers(self) -> dict[type[Event], Callable[[Any, Now], list[Effect]]]:
        return {
            Started: self._on_started,
            TimerFired: self._on_timer,
            HelloReceived: self._on_hello,
            LinkClosed: self._on_link_closed,
            DialFailed: self._on_dial_failed,
            LinkWanted: self._on_link_wanted,
            PeerFound: self._on_found,
            MessageReceived: self._on_message,
            RecordsReceived: self._on_records,
            JoinRequested: self._carrying.on_join,
            JoinAnswered: self._consequences.on_answered,
            ModuleInspected: self._on_inspected,
            LoadFinished: self._on_load_finished,
            SeedWoken: self._placing.on_woken,
            VerbEnded: self._admin.on_ended,
            Telemetry: self._on_telemetry,
            Commanded: self._on_commanded,
            Persisted: self._on_persisted,
            TablesStale: self._on_tables_stale,
        }

    def _message_handlers(self) -> dict[type[Message], Callable[[Any, PeerId, Now], list[Effect]]]:
        """What peers say, by kind; each machine takes its own."""
        return {
            Keep: self._mesh.on_keep,
            JoinCarried: self._carrying.on_carried,
            JoinReturned: self._carrying.on_returned,
            AdminRequest: self._admin.on_request,
            AdminReply: self._admin.on_reply,
            **self._gossip.speech(),
        }

    def handle(self, event: Event, now: Now) -> list[Effect]:
        """Take one event in; what the world must do about it comes out, in order."""
        self._clocks.raise_floor(self._members.trust.newest_not_before)
        now, jump = self._clocks.read(now, len(self._members.certificates) - 1)
        out = self._on_time(jump, now)
        out += self._handlers[type(event)](event, now)
        return out + self._settle(now)

    def _on_time(self, jump: Jump, now: Now) -> list[Effect]:
        """What follows when time did not go on as it should have, or was not what it seemed."""
        if jump is not Jump.NONE:
            self._membership.on_jump(now.mono)
        given_up = self._clocks.take_given_up()
        if given_up or jump is Jump.STEPPED:
            self._consequences.on_jump(is_earlier=bool(given_up))
        if not given_up:
            return []
        fields: dict[str, str | int] = {"seconds": given_up // SECOND}
        return [Log(level="warning", event="wall-floor-given-up", fields=fields)]

    # -- start ----------------------------------------------------------------------------------

    def _on_started(self, event: Started, now: Now) -> list[Effect]:
        self._started, self._is_started = now.mono, True
        rows, out = self._presence.start(event.addresses, now)
        self._durability.write(rows)
        self._declare_self(now)
        self._consequences.start()
        out += self._mesh.start(now.mono) + self._gossip.start(now.mono)
        return out + self._retention.start(now.mono)

    def _declare_self(self, now: Now) -> None:
        """Publish our node record; we are a member before it is on disk."""
        own, info, epoch = self._config.node, self._presence.info(), self._records.wanted_epoch
        self._members.declare(own, info, epoch)
        self._situation.note_member(own)
        facts = Facts(epoch=epoch, phase=info.phase, restarts=info.restarts)
        self._membership.note_member(own, facts, now.mono)
        self._records.publish(NODE, b"", encode(info))

    # -- links ----------------------------------------------------------------------------------

    def _on_hello(self, event: HelloReceived, now: Now) -> list[Effect]:
        refused = self._consequences.judge(event, now.wall)
        if refused is not None:
            close, rejection = refused
            return [close, *self._faults.note(rejection, event.peer, now.mono)]
        out, is_new = self._mesh.on_hello(event, now.mono)
        if not is_new:
            return out
        out += self._gossip.on_link(event.peer, event.dialled)
        self._placing.note_links()
        self._consequences.on_linked(event.peer)
        return out + self._admin.on_link(event.peer, now)

    def _on_link_closed(self, event: LinkClosed, now: Now) -> list[Effect]:
        out = self._mesh.on_link_closed(event, now.mono)
        if self._peers.has_link(event.peer):
            return out
        self._placing.note_unlinked(event.peer)
        return out + self._gossip.on_link_closed(event.peer)

    def _on_dial_failed(self, event: DialFailed, now: Now) -> list[Effect]:
        return self._mesh.on_dial_failed(event, now.mono)

    def _on_link_wanted(self, event: LinkWanted, now: Now) -> list[Effect]:
        return self._mesh.on_wanted(event, now.mono)

    def _on_found(self, event: PeerFound, now: Now) -> list[Effect]:
        if event.peer != self._config.node:
            return self._mesh.on_found(event, now.mono)
        if self._presence.move(event.addresses):
            self._declare_self(now)
        return []

    # -- what peers say -------------------------------------------------------------------------

    def _on_message(self, event: MessageReceived, now: Now) -> list[Effect]:
        """Give a peer's message to the machine of its kind."""
        message = decode_message(event.body)
        if isinstance(message, Rejection):
            return self._faults.note(message, event.peer, now.mono)
        take = self._speech.get(type(message))
        return [] if take is None else take(message, event.peer, now)

    def _on_records(self, event: RecordsReceived, now: Now) -> list[Effect]:
        return self._gossip.on_records(event, now)

    # -- what the muscles say -------------------------------------------------------------------

    def _on_inspected(self, event: ModuleInspected, now: Now) -> list[Effect]:
        if not self._records.is_open:
            self._early.append(event)
            return []
        command = self._inspecting.pop(event.request, None)
        if command is None:
            return []
        planned = plan_seed(command, event, self._writer(), self._situation.names)
        return self._publish(event.request, planned)

    def _on_load_finished(self, event: LoadFinished, now: Now) -> list[Effect]:
        told = self._news.of_load(event.seed, event.slug, event.reason)
        return [*self._placing.on_load_finished(event, now), told]

    def _on_telemetry(self, event: Telemetry, now: Now) -> list[Effect]:
        out = self._mesh.on_telemetry(event, self._situation.bundles.place_of, now.mono)
        self._placing.note_coordinate(self._mesh.coords.told)
        return out + self._placing.note_telemetry(event, now)

    def _on_tables_stale(self, event: TablesStale, now: Now) -> list[Effect]:
        self._placing.forget_tables()
        return []

    # -- what the user says ---------------------------------------------------------------------

    def _on_commanded(self, event: Commanded, now: Now) -> list[Effect]:
        command, request = event.command, event.request
        if isinstance(command, Question):
            return [_answer(request, answer(self._screen(now), command, self._placing.price))]
        if isinstance(command, AdminCommand):
            return self._admin.ask(request, command, now)
        if not self._records.is_open:
            self._early.append(event)
            return []
        if isinstance(command, SeedCommand):
            return self._on_seed(request, command)
        if isinstance(command, UnseedCommand):
            planned = plan_unseed(command.target, self._writer(), self._situation.names)
            return self._publish(request, planned)
        if isinstance(command, InviteCommand):
            return [_answer(request, self._carrying.invite(command, now))]
        return self._on_drain(request, command, now)

    def _on_seed(self, request: RequestId, command: SeedCommand) -> list[Effect]:
        content = check_seed(command, self._writer(), self._situation.names)
        if isinstance(content, Refusal):
            return [_answer(request, content)]
        self._inspecting[request] = command
        return [InspectModule(request=request, content=content)]

    def _publish(self, request: RequestId, planned: Publication | Seeded | Refusal) -> list[Effect]:
        if not isinstance(planned, Publication):
            return [_answer(request, planned)]
        key = planned.name.encode()
        if not self._intake.has_room((SPEC, key), len(planned.payload)):
            return [_answer(request, REFUSED_FULL)]
        self._records.publish(SPEC, key, planned.payload)
        self._durability.hold(_answer(request, planned.answer))
        return [self._news.of_publication(planned.answer)]

    def _on_drain(self, request: RequestId, command: DrainCommand, now: Now) -> list[Effect]:
        self._drains.append((request, self._placing.leave()))
        self._presence.leave()
        self._declare_self(now)
        at = Nanos(now.mono + limits.DRAIN_MAX_NS)
        return [SetTimer(token=timers.token_for(timers.DRAIN), at=at)]

    # -- timers and the disk --------------------------------------------------------------------

    def _on_timer(self, event: TimerFired, now: Now) -> list[Effect]:
        purpose, subject = timers.parse_token(event.token)
        if purpose == timers.DIAL:
            return self._peers.on_timer(subject, now.mono)
        if purpose == timers.ACCESS:
            self._consequences.on_timer()
        if purpose == timers.JOIN:
            return self._carrying.on_timer(subject)
        if purpose == timers.ADMIN:
            return self._admin.on_timer(subject)
        if purpose == timers.DRAIN:
            return self._on_drained(now)
        if purpose == timers.QUARANTINE:
            out = self._presence.recount(now)
            self._declare_self(now)
            return out
        if purpose == timers.SWEEP:
            return self._on_sweep(now)
        if purpose == timers.LOAD:
            self._placing.on_timer(subject)
        return self._gossip.on_timer(purpose, now.mono)

    def _on_sweep(self, now: Now) -> list[Effect]:
        """Forget what is old; write the kinds that all who live speak by now."""
        live = self._situation.live
        self._records.note_spoken(self._members.spoken_by(live))
        rows, out = self._retention.sweep(live, now)
        self._durability.write(rows)
        self._consequences.forget_leases(now.wall)
        return out

    def _on_drained(self, now: Now) -> list[Effect]:
        """We have left: the answer goes when that is on disk, and so on its way."""
        self._durability.write(self._presence.leave())
        self._declare_self(now)
        for request, seeds in self._drains:
            self._durability.hold(_answer(request, Drained(seeds=seeds)))
        self._drains = []
        return []

    def _on_persisted(self, event: Persisted, now: Now) -> list[Effect]:
        purpose, lease = timers.parse_token(event.token)
        out = self._durability.release(event.token)
        if purpose == timers.EPOCH:
            self._records.open_lease(lease)
        if self._records.is_open and self._early:
            early, self._early = self._early, []
            for waited in early:
                out += self._handlers[type(waited)](waited, now)
        return out

    # -- what follows from whatever happened ----------------------------------------------------

    def _settle(self, now: Now) -> list[Effect]:
        """Bring names, hosting, records, disk and tables up to date, in an order that holds.

        A row leaves before the ``LoadSeed`` that needs it and before its record: whoever hears of
        a seed may fetch it here at once, and the muscles must know it by then.
        """
        out = self._work.turn(now)
        changes = self._apply_changes(now, out)
        changes += self._mind_standing(now, out)
        changes += self._mind_members(now, out)
        planned: list[Effect] = []
        if self._is_started:
            planned = self._place(changes, now, out)
            out += self._news.follow_halted() + self._news.of_hosting(planned)
            is_urgent = any(isinstance(effect, LoadSeed) for effect in planned)
            out += self._placing.push(now.mono, is_urgent=is_urgent)
        out += self._persist(changes, now)
        return out + self._gossip.spread(changes, now.mono) + planned

    def _apply_changes(self, now: Now, out: list[Effect]) -> list[Change]:
        changes = self._records.take_changes()
        for change in changes:
            member = self._situation.note_change(change, now.mono)
            if isinstance(member, Rejection):
                out += self._faults.note(member, change.record.body.owner, now.mono)
            elif member is not None and change.source is not None:
                out += self._mesh.learn(member, now.mono)
        return changes

    def _mind_standing(self, now: Now, out: list[Effect]) -> list[Change]:
        """Cut who is no member any more, renew leases, and spread what was signed for that."""
        effects, changed = self._consequences.settle(now)
        out += effects
        for peer in changed:
            self._situation.note_standing(peer)
        return self._apply_changes(now, out)

    def _mind_members(self, now: Now, out: list[Effect]) -> list[Change]:
        """Accuse, refute, and take over the verdicts that follow."""
        changes: list[Change] = []
        is_moving = self._is_started
        while is_moving:
            statements, effects, is_changed = self._mesh.advance(now.mono)
            self._situation.is_stale = self._situation.is_stale or is_changed
            out += effects
            if is_changed:
                out += self._news.follow_live(self._mesh.take_moved(), self._membership.live)
            for said in statements:
                if said.payload is None:
                    self._records.bury(said.kind, said.key)
                else:
                    self._records.publish(said.kind, said.key, said.payload)
            more = self._apply_changes(now, out)
            changes += more
            is_moving = bool(more)
        return changes

    def _place(self, changes: list[Change], now: Now, out: list[Effect]) -> list[Effect]:
        """Follow the plan, and what this node's own claims change in it; in slices."""
        planned = self._placing.converge(now)
        for _ in range(limits.PLACE_ROUNDS):
            own = self._apply_changes(now, out)
            if not own:
                break
            changes += own
            planned += self._placing.converge(now, limits.PLAN_FOLLOW_PAIRS)
        if self._drains and self._placing.is_gone:
            self._on_drained(now)
        changes += self._apply_changes(now, out)
        if self._placing.has_work:
            out.append(SetTimer(token=timers.token_for(timers.WORK), at=now.mono))
        return planned

    def _persist(self, changes: Sequence[Change], now: Now) -> list[Effect]:
        """Write what must last, and the epoch before anything is published under it."""
        disk = self._durability
        lasting = [c for c in changes if not c.record.is_ephemeral]
        disk.write([(gone_row if c.is_gone else record_row)(c.record) for c in lasting])
        disk.write(self._peers.take_unsaved())
        disk.write(self._consequences.take_rows())
        wall = self._clocks.take_save(now.wall)
        if wall is not None:
            disk.write([wall_row(wall)])
        out = disk.flush()
        if self._is_started:
            out += self._records.plan_lease(now.mono)
        return out

    def figures(self) -> tuple[dict[str, int], dict[str, int]]:
        """Counters and gauges by metric, and peers' faults by kind, for the metrics page."""
        gossip = {f"pollen_gossip_{name}": n for name, n in self._gossip.figures().items()}
        return {**gossip, "pollen_records": self._records.count}, dict(self._faults.counts)

    # -- views ----------------------------------------------------------------------------------

    def _writer(self) -> Writer:
        return Writer(
            node=self._config.node,
            certificate=self._certificate,
            certificates=self._members.certificates,
            halted=self._situation.halted,
        )

    def _screen(self, now: Now) -> Screen:
        return Screen(
            node=self._config.node,
            cluster=self._config.cluster,
            version=self._config.version,
            has_root=self._config.has_root,
            members=self._members,
            situation=self._situation,
            telemetry=self._placing.telemetry,
            twins=list(dict.fromkeys([*self._peers.twins(now.mono), *self._records.forked()])),
            frozen=sorted(self._intake.frozen),
            rejections=self._faults.counts,
            started=self._started,
            pushed=self._placing.pushed_at,
            now=now.mono,
        )


def _answer(request: RequestId, result: msgspec.Struct) -> Reply:
    if isinstance(result, Refusal):
        return Reply(request=request, slug=result.slug, reason=result.reason, remedy=result.remedy)
    return Reply(request=request, result=result)
