"""Planted bugs: each must be caught, by the invariant that it breaks.

Decides: what each bug changes, and which checker must tell.
Does not know: how the checker tells; product code holds no hook for any of this.
Invariants: a mutant is in force inside ``planted`` only, and what it replaced comes back, also
    after an error. A mutant names something that exists: one whose target is gone fails loudly.
Source: docs/internals/simulator.md#planted-bugs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import msgspec

from pollen.core import clocks, turn
from pollen.core.admission import asking, consequences
from pollen.core.effects import Effect, PeerRow, Persist, PushTables, SeedRow
from pollen.core.ids import Nanos
from pollen.core.names import named as names
from pollen.core.paths import paths, seen
from pollen.core.peers import Verdict, known, links, liveness, membership
from pollen.core.placement import (
    checking,
    claims,
    going,
    held,
    hosting,
    lanes,
    planner,
    situation,
    space,
    tables,
)
from pollen.core.policy import judge
from pollen.core.records import Record, gossip, ledger, owners, record, versions
from pollen.core.records.owners import Merge
from pollen.core.rules import attempts
from pollen.core.services import directory, serving
from pollen.core.services.records import key_of
from pollen.core.trust import authority, denials, denies, publishers


class Mutant(msgspec.Struct, frozen=True, kw_only=True):
    """One planted bug. ``make`` gets what stands at ``owner.target`` and returns the bad one.

    ``scenario``: where it shows, played with ``number``; empty: in runs drawn from ``number`` on.
    """

    name: str
    owner: Any
    target: str
    make: Callable[[Any], Any]
    caught_by: str
    scenario: str = ""
    number: int = 1


@contextmanager
def planted(mutant: Mutant) -> Iterator[None]:
    """The bug is in the code inside this context. Raises ``AttributeError`` without a target."""
    held = getattr(mutant.owner, mutant.target)
    setattr(mutant.owner, mutant.target, mutant.make(held))
    try:
        yield
    finally:
        setattr(mutant.owner, mutant.target, held)


def find(name: str) -> Mutant:
    """One mutant by name."""
    return next(mutant for mutant in MUTANTS if mutant.name == name)


# -- the bugs -------------------------------------------------------------------------------------


def _judged_by(keeps: Callable[[Record, Record], bool]) -> Callable[[Any], Any]:
    """``OwnerSet.judge`` with another idea of which record stays: ``keeps(held, new)``."""

    def make(true: Any) -> Any:
        def judge(self: Any, record: Record) -> Merge:
            held = self.rows.get(record.slot)
            if held is None or held.digest == record.digest:
                return cast(Merge, true(self, record))
            return Merge.OLDER if keeps(held, record) else Merge.APPLIED

        return judge

    return make


def _tombstone_dropped(true: Any) -> Any:
    def merge(self: Any, record: Record, source: Any, **named: Any) -> Any:
        if source is not None and not record.is_live:
            return Merge.OLDER
        return true(self, record, source, **named)

    return merge


def _always(value: Any) -> Callable[[Any], Any]:
    def make(true: Any) -> Any:
        def same(*args: Any, **named: Any) -> Any:
            return value

        return same

    return make


def _one_copy(true: Any) -> Any:
    """A blob asks for one copy, whatever its publisher asked for."""

    def need_of(seed: Any) -> Any:
        need = true(seed)
        return msgspec.structs.replace(need, copies=1) if need.is_on_disk else need

    return need_of


def _none_kept(true: Any) -> Any:
    """Nobody holds a version that another one replaced."""

    def roles_of(*args: Any) -> Any:
        return [role for role in true(*args) if not role.is_kept]

    return roles_of


def _refreshed_once(true: Any) -> Any:
    """What is served here follows its record the first time only."""

    def refresh(self: Any) -> None:
        for name in list(self._directory.touched):
            if key_of(name) in self._lane._rows:
                del self._directory.touched[name]
        true(self)

    return refresh


def _all_who_served(self: Any, name: str) -> list[Any]:
    """Whatever the epoch of the name."""
    return [held for held in self._known.get(name, {}).values() if not held.is_withdrawn]


def _lease_not_renewed(true: Any) -> Any:
    def push(self: Any, turn: Any, *, is_urgent: bool) -> None:
        true(self, turn, is_urgent=is_urgent)
        turn._effects = [e for e in turn._effects if not _renews(e)]

    return push


def _renews(effect: Effect) -> bool:
    return isinstance(effect, PushTables) and effect.base > 0 and not effect.lanes


def _row_after_load(true: Any) -> Any:
    def push(self: Any, turn: Any, *, is_urgent: bool) -> None:
        if not is_urgent:
            true(self, turn, is_urgent=False)

    return push


def _said_before_persisted(true: Any) -> Any:
    def flush(self: Any) -> None:
        true(self)
        for effect in self.effects():
            if isinstance(effect, Persist):
                self.do(*self._durability.release(effect.token))

    return flush


def _withdrawn_forgotten(true: Any) -> Any:
    return property(lambda self: True)


def _others_only(true: Any) -> Any:
    def note_member(self: Any, peer: Any, facts: Any, now: Nanos) -> None:
        if peer != self._own:
            true(self, peer, facts, now)

    return note_member


def _own_view(true: Any) -> Any:
    def rejudge(self: Any, now: Nanos) -> Any:
        moved = true(self, now)
        self._verdicts = {**self._verdicts, self._own: Verdict.LIVE}
        return moved

    return rejudge


def _epoch_not_raised(true: Any) -> Any:
    def restore(self: Any, epoch: int, leased: int, top: Any) -> None:
        true(self, max(0, epoch - 1), 0, (0, 0))

    return restore


def _one_at_most(true: Any) -> Any:
    return lambda *args: min(true(*args), 1)


def _rows_kept(true: Any) -> Any:
    def set_row(self: Any, key: Any, row: Any) -> None:
        held = self._rows.get(key)
        if row is None or not isinstance(held, SeedRow) or not held.replicas:
            true(self, key, row)

    return set_row


def _nameless(true: Any) -> Any:
    def seed_row(*args: Any) -> Any:
        row = true(*args)
        return None if row is None else msgspec.structs.replace(row, name="")

    return seed_row


def _members_kept(true: Any) -> Any:
    def set_row(self: Any, key: Any, row: Any) -> None:
        if row is not None or not isinstance(self._rows.get(key), PeerRow):
            true(self, key, row)

    return set_row


def _peers_untold(true: Any) -> Any:
    def set_row(self: Any, key: Any, row: Any) -> None:
        if not isinstance(row, PeerRow):
            true(self, key, row)

    return set_row


def _oldest_wins(true: Any) -> Any:
    return lambda seed, members: (-seed.spec.name_epoch, *true(seed, members)[1:])


def _never_in_doubt(true: Any) -> Any:
    def fail(self: Any, failure: Any, now: int) -> Any:
        return true(self, msgspec.structs.replace(failure, may_have_executed=False), now)

    return fail


def _faultless(held: Any) -> Any:
    """A part with a fault counts as false, so that a negation of it is true."""
    return lambda kind, values: held(
        kind, [False if isinstance(value, judge._Fault) else value for value in values]
    )


def _once_proven(true: Any) -> Any:
    """What held once holds for ever, at those nodes where it did."""

    def judge_again(self: Any, roots: Any) -> Any:
        before = self._proven
        moved = true(self, roots)
        for subject, kept in before.items():
            self._proven[subject] = {**kept, **self._proven.get(subject, {})}
        return moved

    return judge_again


MUTANTS: list[Mutant] = [
    Mutant(
        name="no-tie-break", owner=owners.OwnerSet, target="judge",
        make=_judged_by(lambda held, new: held.version >= new.version),
        caught_by="views-converge", scenario="a_fork_of_one_key_is_settled_alike",
    ),
    Mutant(
        name="stale-version-accepted", owner=owners.OwnerSet, target="judge",
        make=_judged_by(lambda held, new: False), caught_by="no-storm",
    ),
    Mutant(
        name="tombstone-dropped", owner=ledger.Records, target="merge", make=_tombstone_dropped,
        caught_by="views-converge",
    ),
    Mutant(
        name="own-word-ignored", owner=ledger.Records, target="_merge_own",
        make=_always(Merge.KNOWN), caught_by="views-converge",
    ),
    Mutant(
        name="epoch-not-raised", owner=versions.Versions, target="restore",
        make=_epoch_not_raised, caught_by="no-version-twice",
    ),
    Mutant(
        name="lease-not-renewed", owner=tables.Tables, target="push", make=_lease_not_renewed,
        caught_by="table-lease-respected", number=24,
    ),
    Mutant(
        name="row-after-load", owner=tables.Tables, target="push", make=_row_after_load,
        caught_by="row-before-load",
    ),
    Mutant(
        name="said-before-persisted", owner=turn.Turn, target="flush",
        make=_said_before_persisted, caught_by="nothing-acknowledged-lost",
        scenario="what_was_acknowledged_survives_a_crash",
    ),
    Mutant(
        name="withdrawn-forgotten", owner=names.Holding, target="is_live",
        make=_withdrawn_forgotten, caught_by="no-resurrection",
    ),
    Mutant(
        name="claims-never-buried", owner=ledger.Records, target="bury", make=_always(False),
        caught_by="no-orphan-claim",
    ),
    Mutant(
        name="digest-ignored", owner=gossip.Gossip, target="on_digest", make=_always(None),
        caught_by="views-converge", scenario="a_fork_of_one_key_is_settled_alike",
    ),
    Mutant(
        name="denied-not-cut", owner=consequences.Consequences, target="_cut", make=_always(None),
        caught_by="e is cut", scenario="a_deny_lost_by_a_full_queue_still_arrives",
    ),
    Mutant(
        name="deny-ignored", owner=authority.Trust, target="killer_of", make=_always(None),
        caught_by="b hears of the deny",
        scenario="an_admin_renews_a_denied_node_in_the_other_half",
    ),
    Mutant(
        name="void-denies-stay", owner=denials.Denials, target="judge_again",
        make=_once_proven, caught_by="who was denied in vain is back",
        scenario="two_heirs_of_the_root_are_made_apart",
    ),
    Mutant(
        name="lifted-unnamed", owner=denies.ProvenDeny, target="covers", make=_always(True),
        caught_by="no-authority-without-a-path", scenario="admins_decide_in_cut_halves", number=3,
    ),
    Mutant(
        name="grants-unheard", owner=authority.Trust, target="_on_grant", make=_always(None),
        caught_by="all count the grant", scenario="admins_decide_in_cut_halves", number=3,
    ),
    Mutant(
        name="policy-not-pushed", owner=tables, target="_policy_row", make=_always(None),
        caught_by="policy-agrees", scenario="policies_follow_what_is_granted",
    ),
    Mutant(
        name="fault-is-false", owner=judge, target="_joined", make=_faultless,
        caught_by="policy-agrees", scenario="policies_follow_what_is_granted",
    ),
    Mutant(
        name="anybody-publishes", owner=publishers.Publishers, target="lets", make=_always(True),
        caught_by="policy-agrees", scenario="publishers_obey_the_policy_of_the_root",
    ),
    Mutant(
        name="first-policy-stays", owner=publishers.PublisherPolicy, target="hash",
        make=lambda _: property(lambda self: b""),
        caught_by="policy-agrees", scenario="publishers_obey_the_policy_of_the_root", number=7,
    ),
    Mutant(
        name="dead-are-tried", owner=directory.Directory, target="_is_live", make=_always(True),
        caught_by="services-agree", scenario="services_are_found_where_they_are",
    ),
    Mutant(
        name="served-for-ever", owner=serving.Serving, target="refresh", make=_refreshed_once,
        caught_by="services-agree", scenario="services_are_found_where_they_are",
    ),
    Mutant(
        name="replaced-serve-on", owner=directory.Directory, target="providers",
        make=lambda _: _all_who_served,
        caught_by="services-agree", scenario="services_are_found_where_they_are", number=2,
    ),
    Mutant(
        name="anybody-passes-on", owner=paths.Paths, target="_is_relay", make=_always(True),
        caught_by="only-the-willing-pass-on", scenario="every_pair_finds_a_way",
    ),
    Mutant(
        name="nobody-says-who-is-near", owner=paths.Paths, target="_say", make=_always(None),
        caught_by="every-live-pair-has-a-path", scenario="every_pair_finds_a_way",
    ),
    Mutant(
        name="sightings-are-kept", owner=seen.Sightings, target="addresses", make=_always([]),
        caught_by="every-live-pair-has-a-path", scenario="every_pair_finds_a_way",
    ),
    Mutant(
        name="floor-never-given-up", owner=clocks.Clocks, target="_is_contradicted",
        make=_always(False), caught_by="all see all after a step of six seconds",
        scenario="a_clock_past_its_lease_heals",
    ),
    Mutant(
        name="lapsed-never-asks", owner=asking.Asking, target="settle", make=_always(None),
        caught_by="it is back", scenario="the_laptop_that_slept_sixty_days",
    ),
    Mutant(
        name="released-on-sight", owner=hosting.Hosting, target="_is_released",
        make=_always(True), caught_by="somebody serves",
        scenario="both_replicas_on_stale_views_do_not_drain_to_zero",
    ),
    Mutant(
        name="never-checked", owner=checking, target="has_check", make=_always(False),
        caught_by="checked-before-ready", scenario="one_machine_fails_its_check",
    ),
    Mutant(
        name="twin-not-noted", owner=known.Peers, target="_note_boot", make=_always(False),
        caught_by="status says it everywhere", scenario="two_live_copies_of_one_key",
    ),
    Mutant(
        name="owners-only", owner=names, target="has_authority",
        make=lambda true: lambda node, certificate, seed, lineage: node == seed.owner,
        caught_by="acknowledged", scenario="a_publisher_that_is_gone_for_ever",
    ),
    Mutant(
        name="tried-again-blindly", owner=attempts.Attempts, target="_fail",
        make=_never_in_doubt, caught_by="no-call-twice-at-all",
    ),
    Mutant(
        name="root-never-moves", owner=owners.Sums, target="root", make=_always(b"0" * 32),
        caught_by="equal-hashes-equal-sets",
    ),
    Mutant(
        name="lopsided-rings", owner=links.Rings, target="neighbours_of",
        make=lambda true: lambda self, peer: true(self, peer)[:-1],
        caught_by="view-symmetric",
    ),
    Mutant(
        name="self-forgotten", owner=membership.Membership, target="note_member",
        make=_others_only, caught_by="self-lives",
    ),
    Mutant(
        name="never-believed", owner=membership.Membership, target="_is_doubted",
        make=_always(True), caught_by="dead-are-found",
        scenario="a_publisher_that_is_gone_for_ever",
    ),
    Mutant(
        name="judged-by-oneself", owner=membership.Membership, target="_rejudge",
        make=_own_view, caught_by="verdicts-agree",
    ),
    Mutant(
        name="nothing-durable", owner=record, target="DURABLE", make=lambda true: frozenset(),
        caught_by="it is known", scenario="a_publisher_that_is_gone_for_ever",
    ),
    Mutant(
        name="floor-forgotten", owner=owners.OwnerSet, target="_is_dead",
        make=_always(False), caught_by="nothing-below-the-floor",
        scenario="a_sleeper_meets_what_was_forgotten",
    ),
    Mutant(
        name="refutation-ignored", owner=liveness.Evidence, target="note_refutation",
        make=_always(None), caught_by="refutation-wins",
    ),
    Mutant(
        name="dialled-once", owner=known.Peers, target="_retry", make=_always(None),
        caught_by="peers-never-given-up",
    ),
    Mutant(
        name="one-is-enough", owner=planner, target="count_wanted", make=_one_at_most,
        caught_by="minimum-of-replicas",
    ),
    Mutant(
        name="rows-kept", owner=lanes.Lane, target="set", make=_rows_kept,
        caught_by="plans-agree",
    ),
    Mutant(
        name="nameless-rows", owner=tables, target="seed_row", make=_nameless,
        caught_by="every-allowed-call-routable",
    ),
    Mutant(
        name="peers-untold", owner=lanes.Lane, target="set", make=_peers_untold,
        caught_by="replicas-known-to-be-members",
    ),
    Mutant(
        name="members-kept", owner=lanes.Lane, target="set", make=_members_kept,
        caught_by="members-agree", scenario="a_publisher_that_is_gone_for_ever",
    ),
    Mutant(
        name="never-linked-again", owner=links.Links, target="is_wanted", make=_always(False),
        caught_by="view-wide-enough",
    ),
    Mutant(
        name="one-copy-is-enough", owner=situation, target="need_of", make=_one_copy,
        caught_by="copies-kept",
    ),
    Mutant(
        name="former-versions-dropped", owner=situation, target="roles_of", make=_none_kept,
        caught_by="no-wanted-blob-lost",
    ),
    Mutant(
        name="let-go-before-others", owner=going, target="minimum_of", make=_always(0),
        caught_by="no-last-copy-dropped",
        scenario="a_holder_dies_and_its_copies_are_made_again",
    ),
    Mutant(
        name="disks-never-full", owner=space.Space, target="lack", make=_always(""),
        caught_by="quota-kept", scenario="full_disks_refuse_and_liars_are_passed_over",
    ),
    Mutant(
        name="nobody-is-awaited", owner=claims.Claim, target="is_away", make=_always(False),
        caught_by="nothing is fetched", scenario="an_announced_absence_moves_no_copies",
    ),
    Mutant(
        name="copies-forgotten", owner=held.Held, target="recall", make=_always(False),
        caught_by="no-wanted-blob-lost", scenario="copies_outlive_a_total_outage",
    ),
    Mutant(
        name="oldest-name-wins", owner=names, target="_rank", make=_oldest_wins,
        caught_by="updated", scenario="a_publisher_that_is_gone_for_ever",
    ),
]  # fmt: skip
