"""How records spread: pushes along a sparse mesh, announcements beside it, digests behind both.

Decides: over which links a change is pushed, what is announced or compared, what is pulled from
    whom.
Does not know: what a record means, why a link exists, sockets.
Invariants: a change of ours goes to every link, one of somebody else over the eager links, once,
    and only if it was new here. An eager link is given up by both sides together and only while
    each keeps ``EAGER_MIN``. Whatever pushes lose a digest finds: two linked nodes whose sets
    differ do not stay so. Of one owner one pull is under way. Records are sent as carried.
Source: docs/design/protocol.md#records; eager and lazy push: Leitao, Pereira, Rodrigues, "Epidemic
    Broadcast Trees" (Plumtree, 2007), with a mesh of degree 3 in place of its tree, so that a lost
    node costs no delay. Refused: flooding (each node gets a copy a link); a fan-out drawn again
    each time, which leaves some nodes to the digest each time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from pollen.core import limits, timers
from pollen.core.clocks import Clocks
from pollen.core.effects import SendMessage, SendRecords, SetTimer
from pollen.core.events import Event, RecordsReceived
from pollen.core.ids import Nanos, PeerId
from pollen.core.messages import (
    Buckets,
    Delta,
    Digest,
    Have,
    Line,
    Lines,
    Message,
    Part,
    Prune,
    Pull,
    Want,
    encode_message,
)
from pollen.core.records.graves import Graves
from pollen.core.records.intake import Intake
from pollen.core.records.ledger import Records
from pollen.core.records.owners import OwnerSet, differing
from pollen.core.records.record import ZERO, Change, Record, Version, in_frames
from pollen.core.records.wants import Asked, Missing, Wants
from pollen.core.rng import Rng
from pollen.core.turn import Handler, Heard, Room, Turn

# An answer describes all that is held in the buckets asked for, so it may be longer.
_REPLY_LINES = 4 * limits.LINES_MAX


class Stats(msgspec.Struct, kw_only=True):
    """What gossip did since the start; for tests, the simulator and metrics."""

    pushed: int = 0
    duplicates: int = 0
    pulls: int = 0
    pulled_records: int = 0
    wholes: int = 0
    digests: int = 0
    grafts: int = 0
    prunes: int = 0


class Gossip(Room):
    """The spreading of records on one node."""

    def __init__(
        self, own: PeerId, records: Records, intake: Intake, clocks: Clocks, rng: Rng
    ) -> None:
        self._own = own
        self._records = records
        self._intake = intake
        self._clocks = clocks
        self._rng = rng
        self._links: dict[PeerId, bool] = {}
        self._order: list[PeerId] = []
        self._lazy: dict[PeerId, None] = {}
        self._missing: dict[PeerId, Missing] = {}
        self._wanted = Wants()
        self._asked: dict[PeerId, Asked] = {}
        self._answers: dict[PeerId, dict[PeerId, Version]] = {}
        self._doubts: dict[tuple[PeerId, PeerId], Nanos] = {}
        self._again: dict[PeerId, None] = {}
        self._pruning: dict[PeerId, Nanos] = {}
        self._graves = Graves(own, records)
        self._has_timer = {timers.HAVE: False, timers.GRAFT: False}
        self.stats = Stats()

    def figures(self) -> dict[str, int]:
        """What it did and has before it, by metric (``pollen_gossip_…``)."""
        did = self.stats
        return {
            "records_waiting": self._intake.waiting,
            "owners_wanted": len(self._wanted) + len(self._asked),
            "pushed_total": did.pushed,
            "duplicates_total": did.duplicates,
            "pulls_total": did.pulls,
            "pulled_records_total": did.pulled_records,
            "digests_total": did.digests,
        }

    @property
    def is_level(self) -> bool:
        """True while nothing is known of that is not here yet."""
        return not (self._asked or len(self._wanted) or self._missing or self._intake.waiting)

    def start(self, turn: Turn) -> None:
        """The first digest is compared soon, each after it by chance."""
        at = Nanos(turn.now.mono + self._rng.jittered(limits.DIGEST_NS))
        turn.do(SetTimer(token=timers.token_for(timers.DIGEST), at=at))

    def events(self) -> Mapping[type[Event], Handler]:
        """Records that a peer sent."""
        return {RecordsReceived: self._intake.on_records}

    def messages(self) -> Mapping[type[Message], Handler]:
        """What is said about records."""
        return {
            Digest: self.on_digest,
            Buckets: self.on_buckets,
            Lines: self.on_lines,
            Pull: self.on_pull,
            Delta: self.on_delta,
            Have: self.on_have,
            Prune: self.on_prune,
        }

    def timers(self) -> Mapping[str, Handler]:
        """When to compare, to announce, and to pull what was announced."""
        return {
            timers.DIGEST: self._on_digest_timer,
            timers.HAVE: self._on_have_timer,
            timers.GRAFT: self._on_graft_timer,
        }

    # -- links ----------------------------------------------------------------------------------

    def on_link(self, peer: PeerId, dialled: bool, turn: Turn) -> None:
        """A link was admitted: compare what both hold, beginning at the side that dialled."""
        self._links[peer] = True
        self._order = sorted(self._links)
        # A new link takes the place of an old one, whose answers may have gone with it.
        for owner in [o for o, asked in self._asked.items() if asked.peer == peer]:
            del self._asked[owner]
        if dialled:
            self._say(peer, self._digest(), turn)

    def on_link_closed(self, peer: PeerId, turn: Turn) -> None:
        """A link is gone: what was asked there is found again by a digest elsewhere."""
        self._links.pop(peer, None)
        self._order = sorted(self._links)
        self._intake.forget(peer)
        self._answers.pop(peer, None)
        self._again.pop(peer, None)
        self._pruning.pop(peer, None)
        lost = [owner for owner, asked in self._asked.items() if asked.peer == peer]
        lost += [owner for owner, source, _ in self._wanted if source == peer]
        for owner in lost:
            self._asked.pop(owner, None)
            self._wanted.drop(owner)
        if lost:
            self._compare_with_one(turn)

    # -- pushing --------------------------------------------------------------------------------

    def spread(self, changes: Sequence[Change], turn: Turn) -> None:
        """Pass on what is new here: ours to all, others' along the mesh, pulled ones by name."""
        mine: list[Record] = []
        others: list[Change] = []
        pulled: dict[PeerId, PeerId] = {}
        for change in changes:
            if change.is_gone:
                continue
            if change.source is None:
                mine.append(change.record)
            elif change.is_pulled:
                pulled[change.record.body.owner] = change.source
            elif change.record.body.owner != self._own:
                others.append(change)
        for peer in self._order if mine else self._eager() if others else ():
            due = list(mine)
            if self._links[peer]:
                due += [c.record for c in others if peer not in (c.source, c.record.body.owner)]
            if due:
                self._push(peer, due, turn)
        for change in others:
            self._lazy[change.record.body.owner] = None
        self._announce_pulled(pulled, turn)
        if self._lazy and not all(self._links.values()):
            self._set_timer(timers.HAVE, Nanos(turn.now.mono + limits.LAZY_NS), turn)
        else:
            self._lazy.clear()

    def _push(self, peer: PeerId, due: Sequence[Record], turn: Turn) -> None:
        self.stats.pushed += len(due)
        frames = in_frames(record.signed for record in due)
        turn.do(*[SendRecords(peer=peer, records=frame) for frame in frames])

    def _announce_pulled(self, pulled: dict[PeerId, PeerId], turn: Turn) -> None:
        """What was pulled here the neighbours may lack as well, or hold already: say its name."""
        for peer in self._eager() if pulled else ():
            due = [owner for owner, source in pulled.items() if source != peer]
            wants = [self._want(owner) for owner in due]
            if wants:
                self._say(peer, Have(wants, True), turn)

    def _want(self, owner: PeerId) -> Want:
        return Want(owner, *self._records.peek(owner).version)

    def _eager(self) -> list[PeerId]:
        return [peer for peer in self._order if self._links[peer]]

    # -- announcements --------------------------------------------------------------------------

    def _on_have_timer(self, subject: bytes, turn: Turn) -> None:
        """Name what changed on a few of the links that it was not pushed over."""
        self._has_timer[timers.HAVE] = False
        wants = [self._want(owner) for owner in self._lazy]
        self._lazy.clear()
        quiet = [peer for peer in self._order if not self._links[peer]]
        self._rng.shuffle(quiet)
        for peer in quiet[: limits.LAZY_FANOUT] if wants else ():
            self._say(peer, Have(wants), turn)

    def on_have(self, heard: Heard, turn: Turn) -> None:
        """A peer holds versions that may not be here: wait for the push, or pull at once."""
        have: Have = heard.message
        due = Nanos(turn.now.mono + limits.GRAFT_WAIT_NS)
        for want in have.wants[:_REPLY_LINES]:
            version = (want.epoch, want.seq)
            if version <= self._records.peek(want.owner).version or want.owner in self._asked:
                continue
            if have.now:
                self._pull_from(want.owner, heard.peer)
            elif want.owner not in self._missing:
                self._missing[want.owner] = Missing(heard.peer, version, due)
        self._send_pulls(turn)
        if self._missing:
            self._set_timer(timers.GRAFT, due, turn)

    def _on_graft_timer(self, subject: bytes, turn: Turn) -> None:
        """What was announced and did not come is pulled, and that link pushes from now on."""
        self._has_timer[timers.GRAFT] = False
        due = [owner for owner, missing in self._missing.items() if missing.due <= turn.now.mono]
        for owner in due:
            missing = self._missing.pop(owner)
            if missing.version <= self._records.peek(owner).version:
                continue
            if missing.peer in self._links:
                self.stats.grafts += 1
                self._links[missing.peer] = True
                self._pull_from(owner, missing.peer)
        self._send_pulls(turn)
        if self._missing:
            soonest = min(missing.due for missing in self._missing.values())
            self._set_timer(timers.GRAFT, soonest, turn)

    def on_prune(self, heard: Heard, turn: Turn) -> None:
        """A peer gets copies from us: stop pushing to each other, if we can spare it."""
        peer, is_agreed = heard.peer, heard.message.agreed
        if peer not in self._links:
            return
        self._pruning.pop(peer, None)
        if not is_agreed and self._links[peer] and not self._has_spare():
            return
        self._links[peer] = False
        if not is_agreed:
            self._say(peer, Prune(True), turn)

    def _has_spare(self) -> bool:
        """True while one more eager link can be given up, those already asked not counted."""
        return len(self._eager()) - len(self._pruning) > limits.EAGER_MIN

    def _shed_copies(self, turn: Turn) -> None:
        """Ask the links that brought copies to stop, as far as they can be spared."""
        now = turn.now.mono
        copies, self._intake.duplicates = self._intake.duplicates, {}
        self.stats.duplicates += sum(copies.values())
        for peer in sorted(copies):
            until = self._pruning.get(peer)
            if until is not None and until <= now:
                del self._pruning[peer]
            if self._links.get(peer) and peer not in self._pruning and self._has_spare():
                self._pruning[peer] = Nanos(now + limits.PRUNE_NS)
                self.stats.prunes += 1
                self._say(peer, Prune(), turn)

    # -- comparing ------------------------------------------------------------------------------

    def _on_digest_timer(self, subject: bytes, turn: Turn) -> None:
        """Compare with one link, by chance; forget what was waited for too long."""
        now = turn.now.mono
        for owner in [o for o, asked in self._asked.items() if asked.until <= now]:
            del self._asked[owner]
        for key in [k for k, until in self._doubts.items() if until <= now]:
            del self._doubts[key]
        self._graves.settle(self._order, now)
        at = Nanos(now + self._rng.jittered(limits.DIGEST_NS))
        self._compare_with_one(turn)
        self._send_pulls(turn)
        turn.do(SetTimer(token=timers.token_for(timers.DIGEST), at=at))

    def _compare_with_one(self, turn: Turn) -> None:
        if self._order:
            peer = self._order[self._rng.below(len(self._order))]
            self._say(peer, self._digest(), turn)

    def _digest(self) -> Digest:
        self.stats.digests += 1
        return Digest(self._records.sums.root(), self._clocks.raw_wall)

    def on_digest(self, heard: Heard, turn: Turn) -> None:
        """Equal roots say all; else the buckets say where to look. The sender's clock is noted."""
        digest: Digest = heard.message
        self._clocks.note_member(heard.peer, digest.wall)
        sums = self._records.sums
        if digest.root != sums.root():
            self._say(heard.peer, Buckets(sums.buckets()), turn)

    def on_buckets(self, heard: Heard, turn: Turn) -> None:
        """Describe the owners in the buckets that differ, from a random one on."""
        sums = self._records.sums
        found = differing(sums.buckets(), heard.message.hashes)
        if not found:
            return
        first = self._rng.below(len(found))
        chosen: list[int] = []
        lines: list[Line] = []
        for bucket in [*found[first:], *found[:first]]:
            if len(lines) >= limits.LINES_MAX:
                break
            chosen.append(bucket)
            lines += [self._records.peek(owner).line() for owner in sums.owners_of([bucket])]
        more = len(chosen) < len(found)
        self._say(heard.peer, Lines(bytes(chosen), lines, True, more), turn)

    def on_lines(self, heard: Heard, turn: Turn) -> None:
        """Pull what the peer has more of; tell it, when it asked, what we have more of."""
        peer, lines = heard.peer, heard.message
        reply: list[Line] = []
        listed: dict[PeerId, None] = {}
        for line in lines.lines[:_REPLY_LINES]:
            listed[line.owner] = None
            owned = self._records.peek(line.owner)
            if line.is_grave != owned.is_grave:
                self._graves.on_line(line, owned, peer, self._links, turn)
            if self._judge_line(line, owned, peer, turn.now.mono):
                reply.append(owned.line())
        for owner in self._records.sums.owners_of(sorted(dict.fromkeys(lines.buckets))):
            if owner not in listed:
                reply.append(self._records.peek(owner).line())
        more = lines.more or len(reply) > _REPLY_LINES
        if lines.asks and (reply or more):
            self._say(peer, Lines(b"", reply[:_REPLY_LINES], False, more), turn)
        if self._send_pulls(turn) and lines.more:
            # Only who gets on goes on at once; else the next digest in its time.
            self._again[peer] = None

    def _judge_line(self, line: Line, owned: OwnerSet, peer: PeerId, now: Nanos) -> bool:
        """Want what is there and not here; True when the peer lacks something that is here."""
        theirs = (line.epoch, line.seq)
        if line.sum == owned.sum_bytes():
            if theirs >= owned.top:
                self._records.reach(owned, owned.top)
            return theirs < owned.version
        if theirs < owned.version:
            return True
        if theirs == owned.version or line.is_grave or owned.is_grave:
            return self._doubt(line, owned, peer, now)
        if not self._intake.is_refused(line.owner, theirs):
            self._pull_from(line.owner, peer)
        return False

    def _doubt(self, line: Line, owned: OwnerSet, peer: PeerId, now: Nanos) -> bool:
        """Other sets at one version: both sides take the other's whole, once in a while.

        A grave differs from what others still hold by design; each collects in its own time.
        """
        if line.is_grave != owned.is_grave and (line.epoch, line.seq) == owned.version:
            return False
        key = (peer, line.owner)
        if now < self._doubts.get(key, Nanos(0)):
            return False
        if not self._wanted.add(line.owner, peer, is_whole=True):
            return False
        self._doubts[key] = Nanos(now + limits.DOUBT_NS)
        self.stats.wholes += 1
        return True

    # -- pulling --------------------------------------------------------------------------------

    def _pull_from(self, owner: PeerId, peer: PeerId) -> None:
        if peer in self._links and owner not in self._wanted and owner not in self._asked:
            self._wanted.add(owner, peer)

    def _send_pulls(self, turn: Turn) -> bool:
        """Ask for what is wanted, so many owners at a time from one peer; False if nobody was."""
        if not self._wanted:
            return False
        under_way: dict[PeerId, int] = {}
        for asked in self._asked.values():
            under_way[asked.peer] = under_way.get(asked.peer, 0) + 1
        due: dict[PeerId, list[Want]] = {}
        for owner, peer, is_whole in self._wanted:
            if peer not in self._links:
                self._wanted.drop(owner)
                continue
            if under_way.get(peer, 0) >= limits.PULLS_MAX:
                continue
            self._wanted.drop(owner)
            under_way[peer] = under_way.get(peer, 0) + 1
            self._asked[owner] = Asked(peer, Nanos(turn.now.mono + limits.PULL_NS))
            want = Want(owner, 0, 0) if is_whole or owner == self._own else self._want(owner)
            due.setdefault(peer, []).append(want)
        self.stats.pulls += sum(len(wants) for wants in due.values())
        for peer in sorted(due):
            self._say(peer, Pull(due[peer], self._links[peer]), turn)
        return bool(due)

    def on_pull(self, heard: Heard, turn: Turn) -> None:
        """Queue the answer; who pulls for want of a push gets pushes."""
        peer, pull = heard.peer, heard.message
        if peer not in self._links or not pull.wants:
            return
        self._links[peer] = self._links[peer] or pull.graft
        due = self._answers.setdefault(peer, {})
        for want in pull.wants[: limits.PULLS_MAX]:
            due[want.owner] = (want.epoch, want.seq)

    def on_delta(self, heard: Heard, turn: Turn) -> None:
        """The records of an answer come next."""
        self._intake.on_parts(heard.message.parts[: 2 * limits.PULLS_MAX], heard.peer)

    # -- long work ------------------------------------------------------------------------------

    @property
    def has_work(self) -> bool:
        """True while records wait to be merged or answers to be sent."""
        return self._intake.has_work or bool(self._answers)

    def advance(self, units: int, turn: Turn) -> int:
        """Merge some of what came, then answer some of what was asked: the units spent."""
        spent = 0
        if self._intake.has_work:
            spent = self._intake.advance(units, turn)
            self._follow_up(turn)
        if self._answers and spent < units:
            spent += self._answer_one(turn)
        return max(spent, 1)

    def _follow_up(self, turn: Turn) -> None:
        """Ask for what gaps need and for what was waiting for room."""
        done, self._intake.done = self._intake.done, []
        for transfer in done:
            asked = self._asked.get(transfer.owner)
            if asked is not None and asked.peer == transfer.peer:
                del self._asked[transfer.owner]
            self.stats.pulled_records += len(transfer.rows)
        gaps, self._intake.gaps = self._intake.gaps, {}
        for owner, peer in gaps.items():
            self._pull_from(owner, peer)
        self._send_pulls(turn)
        self._shed_copies(turn)
        for peer in list(self._again):
            if not any(asked.peer == peer for asked in self._asked.values()):
                del self._again[peer]
                self._say(peer, self._digest(), turn)

    def _answer_one(self, turn: Turn) -> int:
        """The next few owners that one peer asked for: the units spent."""
        peer = next(iter(self._answers))
        due = self._answers.pop(peer)
        parts: list[Part] = []
        rows: list[Record] = []
        while due and len(rows) < limits.ANSWER_RECORDS:
            owner = next(iter(due))
            since = due.pop(owner)
            owned = self._records.peek(owner)
            is_whole = since == ZERO or since < owned.floor
            found = owned.after(ZERO if is_whole else since)
            parts.append(Part(owner, *(owned.version if is_whole else since), len(found), is_whole))
            rows += found
        if due:
            self._answers[peer] = due
        self._say(peer, Delta(parts), turn)
        self._push(peer, rows, turn)
        return 20 * len(parts) + 4 * len(rows)

    # -- little ---------------------------------------------------------------------------------

    def _say(self, peer: PeerId, message: Message, turn: Turn) -> None:
        turn.do(SendMessage(peer=peer, body=encode_message(message)))

    def _set_timer(self, purpose: str, at: Nanos, turn: Turn) -> None:
        if not self._has_timer[purpose]:
            self._has_timer[purpose] = True
            turn.do(SetTimer(token=timers.token_for(purpose), at=at))
