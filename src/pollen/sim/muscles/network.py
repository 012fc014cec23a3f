"""Links between simulated machines: dials, Hello, frames, close codes, silence.

Decides: when a frame arrives, and what each end of a link notices of the other.
Does not know: what a frame says; calls (``sim.muscles.plane`` asks for a way and a delay).
Invariants: frames of one direction of one link arrive in the order sent or, after a close, not at
    all. Nothing that a peer says reaches a brain before that brain admitted the link. A direction
    that is cut holds frames back and lets no probe through; an end that hears nothing for the idle
    time closes by itself. A link end knows its peer's silence as the muscles do: by heartbeats of
    a second and by packets.
Source: docs/internals/seam.md#links; the muscles' link and its transport settings. Loss is a
    delay on a stream (it is sent again) and a true loss on a probe.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from pollen.core import events as ev
from pollen.core import limits
from pollen.core.effects import Dial
from pollen.core.ids import MILLISECOND, SECOND, Hash, LinkId, PeerId
from pollen.core.rng import Rng
from pollen.core.rules import numbers
from pollen.sim.muscles.end import End
from pollen.sim.muscles.ways import Router, Ways
from pollen.sim.muscles.weather import Weather
from pollen.sim.world.keys import is_genuine
from pollen.sim.world.machine import Machine

RECORD_DOMAIN = b"pollen-record/1\0"

# When the handshake is sent again, after its beginning.
_DIAL_AGAIN_NS = (0, 1 * SECOND, 3 * SECOND, 7 * SECOND)
_FRAME_OVERHEAD = 64
_PROBE_BYTES = 60

ADMITTED = 0
MESSAGE = 1
RECORDS = 2


class Stage(Protocol):
    """What the network needs of the world."""

    now: int
    machines: dict[str, Machine]

    def schedule(self, after: int, call: Any, *args: Any) -> None:
        """Run ``call(*args)`` after so many nanoseconds."""

    def hand(self, machine: Machine, boots: int, event: ev.Event) -> None:
        """Give an event to a machine's brain, now or when it takes a turn again."""

    def link_ready(self, end: End) -> None:
        """A link end carries calls from now on: both brains admitted the link."""

    def link_gone(self, end: End) -> None:
        """A link end is no more: the calls on it broke."""


