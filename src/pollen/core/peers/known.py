"""Who is out there and who is linked: remembered peers, and dials that never give up.

Decides: when to dial again, whether a Hello becomes a link, which of two links to one peer stays,
    which peer is forgotten when too many are known.
Does not know: who ought to be linked (``links``, asked by ``is_wanted``), records, tables; what a
    certificate allows (it is judged by the caller).
Invariants: at most one admitted link a peer; a wanted peer with an address is linked, is dialled
    or waits for a timer that was set. Of two links dialled by both sides at once the one dialled by
    the smaller node id stays; both sides see the same rule and keep the same one. A link that fell
    silent is dialled anew, and the new one takes its place. A linked peer is never forgotten; of
    the others those that nobody wants go first, then, in a full mesh, those that were sought in
    vain for long; of each the one that failed most dials.
Source: docs/design/protocol.md#liveness; docs/internals/liveness.md#links (remembered peers).
    Refused: giving up after n attempts.
"""

from __future__ import annotations

import bisect
import ipaddress
from collections.abc import Callable, Container, Iterable, Sequence

import msgspec

from pollen.core import limits, timers
from pollen.core.codec import Rejection, decode, encode
from pollen.core.effects import AdmitLink, CloseLink, Dial, Log, Row, SetTimer
from pollen.core.events import DialFailed, HelloReceived, LinkClosed, PeerSample
from pollen.core.ids import MILLISECOND, SECOND, LinkId, Nanos, PeerId, short
from pollen.core.rng import Rng
from pollen.core.turn import Turn

PEER_TABLE = "peer"

# How long nothing may come on a link before another one is dialled. A live peer is heard every
# second, so two of its heartbeats were lost. Raising it keeps calls waiting, lowering it makes
# links that nobody needs. Source of these four:
# docs/decisions/a-silent-path.md#a-link-that-fell-silent.
SILENT_NS = 2 * SECOND
# The same where a peer comes by another link, and after this machine lost an address.
DOUBT_NS = 1 * SECOND
# For how long after it lost one: such links have ended by themselves then (8 s). Guess.
MOVED_NS = 10 * SECOND
# The same where packets have a way through others. A link with a second path takes that after 3.1 s
# at most; one that did not is given up.
GIVE_UP_NS = 3_500 * MILLISECOND


class Link(msgspec.Struct, frozen=True, kw_only=True):
    """An admitted link."""

    link: LinkId
    dialled: bool
    boot: bytes
    since: Nanos


class KnownPeer(msgspec.Struct, frozen=True, array_like=True):
    """What the disk keeps of a peer."""

    addresses: list[str]


class Peer(msgspec.Struct, kw_only=True):
    """What memory keeps of a peer."""

    peer: PeerId
    addresses: list[str]
    link: Link | None = None
    # How long nothing came on the link, when that was told last.
    silent_ns: int = 0
    attempts: int = 0
    dial_until: Nanos = Nanos(0)
    # The last dial may go through others.
    is_by_mesh: bool = False
    retry_at: Nanos = Nanos(0)
    boots: list[bytes] = []


