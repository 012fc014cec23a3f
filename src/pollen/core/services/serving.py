"""What this node serves: from ``pln serve`` to the record, and the rows of disk and muscles.

Decides: whether this node may serve a name, beside whom, and what the muscles let in.
Does not know: whether anything listens at a target; how a record spreads.
Invariants: the muscles serve what counts: a name that another node took over, or that the root's
    policy keeps from this node, is served no more. The target is on this node's disk only, and
    written in the batch of its record.
Source: docs/design/services.md#serving.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import msgspec

from pollen.core import limits, timers
from pollen.core.codec import Refusal, Rejection, decode, encode
from pollen.core.effects import PolicyRow, Row, ServedRow, SetTimer
from pollen.core.ids import Hash, PeerId, short
from pollen.core.kinds import SERVICE
from pollen.core.labels import check_name
from pollen.core.names import has_authority
from pollen.core.placement import Lane, Situation
from pollen.core.services import records
from pollen.core.services.directory import Directory
from pollen.core.services.health import Check, read_check
from pollen.core.services.records import Place, Service, ServiceRecord, key_of
from pollen.core.servicewords import ServeCommand, Served, UnserveCommand, Unserved
from pollen.core.trust import Certificate, Members, Tier
from pollen.core.turn import Asked, Handler, Room, Turn

SERVED_TABLE = "served"

_LEAF = Refusal(
    "denied",
    "this node is a leaf: it reaches services, it serves none",
    "ask an admin for more: pln grant THIS_NODE --publisher",
)
_FULL = Refusal(
    "denied",
    "this node holds as many records as its tier may",
    "unserve what is not needed, or serve from another node",
)


class Target(msgspec.Struct, frozen=True, array_like=True):
    """Where a service of this node is, as kept on disk. Fields are only appended."""

    text: str
    datagrams: bool
    proxy_header: bool
    idle_ms: int
    tied: bool = False
    check: Check | None = None


class Serving(Room):
    """``certificate`` is this node's own; ``has_room`` says whether a record fits; ``listens_at``
    whether a listener of this node is at a place of streams, or of datagrams."""

    def __init__(
        self,
        own: PeerId,
        members: Members,
        situation: Situation,
        directory: Directory,
        certificate: Callable[[], Certificate],
        has_room: Callable[[tuple[str, bytes], int], bool],
        lane: Lane[Hash, ServedRow],
        listens_at: Callable[[Place], bool],
    ) -> None:
        self._own = own
        self._members = members
        self._situation = situation
        self._directory = directory
        self._certificate = certificate
        self._has_room = has_room
        self._lane = lane
        self._listens_at = listens_at
        self.targets: dict[str, Target] = {}
        # Is told of each name whose target may have come, gone or changed.
        self.watch: Callable[[str, Turn], None] = lambda name, turn: None
        # Names that programs served when this node stopped: they are told by another connection.
        self._ended: list[str] = []

    def restore(self, rows: Sequence[tuple[bytes, bytes]]) -> list[Rejection]:
        """What was served when this node stopped; the faults in what its disk holds."""
        faults = []
        for key, raw in rows:
            target = decode(Target, raw, "served-row")
            name = key.decode("utf-8", "replace")
            if isinstance(target, Rejection):
                faults.append(target)
            elif target.tied:
                self._ended.append(name)
            else:
                self.targets[name] = target
        return faults

    def start(self, turn: Turn) -> None:
        """What was tied to programs is withdrawn, once the records of before are known."""
        if self._ended:
            turn.do(SetTimer(token=timers.token_for(timers.TIED), at=turn.now.mono))

    def timers(self) -> Mapping[str, Handler]:
        """To withdraw what was tied to programs."""
        return {timers.TIED: self.on_ended}

    def on_ended(self, subject: bytes, turn: Turn) -> None:
        """Withdraw what no program has served again by now. A row stays until the next start: the
        word that it ended may not be on disk yet."""
        names, self._ended = self._ended, []
        for name in names:
            mine = self._directory.published(name, self._own)
            if name in self.targets:
                continue
            if mine is None or mine.is_withdrawn:
                turn.write((SERVED_TABLE, name.encode(), None))
                continue
            is_alone = self._directory.is_alone(name, self._own)
            payload = records.withdrawn(mine.record, mine.name_epoch)
            turn.publish(SERVICE, name.encode(), None if is_alone else payload)
            self._directory.touched[name] = None

    def places(self) -> list[str]:
        """Where the services of this node are."""
        return [target.text for target in self.targets.values()]

    def commands(self) -> Mapping[type[object], Handler]:
        """To serve, and to serve no more."""
        return {ServeCommand: self.on_serve, UnserveCommand: self.on_unserve}

    def refresh(self) -> None:
        """Bring the rows of what is served here up to date."""
        touched, self._directory.touched = self._directory.touched, {}
        for name in touched:
            service = self._directory.of_node(name, self._own)
            target = self.targets.get(name)
            row = None if service is None or target is None else _row(service, target)
            self._lane.set(key_of(name), row)

    # -- to serve -------------------------------------------------------------------------------

    def on_serve(self, asked: Asked, turn: Turn) -> None:
        """Publish the record and keep the target, or say why not."""
        command: ServeCommand = asked.command
        planned = self._plan(command)
        if isinstance(planned, Refusal):
            turn.answer(asked.request, planned)
            return
        record, target = planned
        name, payload = command.name, encode(record)
        held = self._directory.of_node(name, self._own)
        is_same = held is not None and encode(held.record) == payload
        if not is_same and not self._has_room((SERVICE, name.encode()), len(payload)):
            turn.answer(asked.request, _FULL)
            return
        answer = Served(
            name=name,
            target=target.text,
            datagrams=target.datagrams,
            name_epoch=record.name_epoch,
            providers=self._names(name, beside=not command.take_over),
            unchanged=is_same and self.targets.get(name) == target,
        )
        self.targets[name] = target
        self._directory.touched[name] = None
        self.watch(name, turn)
        turn.publish(SERVICE, name.encode(), payload)
        turn.write(_kept(name, target))
        turn.answer(asked.request, answer, when_durable=not answer.unchanged)

    def _plan(self, command: ServeCommand) -> tuple[ServiceRecord, Target] | Refusal:
        place = records.read_target(command.target)
        refusal = check_name(command.name) or self._check_may_serve(command.name)
        if refusal is not None:
            return refusal
        if isinstance(place, Refusal):
            return place
        if self._listens_at(place):
            return Refusal(
                "usage",
                f"a listener of this node is at {place.text}: clients would go round for ever",
                f"serve where the program itself is, or first: pln disconnect {place.text}",
            )
        epoch = self._epoch_for(command, place)
        if isinstance(epoch, Refusal):
            return epoch
        refusal = _check_options(command, place) or self._check_tied(command, place)
        if refusal is not None:
            return refusal
        record = records.make_record(
            name=command.name,
            name_epoch=epoch,
            place=place,
            allow=command.allow,
            allow_if=command.allow_if,
        )
        if isinstance(record, Refusal):
            return record
        if len(encode(record)) > limits.SPEC_MAX_BYTES:
            return Refusal(
                "config-invalid",
                f"the gate has {len(encode(record))} bytes, over {limits.SPEC_MAX_BYTES}",
                "write it shorter",
            )
        check = read_check(
            command.check,
            command.check_every_ms,
            command.check_timeout_ms,
            datagrams=place.datagrams,
        )
        if isinstance(check, Refusal):
            return check
        target = Target(
            text=place.text,
            datagrams=place.datagrams,
            proxy_header=command.proxy_header,
            idle_ms=command.idle_ms or records.SESSION_IDLE_MS,
            tied=command.tied,
            check=check,
        )
        return record, target

    def _check_tied(self, command: ServeCommand, place: Place) -> Refusal | None:
        """The end of a program must not end what somebody else serves here."""
        held, name = self.targets.get(command.name), command.name
        if held is None or not (held.tied or command.tied):
            return None
        if held.tied and command.tied and held.text == place.text:
            return None
        what = "a program of this node serves" if held.tied else "this node serves"
        reason = f"{what} {name!r} at {held.text}"
        return Refusal("name-taken", reason, f"first: pln unserve {name}; or choose another name")

    def _check_may_serve(self, name: str) -> Refusal | None:
        refusal = self._check_may_say(name)
        if refusal is not None:
            return refusal
        holding = self._situation.names.get(name)
        if holding is None or not holding.is_live:
            return None
        owner = self._members.name_of(holding.holder.owner)
        return Refusal(
            "name-taken",
            f"node {owner} holds the name {name!r} with a seed: services and seeds share names",
            "choose another name",
        )

    def _check_may_say(self, name: str) -> Refusal | None:
        """Why this node's word on a name would not count: its tier, the root's policy."""
        certificate = self._certificate()
        if certificate.tier < Tier.PUBLISHER:
            return _LEAF
        return self._members.trust.publishers.refusal(name, certificate)

    def _epoch_for(self, command: ServeCommand, place: Place) -> int | Refusal:
        """The epoch of the record: that of the nodes beside which this one serves, or a new one."""
        name, directory = command.name, self._directory
        found = directory.providers(name)
        others = [service for service in found if service.owner != self._own]
        if command.take_over or not others:
            refusal = self._check_authority(others)
            mine = directory.of_node(name, self._own)
            if refusal is not None or others or mine is None:
                return refusal or directory.epoch_above(name)
            return mine.name_epoch
        if len(others) == len(found) and not command.beside:
            return Refusal(
                "name-taken",
                f"node {self._members.name_of(others[0].owner)} serves {name!r}",
                "to serve it together with that node: --beside\nto have it alone: --take-over",
            )
        if others[0].record.datagrams != place.datagrams:
            words = ("by UDP", "by TCP")
            return Refusal(
                "usage",
                f"{name!r} is served {words[not others[0].record.datagrams]}, "
                f"and {command.target!r} is reached {words[not place.datagrams]}",
                "choose another name for it",
            )
        return others[0].name_epoch

    def _check_authority(self, others: Sequence[Service]) -> Refusal | None:
        """Taking a name from somebody is for its ancestors and for admins."""
        certificate = self._certificate()
        for service in others:
            theirs = self._members.certificates.get(service.owner)
            lineage = [] if theirs is None else theirs.lineage
            if not has_authority(self._own, certificate, service, lineage):
                return Refusal(
                    "name-taken",
                    f"node {short(service.owner)} serves {service.name!r}, and this node is no "
                    "admin and did not let it in",
                    "serve it together with that node: --beside",
                )
        return None

    def _names(self, name: str, *, beside: bool) -> list[str]:
        """The names of all that serve a name, this node first."""
        others = [s.owner for s in self._directory.providers(name) if s.owner != self._own]
        return [self._members.name_of(peer) for peer in [self._own, *(others if beside else [])]]

    # -- to serve no more -----------------------------------------------------------------------

    def on_unserve(self, asked: Asked, turn: Turn) -> None:
        """Withdraw this node's record, or the name from all who serve it."""
        command: UnserveCommand = asked.command
        name, directory = command.name, self._directory
        found = directory.providers(name)
        target = self.targets.get(name)
        if command.tied and (target is None or not target.tied or target.text != command.tied):
            gone = Refusal("service-not-found", f"no program serves {name!r} there any more", "")
            turn.answer(asked.request, gone)
            return
        mine = directory.published(name, self._own)
        is_mine = mine is not None and not mine.is_withdrawn
        others = [service for service in found if service.owner != self._own]
        refusal = None
        if not (found or is_mine):
            refusal = directory.find(name)
        elif command.everywhere and others:
            refusal = self._check_may_say(name) or self._check_authority(others)
        elif not is_mine:
            there = self._members.name_of(found[0].owner)
            refusal = Refusal(
                "service-not-found",
                f"this node does not serve {name!r}; node {there} does",
                "unserve it there, or from all nodes: --everywhere",
            )
        if isinstance(refusal, Refusal):
            turn.answer(asked.request, refusal)
            return
        held = mine if mine is not None else found[0]
        epoch = directory.epoch_above(name) if command.everywhere and others else held.name_epoch
        payload = records.withdrawn(held.record, epoch)
        # Without a word of others there is nothing that this one must stand above.
        is_alone = directory.is_alone(name, self._own)
        if mine is None and not self._has_room((SERVICE, name.encode()), len(payload)):
            turn.answer(asked.request, _FULL)
            return
        turn.publish(SERVICE, name.encode(), None if is_alone else payload)
        if self.targets.pop(name, None) is not None:
            turn.write((SERVED_TABLE, name.encode(), None))
        directory.touched[name] = None
        self.watch(name, turn)
        left = [] if command.everywhere else [self._members.name_of(s.owner) for s in others]
        turn.answer(asked.request, Unserved(name=name, providers=left), when_durable=True)


def _check_options(command: ServeCommand, place: Place) -> Refusal | None:
    """What is said and would do nothing."""
    if command.beside and command.take_over:
        reason = "a name is served beside other nodes, or taken over from them"
        return Refusal("usage", reason, "give one: --beside or --take-over")
    if command.proxy_header and place.datagrams:
        reason = "a PROXY header goes ahead of a stream, and this service has none"
        return Refusal("usage", reason, "leave --proxy-header out")
    return records.check_idle(command.idle_ms, datagrams=place.datagrams)


def _kept(name: str, target: Target) -> Row:
    return SERVED_TABLE, name.encode(), encode(target)


def _row(service: Service, target: Target) -> ServedRow:
    policy = service.allow_if
    return ServedRow(
        key=key_of(service.name),
        name=service.name,
        target=target.text,
        datagrams=target.datagrams,
        allow=service.record.allow,
        policy=None
        if policy is None
        else PolicyRow(tree=policy.packed, seed=policy.words, lets_strangers=False),
        proxy_header=target.proxy_header,
        idle_ms=target.idle_ms,
    )
