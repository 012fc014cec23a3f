"""Watching the linked peers: whom to accuse, when to answer, and when a verdict is believed.

Decides: the accusations and refutations that this node signs, how long a peer may be silent, and
    from when on a verdict of ``liveness`` is acted upon here.
Does not know: packets and probes (``Telemetry`` tells), how records travel, claims.
Invariants: only a peer whose link was ours or that we ought to link is accused, and never one whose
    packets we hear: own live link beats rumour. A node that did not run, or that hears most of its
    links fall silent at once, suspects itself first. Nobody is dead in its own view. A death is
    believed only after the dead had time to refute it.
Source: SWIM 3-4, Lifeguard (local health multiplier, refute fast);
    docs/design/protocol.md#liveness. Refused: indirect probes (SWIM's ping-req): with three
    accusers that have links of their own, the records are the indirection.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from pollen.core import limits, timers
from pollen.core.codec import Rejection, encode
from pollen.core.effects import SetTimer
from pollen.core.events import Telemetry
from pollen.core.ids import MICROSECOND, MILLISECOND, Nanos, PeerId
from pollen.core.kinds import ACCUSE, REFUTE
from pollen.core.peers.liveness import (
    Accusation,
    Charge,
    Evidence,
    Facts,
    Refutation,
    Verdict,
    judge,
)
from pollen.core.records import Record
from pollen.core.turn import Turn


class Watch(msgspec.Struct, kw_only=True):
    """What we saw of one peer ourselves. ``heard``: when the last packet came, or we began."""

    heard: Nanos
    is_linked: bool = False
    was_linked: bool = False
    rtt_us: int = 0
    brain_age_ms: int = 0
    charged: Charge | None = None
    charged_at: Nanos = Nanos(0)
    refuted: int = 0
    quiet_until: Nanos = Nanos(0)


class Membership:
    """Liveness as one node sees it: ``live`` and ``able`` are what everybody else reads.

    ``live``: the epoch of each member that is not dead or gone, this node included; ``able``: those
    of them on which something new may be placed. In no order that means anything.
    """

    def __init__(self, own: PeerId) -> None:
        self._own = own
        self._evidence = Evidence()
        self._watches: dict[PeerId, Watch] = {}
        self._verdicts: dict[PeerId, Verdict] = {}
        self._doubted: dict[PeerId, Nanos] = {}
        self._is_dirty = False
        self._touched: dict[PeerId, None] = {}
        self._moved: dict[PeerId, None] = {}
        self._is_due = False
        self._strain = 0
        self._strained_at = Nanos(0)
        self._frozen_until = Nanos(0)
        self._sampled_at = Nanos(0)
        self._timer = Nanos(0)
        self.live: dict[PeerId, int] = {}
        self.able: dict[PeerId, int] = {}

    # -- records --------------------------------------------------------------------------------

    def note_member(self, peer: PeerId, facts: Facts, now: Nanos) -> None:
        """A member's node record; a new epoch is a new run, which is given time to be heard."""
        held = self._evidence.facts.get(peer)
        if not self._evidence.note_member(peer, facts):
            return
        self._touched[peer] = None
        watch = self._watches.get(peer)
        if watch is not None and held is not None and facts.epoch != held.epoch:
            watch.heard, watch.refuted, watch.quiet_until = now, 0, Nanos(0)
            watch.charged = None

    def forget_member(self, peer: PeerId) -> None:
        """It is not a member any more."""
        self._evidence.forget_member(peer)
        self._watches.pop(peer, None)
        self._touched[peer] = None

    def note_record(self, record: Record, now: Nanos) -> Rejection | None:
        """An ``accuse`` or ``refute`` record that won its key."""
        self._is_dirty = True
        if record.body.kind == ACCUSE:
            return self._evidence.note_accusation(record)
        fault = self._evidence.note_refutation(record)
        watch = self._watches.get(record.body.owner)
        if fault is None and watch is not None and watch.charged is not None:
            # It lives, by rumour: that counts as heard, and we believe our silence less.
            watch.heard, watch.charged = now, None
            watch.quiet_until = Nanos(now + quiet_wait(watch.refuted, watch.was_linked))
            watch.refuted += 1
        return fault

    # -- links ----------------------------------------------------------------------------------

    def watch(self, peers: Iterable[PeerId], now: Nanos) -> None:
        """These peers ought to be linked: they are watched whether they are or not."""
        wanted = dict.fromkeys(peers)
        for peer in [p for p, w in self._watches.items() if not w.is_linked and p not in wanted]:
            del self._watches[peer]
        for peer in wanted:
            if peer != self._own and peer not in self._watches:
                self._watches[peer] = Watch(heard=now)
        self._is_due = True

    def on_link(self, peer: PeerId, now: Nanos) -> None:
        """A link was admitted. Who was alone or cut off until now doubts what it said meanwhile."""
        watch = self._watches.setdefault(peer, Watch(heard=now))
        watch.heard, watch.is_linked, watch.was_linked = now, True, True
        watch.brain_age_ms = 0
        self._doubt_confirmed(now)
        self._is_due = True

    def on_link_closed(self, peer: PeerId) -> None:
        """It is not linked any more; its silence counts from what was heard last."""
        watch = self._watches.get(peer)
        if watch is not None:
            watch.is_linked = False

    def on_telemetry(self, event: Telemetry, now: Nanos) -> None:
        """What the muscles heard of each link."""
        self._sampled_at = now
        for sample in event.peers:
            watch = self._watches.get(sample.peer)
            if watch is None or not watch.is_linked:
                continue
            watch.heard = Nanos(max(watch.heard, now - sample.silent_ms * MILLISECOND))
            watch.rtt_us, watch.brain_age_ms = sample.rtt_us, sample.brain_age_ms
        if self._strain and now >= self._strained_at + limits.STRAIN_EASE_NS:
            self._strain, self._strained_at = self._strain - 1, now
        self._is_due = True

    def on_jump(self, now: Nanos) -> None:
        """We did not run, or time jumped: what looks like silence may be ours."""
        self._frozen_until = Nanos(now + limits.SUSPICION_NS)
        self._take_strain(now)

    # -- what follows ---------------------------------------------------------------------------

    def advance(self, turn: Turn) -> bool:
        """State what is due and set the timer for more; True if ``live`` or ``able`` changed."""
        now = turn.now.mono
        if self._is_due:
            self._is_due = False
            self._judge_peers(turn)
        is_changed = False
        if self._is_dirty or self._touched:
            self._refute(turn)
            is_changed = self._rejudge(now)
        elif self._doubted and now >= self._timer:
            is_changed = self._believe(list(self._doubted), now)
        self._set_timer(turn)
        return is_changed

    def _judge_peers(self, turn: Turn) -> None:
        """Accuse, confirm and withdraw, as each peer's silence deserves."""
        now = turn.now.mono
        patience = self.patience(now)
        for peer, watch in self._watches.items():
            facts = self._evidence.facts.get(peer)
            if facts is None:
                continue
            held = self._evidence.charge_of(self._own, peer)
            wanted = self._charge_for(peer, watch, held, patience, now)
            if wanted is held:
                continue
            payload = None
            if wanted is not None:
                if held is None or held is Charge.STALLED:
                    watch.charged_at = now
                incarnation = self._evidence.incarnation_of(peer)
                payload = encode(Accusation(facts.epoch, incarnation, int(wanted)))
            watch.charged = wanted
            turn.publish(ACCUSE, peer, payload)

    def _charge_for(
        self, peer: PeerId, watch: Watch, held: Charge | None, patience: int, now: Nanos
    ) -> Charge | None:
        """What we must say about a peer now; what we said stands while there is no news."""
        verdict = self._verdicts.get(peer, Verdict.LIVE)
        if verdict is Verdict.LEFT:
            return None
        silent = self._silence(watch, now)
        bound = patience + 3 * watch.rtt_us * MICROSECOND
        if watch.is_linked and silent <= bound:
            is_stalled = watch.brain_age_ms >= limits.BRAIN_DRAIN_MS
            return Charge.STALLED if is_stalled else None
        said = self._evidence.accusers_of(peer).values()
        accusers = sum(charge >= Charge.SILENT for charge in said)
        if not watch.was_linked and not accusers:
            # It may never have been in our reach; whoever lost it just now goes first.
            bound = max(bound, limits.UNMET_NS)
        if silent <= bound or now < self._frozen_until or now < watch.quiet_until:
            return held
        if held is Charge.CONFIRMED:
            return held if watch.charged is held else Charge.SILENT
        if held is Charge.SILENT:
            is_time = now >= watch.charged_at + limits.CONFIRM_NS
            return Charge.CONFIRMED if is_time and verdict is not Verdict.DEAD else held
        # Enough have said it, with some to spare for accusers that die or restart.
        return held if accusers >= limits.ACCUSERS_WANTED else Charge.SILENT

    def patience(self, now: Nanos) -> int:
        """How long a peer may be silent, without round trips: longer while we doubt ourselves."""
        recent = now - limits.LONELY_WITHIN_NS
        met = [
            self._silence(watch, now)
            for peer, watch in self._watches.items()
            if (watch.is_linked or (watch.was_linked and watch.heard > recent))
            and self._verdicts.get(peer, Verdict.LIVE) < Verdict.DEAD
        ]
        silent = sum(silence > limits.LONELY_SILENT_NS for silence in met)
        is_lonely = len(met) > 1 and 2 * silent > len(met)
        factor = (1 + self._strain) * (limits.LONELY_FACTOR if is_lonely else 1)
        return int(min(limits.SUSPICION_NS * factor, limits.SUSPICION_MAX_NS))

    def _silence(self, watch: Watch, now: Nanos) -> int:
        """How long nothing was heard. Of a link the muscles tell twice a second: what came since
        then is not known yet, and must not look like silence."""
        return (self._sampled_at if watch.is_linked else now) - watch.heard

    def _refute(self, turn: Turn) -> None:
        """Whoever accuses us is answered at once; that it happened strains our trust in us."""
        if not self._evidence.accusers_of(self._own):
            return
        self._take_strain(turn.now.mono)
        self._doubt_confirmed(turn.now.mono)
        incarnation = self._evidence.incarnation_of(self._own) + 1
        turn.publish(REFUTE, b"", encode(Refutation(incarnation)))

    def _doubt_confirmed(self, now: Nanos) -> None:
        """Step back from ``CONFIRMED``: somebody who can tell may be there after all."""
        for watch in self._watches.values():
            if watch.charged is Charge.CONFIRMED:
                watch.charged_at = now
                watch.charged = Charge.SILENT

    def _take_strain(self, now: Nanos) -> None:
        self._strain = min(self._strain + 1, limits.STRAIN_MAX)
        self._strained_at = now

    # -- believing ------------------------------------------------------------------------------

    def _rejudge(self, now: Nanos) -> bool:
        """New verdicts, and what changed by them; only members that it touches are looked at."""
        held, self._verdicts = self._verdicts, judge(self._evidence)
        moved = dict.fromkeys([*held, *self._verdicts])
        changed = [p for p in moved if held.get(p) is not self._verdicts.get(p)]
        touched, self._touched, self._is_dirty = self._touched, {}, False
        return self._believe(sorted({*changed, *touched, *self._doubted}), now)

    def _believe(self, peers: Iterable[PeerId], now: Nanos) -> bool:
        """Take verdicts over, deaths after their time of grace; True when something changed."""
        is_changed = False
        for peer in peers:
            verdict, facts = self.verdict_of(peer), self._evidence.facts.get(peer)
            is_doubted = self._is_doubted(peer, verdict, now)
            is_live = facts is not None and (verdict < Verdict.DEAD or is_doubted)
            epoch = facts.epoch if facts is not None and is_live else None
            able = epoch if verdict is not Verdict.DRAINED else None
            for view, value in ((self.live, epoch), (self.able, able)):
                if view.get(peer) == value:
                    continue
                is_changed = True
                self._moved[peer] = None
                if value is None:
                    del view[peer]
                else:
                    view[peer] = value
        return is_changed

    def _is_doubted(self, peer: PeerId, verdict: Verdict, now: Nanos) -> bool:
        """Whether a death is not believed yet: never one's own, nor before its time is over."""
        if verdict is not Verdict.DEAD or peer == self._own or peer not in self.live:
            self._doubted.pop(peer, None)
            return verdict is Verdict.DEAD and peer == self._own
        due = self._doubted.setdefault(peer, self._grace(peer, now))
        if now >= due:
            del self._doubted[peer]
        return now < due

    def _grace(self, peer: PeerId, now: Nanos) -> Nanos:
        """Until when a death is doubted: as long as a refutation takes to come round; one whose
        packets we hear has as long as its brain may stall."""
        watch = self._watches.get(peer)
        bound = self.patience(now)
        is_heard = watch is not None and watch.is_linked and self._silence(watch, now) <= bound
        wait = limits.GRACE_HEARD_NS if is_heard else limits.GRACE_NS
        return Nanos(max(now + wait, self._frozen_until))

    def _set_timer(self, turn: Turn) -> None:
        held, self._timer = self._timer, min(self._doubted.values(), default=Nanos(0))
        if self._timer and self._timer != held:
            turn.do(SetTimer(token=timers.token_for(timers.VERDICT), at=self._timer))

    # -- views ----------------------------------------------------------------------------------

    def take_moved(self) -> list[PeerId]:
        """The peers whose place in ``live`` or ``able`` changed since the last call."""
        moved, self._moved = self._moved, {}
        return list(moved)

    def verdict_of(self, peer: PeerId) -> Verdict:
        """What the records say of a member, believed or not yet."""
        return self._verdicts.get(peer, Verdict.LIVE)

    def members(self) -> list[PeerId]:
        """Everybody with a node record, dead or alive."""
        return list(self._evidence.facts)

    def is_watched(self, peer: PeerId) -> bool:
        """True while this node would accuse the peer if it fell silent."""
        return peer in self._watches


def quiet_wait(refuted: int, was_linked: bool) -> int:
    """Nanoseconds before a peer that refuted us is accused again; longer if we never met it."""
    bound = limits.QUIET_MET_MAX_NS if was_linked else limits.QUIET_UNMET_MAX_NS
    return int(min(limits.QUIET_FIRST_NS << min(refuted, 16), bound))
