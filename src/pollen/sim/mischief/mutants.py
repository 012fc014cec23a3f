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
from typing import Any

import msgspec

from pollen.core import clocks, turn
from pollen.core.admission import asking, consequences
from pollen.core.names import named as names
from pollen.core.paths import paths, seen
from pollen.core.peers import known, links, liveness, membership
from pollen.core.placement import (
    checking,
    claims,
    going,
    held,
    hosting,
    lanes,
    pins,
    planner,
    situation,
    space,
    tables,
)
from pollen.core.policy import judge
from pollen.core.records import gossip, ledger, owners, record, versions
from pollen.core.records.owners import Merge
from pollen.core.rules import attempts
from pollen.core.services import directory, serving
from pollen.core.trust import authority, denials, denies, publishers
from pollen.sim.mischief import bugs


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


MUTANTS: list[Mutant] = [
    Mutant(
        name="no-tie-break", owner=owners.OwnerSet, target="judge",
        make=bugs.judged_by(lambda held, new: held.version >= new.version),
        caught_by="views-converge", scenario="a_fork_of_one_key_is_settled_alike",
    ),
    Mutant(
        name="stale-version-accepted", owner=owners.OwnerSet, target="judge",
        make=bugs.judged_by(lambda held, new: False), caught_by="no-storm",
    ),
    Mutant(
        name="tombstone-dropped", owner=ledger.Records, target="merge", make=bugs.tombstone_dropped,
        caught_by="views-converge",
    ),
    Mutant(
        name="own-word-ignored", owner=ledger.Records, target="_merge_own",
        make=bugs.always(Merge.KNOWN), caught_by="views-converge",
    ),
    Mutant(
        name="epoch-not-raised", owner=versions.Versions, target="restore",
        make=bugs.epoch_not_raised, caught_by="no-version-twice", number=3,
    ),
    Mutant(
        name="lease-not-renewed", owner=tables.Tables, target="push", make=bugs.lease_not_renewed,
        caught_by="table-lease-respected", number=24,
    ),
    Mutant(
        name="row-after-load", owner=tables.Tables, target="push", make=bugs.row_after_load,
        caught_by="row-before-load",
    ),
    Mutant(
        name="said-before-persisted", owner=turn.Turn, target="flush",
        make=bugs.said_before_persisted, caught_by="nothing-acknowledged-lost",
        scenario="what_was_acknowledged_survives_a_crash",
    ),
    Mutant(
        name="withdrawn-forgotten", owner=names.Holding, target="is_live",
        make=bugs.withdrawn_forgotten, caught_by="no-resurrection",
    ),
    Mutant(
        name="claims-never-buried", owner=ledger.Records, target="bury", make=bugs.always(False),
        caught_by="no-orphan-claim",
    ),
    Mutant(
        name="digest-ignored", owner=gossip.Gossip, target="on_digest", make=bugs.always(None),
        caught_by="views-converge", scenario="a_fork_of_one_key_is_settled_alike",
    ),
    Mutant(
        name="denied-not-cut", owner=consequences.Consequences, target="_cut",
        make=bugs.always(None),
        caught_by="e is cut", scenario="a_deny_lost_by_a_full_queue_still_arrives",
    ),
    Mutant(
        name="deny-ignored", owner=authority.Trust, target="killer_of", make=bugs.always(None),
        caught_by="b hears of the deny",
        scenario="an_admin_renews_a_denied_node_in_the_other_half",
    ),
    Mutant(
        name="void-denies-stay", owner=denials.Denials, target="judge_again",
        make=bugs.once_proven, caught_by="who was denied in vain is back",
        scenario="two_heirs_of_the_root_are_made_apart",
    ),
    Mutant(
        name="lifted-unnamed", owner=denies.ProvenDeny, target="covers", make=bugs.always(True),
        caught_by="no-authority-without-a-path", scenario="admins_decide_in_cut_halves", number=3,
    ),
    Mutant(
        name="grants-unheard", owner=authority.Trust, target="_on_grant", make=bugs.always(None),
        caught_by="all count the grant", scenario="admins_decide_in_cut_halves", number=3,
    ),
    Mutant(
        name="policy-not-pushed", owner=tables, target="_policy_row", make=bugs.always(None),
        caught_by="policy-agrees", scenario="policies_follow_what_is_granted",
    ),
    Mutant(
        name="fault-is-false", owner=judge, target="_joined", make=bugs.faultless,
        caught_by="policy-agrees", scenario="policies_follow_what_is_granted",
    ),
    Mutant(
        name="anybody-publishes", owner=publishers.Publishers, target="lets",
        make=bugs.always(True),
        caught_by="policy-agrees", scenario="publishers_obey_the_policy_of_the_root",
    ),
    Mutant(
        name="first-policy-stays", owner=publishers.PublisherPolicy, target="hash",
        make=lambda _: property(lambda self: b""),
        caught_by="policy-agrees", scenario="publishers_obey_the_policy_of_the_root", number=7,
    ),
    Mutant(
        name="dead-are-tried", owner=directory.Directory, target="_is_live", make=bugs.always(True),
        caught_by="services-agree", scenario="services_are_found_where_they_are",
    ),
    Mutant(
        name="served-for-ever", owner=serving.Serving, target="refresh", make=bugs.refreshed_once,
        caught_by="services-agree", scenario="services_are_found_where_they_are",
    ),
    Mutant(
        name="replaced-serve-on", owner=directory.Directory, target="providers",
        make=lambda _: bugs.all_who_served,
        caught_by="services-agree", scenario="services_are_found_where_they_are", number=2,
    ),
    Mutant(
        name="failing-come-first", owner=directory.Directory, target="is_failing",
        make=bugs.always(False),
        caught_by="failing-agrees", scenario="a_program_that_fails_is_passed_over",
    ),
    Mutant(
        name="anybody-passes-on", owner=paths.Paths, target="_is_relay", make=bugs.always(True),
        caught_by="only-the-willing-pass-on", scenario="every_pair_finds_a_way",
    ),
    Mutant(
        name="nobody-says-who-is-near", owner=paths.Paths, target="_say", make=bugs.always(None),
        caught_by="every-live-pair-has-a-path", scenario="every_pair_finds_a_way",
    ),
    Mutant(
        name="sightings-are-kept", owner=seen.Sightings, target="addresses", make=bugs.always([]),
        caught_by="every-live-pair-has-a-path", scenario="every_pair_finds_a_way",
    ),
    Mutant(
        name="floor-never-given-up", owner=clocks.Clocks, target="_is_contradicted",
        make=bugs.always(False), caught_by="all see all after a step of six seconds",
        scenario="a_clock_past_its_lease_heals",
    ),
    Mutant(
        name="lapsed-never-asks", owner=asking.Asking, target="settle", make=bugs.always(None),
        caught_by="it is back", scenario="the_laptop_that_slept_sixty_days",
    ),
    Mutant(
        name="released-on-sight", owner=hosting.Hosting, target="_is_released",
        make=bugs.always(True), caught_by="somebody serves",
        scenario="both_replicas_on_stale_views_do_not_drain_to_zero",
    ),
    Mutant(
        name="never-checked", owner=checking, target="has_check", make=bugs.always(False),
        caught_by="checked-before-ready", scenario="one_machine_fails_its_check",
    ),
    Mutant(
        name="twin-not-noted", owner=known.Peers, target="_note_boot", make=bugs.always(False),
        caught_by="status says it everywhere", scenario="two_live_copies_of_one_key",
    ),
    Mutant(
        name="owners-only", owner=names, target="has_authority",
        make=lambda true: lambda node, certificate, seed, lineage: node == seed.owner,
        caught_by="acknowledged", scenario="a_publisher_that_is_gone_for_ever",
    ),
    Mutant(
        name="tried-again-blindly", owner=attempts.Attempts, target="_fail",
        make=bugs.never_in_doubt, caught_by="no-call-twice-at-all",
    ),
    Mutant(
        name="root-never-moves", owner=owners.Sums, target="root", make=bugs.always(b"0" * 32),
        caught_by="equal-hashes-equal-sets",
    ),
    Mutant(
        name="lopsided-rings", owner=links.Rings, target="neighbours_of",
        make=lambda true: lambda self, peer: true(self, peer)[:-1],
        caught_by="view-symmetric",
    ),
    Mutant(
        name="self-forgotten", owner=membership.Membership, target="note_member",
        make=bugs.others_only, caught_by="self-lives",
    ),
    Mutant(
        name="never-believed", owner=membership.Membership, target="_is_doubted",
        make=bugs.always(True), caught_by="dead-are-found",
        scenario="a_publisher_that_is_gone_for_ever",
    ),
    Mutant(
        name="judged-by-oneself", owner=membership.Membership, target="_rejudge",
        make=bugs.own_view, caught_by="verdicts-agree",
    ),
    Mutant(
        name="nothing-durable", owner=record, target="DURABLE", make=lambda true: frozenset(),
        caught_by="it is known", scenario="a_publisher_that_is_gone_for_ever",
    ),
    Mutant(
        name="floor-forgotten", owner=owners.OwnerSet, target="_is_dead",
        make=bugs.always(False), caught_by="nothing-below-the-floor",
        scenario="a_sleeper_meets_what_was_forgotten",
    ),
    Mutant(
        name="refutation-ignored", owner=liveness.Evidence, target="note_refutation",
        make=bugs.always(None), caught_by="refutation-wins",
    ),
    Mutant(
        name="dialled-once", owner=known.Peers, target="_retry", make=bugs.always(None),
        caught_by="peers-never-given-up",
    ),
    Mutant(
        name="one-is-enough", owner=planner, target="count_wanted", make=bugs.one_at_most,
        caught_by="minimum-of-replicas",
    ),
    Mutant(
        name="rows-kept", owner=lanes.Lane, target="set", make=bugs.rows_kept,
        caught_by="plans-agree",
    ),
    Mutant(
        name="nameless-rows", owner=tables, target="seed_row", make=bugs.nameless,
        caught_by="every-allowed-call-routable",
    ),
    Mutant(
        name="peers-untold", owner=lanes.Lane, target="set", make=bugs.peers_untold,
        caught_by="replicas-known-to-be-members",
    ),
    Mutant(
        name="members-kept", owner=lanes.Lane, target="set", make=bugs.members_kept,
        caught_by="members-agree", scenario="a_publisher_that_is_gone_for_ever",
    ),
    Mutant(
        name="never-linked-again", owner=links.Links, target="is_wanted", make=bugs.always(False),
        caught_by="view-wide-enough",
    ),
    Mutant(
        name="one-copy-is-enough", owner=situation, target="need_of", make=bugs.one_copy,
        caught_by="copies-kept",
    ),
    Mutant(
        name="pins-forgotten", owner=pins.Pins, target="restore", make=bugs.always([]),
        caught_by="pins-kept",
    ),
    Mutant(
        name="former-versions-dropped", owner=situation, target="roles_of", make=bugs.none_kept,
        caught_by="no-wanted-blob-lost",
    ),
    Mutant(
        name="few-are-enough", owner=going, target="others_needed", make=bugs.always(1),
        caught_by="both are ready", scenario="copies_stay_where_all_nodes_restart",
    ),
    Mutant(
        name="elder-given-up", owner=situation, target="is_homeless", make=bugs.always(False),
        caught_by="two serve the old one", scenario="an_update_that_fits_nowhere",
    ),
    Mutant(
        name="elder-comes-first", owner=hosting, target="is_newest_due", make=bugs.always(False),
        caught_by="it came in", scenario="an_update_that_fits_nowhere",
    ),
    Mutant(
        name="let-go-before-others", owner=going, target="others_needed", make=bugs.always(0),
        caught_by="no-last-copy-dropped",
        scenario="a_holder_dies_and_its_copies_are_made_again",
    ),
    Mutant(
        name="disks-never-full", owner=space.Space, target="lack", make=bugs.always(""),
        caught_by="quota-kept", scenario="full_disks_refuse_and_liars_are_passed_over",
    ),
    Mutant(
        name="nobody-is-awaited", owner=claims.Claim, target="is_away", make=bugs.always(False),
        caught_by="nothing is fetched", scenario="an_announced_absence_moves_no_copies",
    ),
    Mutant(
        name="copies-forgotten", owner=held.Held, target="recall", make=bugs.always(False),
        caught_by="no-wanted-blob-lost", scenario="copies_outlive_a_total_outage",
    ),
    Mutant(
        name="oldest-name-wins", owner=names, target="_rank", make=bugs.oldest_wins,
        caught_by="updated", scenario="a_publisher_that_is_gone_for_ever",
    ),
]  # fmt: skip