class Peers:
    """The peers of one node and the links to them."""

    def __init__(
        self,
        own: PeerId,
        rng: Rng,
        is_wanted: Callable[[PeerId], bool] = lambda _: True,
        has_way: Callable[[PeerId], bool] = lambda _: False,
    ) -> None:
        self._own = own
        self._rng = rng
        self._is_wanted = is_wanted
        self._has_way = has_way
        self._linked: list[PeerId] = []
        self._peers: dict[PeerId, Peer] = {}
        self._twins: dict[PeerId, Nanos] = {}
        self._moved_at: Nanos | None = None

    # -- knowing --------------------------------------------------------------------------------

    def restore(self, rows: Sequence[tuple[bytes, bytes]]) -> list[Rejection]:
        """Take over the peers on disk; what cannot be read is returned."""
        faults = []
        for key, raw in rows:
            known = decode(KnownPeer, raw, "peer-row")
            if isinstance(known, Rejection):
                faults.append(known)
            else:
                self._peers[PeerId(key)] = Peer(peer=PeerId(key), addresses=known.addresses)
        return faults

    def start(self, turn: Turn) -> None:
        """Dial everybody known that is wanted."""
        self.dial(sorted(self._peers), turn)

    def dial(self, peers: Sequence[PeerId], turn: Turn) -> None:
        """Dial these, where they are wanted, known, not being dialled, and not linked with a link
        that is heard."""
        for peer in peers:
            known = self._peers.get(peer)
            if known is not None and self._is_wanted(peer):
                self._dial(known, turn)

    def explore(self, count: int, turn: Turn, but: Container[PeerId] = frozenset()) -> None:
        """Dial a few remembered peers by chance, wanted or not, but those not: for a node that has
        too few links or seeks the lost. One that failed waits for its time all the same.
        """
        known = [p for p in self._peers.values() if p.peer not in but]
        for _ in range(count if known else 0):
            drawn = known[self._rng.below(len(known))]
            if turn.now.mono >= drawn.retry_at:
                self._dial(drawn, turn)

    def try_anybody(self, addresses: Sequence[str], turn: Turn) -> None:
        """Somebody may be at these addresses: try who is not linked, some by chance if many.

        Nothing is remembered: the one who is there will prove it, the others fail and wait on.
        """
        there = [address for address in addresses if is_dialable(address)]
        absent = [p.peer for p in self._sorted() if p.link is None]
        self._rng.shuffle(absent)
        for peer in absent[: limits.ANYBODY_DIALS] if there else ():
            turn.do(Dial(peer=peer, addresses=there))

    def learn(self, peer: PeerId, addresses: Sequence[str], turn: Turn) -> None:
        """Remember where a peer can be dialled, the newest first; dial it when it is not linked."""
        if peer == self._own:
            return
        known = self._peers.get(peer)
        is_new = known is None
        if known is None:
            if len(self._peers) >= limits.KNOWN_PEERS_MAX and not self._forget_one(turn):
                turn.do(_log("peer-not-remembered", peer))
                return
            known = self._peers[peer] = Peer(peer=peer, addresses=[])
        addresses = [address for address in addresses if is_dialable(address)]
        merged = list(dict.fromkeys([*addresses, *known.addresses]))[: limits.PEER_ADDRESSES_MAX]
        is_news = any(a not in known.addresses for a in merged)
        if is_new or merged != known.addresses:
            known.addresses = merged
            turn.write_last(_row_of(known))
        if not is_news:
            return
        # A dial to where the peer was may hang until its time-out: dial where it is now as well.
        known.dial_until = Nanos(0)
        if self._is_wanted(peer):
            self._dial(known, turn)

    def _forget_one(self, turn: Turn) -> bool:
        """Make room: the idle, unwanted peer with the most failed dials, the largest id then.

        In a full mesh everybody is wanted: there one that was sought in vain for long goes.
        """
        absent = [p for p in self._peers.values() if p.link is None]
        idle = [p for p in absent if not self._is_wanted(p.peer)]
        idle = idle or [p for p in absent if p.attempts >= limits.REDIAL_SOON_ATTEMPTS]
        if not idle:
            return False
        victim = max(idle, key=lambda p: (p.attempts, p.peer)).peer
        del self._peers[victim]
        turn.write_last((PEER_TABLE, victim, None))
        return True

    # -- links ----------------------------------------------------------------------------------

    def on_hello(self, event: HelloReceived, turn: Turn) -> bool:
        """A Hello whose chain was judged good. True when it became the peer's link."""
        known = self._peers.get(event.peer)
        if known is None:
            if len(self._peers) >= limits.KNOWN_PEERS_MAX:
                self._forget_one(turn)
            known = self._peers[event.peer] = Peer(peer=event.peer, addresses=[])
            turn.write_last(_row_of(known))
        is_twin, held = self._note_boot(known, event.boot, turn), known.link
        if held is not None and not self._replaces(known, held, event, turn.now.mono):
            reason = "another link to this node is in use"
            turn.do(CloseLink(link=event.link, code=limits.CLOSE_DUPLICATE_LINK, reason=reason))
            return False
        if held is not None:
            code, reason = limits.CLOSE_DUPLICATE_LINK, "a newer link took its place"
            if known.silent_ns >= DOUBT_NS:
                # A duplicate would finish its calls first, and none ends on this one.
                code, reason = limits.CLOSE_IDLE, "it was silent, and a newer link took its place"
            if is_twin and held.boot != event.boot:
                code, reason = limits.CLOSE_TWIN, "another live process uses your key"
            turn.do(CloseLink(link=held.link, code=code, reason=reason))
        if held is None:
            bisect.insort(self._linked, event.peer)
        since = turn.now.mono
        known.link = Link(link=event.link, dialled=event.dialled, boot=event.boot, since=since)
        known.attempts, known.dial_until, known.silent_ns = 0, Nanos(0), 0
        turn.do(AdmitLink(link=event.link))
        return True

    def _replaces(self, known: Peer, held: Link, event: HelloReceived, now: Nanos) -> bool:
        """A restarted peer's link always; one dialled by the same side; else the smaller's dial.

        Nobody dials a peer with whom it is linked, unless both dial at once. So where that is long
        over, or the link is silent, the peer has lost the link that is held here.
        """
        if held.boot != event.boot or held.dialled == event.dialled:
            return True
        is_crossing = now < held.since + limits.DIAL_DEADLINE_NS
        if known.silent_ns >= DOUBT_NS or not is_crossing:
            return True
        return event.dialled == (self._own < event.peer)

    # -- silence --------------------------------------------------------------------------------

    def on_telemetry(self, samples: Iterable[PeerSample], turn: Turn) -> None:
        """Dial those anew whose link fell silent: it may never come back, or only after its idle
        time. Where packets have a way through others it may take that; then it is given up."""
        now = turn.now.mono
        for sample in samples:
            known = self._peers.get(sample.peer)
            if known is None or known.link is None:
                continue
            silent = sample.silent_ms * MILLISECOND
            # A longer silence is that of the link before this one.
            known.silent_ns = silent if silent <= now - known.link.since else 0
            if not self._is_lost(known, now):
                continue
            if self._has_way(known.peer):
                # Why: to a peer with a direct path the muscles send first packets there alone.
                known.attempts, known.dial_until = 0, Nanos(0)
                reason = "silent, and there is a way through others"
                turn.do(CloseLink(link=known.link.link, code=limits.CLOSE_IDLE, reason=reason))
            elif self._is_wanted(known.peer):
                self._dial(known, turn)

    def on_moved(self, now: Nanos) -> None:
        """This machine lost an address: links that were accepted there are dead, as only the side
        that dialled can move one."""
        self._moved_at = now

    def _is_lost(self, known: Peer, now: Nanos) -> bool:
        """Whether a link is to be dialled anew: true also of a peer without one."""
        if known.link is None:
            return True
        bound = GIVE_UP_NS if self._has_way(known.peer) else SILENT_NS
        if self._moved_at is not None and now < self._moved_at + MOVED_NS:
            bound = DOUBT_NS
        return known.silent_ns >= bound

    def _note_boot(self, known: Peer, boot: bytes, turn: Turn) -> bool:
        """True for a boot id that comes back after another one: there are two live copies."""
        if boot in known.boots[:-1]:
            known.boots.remove(boot)
            known.boots.append(boot)
            self._twins[known.peer] = turn.now.mono
            turn.do(_log("two-live-copies", known.peer))
            return True
        if boot not in known.boots:
            known.boots = [*known.boots, boot][-limits.BOOTS_REMEMBERED :]
        return False

    def twins(self, now: Nanos) -> list[PeerId]:
        """The keys that lately showed two live copies; whoever ended the other one is done."""
        return [p for p, at in self._twins.items() if now < at + limits.TWIN_TOLD_NS]

    def on_link_closed(self, event: LinkClosed, turn: Turn) -> bool:
        """True when the peer went offline by it; another link of the same peer changes nothing."""
        known = self._peers.get(event.peer)
        if known is None:
            return False
        if event.code == limits.CLOSE_TWIN:
            # Both are told: whoever gets the link tells the one that had it.
            self._twins[self._own] = turn.now.mono
        if known.link is not None and known.link.link == event.link:
            # A dial beside it may be under way, and may come to nothing.
            known.link, known.dial_until = None, Nanos(0)
            del self._linked[bisect.bisect_left(self._linked, event.peer)]
            self._retry(known, turn)
            return True
        if self._is_lost(known, turn.now.mono):
            known.dial_until = Nanos(0)
            self._retry(known, turn)
        return False

    def on_dial_failed(self, event: DialFailed, turn: Turn) -> None:
        """Nobody answered: wait longer, by chance, and for ever."""
        known = self._peers.get(event.peer)
        if known is not None and self._is_lost(known, turn.now.mono):
            known.dial_until = Nanos(0)
            self._retry(known, turn)

    def on_timer(self, subject: bytes, turn: Turn) -> None:
        """Dial again, unless the peer was linked or is being dialled meanwhile."""
        self.dial([PeerId(subject)], turn)

    def _dial(self, known: Peer, turn: Turn) -> None:
        now = turn.now.mono
        if not self._is_lost(known, now) or not self._may_dial(known) or now < known.dial_until:
            return
        known.dial_until = Nanos(now + limits.DIAL_DEADLINE_NS)
        known.is_by_mesh = self._has_way(known.peer)
        token = timers.token_for(timers.DIAL, known.peer)
        addresses = list(known.addresses)
        turn.do(
            Dial(peer=known.peer, addresses=addresses, by_mesh=known.is_by_mesh),
            SetTimer(token=token, at=known.dial_until),
        )

    def _may_dial(self, known: Peer) -> bool:
        return bool(known.addresses) or self._has_way(known.peer)

    def on_way(self, peer: PeerId, turn: Turn) -> None:
        """Packets for a peer find a way through others from now on: dial it in the next turn, when
        the muscles know the way, also while a dial without it is under way. One with it goes on."""
        known = self._peers.get(peer)
        is_tried = known is not None and known.is_by_mesh and turn.now.mono < known.dial_until
        if known is not None and self._is_lost(known, turn.now.mono) and not is_tried:
            known.attempts, known.dial_until = 0, Nanos(0)
            turn.do(SetTimer(token=timers.token_for(timers.DIAL, peer), at=turn.now.mono))

    def _retry(self, known: Peer, turn: Turn) -> None:
        if not self._may_dial(known):
            return
        absent = len(self._peers) - len(self._linked)
        wait = redial_wait(known.attempts, absent)
        known.attempts += 1
        known.retry_at = Nanos(turn.now.mono + self._rng.jittered(wait))
        if self._is_wanted(known.peer):
            turn.do(SetTimer(token=timers.token_for(timers.DIAL, known.peer), at=known.retry_at))

    def end_backoff(self, peers: Sequence[PeerId], turn: Turn) -> None:
        """There is news of these: dial them soon, whatever happened before."""
        for peer in peers:
            known = self._peers.get(peer)
            if known is not None and known.link is None:
                known.attempts = 0
                self.dial([peer], turn)

    # -- views ----------------------------------------------------------------------------------

    def linked(self) -> list[PeerId]:
        """The peers with an admitted link, in the order of their ids."""
        return list(self._linked)

    def has_link(self, peer: PeerId) -> bool:
        """True while a link to this peer is admitted."""
        known = self._peers.get(peer)
        return known is not None and known.link is not None

    def link_of(self, peer: PeerId) -> Link | None:
        """The admitted link of a peer."""
        known = self._peers.get(peer)
        return None if known is None else known.link

    def dialable(self) -> list[tuple[PeerId, list[str]]]:
        """Peers with an address, linked ones first: what a joiner is told."""
        known = [p for p in self._sorted() if p.addresses]
        known.sort(key=lambda p: p.link is None)
        return [(p.peer, list(p.addresses)) for p in known]

    def _sorted(self) -> list[Peer]:
        return [self._peers[peer] for peer in sorted(self._peers)]


