"""Who serves a name, who is tried first, and whom a gate keeps out: for ``pln why service``.

Decides: the sentences.
Does not know: how far a provider is, and what it answered: the desk and the muscles say that.
Invariants: as at the gates and in the rows of the muscles. A question changes nothing.
Source: docs/design/cli.md#why; docs/design/services.md#names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

import msgspec

from pollen.core.codec import Refusal
from pollen.core.ids import PeerId
from pollen.core.services.asking import lets
from pollen.core.services.checking import Checking
from pollen.core.services.choosing import choose, parted
from pollen.core.services.directory import Directory
from pollen.core.services.listeners import Listeners
from pollen.core.services.records import Service
from pollen.core.services.serving import Serving
from pollen.core.trust import Members

# Names in one sentence. Guess: a line of a terminal.
_NAMES = 4


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a name: who serves it, in the order in which they are tried; whose gate lets
    this node in; the sentences."""

    name: str
    providers: list[Service]
    open_here: list[PeerId]
    why: list[str]


class Explaining:
    """``live`` are the members that are online, this node among them."""

    def __init__(
        self,
        own: PeerId,
        members: Members,
        live: Callable[[], Collection[PeerId]],
        directory: Directory,
        serving: Serving,
        listeners: Listeners,
        checking: Checking,
    ) -> None:
        self._own = own
        self._members = members
        self._live = live
        self._directory = directory
        self._serving = serving
        self._listeners = listeners
        self._checking = checking

    def why(self, target: str) -> Known | Refusal:
        """What is known of ``NAME`` or ``NAME@NODE``, with that one provider only."""
        read = parted(target)
        if isinstance(read, Refusal):
            return read
        name, node = read
        others = self._directory.left_out(name)
        found = self._directory.find(name)
        if isinstance(found, Refusal):
            if not others or node:
                return found
            found = []
        elif node:
            chosen = choose(name, node, found, self._members.name_of)
            if isinstance(chosen, Refusal):
                return chosen
            found, others = [chosen], []
        open_here = [s.owner for s in found if lets(s, self._members, self._own)]
        return Known(
            name=name,
            providers=found,
            open_here=open_here,
            why=[
                self._first(name, found, node),
                *self._failing(name, found, node),
                *self._gates(found, open_here),
                *(f"{self._members.name_of(s.owner)} does not count: {why}" for s, why in others),
                *self._here(name, found),
            ],
        )

    def _first(self, name: str, found: list[Service], node: str) -> str:
        live = self._live()
        online = [service.owner for service in found if service.owner in live]
        if node and found:
            only = self._members.name_of(found[0].owner)
            return f"{only} alone is asked for" + ("" if online else ", and is not online")
        if not online:
            who = "who serves it is online" if found else "serves it"
            return f"nobody {who}"
        first = self._members.name_of(online[0])
        if online[0] == self._own:
            return "this node serves it itself, and is tried first"
        if len(online) == 1:
            return f"{first} is the only one that is online"
        fit = [peer for peer in online if not self._directory.is_failing(name, peer)]
        if fit and len(fit) < len(online):
            which = f"the nearest of {len(fit)}" if len(fit) > 1 else "the only one"
            return f"{first} is tried first, {which} that is online and does not fail its check"
        return f"{first} is tried first, the nearest of {len(online)} that are online"

    def _failing(self, name: str, found: list[Service], node: str) -> Iterator[str]:
        """Whose programs fail their check, and what that means for clients."""
        failing = [s.owner for s in found if self._directory.is_failing(name, s.owner)]
        online = [service.owner for service in found if service.owner in self._live()]
        for peer in failing:
            said = self._checking.said(name, peer)
            why = f": {said.reason}" if said is not None and said.reason else ""
            yield f"the service at {self._members.name_of(peer)} fails its check{why}"
        if failing and not node:
            rest = (
                "it is tried all the same" if len(failing) == 1 else "they are tried all the same"
            )
            last = "clients go there when no other takes them"
            yield f"no other is left: {rest}" if len(failing) == len(online) else last

    def _gates(self, found: list[Service], open_here: list[PeerId]) -> Iterator[str]:
        """Whom the gates keep out, this node first."""
        for service in found:
            at = self._members.name_of(service.owner)
            if service.owner not in open_here:
                yield f"the gate at {at} does not let this node in; it asks for: {service.gate}"
            shut = [
                member.peer
                for member in self._members.all_members()
                if member.peer not in (self._own, service.owner)
                and not lets(service, self._members, member.peer)
            ]
            if shut:
                names = self._listed(shut)
                yield f"the gate at {at} does not let in {names}; it asks for: {service.gate}"

    def _listed(self, peers: Iterable[PeerId]) -> str:
        names = sorted(map(self._members.name_of, peers))
        more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
        return ", ".join(names[:_NAMES]) + more

    def _here(self, name: str, found: list[Service]) -> Iterator[str]:
        """What of it is on this machine."""
        target = self._serving.targets.get(name)
        if target is not None and any(service.owner == self._own for service in found):
            yield f"here it is at {target.text}"
            yield from self._check(name)
        yield from self._listened(name)

    def _check(self, name: str) -> Iterator[str]:
        """How the program here is checked, and what came of it last."""
        view = self._checking.view(name)
        if view is None:
            return
        how = f"each {view.every_ms / 1000:g} s ({view.check})"
        last = view.error or ("it passed" if view.good else "none has ended yet")
        yield f"it is checked here {how}: {view.state}; the last one: {last}"
        if view.against and view.needed > 1:
            turns = "fails" if view.state == "healthy" else "is healthy"
            yield f"{view.against} in a row speak against that; after {view.needed} it {turns}"

    def _listened(self, name: str) -> Iterator[str]:
        """Where clients of this machine find it."""
        for held in self._listeners.views():
            if held.service == name:
                only = f", for {held.provider} alone" if held.provider else ""
                state = f" ({held.state}: {held.reason})" if held.reason else ""
                yield f"clients of this machine find it at {held.bound}{only}{state}"
