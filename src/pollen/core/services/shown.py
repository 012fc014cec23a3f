"""What is served where and what listens here, as a person asks for it.

Decides: the words of a provider's state; the order of what is shown.
Does not know: how it came about; a question changes nothing.
Invariants: where a service is, is shown on its own node only.
Source: docs/internals/control-api.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from pollen.core.events import ServiceSample, Telemetry
from pollen.core.ids import Hash, PeerId
from pollen.core.placement import Situation
from pollen.core.services.checking import Checking
from pollen.core.services.directory import Directory
from pollen.core.services.listeners import Listeners
from pollen.core.services.records import Service, key_of
from pollen.core.services.serving import Serving
from pollen.core.servicewords import ProviderView, ServiceList, ServicesCommand, ServiceView
from pollen.core.trust import Members
from pollen.core.turn import Asked, Handler, Room, Turn

_NONE = ServiceSample(Hash(b""), 0, 0, 0, 0, 0)


class Shown(Room):
    """``telemetry`` is the last of the muscles."""

    def __init__(
        self,
        own: PeerId,
        members: Members,
        situation: Situation,
        directory: Directory,
        serving: Serving,
        listeners: Listeners,
        checking: Checking,
        telemetry: Callable[[], Telemetry | None],
    ) -> None:
        self._own = own
        self._members = members
        self._situation = situation
        self._directory = directory
        self._serving = serving
        self._listeners = listeners
        self._checking = checking
        self._telemetry = telemetry

    def commands(self) -> Mapping[type[object], Handler]:
        """The one question."""
        return {ServicesCommand: self.on_services}

    def on_services(self, asked: Asked, turn: Turn) -> None:
        """Everything that is served, by name, and every listener of this node."""
        telemetry = self._telemetry()
        samples = {s.key: s for s in telemetry.services} if telemetry else {}
        rtts = {s.peer: s.rtt_us for s in telemetry.peers} if telemetry else {}
        services = []
        for name in self._directory.live_names():
            sample = samples.get(key_of(name), _NONE)
            providers = self._directory.providers(name)
            is_own = self._directory.of_node(name, self._own) is not None
            target = self._serving.targets.get(name) if is_own else None
            services.append(
                ServiceView(
                    name=name,
                    datagrams=providers[0].record.datagrams,
                    name_epoch=providers[0].name_epoch,
                    providers=[self._provider(service, rtts) for service in providers],
                    target="" if target is None else target.text,
                    other_kind=list(
                        map(self._members.name_of, self._directory.of_other_kind(name))
                    ),
                    opened=sample.opened,
                    open=sample.open,
                    refused=sample.refused,
                    bytes_in=sample.bytes_in,
                    bytes_out=sample.bytes_out,
                    check=self._checking.view(name) if is_own else None,
                )
            )
        turn.answer(
            asked.request, ServiceList(services=services, listeners=self._listeners.views())
        )

    def _provider(self, service: Service, rtts: Mapping[PeerId, int]) -> ProviderView:
        peer = service.owner
        said = self._checking.said(service.name, peer)
        return ProviderView(
            node=peer.hex(),
            name=self._members.name_of(peer),
            state=self._state_of(peer),
            port=service.record.port,
            rtt_us=rtts.get(peer, 0),
            allow=service.record.allow,
            allow_if="" if service.allow_if is None else service.allow_if.text,
            health="" if said is None else said.label,
            health_unix_ms=0 if said is None else said.since_unix_ms,
            health_reason="" if said is None else said.reason,
        )

    def _state_of(self, peer: PeerId) -> str:
        if peer == self._own:
            return "self"
        if peer in self._situation.live:
            return "online"
        return "left" if self._situation.has_left(peer) else "offline"
