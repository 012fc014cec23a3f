"""What users ask about seeds: from ``pln seed`` and ``unseed`` to the record, and the answer.

Decides: when the muscles look at a module, that an answer leaves when the record is on disk, and
    that what nobody uses is withdrawn.
Does not know: links, hosts, how the record travels.
Invariants: a request is answered once. What is published has been judged by ``publishing`` after
    the module was inspected.
Source: docs/internals/records.md; docs/internals/control-api.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pollen.core.codec import Refusal
from pollen.core.commands import (
    CheckSeedCommand,
    SeedChecked,
    SeedCommand,
    Seeded,
    UnseedCommand,
    Unseeded,
)
from pollen.core.effects import BUNDLE, SEALED, InspectModule
from pollen.core.events import Event, ModuleInspected, Telemetry
from pollen.core.ids import Hash, Nanos, PeerId, RequestId
from pollen.core.kinds import SPEC
from pollen.core.names import Holding
from pollen.core.seeds.former import check_rollback, find_version, plan_rollback
from pollen.core.seeds.publishing import (
    REFUSED_FULL,
    Publication,
    Writer,
    check_seed,
    check_wish,
    plan_seed,
    plan_unseed,
)
from pollen.core.seeds.sealing import recipients_of
from pollen.core.seeds.specs import Seed
from pollen.core.seeds.unused import Unused
from pollen.core.turn import Asked, Handler, Room, Turn
from pollen.core.versionwords import RollbackCommand
from pollen.options import left_out


class SeedRequests(Room):
    """The requests that wait for the muscles. ``tell`` logs a publication."""

    def __init__(
        self,
        writer: Callable[[], Writer],
        names: Callable[[], Mapping[str, Holding[Seed]]],
        has_room: Callable[[tuple[str, bytes], int], bool],
        tell: Callable[[Seeded | Unseeded, Turn], None],
        is_wanted: Callable[[Hash], bool],
    ) -> None:
        self._writer = writer
        self._names = names
        self._has_room = has_room
        self._tell = tell
        self._inspecting: dict[RequestId, SeedCommand | RollbackCommand] = {}
        self._unused = Unused(is_wanted)

    def commands(self) -> Mapping[type[object], Handler]:
        """To publish, to withdraw, and to publish again what was."""
        return {
            CheckSeedCommand: self.on_check,
            SeedCommand: self.on_seed,
            UnseedCommand: self.on_unseed,
            RollbackCommand: self.on_rollback,
        }

    def events(self) -> Mapping[type[Event], Handler]:
        """What the muscles found in a module."""
        return {ModuleInspected: self.on_inspected}

    def on_check(self, asked: Asked, turn: Turn) -> None:
        """Say before a module is sent whether it would be refused whatever it is."""
        command: CheckSeedCommand = asked.command
        refusal = check_wish(command, self._writer(), self._names())
        if refusal is not None:
            turn.answer(asked.request, refusal)
            return
        recipients = self._recipients(command, turn.now.wall)
        if isinstance(recipients, Refusal):
            turn.answer(asked.request, recipients)
            return
        answer = SeedChecked(
            name=command.name,
            left_out=self._left_out(command),
            recipients=[node.hex() for node in recipients],
        )
        turn.answer(asked.request, answer)

    def _recipients(self, command: CheckSeedCommand, wall: Nanos) -> list[PeerId] | Refusal:
        """The nodes to seal it for, if it is to be sealed."""
        if not command.options.sealed:
            return []
        writer = self._writer()
        members = writer.certificates.values()
        return recipients_of(command.name, command.options, writer.node, members, wall)

    def _left_out(self, command: CheckSeedCommand) -> list[str]:
        """What an update would lose of the version that serves."""
        holding = self._names().get(command.name)
        if holding is None or not holding.is_live:
            return []
        seed = holding.holder
        if seed.seed in self._writer().halted and seed.previous is not None:
            seed = seed.previous
        return left_out(seed.options, command.options)

    def on_seed(self, asked: Asked, turn: Turn) -> None:
        """Refuse what may not be, else have the module looked at."""
        content = check_seed(asked.command, self._writer(), self._names())
        if isinstance(content, Refusal):
            turn.answer(asked.request, content)
            return
        self._inspecting[asked.request] = asked.command
        bundle = bytes.fromhex(asked.command.bundle)
        kind = SEALED if asked.command.options.sealed else asked.command.kind
        turn.do(InspectModule(request=asked.request, content=content, bundle=bundle, kind=kind))

    def on_unseed(self, asked: Asked, turn: Turn) -> None:
        """Withdraw a name."""
        planned = plan_unseed(asked.command.target, self._writer(), self._names())
        self._publish(asked.request, planned, turn)

    def on_rollback(self, asked: Asked, turn: Turn) -> None:
        """Refuse what may not be, else have the muscles look whether its content is still here."""
        found = find_version(asked.command, self._names())
        refusal = found if isinstance(found, Refusal) else check_rollback(found, self._writer())
        if refusal is not None or isinstance(found, Refusal):
            assert refusal is not None
            turn.answer(asked.request, refusal)
            return
        self._inspecting[asked.request] = asked.command
        spec = found.version.spec
        bundle = spec.manifest.get(BUNDLE, b"")
        turn.do(
            InspectModule(
                request=asked.request,
                content=Hash(spec.content),
                bundle=bundle,
                kind=found.version.form,
            )
        )

    def on_inspected(self, event: ModuleInspected, turn: Turn) -> None:
        """The muscles looked at a module: the names may have changed meanwhile."""
        command = self._inspecting.pop(event.request, None)
        if command is None:
            return
        writer, names = self._writer(), self._names()
        planned = (
            plan_seed(command, event, writer, names)
            if isinstance(command, SeedCommand)
            else plan_rollback(command, event, writer, names)
        )
        self._publish(event.request, planned, turn)

    def note_telemetry(self, event: Telemetry, turn: Turn) -> None:
        """Withdraw what nobody used for as long as its options say.

        A name that nobody had before is given back as if it had never been: a program that ships
        functions would fill its node's records with names that nobody wants again.
        """
        if not self._unused.is_due(turn.now.mono):
            return
        writer, names = self._writer(), self._names()
        held = [holding.holder for holding in names.values() if holding.is_live]
        own = [seed for seed in held if seed.owner == writer.node]
        for name in self._unused.plan_withdrawals(own, event.seeds, turn.now.mono):
            planned = plan_unseed(name, writer, names)
            if not isinstance(planned, Publication):
                continue
            is_first = names[name].holder.name_epoch == 1 and not names[name].shadowed
            turn.publish(SPEC, name.encode(), None if is_first else planned.payload)
            self._tell(planned.answer, turn)

    def _publish(
        self, request: RequestId, planned: Publication | Seeded | Refusal, turn: Turn
    ) -> None:
        if not isinstance(planned, Publication):
            turn.answer(request, planned)
            return
        key = planned.name.encode()
        if not self._has_room((SPEC, key), len(planned.payload)):
            turn.answer(request, REFUSED_FULL)
            return
        turn.publish(SPEC, key, planned.payload)
        turn.answer(request, planned.answer, when_durable=True)
        self._tell(planned.answer, turn)