def is_dialable(address: str) -> bool:
    """True for ``ip:port`` and ``[ipv6]:port``, which the muscles can dial: no names."""
    return host_of(address) is not None


def host_of(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The host of an address that can be dialled; None for any other text."""
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    try:
        found = ipaddress.ip_address(bare)
    except ValueError:
        return None
    is_wrapped = bare != host
    is_port = port.isascii() and port.isdigit() and 0 < int(port) < 65_536
    return found if is_port and is_wrapped == (found.version == 6) else None


def redial_wait(attempts: int, absent: int) -> int:
    """Nanoseconds before dial ``attempts`` + 1, while so many peers are absent: doubled each time
    up to a cap, which rises with their number and, after many attempts, to the longest wait."""
    cap = max(limits.REDIAL_SOON_NS, absent * limits.REDIAL_EACH_NS)
    if attempts >= limits.REDIAL_SOON_ATTEMPTS:
        cap = limits.REDIAL_MAX_NS
    return int(min(limits.REDIAL_FIRST_NS << min(attempts, 16), cap, limits.REDIAL_MAX_NS))


def _row_of(known: Peer) -> Row:
    return PEER_TABLE, known.peer, encode(KnownPeer(known.addresses))


def _log(event: str, peer: PeerId) -> Log:
    return Log(level="warning", event=event, fields={"peer": short(peer)})
