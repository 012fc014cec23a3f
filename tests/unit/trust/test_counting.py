"""Which of several chains of one key counts, in whatever order they and the denies came."""

from __future__ import annotations

import itertools
from typing import Any

from pollen.core.codec import Signed, encode
from pollen.core.ids import DAY, PeerId
from pollen.core.records import Record
from pollen.core.trust import Tier, Trust, leases
from pollen.core.trust.denies import deny_key
from tests.unit.authority import (
    ADMIN,
    LEAF,
    OTHER,
    ROOT,
    T0,
    admin_chain,
    deny_record,
    make_deny,
    make_lease,
    make_trust,
    member_chain,
    record_of,
)


def granted(
    owner: PeerId, chain: list[Signed], subject: PeerId = LEAF, by: PeerId = ADMIN
) -> Record:
    """The record of a grant, with a lease of the admin."""
    lease = make_lease(chain, subject, by)
    payload = leases.encode_credentials(chain, lease, admin_chain(by))
    return record_of(owner, "grant", subject, payload)


def trusting(*records: Record) -> Trust:
    """Two admins, a leaf below the first, and these records."""
    trust = make_trust((ADMIN, admin_chain()), (OTHER, admin_chain(OTHER)), (LEAF, member_chain()))
    for record in records:
        trust.apply(record)
    return trust


def in_every_order(*records: Record) -> set[tuple[Any, ...]]:
    """Generation and properties of the leaf, None when nothing counts, after each order."""
    seen: set[tuple[Any, ...]] = set()
    for order in itertools.permutations(records):
        found = trusting(*order).certificates.get(LEAF)
        seen.add((None,) if found is None else (found.generation, found.properties))
    return seen


RED = '{"team":"red"}'


def test_a_higher_generation_of_ones_issuer_counts_whatever_one_shows() -> None:
    """The leaf goes on publishing and showing the old certificate."""
    again = record_of(LEAF, "cert", b"", encode(member_chain()), seq=2)
    grant = granted(ADMIN, member_chain(generation=2, properties=RED))
    assert in_every_order(grant, again) == {(2, RED)}
    trust = trusting(grant)
    shown = leases.encode_credentials(member_chain(), make_lease(member_chain(), LEAF))
    admitted = trust.admit(LEAF, shown, T0)
    assert (admitted.certificate.generation, admitted.ends) == (2, T0 + 30 * DAY)  # type: ignore[union-attr]


def test_an_admin_that_did_not_give_moves_nothing() -> None:
    """Else any admin could take any member of another one."""
    stolen = member_chain(admin=OTHER, generation=9, tier=Tier.LEAF)
    assert in_every_order(granted(OTHER, stolen, by=OTHER)) == {(1, "{}")}


def test_the_root_moves_everybody() -> None:
    """What the root gives counts over what an admin gave."""
    moved = admin_chain(LEAF, tier=Tier.LEAF, generation=2, properties=RED)
    assert in_every_order(granted(OTHER, moved)) == {(2, RED)}


def test_what_the_root_gave_no_admin_moves() -> None:
    """An admin cannot certify another admin below itself and so take its tier."""
    trust = trusting(granted(ADMIN, member_chain(OTHER, generation=9), OTHER))
    assert trust.certificates[OTHER].tier == Tier.ADMIN


def test_a_key_that_joined_again_is_let_in_by_what_it_shows() -> None:
    """Its new lease took the place of the old one; its new certificate comes by the link only."""
    again = member_chain(not_before=T0 + DAY)
    lease = make_lease(again, LEAF)
    trust = trusting(record_of(ADMIN, "lease", LEAF, encode(lease), seq=2))
    assert trust.ends(LEAF) == 0, "the one that its records show has no lease any more"
    admitted = trust.admit(LEAF, leases.encode_credentials(again, lease), T0)
    assert admitted.ends == T0 + 30 * DAY  # type: ignore[union-attr]
    assert LEAF in trust.current


def test_a_deny_and_a_grant_that_did_not_know_of_each_other_end_denied() -> None:
    """Said in two halves of a cut cluster, whatever the generation of the grant."""
    grant = granted(ADMIN, member_chain(generation=7, properties=RED))
    deny = deny_record(OTHER, make_deny(by=ROOT))
    late = deny_record(ADMIN, make_deny(generation=7))
    assert in_every_order(grant, deny) == {(None,)}
    assert in_every_order(grant, late) == {(None,)}
    assert in_every_order(grant, deny_record(OTHER, make_deny(by=ROOT, generation=7))) == {(None,)}


def test_a_grant_that_takes_away_leaves_the_old_certificate_nothing() -> None:
    """A deny of the generation that was, and the next one, which cites it."""
    deny = make_deny()
    less = member_chain(generation=2, tier=Tier.LEAF, cites=deny_key(deny))
    both = (granted(ADMIN, less), deny_record(ADMIN, deny))
    assert in_every_order(*both) == {(2, "{}")}
    assert trusting(*both).certificates[LEAF].tier == Tier.LEAF


def test_two_denies_are_lifted_by_one_that_names_both() -> None:
    """A certificate that cites one of them only stays out."""
    one, two = make_deny(), make_deny(by=ROOT)
    both = make_deny(by=ROOT, after=sorted([deny_key(one), deny_key(two)]))
    records = [deny_record(OTHER, payload) for payload in (one, two)]
    half = admin_chain(LEAF, tier=Tier.LEAF, generation=2, cites=deny_key(one))
    whole = admin_chain(LEAF, tier=Tier.LEAF, generation=2, cites=deny_key(both))
    assert in_every_order(*records, granted(OTHER, half)) == {(None,)}
    assert in_every_order(*records, deny_record(OTHER, both), granted(OTHER, whole)) == {(2, "{}")}


def test_what_an_admin_has_now_bounds_those_below_it() -> None:
    """Its members stand below its newest certificate, though they carry the old one."""
    wider = admin_chain(generation=2, properties=RED)
    narrow = admin_chain(generation=2, access_deadline=T0 + DAY)
    demoted = admin_chain(generation=2, tier=Tier.PUBLISHER)
    for chain, falls in ((wider, False), (narrow, True), (demoted, True)):
        trust = trusting(granted(ADMIN, chain, ADMIN, OTHER))
        assert (LEAF not in trust.certificates) == falls
    trust = trusting(granted(ADMIN, wider, ADMIN, OTHER))
    held = trust.chain_of(LEAF)
    assert held is not None
    assert held.certificates[0].generation == 2


def test_those_below_an_admin_fall_with_it_and_come_back_with_it() -> None:
    """A deny of an admin fells its members; the next generation of it brings them back."""
    deny = make_deny(ADMIN, ROOT)
    back = admin_chain(generation=2, cites=deny_key(deny))
    assert in_every_order(deny_record(OTHER, deny)) == {(None,)}
    again = granted(OTHER, back, ADMIN, OTHER)
    assert in_every_order(deny_record(OTHER, deny), again) == {(1, "{}")}