class Network:
    """All links of one world."""

    # How often each machine looks at its links: with its telemetry.
    LOOK_NS = SECOND // 2

    def __init__(self, stage: Stage, rng: Rng) -> None:
        self._stage = stage
        self._rng = rng
        self._links = 0
        self._by_address: dict[str, Machine] = {}
        self._ends: dict[str, dict[LinkId, End]] = {}
        self._to: dict[str, dict[PeerId, list[End]]] = {}
        self.weather = Weather(Rng(rng.draw()))
        self.ways = Ways(self.weather)
        self.full: set[str] = set()
        self.counts: dict[str, int] = {}

    def settle(self, machine: Machine, zone: int) -> None:
        """A machine is reachable at its address and lives in a zone."""
        self._by_address[machine.address] = machine
        self.weather.settle(machine, zone)
        self._ends.setdefault(machine.name, {})
        self._to.setdefault(machine.name, {})

    def move(self, machine: Machine, address: str) -> None:
        """A machine is reachable at another address from now on, and no more at the old one."""
        if self._by_address.get(machine.address) is machine:
            del self._by_address[machine.address]
        machine.address = address
        self._by_address[address] = machine

    def put_behind(self, machine: Machine, router: Router) -> None:
        """A machine stands behind a router, and has a private address, from now on."""
        self.ways.put_behind(machine, router)
        self._by_address[self.ways.seen_at(machine, machine)] = machine

    def _delay(self, end: End) -> int:
        """How long one piece of a stream takes from this end."""
        other = end.other
        target = end.machine if other is None else other.machine
        return self.weather.delay(end.machine, target, end.way_ns)

    def _is_cut_off(self, end: End) -> bool:
        """Whether nothing that this end sends gets through now."""
        if end.other is None:
            return True
        if end.is_meshed:
            return self.ways.through(self, end.machine, end.other.machine) is None
        return bool(self.weather.cuts) and self.weather.is_cut(end.machine, end.other.machine)

    def _tell(self, end: End, event: ev.Event) -> None:
        """An event that follows from what this node just did: after its turn, never within it."""
        self._stage.schedule(0, self._stage.hand, end.machine, end.boots, event)

    def _count(self, name: str) -> None:
        self.counts[name] = self.counts.get(name, 0) + 1

    # -- a link's beginning -----------------------------------------------------------------------

    def dial(self, machine: Machine, effect: Dial) -> None:
        """What ``Dial`` does; ends in two Hellos or in ``DialFailed``."""
        began = self._stage.now
        self._try_dial(machine, machine.boots, effect, began, 0)

    def _try_dial(self, machine: Machine, boots: int, effect: Dial, began: int, tries: int) -> None:
        if machine.boots != boots or machine.node is None:
            return
        target = self.find(machine, effect.peer, effect.addresses)
        if target is not None:
            self._connect(machine, target, is_meshed=False)
            return
        target = self._find_meshed(machine, effect.peer) if effect.by_mesh else None
        if target is not None:
            self._connect(machine, target, is_meshed=True)
            return
        if tries + 1 < len(_DIAL_AGAIN_NS):
            after = began + _DIAL_AGAIN_NS[tries + 1] - self._stage.now
            self._stage.schedule(after, self._try_dial, machine, boots, effect, began, tries + 1)
            return
        event = ev.DialFailed(peer=effect.peer, slug="unreachable", reason="no answer within 10 s")
        after = began + numbers.HANDSHAKE_NS - self._stage.now
        self._stage.schedule(after, self._stage.hand, machine, boots, event)

    def find(self, machine: Machine, peer: PeerId, addresses: list[str]) -> Machine | None:
        """Who answers at one of the addresses with the wanted key."""
        for address in addresses:
            target = self._by_address.get(address)
            if target is None or target.key != peer or not target.is_up:
                continue
            if not self.ways.answers(machine, target, address):
                continue
            weather = self.weather
            if weather.is_cut(machine, target) or weather.is_cut(target, machine):
                continue
            return target
        return None

    def _find_meshed(self, machine: Machine, peer: PeerId) -> Machine | None:
        """Who has the wanted key and is reached through other members."""
        for target in self._stage.machines.values():
            is_there = target.key == peer and target.is_up and target is not machine
            if is_there and self.ways.has_way(self, machine, target):
                return target
        return None

    def _connect(self, machine: Machine, target: Machine, *, is_meshed: bool) -> None:
        way = self.ways.way_ns(self, machine, target, is_meshed)
        one = self._open(machine, target, True, way)
        two = self._open(target, machine, False, way)
        one.other, two.other = two, one
        one.is_meshed = two.is_meshed = one.began_meshed = two.began_meshed = is_meshed
        self._count("links")
        for end, after in ((two, 3 * self._delay(one)), (one, 4 * self._delay(two))):
            self._stage.schedule(after, self._greet, end)

    def _open(self, machine: Machine, peer: Machine, dialled: bool, way: int) -> End:
        self._links += 1
        now = self._stage.now
        end = End(
            link=LinkId(self._links), machine=machine, boots=machine.boots, peer=peer.key,
            dialled=dialled, way_ns=way, next_beat=now + self._rng.below(numbers.HEARTBEAT_NS),
            heard=now, probed=now, srtt_ns=2 * way,
        )  # fmt: skip
        self._ends[machine.name][end.link] = end
        self._to[machine.name].setdefault(peer.key, []).append(end)
        return end

    def _greet(self, end: End) -> None:
        other = end.other
        if other is None or not end.is_open:
            return
        of = other.machine
        identity = of.identity
        if identity is None or of.boots != other.boots:
            return
        event = ev.HelloReceived(
            link=end.link,
            peer=of.key,
            dialled=end.dialled,
            remote=self.ways.address_of(end),
            cluster=Hash(identity.cluster),
            minor_min=limits.MINOR_MIN,
            minor_max=limits.MINOR_MAX,
            boot=of.boot,
            chain=identity.chain,
        )
        self._stage.hand(end.machine, end.boots, event)

    def admit(self, machine: Machine, link: LinkId) -> None:
        """What ``AdmitLink`` does."""
        end = self._ends[machine.name].get(link)
        if end is None or not end.is_open or end.is_admitted:
            return
        end.is_admitted = True
        self._transmit(end, ADMITTED, None, 1)
        early, end.early = end.early, []
        for event in early:
            self._tell(end, event)
        if end.carries_calls:
            self._stage.link_ready(end)

    # -- frames -----------------------------------------------------------------------------------

    def send_message(self, machine: Machine, peer: PeerId, body: bytes) -> None:
        """What ``SendMessage`` does: dropped when there is no link that speaks."""
        end = self.speaking(machine, peer)
        if end is not None:
            self._transmit(end, MESSAGE, body, len(body))

    def send_records(self, machine: Machine, peer: PeerId, records: list[ev.SignedRecord]) -> None:
        """What ``SendRecords`` does."""
        end = self.speaking(machine, peer)
        if end is not None:
            size = sum(len(record.body) + 100 for record in records)
            self._transmit(end, RECORDS, records, size)

    def speaking(self, machine: Machine, peer: PeerId) -> End | None:
        """The link on which this brain says something to a peer: the one admitted last."""
        found: End | None = None
        for end in self._to[machine.name].get(peer, ()):
            if end.is_speaking and (found is None or end.link > found.link):
                found = end
        return found

    def _transmit(self, end: End, kind: int, payload: Any, size: int) -> None:
        is_full = end.under_way + len(end.held) >= numbers.CONTROL_QUEUE
        if kind != ADMITTED and (is_full or end.machine.name in self.full):
            self._count("queue-full")
            return
        end.bytes_out += size + _FRAME_OVERHEAD
        other = end.other
        if other is None:
            return
        if self._is_cut_off(end):
            end.held.append((kind, payload, size))
            self._count("frames-held")
            return
        self._ship(end, other, kind, payload, size, self._delay(end))

    def _ship(self, end: End, other: End, kind: int, payload: Any, size: int, delay: int) -> None:
        end.under_way += 1
        end.free_at = max(end.free_at + 1, self._stage.now + delay)
        self._stage.schedule(
            end.free_at - self._stage.now, self._arrive, other, kind, payload, size
        )

    def _arrive(self, end: End, kind: int, payload: Any, size: int) -> None:
        other = end.other
        if other is not None:
            other.under_way -= 1
        if not end.is_open or end.boots != end.machine.boots:
            return
        end.heard = self._stage.now
        end.bytes_in += size + _FRAME_OVERHEAD
        if kind == ADMITTED:
            end.is_routed = True
            if end.carries_calls:
                self._stage.link_ready(end)
            return
        event = self._event_of(end, kind, payload)
        if end.is_admitted:
            self._stage.hand(end.machine, end.boots, event)
        else:
            end.early.append(event)

    def _event_of(self, end: End, kind: int, payload: Any) -> ev.Event:
        if kind == MESSAGE:
            return ev.MessageReceived(link=end.link, peer=end.peer, body=payload)
        kept = [r for r in payload if is_genuine(r.owner, RECORD_DOMAIN + r.body, r.signature)]
        rejected = len(payload) - len(kept)
        if rejected:
            self.counts["forged"] = self.counts.get("forged", 0) + rejected
        return ev.RecordsReceived(link=end.link, peer=end.peer, records=kept, rejected=rejected)

    def release_held(self) -> None:
        """After a rule went: frames that waited for it are sent again, in their order."""
        for ends in self._ends.values():
            for end in ends.values():
                other = end.other
                if not end.held or other is None or not end.is_open:
                    continue
                if self._is_cut_off(end):
                    continue
                self._release(end, other)

    def _release(self, end: End, other: End) -> None:
        held, end.held = end.held, []
        after = self._delay(end) + self._rng.below(SECOND)
        for kind, payload, size in held:
            self._ship(end, other, kind, payload, size, after)

    def _look(self, end: End) -> None:
        """A link that began on the mesh: its packets may take another way, or go again."""
        if self.ways.look(self, end):
            for each in (end, end.other):
                if each is not None:
                    address = self.ways.address_of(each)
                    self._tell(each, ev.PathMoved(link=each.link, peer=each.peer, address=address))
        if end.held and end.other is not None and not self._is_cut_off(end):
            self._release(end, end.other)

    # -- a link's end -----------------------------------------------------------------------------

    def close(self, machine: Machine, link: LinkId, code: int, reason: str) -> None:
        """What ``CloseLink`` does; a duplicate may finish its calls first."""
        end = self._ends[machine.name].get(link)
        if end is None or not end.is_open:
            return
        end.is_closing = True
        if code == limits.CLOSE_DUPLICATE_LINK:
            until = self._stage.now + numbers.DUPLICATE_GRACE_NS
            look = (end, 0, until, code, reason)
            self._stage.schedule(numbers.DUPLICATE_LOOK_NS, self._close_idle, *look)
            return
        self._end_link(end, 0, "closed here", code, reason)

    def _close_idle(self, end: End, idle: int, until: int, code: int, reason: str) -> None:
        if not end.is_open:
            return
        is_idle = end.calls == 0 and (end.other is None or end.other.calls == 0)
        idle = idle + 1 if is_idle else 0
        if idle < 2 and self._stage.now < until:
            look = (end, idle, until, code, reason)
            self._stage.schedule(numbers.DUPLICATE_LOOK_NS, self._close_idle, *look)
            return
        self._end_link(end, 0, "closed here", code, reason)

    def _end_link(self, end: End, code: int, reason: str, told: int, why: str) -> None:
        """This end is gone; the other hears of it when a packet gets through."""
        self._forget(end)
        event = ev.LinkClosed(link=end.link, peer=end.peer, code=code, reason=reason)
        self._tell(end, event)
        other = end.other
        if other is None or self._is_cut_off(end):
            return
        # Frames sent before the close arrive before it.
        after = max(self._delay(end), end.free_at - self._stage.now + 1)
        self._stage.schedule(after, self._hear_close, other, told, why)

    def _hear_close(self, end: End, code: int, reason: str) -> None:
        if not end.is_open:
            return
        if end.machine.is_frozen:
            self._stage.schedule(SECOND, self._hear_close, end, code, reason)
            return
        self._forget(end)
        event = ev.LinkClosed(link=end.link, peer=end.peer, code=code, reason=reason)
        self._stage.hand(end.machine, end.boots, event)

    def _forget(self, end: End) -> None:
        end.is_open = end.is_routed = False
        end.held, end.early = [], []
        self._ends[end.machine.name].pop(end.link, None)
        ends = self._to[end.machine.name].get(end.peer, [])
        if end in ends:
            ends.remove(end)
        if not ends:
            self._to[end.machine.name].pop(end.peer, None)
        if end.waits:
            self._stage.link_gone(end)

    def shut(self, machine: Machine, *, is_told: bool) -> None:
        """A process ended: with a word to its peers (an orderly stop), or without one (a crash)."""
        for end in list(self._ends[machine.name].values()):
            other = end.other
            self._forget(end)
            if is_told and other is not None and not self._is_cut_off(end):
                code, reason = limits.CLOSE_SHUTTING_DOWN, "shutting down"
                self._stage.schedule(self._delay(end), self._hear_close, other, code, reason)

    def reset(self, end: End) -> None:
        """The connection breaks for no reason of either brain."""
        self._end_link(end, 0, "connection lost", 0, "connection lost")

    # -- silence ----------------------------------------------------------------------------------

    def sample(self, machine: Machine) -> list[ev.PeerSample]:
        """The peers' part of ``Telemetry``; ends that heard nothing for too long close here."""
        samples = []
        idle = []
        now = self._stage.now
        for end in self._ends[machine.name].values():
            if end.late and now >= end.late:
                late, end.late = end.late, 0
                self._beat_due(end, late, now)
            while now >= end.next_beat:
                self._heartbeat(end, now)
            silent = now - max(end.heard, end.probed)
            if silent > numbers.LINK_IDLE_END_NS:
                idle.append(end)
            elif end.is_routed and end.is_admitted:
                if end.began_meshed:
                    self._look(end)
                samples.append(
                    ev.PeerSample(
                        end.peer,
                        end.srtt_ns // 1_000,
                        end.bytes_out,
                        end.bytes_in,
                        not end.is_meshed,
                        silent // MILLISECOND,
                        (end.peer_age + now - end.probed) // MILLISECOND,
                    )
                )
        for end in idle:
            self._count("idle-closed")
            self._end_link(end, 0, "timed out", 0, "timed out")
        return samples

    def _heartbeat(self, end: End, now: int) -> None:
        """A probe of the peer, or its answer to ours: half a second apart, each once a second."""
        beat, is_answer = end.next_beat, end.beats % 2
        end.beats += 1
        end.next_beat = max(beat + numbers.HEARTBEAT_NS // 2, now - numbers.HEARTBEAT_NS)
        end.bytes_out += _PROBE_BYTES
        other = end.other
        if other is None or not self.is_heard(end):
            return
        weather = self.weather
        after = weather.once_ns(other.machine, end.machine, end.way_ns)
        if is_answer:
            after += weather.once_ns(end.machine, other.machine, end.way_ns)
            if self._is_cut_off(end) or weather.is_lost():
                return
        if weather.is_lost():
            return
        # A datagram that comes twice says nothing new the second time.
        weather.is_doubled()
        self._beat_due(end, beat + after, now)
        if is_answer:
            end.srtt_ns = (7 * end.srtt_ns + min(after, 2 * SECOND)) // 8

    def _beat_due(self, end: End, at: int, now: int) -> None:
        """A probe arrives at this time, which may be yet to come."""
        end.bytes_in += _PROBE_BYTES
        if at <= now:
            end.probed = max(end.probed, at)
            end.peer_age = end.other.machine.beat_age(at) if end.other else 0
        elif not end.late:
            end.late = at

    def is_heard(self, end: End) -> bool:
        """Whether packets of the peer's process reach this end now."""
        other = end.other
        if other is None or not other.is_open or not other.machine.is_up:
            return False
        return not self._is_cut_off(other)

    def is_answering(self, end: End) -> bool:
        """Whether a probe sent now from this end is answered."""
        if end.other is None or not self.is_heard(end):
            return False
        return not (self._is_cut_off(end) or self.weather.is_lost())

    def stream(self, end: End, call: Any, *args: Any) -> None:
        """Send something of a call over a link: a cut holds it back, a dead link loses it."""
        other = end.other
        if other is None or not end.is_open or not other.is_open:
            return
        if self._is_cut_off(end):
            self._stage.schedule(100 * MILLISECOND, self.stream, end, call, *args)
            return
        self._stage.schedule(self._delay(end), call, *args)

    # -- views ------------------------------------------------------------------------------------

    def ends_of(self, machine: Machine) -> Iterator[End]:
        """The open link ends of a machine."""
        yield from self._ends[machine.name].values()

    def routed(self, machine: Machine, peer: PeerId) -> End | None:
        """The link that carries calls to a peer: both brains admitted it."""
        for end in self._to[machine.name].get(peer, ()):
            if end.carries_calls:
                return end
        return None
