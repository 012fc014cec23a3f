"""The seeds on this node: from wanted to ready, and out of service without a gap.

Decides: what this node loads, serves and unloads, from whom it fetches, what it claims, whose
    drain it has witnessed.
Does not know: how the plan came about, records, other nodes' reasons.
Invariants: ``last-ready-stays``: a replica that the plan dropped begins to drain when the minimum
    of others was ready for one suspicion period, and unloads when that many of them, being ready,
    have witnessed this very drain in their claims. Views may be as stale as they like. Take the
    drain that began last among those that finished. Its witnesses were ready after it began; any
    drain of theirs began later still, so it cannot have finished. They still serve.
    ``rollout-by-rank``: while the version before still serves, rank k loads when rank k-1 is ready.
    A refusal is claimed with its reason and tried again after a while, never in a loop; a version's
    own fault is not. ``checked-before-ready``: a replica whose seed names a check is claimed ready
    only when that check succeeded here, since it was loaded.
Source: docs/design/protocol.md#placement. Refused: draining one at a time by rank alone, since two
    views of the ranks can each put the other first; a wait alone, since a view can be staler than
    any wait.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pollen.core import limits, timers
from pollen.core.effects import LoadSeed, SetTimer, UnloadSeed
from pollen.core.events import CallEnded, LoadFinished, SeedSample, SeedWoken
from pollen.core.ids import MILLISECOND, Hash, Nanos, Now, PeerId
from pollen.core.placement import checking
from pollen.core.placement.claims import Act, Claim, Cue, State, step
from pollen.core.placement.entry import Entry, View
from pollen.core.placement.firsts import Firsts
from pollen.core.placement.going import (
    are_enough,
    are_others_enough,
    is_newest_due,
    is_past,
    is_replaced_by,
    runs_no_more,
    successors,
    witnessed_by,
)
from pollen.core.placement.held import Held
from pollen.core.placement.pins import Pins
from pollen.core.placement.plan import NOWHERE, Placement
from pollen.core.placement.roles import Role, load_deadline, load_wait, may_host, plan_holders
from pollen.core.placement.space import Space
from pollen.core.policy import Party
from pollen.core.seeds import Seed
from pollen.core.turn import Turn

# Slugs of a load that speak of the way to the content, not of this host: try again soon.
_FETCH_SLUGS = frozenset({"unreachable", "blob-not-found", "overloaded", "deadline"})
# Slugs of a load that speak of the version: no other host would do better.
_FAULT_SLUGS = frozenset({"module-invalid", "import-unknown", "guest-failed", "guest-trapped"})


class Hosting:
    """The seeds on this node."""

    def __init__(self, own: PeerId, party: Party, capacity_bytes: int, blob_bytes: int = 0) -> None:
        self._own = own
        self.party = party
        self._entries: dict[Hash, Entry] = {}
        self._drains = 0
        self._checks = checking.Checks()
        # Seeds that are not here any more, but their content is.
        self._kept: dict[Hash, Seed] = {}
        # Seeds whose content is let go in this turn, and those that were dropped while they came:
        # the muscles find what to let go by the row, which leaves afterwards.
        self._unloaded: dict[Hash, Seed] = {}
        self._landing: dict[Hash, Seed] = {}
        self.space = Space(capacity_bytes, blob_bytes)
        self.held = Held()
        self.pins = Pins()
        self.firsts = Firsts()
        self.is_leaving = False

    def note_party(self, party: Party) -> bool:
        """What host gates and policies read of this node; False when it was so."""
        before, self.party = self.party, party
        return before != party

    def converge(self, key: Hash, view: View, turn: Turn) -> None:
        """Move one seed towards the plan; what is loaded and unloaded for that leaves last."""
        role = view.roles.get(key)
        entry = self._entries.get(key)
        if role is None:
            self._checks.forget(key)
            self.firsts.forget(key)
        if entry is None:
            if role is None:
                self._let_go(key, turn)
                return
            entry = Entry(seed=role.seed)
        entry.has_elder = role is not None and role.elder is not None
        for cue in self._cues(key, entry, role, view, turn.now):
            self._take(key, entry, cue, view, turn)
        if entry.state is State.ABSENT:
            self._entries.pop(key, None)
            if entry.in_flight and not checking.has_check(entry.seed):
                self._landing[key] = entry.seed
            if role is not None:
                self.held.note_unclaimed(entry.seed)
                if is_replaced_by(self._own, key, role, view):
                    self.held.disown(key)
            if role is None or is_past(self._own, key, role, view):
                self._let_go(key, turn)
            return
        self._entries[key] = entry
        if entry.seed.is_blob and entry.state in (State.READY, State.DRAINING):
            self.held.note(key, turn, is_held=True)
        entry.witnessed = witnessed_by(self._own, key, entry, role, view)
        self._set_timer(key, entry, role, turn)

    def _let_go(self, key: Hash, turn: Turn) -> None:
        """No name needs a seed any more whose content was kept here, or published and given up."""
        seed = self._kept.pop(key, None) or self.held.take_disowned(key)
        if seed is not None:
            self._unloaded[key] = seed
            self.held.note(key, turn, is_held=False)
            turn.do_last(UnloadSeed(seed=key))

    # -- cues -----------------------------------------------------------------------------------

    def _cues(
        self, key: Hash, entry: Entry, role: Role | None, view: View, now: Now
    ) -> Iterator[Cue]:
        """What is so for one seed now; each cue is taken before the next is looked for."""
        if role is None or not may_host(role.seed, self.party) or runs_no_more(key, role, view):
            yield Cue.DROP
            return
        is_stuck = entry.state is State.REFUSED and entry.is_fault and entry.has_elder
        placement = view.placement(key) or NOWHERE
        is_wanted = self._own in placement.chosen or self.pins.keeps(key, role)
        is_over = not is_wanted and entry.is_over(now.mono)
        if entry.state is State.LOADING and now.mono >= entry.due_at:
            yield Cue.LATE
        elif self._is_retry_due(entry, view, now.mono) and not (is_stuck or is_over):
            yield self._again(entry)
            if entry.state is State.ABSENT:
                return
        if is_wanted:
            entry.enough_since, entry.is_beside = None, False
            self.firsts.forget(key)
            if not self.space.judges(entry.seed, is_here=self._is_here(entry.seed)):
                return
            if entry.state is not State.ABSENT or self._is_turn(role, placement, view):
                yield self._want_or_refuse(entry)
        elif entry.state is State.ABSENT and self._is_recalled(entry, now):
            yield Cue.WANT
        elif not self.is_leaving and self.firsts.serves(key, entry, role, view, self._lack):
            entry.stays_until, entry.is_beside = Nanos(now.mono + load_deadline(entry.seed)), True
            yield Cue.WANT
        elif self._is_spare(key, entry, role, view, now):
            yield Cue.SPARE
        if entry.state is State.DRAINING and self._is_released(key, entry, role, view, now):
            yield Cue.RELEASE

    def _again(self, entry: Entry) -> Cue:
        """Another try, unless a disk that had room for the blob has none any more."""
        is_blob = entry.state is State.LOADING and entry.seed.is_blob
        reason = self._lack(entry.seed) if is_blob else ""
        entry.reason, entry.is_fault = reason or entry.reason, entry.is_fault and not reason
        return Cue.REFUSE if reason else Cue.AGAIN

    def _want_or_refuse(self, entry: Entry) -> Cue:
        if entry.state is not State.ABSENT:
            return Cue.WANT
        reason = self._lack(entry.seed)
        if entry.seed.unknown:
            reason = f"a newer Pollen knows its options: {', '.join(entry.seed.unknown)}"
        if not reason:
            return Cue.WANT
        entry.reason, entry.is_fault, entry.lacks_room = reason, False, entry.seed.is_blob
        return Cue.REFUSE

    def _lack(self, seed: Seed) -> str:
        return self.space.lack(seed, is_here=self._is_here(seed))

    def _is_here(self, seed: Seed) -> bool:
        """Whether the content is on the disk, as far as this node can know."""
        return seed.seed in self._kept or seed.seed in self.held

    def _is_recalled(self, entry: Entry, now: Now) -> bool:
        """The run before held this blob: it is claimed again, whatever the plan says, and leaves
        as any copy does, so that nobody loses sight of what may be the last one."""
        may_say = self.space.judges(entry.seed, is_here=True) and not self.is_leaving
        if not may_say or not self.held.recall(entry.seed.seed):
            return False
        entry.stays_until = Nanos(now.mono + limits.WOKEN_STAY_NS)
        return True

    def _is_turn(self, role: Role, placement: Placement, view: View) -> bool:
        """Rank k starts when k-1 is ready; refused ones have no rank."""
        if role.leads != role.seed.seed and not role.seed.is_blob:
            return not is_newest_due(self._own, role, view)
        # A copy of a blob takes nothing over: the version before stays as it is.
        if role.elder is None or role.seed.is_blob:
            return True
        rank = placement.chosen.index(self._own)
        if rank == 0:
            return True
        if not view.claims.nodes_in(role.elder, State.READY, State.DRAINING):
            return True
        before = view.claims.host(role.seed.seed, placement.chosen[rank - 1])
        return before is not None and before.state is State.READY

    def _is_retry_due(self, entry: Entry, view: View, now: Nanos) -> bool:
        """At once for a new holder, else when the wait is over; not while one is under way."""
        if entry.in_flight or entry.state not in (State.LOADING, State.REFUSED):
            return False
        if now >= entry.retry_at or (now >= entry.room_at and not self._lack(entry.seed)):
            return True
        hosts = view.claims.hosts(entry.seed.seed)
        holders = plan_holders(entry.seed, hosts, view.is_linked)
        return entry.state is State.LOADING and any(p not in entry.asked for p in holders)

    def _is_spare(self, key: Hash, entry: Entry, role: Role, view: View, now: Now) -> bool:
        """The plan does not rank this node. What a call woke is checked to its end all the same."""
        if entry.state is State.LOADING:
            return entry.is_over(now.mono)
        if self.is_leaving and entry.seed.is_blob:
            return False  # It comes back with the disk.
        return self._are_others_enough(key, entry, role, view, now)

    def _are_others_enough(self, key: Hash, entry: Entry, role: Role, view: View, now: Now) -> bool:
        """Phase one of a drain: the minimum of others was ready for long enough."""
        if entry.state is not State.READY:
            return False
        if not are_others_enough(self._own, key, role, view):
            entry.enough_since = None
            return False
        if entry.enough_since is None:
            entry.enough_since = now.mono
        return now.mono >= self._drains_at(key, entry, role)

    def _drains_at(self, key: Hash, entry: Entry, role: Role) -> Nanos:
        """When a replica that is not needed begins to drain, if others stay enough."""
        since = Nanos(0) if entry.enough_since is None else entry.enough_since
        if self.is_leaving:
            return since
        hold = limits.DRAIN_HOLD_NS if role.heir == key else limits.ROLLOUT_TRIAL_NS
        return Nanos(max(since + hold, entry.stays_until))

    def _is_released(self, key: Hash, entry: Entry, role: Role, view: View, now: Now) -> bool:
        """Phase two: others that are ready have seen it, and routes have had time to follow."""
        if now.mono < entry.drain_since + limits.DRAIN_SETTLE_NS:
            return False
        stay = successors(self._own, key, role, view)
        if role.heir == key:
            hosts = (view.claims.host(key, node) for node in stay)
            stay = [h.node for h in hosts if h and h.has_witnessed(self._own, entry.drain)]
        return are_enough(stay, key, role, view)

    # -- transitions ----------------------------------------------------------------------------

    def _take(self, key: Hash, entry: Entry, cue: Cue, view: View, turn: Turn) -> None:
        before = entry.state
        entry.state, act = step(before, cue)
        if entry.state is not before:
            self._enter(entry, before, turn.now)
        if act is Act.LOAD:
            self._kept.pop(key, None)
            hosts = view.claims.hosts(key)
            # What the disk should have is looked for there, before anything is fetched.
            is_held = key in self.held
            entry.asked = [] if is_held else plan_holders(entry.seed, hosts, view.is_linked)
            entry.in_flight = True
            turn.do_last(LoadSeed(seed=key, holders=entry.asked))
        if act is not Act.UNLOAD:
            return
        self._checks.give_up(key)
        keep = self._is_to_keep(key, entry, cue, view)
        if keep:
            self._kept[key] = entry.seed
        self._unloaded[key] = entry.seed
        if not keep:
            self.held.note(key, turn, is_held=False)
        # Of a blob that came too slowly the next try finds what is here.
        is_late = cue is Cue.LATE and entry.seed.is_blob
        turn.do_last(UnloadSeed(seed=key, keep=keep or is_late))

    def _is_to_keep(self, key: Hash, entry: Entry, cue: Cue, view: View) -> bool:
        """Whether the content of a live seed stays: here it was published, here it may be woken, or
        nobody else serves it, so that what is left of it would be lost."""
        role, placement = view.roles.get(key), view.placement(key) or NOWHERE
        if role is None or role.heir != key:
            return role is not None and role.is_kept and entry.seed.owner == self._own
        if cue not in (Cue.RELEASE, Cue.SPARE):
            return False
        # Nobody wakes a blob: a copy that the plan does not count would fill the disk for nothing.
        wakers = () if entry.seed.is_blob else placement.ranks
        is_mine = self._own in (entry.seed.owner, *wakers)
        return is_mine or placement.wanted == 0

    def _enter(self, entry: Entry, before: State, now: Now) -> None:
        is_here, is_coming = self._is_here(entry.seed), entry.in_flight
        self.space.note(entry.seed, entry.state, is_here=is_here, is_coming=is_coming)
        entry.enter(before, now, is_leaving=self.is_leaving)
        if entry.state is State.DRAINING:
            self._drains += 1
            entry.drain, entry.drain_since = self._drains, now.mono

    def on_load_finished(self, event: LoadFinished, view: View, turn: Turn) -> None:
        """Ready, or wait and try again: soon when the content was out of reach, else later."""
        entry, landed = self._entries.get(event.seed), self._landing.pop(event.seed, None)
        if entry is None or entry.state is not State.LOADING:
            self.space.forget(event.seed)
        if entry is None:
            if landed is not None:
                self._unloaded[event.seed] = landed
            if not event.slug:
                turn.do(UnloadSeed(seed=event.seed))
            return
        if event.slug and entry.seed.is_blob and entry.state in (State.READY, State.DRAINING):
            self._on_damaged(event, entry, view, turn)
            return
        entry.in_flight = False
        cue = Cue.LOADED
        if event.slug in _FETCH_SLUGS:
            cue, wait = Cue.UNFETCHED, load_wait(entry.attempts)
            if event.seed in self.held:
                # The disk is another one. Where the plan wants a copy it is fetched, given room.
                self.held.note(event.seed, turn, is_held=False)
                self.space.note(entry.seed, entry.state, is_here=False, is_coming=True)
                entry.stays_until = turn.now.mono
            entry.attempts += 1
            entry.retry_at = Nanos(turn.now.mono + wait)
        elif event.slug:
            cue, entry.is_fault = Cue.REFUSE, event.slug in _FAULT_SLUGS
        if event.slug:
            entry.reason = _reason_of(event)
        elif checking.has_check(entry.seed):
            self._begin_check(entry, turn)
            return
        self._step(event.seed, entry, cue, turn)

    def _on_damaged(self, event: LoadFinished, entry: Entry, view: View, turn: Turn) -> None:
        """A copy that cannot be read counts no more. The only one that is left stays, for what is
        right of it."""
        if view.claims.nodes_in(event.seed, State.READY) in ([], [self._own]):
            return
        entry.reason, entry.is_fault = _reason_of(event), False
        self.held.note(event.seed, turn, is_held=False)
        self._step(event.seed, entry, Cue.REFUSE, turn)

    def _step(self, key: Hash, entry: Entry, cue: Cue, turn: Turn) -> None:
        """Take a cue that comes from the muscles."""
        before = entry.state
        entry.state, act = step(before, cue)
        if entry.state is not before:
            self._enter(entry, before, turn.now)
        if act is Act.UNLOAD:
            turn.do(UnloadSeed(seed=key, keep=key in self._kept))

    def _begin_check(self, entry: Entry, turn: Turn) -> None:
        """The muscles hold the seed, and open it to callers when it is claimed ready."""
        self._step(entry.seed.seed, entry, Cue.CHECK, turn)
        if entry.state is State.LOADING:
            entry.in_flight = True
            self._checks.begin(entry.seed, turn)

    def on_call_ended(self, event: CallEnded, turn: Turn) -> None:
        """A check ended: the replica is ready, or refused for a while that doubles. Its content
        stays, for the next try."""
        key = checking.seed_of(event)
        entry = self._entries.get(key)
        if not self._checks.take(event) or entry is None:
            return
        entry.in_flight = False
        if not event.slug:
            self._step(key, entry, Cue.LOADED, turn)
            return
        self._kept[key] = entry.seed
        self._step(key, entry, Cue.UNFIT, turn)
        now, wait = turn.now, self._checks.wait(key)
        entry.reason, entry.is_fault = checking.reason_of(entry.seed, event), False
        entry.retry_at, entry.until = Nanos(now.mono + wait), now.wall + wait
        checking.tell_failed(entry.seed, entry.reason, turn)

    def on_woken(self, event: SeedWoken, view: View, turn: Turn) -> None:
        """A call woke a seed here: it is ready, and stays at least until the callers' demand had
        time to come, which then keeps it."""
        role, entry = view.roles.get(event.seed), self._entries.get(event.seed)
        if entry is None:
            if role is None or self.is_leaving or not may_host(role.seed, self.party):
                turn.do(UnloadSeed(seed=event.seed))
                return
            entry = self._entries[event.seed] = Entry(seed=role.seed)
            self._kept.pop(event.seed, None)
        if checking.has_check(entry.seed):
            check_ns = checking.budget_of(entry.seed) * MILLISECOND
            entry.stays_until = Nanos(turn.now.mono + check_ns + limits.WOKEN_STAY_NS)
            self._begin_check(entry, turn)
            return
        before = entry.state
        self._step(event.seed, entry, Cue.WOKEN, turn)
        if entry.state is not before:
            entry.in_flight = False
            entry.stays_until = Nanos(turn.now.mono + limits.WOKEN_STAY_NS)

    def note_samples(self, samples: Sequence[SeedSample], turn: Turn) -> list[Hash]:
        """A version on trial of which no call succeeded and several failed here is refused; one of
        which a call succeeded is acquitted. Returns the seeds whose claim changed.
        """
        changed: list[Hash] = []
        for sample in samples:
            entry = self._entries.get(sample.seed)
            if entry is None or entry.state is not State.READY or not entry.has_elder:
                continue
            if entry.has_served or sample.good:
                if not entry.has_served:
                    entry.has_served = True
                    changed.append(sample.seed)
                continue
            if sample.faults < limits.FAULT_CALLS:
                continue
            entry.reason, entry.is_fault = f"all of {sample.faults} calls failed", True
            entry.state, _ = step(entry.state, Cue.REFUSE)
            self._enter(entry, State.READY, turn.now)
            changed.append(sample.seed)
            turn.do(UnloadSeed(seed=sample.seed))
        return changed

    def _set_timer(self, key: Hash, entry: Entry, role: Role | None, turn: Turn) -> None:
        """One timer a seed, at the first time to come when something may be due."""
        due: list[int] = []
        if entry.state is State.LOADING:
            due = [entry.due_at] if entry.in_flight else [entry.due_at, entry.retry_at]
        elif entry.state is State.REFUSED and not (entry.is_fault and entry.has_elder):
            due = [entry.retry_at]
        elif entry.state is State.DRAINING:
            due = [entry.drain_since + limits.DRAIN_SETTLE_NS]
        elif entry.enough_since is not None and role is not None:
            due = [self._drains_at(key, entry, role)]
        to_come = [at for at in due if at > turn.now.mono]
        at = Nanos(min(to_come)) if to_come else None
        if at is not None and at != entry.timer_at:
            entry.timer_at = at
            turn.do_last(SetTimer(token=timers.token_for(timers.LOAD, key), at=at))

    # -- views ----------------------------------------------------------------------------------

    def claim(self, key: Hash) -> Claim | None:
        """The claim that a seed deserves now; None when there is nothing to say."""
        entry = self._entries.get(key)
        if entry is None or entry.state is State.ABSENT:
            return None
        return Claim(
            state=int(entry.state),
            reason=entry.reason,
            until=entry.until,
            is_fault=entry.is_fault and entry.state is State.REFUSED,
            drain=entry.drain if entry.state is State.DRAINING else 0,
            witnessed=entry.witnessed,
            has_served=entry.has_served,
            is_beside=entry.is_beside,
        )

    def seed(self, key: Hash) -> Seed | None:
        """The spec of a seed that is on this node, or whose content still has to go."""
        entry = self._entries.get(key)
        gone = self._unloaded.get(key) or self._landing.get(key)
        return gone if entry is None else entry.seed

    def take_unloaded(self) -> list[Hash]:
        """The seeds that were let go since the last call: their rows are not needed any more."""
        unloaded, self._unloaded = self._unloaded, {}
        return list(unloaded)

    def roomless(self) -> list[Hash]:
        """The blobs that are refused until there is room."""
        return [key for key, entry in self._entries.items() if entry.lacks_room]

    def waiting(self) -> list[Hash]:
        """The seeds that a new link may help to load."""
        return [key for key, entry in self._entries.items() if entry.state is State.LOADING]

    def leave(self, now: Now) -> list[Hash]:
        """Take nothing more and hand over what serves; returns the seeds concerned. Copies of blobs
        stay on the disk, and their claims tell until when they are awaited."""
        self.is_leaving = True
        for entry in self._entries.values():
            if entry.seed.is_blob and entry.state is State.READY:
                entry.until = now.wall + limits.REPAIR_DELAY_NS
        return list(self._entries)

    def count_leaving(self, view: View) -> int:
        """The seeds that still serve here and that some other node could take over: of blobs those
        of which no other copy is ready."""
        return sum(
            entry.state in (State.READY, State.DRAINING)
            and bool((view.placement(key) or NOWHERE).ranks)
            and not (entry.seed.is_blob and view.claims.nodes_in(key, State.READY) != [self._own])
            for key, entry in self._entries.items()
        )


def _reason_of(event: LoadFinished) -> str:
    return f"{event.slug}: {event.reason}"[: limits.REASON_MAX_CHARS]
