"""Who serves which name: the projection of all service records.

Decides: which records of a name count, and the order in which its nodes are tried.
Does not know: where a service is on its node; what listens here.
Invariants: who serves a name is a function of the records, the certificates, the root's policy and
    who is alive. Nodes whose records have the same epoch serve a name together; a higher one takes
    it over. A change costs what it touches.
Source: docs/design/services.md#names.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from pollen.core import limits
from pollen.core.codec import Refusal, Rejection
from pollen.core.effects import ServiceRow
from pollen.core.ids import Hash, PeerId, short
from pollen.core.names import Holding, check_may_seed, near_names, next_epoch, resolve
from pollen.core.placement import Lane, Situation
from pollen.core.records import Record
from pollen.core.services.health import HealthRecord, decode_health
from pollen.core.services.records import (
    EPOCH_MAX,
    ROW_PROVIDERS,
    Service,
    decode_service,
    key_of,
)
from pollen.core.trust import Members
from pollen.core.work import taken


class Directory:
    """The names of services. ``price`` is what reaching a node costs, in microseconds."""

    def __init__(
        self,
        own: PeerId,
        members: Members,
        situation: Situation,
        price: Callable[[PeerId], int],
        lane: Lane[Hash, ServiceRow],
    ) -> None:
        self._own = own
        self._members = members
        self._situation = situation
        self._price = price
        self._lane = lane
        self._known: dict[str, dict[PeerId, Service]] = {}
        self._named_by: dict[PeerId, dict[str, None]] = {}
        # What nodes say of their programs, and the run in which they said it.
        self._health: dict[str, dict[PeerId, tuple[int, HealthRecord]]] = {}
        self._stale: dict[str, None] = {}
        self._policy = members.trust.publishers.counts
        self.names: dict[str, Holding[Service]] = {}
        # Names of this node's own services about which something changed.
        self.touched: dict[str, None] = {}

    def note_record(self, record: Record) -> Rejection | None:
        """A service record came, changed or went."""
        if record.is_opaque:
            return None
        owner, name = record.body.owner, record.body.key.decode("utf-8", "replace")
        service: Service | Rejection | None = None
        if record.is_live:
            service = decode_service(owner, record.body.payload)
            if isinstance(service, Service) and service.name.encode() != record.body.key:
                service = Rejection("service-key", service.name)
        held = self._known.setdefault(name, {})
        if isinstance(service, Service):
            held[owner] = service
            self._named_by.setdefault(owner, {})[name] = None
        else:
            held.pop(owner, None)
            self._named_by.get(owner, {}).pop(name, None)
            if not held:
                del self._known[name]
        self._stale[name] = None
        return service if isinstance(service, Rejection) else None

    def note_health(self, record: Record) -> Rejection | None:
        """A node says how a program of its own fares, or nothing any more."""
        if record.is_opaque:
            return None
        owner, name = record.body.owner, record.body.key.decode("utf-8", "replace")
        said = decode_health(record.body.payload) if record.is_live else None
        held = self._health.setdefault(name, {})
        if isinstance(said, HealthRecord):
            held[owner] = record.body.epoch, said
        else:
            held.pop(owner, None)
            if not held:
                del self._health[name]
        self._stale[name] = None
        return said if isinstance(said, Rejection) else None

    def note_peer(self, peer: PeerId) -> None:
        """Somebody came, went, has another certificate or another price."""
        self._stale.update(dict.fromkeys(self._named_by.get(peer, ())))

    # -- bringing up to date --------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """True while some name is not brought up to date."""
        return bool(self._stale)

    def refresh(self) -> None:
        """Bring names and their rows up to date, one slice."""
        policy = self._members.trust.publishers.counts
        if policy is not self._policy:
            self._policy = policy
            self._stale.update(dict.fromkeys(self._known))
        for name in taken(self._stale, limits.PLACE_SLICE_SEEDS):
            holding = resolve(
                list(self._known.get(name, {}).values()),
                self._members.certificates,
                self._members.trust.publishers.lets,
            ).get(name)
            if holding is None:
                self.names.pop(name, None)
            else:
                self.names[name] = holding
            self._lane.set(key_of(name), self._row(name))
            if self._own in self._known.get(name, {}):
                self.touched[name] = None

    def _row(self, name: str) -> ServiceRow | None:
        """Who is tried; nobody while all who serve it are down, so that clients hear that."""
        found = self.providers(name)
        if not found:
            return None
        tried = [s.owner for s in found if self._is_live(s.owner)][:ROW_PROVIDERS]
        return ServiceRow(
            key=key_of(name),
            name=name,
            providers=tried,
            datagrams=found[0].record.datagrams,
            failing=[peer for peer in tried if self.is_failing(name, peer)],
        )

    def _is_live(self, peer: PeerId) -> bool:
        return peer in self._situation.live

    # -- looking up -----------------------------------------------------------------------------

    def providers(self, name: str) -> list[Service]:
        """Everybody who serves a name, alive or not, in the order in which they are tried.

        Those that speak otherwise than the first in rank (streams or datagrams) do not count.
        Those whose program fails its check come last.
        """
        holding = self.names.get(name)
        if holding is None:
            return []
        ranked = [holding.holder, *holding.shadowed]
        if holding.holder.name_epoch == EPOCH_MAX:
            # No epoch is higher: a higher tier takes the name instead.
            tier = self._tier_of(holding.holder.owner)
            ranked = [service for service in ranked if self._tier_of(service.owner) == tier]
        found = [service for service in ranked if not service.is_withdrawn]
        alike = [s for s in found if s.record.datagrams == found[0].record.datagrams]
        is_failing = self.is_failing
        return sorted(
            alike, key=lambda s: (is_failing(name, s.owner), self._price(s.owner), s.owner)
        )

    def health(self, name: str, peer: PeerId) -> HealthRecord | None:
        """What a node that is online says of its program: what it said in another run is void."""
        epoch, said = self._health.get(name, {}).get(peer, (-1, None))
        return said if self._situation.live.get(peer) == epoch else None

    def is_failing(self, name: str, peer: PeerId) -> bool:
        """Whether a node says that its program fails the check."""
        said = self.health(name, peer)
        return said is not None and said.is_failing

    def left_out(self, name: str) -> list[tuple[Service, str]]:
        """Who published that it serves a name and does not count, and why not."""
        counting = {service.owner for service in self.providers(name)}
        held = self._known.get(name, {}).values()
        return [(s, self._why_not(s)) for s in held if not (s.is_withdrawn or s.owner in counting)]

    def of_other_kind(self, name: str) -> list[PeerId]:
        """Who serves a name and does not count, because it speaks otherwise than the first."""
        left = (service for service, _ in self.left_out(name))
        return sorted(service.owner for service in left if self._speaks_otherwise(service))

    def _speaks_otherwise(self, service: Service) -> bool:
        holding = self.names.get(service.name)
        ranked = [] if holding is None else [holding.holder, *holding.shadowed]
        found = self.providers(service.name)
        return (
            service in ranked
            and found[:1] != []
            and (found[0].record.datagrams != service.record.datagrams)
        )

    def _why_not(self, service: Service) -> str:
        certificate = self._members.certificates.get(service.owner)
        if certificate is None:
            return "it is no member any more"
        if check_may_seed(certificate) is not None:
            return "it is a leaf"
        publishers = self._members.trust.publishers
        if not publishers.lets(service.name, certificate):
            why = publishers.why_not(service.name, certificate)
            return f"the root's policy on publishers does not let it: {why}"
        if self._speaks_otherwise(service):
            by, other = ("UDP", "TCP") if service.record.datagrams else ("TCP", "UDP")
            return f"it serves the name by {by}, and others by {other}"
        return "the name was taken over, or withdrawn for all"

    def _tier_of(self, peer: PeerId) -> int:
        certificate = self._members.certificates.get(peer)
        return -1 if certificate is None else certificate.tier

    def of_node(self, name: str, peer: PeerId) -> Service | None:
        """What a node serves under a name, when it counts."""
        return next((s for s in self.providers(name) if s.owner == peer), None)

    def is_alone(self, name: str, peer: PeerId) -> bool:
        """Whether nobody else published anything under a name, counting or not."""
        return set(self._known.get(name, ())) <= {peer}

    def published(self, name: str, peer: PeerId) -> Service | None:
        """What a node published under a name last, whether or not it counts."""
        return self._known.get(name, {}).get(peer)

    def live_names(self) -> list[str]:
        """The names that somebody serves, in order."""
        return sorted(name for name in self.names if self.providers(name))

    def held_by(self, peers: Collection[PeerId]) -> list[str]:
        """The names that these members serve, and nobody else."""
        return [n for n in self.live_names() if all(s.owner in peers for s in self.providers(n))]

    def epoch_above(self, name: str) -> int:
        """The epoch that takes a name over from all who serve it, or would if they counted."""
        members, known = self._members.certificates, self._known.get(name, {})
        able = [o for o in known if o in members and check_may_seed(members[o]) is None]
        top = max((known[o].name_epoch for o in able), default=0)
        return min(next_epoch(self.names.get(name), top), EPOCH_MAX)

    def find(self, name: str) -> list[Service] | Refusal:
        """Who serves what a user names."""
        found = self.providers(name)
        return found or _not_found(name, self.live_names())

    def refusal_for_seed(self, name: str) -> Refusal | None:
        """Why no seed may have this name: a service has it."""
        found = self.providers(name)
        if not found:
            return None
        return Refusal(
            "name-taken",
            f"node {short(found[0].owner)} serves {name!r}: services and seeds share their names",
            "choose another name",
        )


def _not_found(name: str, known: list[str]) -> Refusal:
    near = near_names(name, known)
    hint = f"did you mean: {', '.join(near)}" if near else "see what there is: pln status services"
    return Refusal("service-not-found", f"nobody serves {name[:80]!r}", hint)
