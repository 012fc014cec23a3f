"""Chains, leases, denies and successions: what each proves, by itself and together."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pollen.core import codec, limits
from pollen.core.codec import Rejection, Signed, encode
from pollen.core.ids import DAY, HOUR, MINUTE, Nanos, PeerId
from pollen.core.properties import excess_of
from pollen.core.trust import Chain, Tier, Trust, certs, denies, leases
from pollen.core.trust.denies import DenyPayload, deny_hash
from tests.unit.authority import (
    ADMIN,
    CLUSTER,
    LEAF,
    OTHER,
    ROOT,
    STRANGER,
    T0,
    admin_chain,
    deny_record,
    make_deny,
    make_lease,
    make_succession,
    make_trust,
    member_chain,
    record_of,
)
from tests.unit.world import make_key, verify


def judge(chain: list[Signed], subject: PeerId = LEAF) -> Chain | Rejection:
    return certs.judge_chain(
        chain, cluster=CLUSTER, roots={ROOT: None}, subject=subject, verify=verify
    )


def kind_of(judged: object) -> str:
    return judged.kind if isinstance(judged, Rejection) else "holds"


def counts(trust: Trust, peer: PeerId = LEAF) -> tuple[bool, bool]:
    """Whether a key has authority, and whether it is current."""
    return peer in trust.certificates, peer in trust.current


# -- chains -------------------------------------------------------------------------------------


def test_an_admin_makes_a_member() -> None:
    """The root signs the admin, the admin's node key the member."""
    judged = judge(member_chain())
    assert isinstance(judged, Chain)
    assert (judged.leaf.subject, judged.leaf.lineage, judged.root) == (LEAF, [ADMIN], ROOT)


@pytest.mark.parametrize(
    ("chain", "kind"),
    [
        (member_chain(tier=Tier.ADMIN), "certificate-admin-not-of-root"),
        (
            member_chain(parent=admin_chain(tier=Tier.PUBLISHER), tier=Tier.LEAF),
            "certificate-issuer-no-admin",
        ),
        (member_chain(lineage=[OTHER]), "certificate-lineage"),
        (member_chain(lineage=[]), "certificate-lineage"),
        (member_chain(issuer=OTHER), "certificate-lineage"),
        (member_chain(parent=admin_chain(OTHER)), "certificate-lineage"),
        (
            member_chain(parent=admin_chain(access_deadline=T0 + DAY)),
            "certificate-outlives-issuer",
        ),
        (
            member_chain(parent=admin_chain(gives='{"team":"red"}'), properties='{"team":"blue"}'),
            "certificate-exceeds-issuer",
        ),
        (member_chain(ADMIN), "certificate-lineage"),
        (admin_chain(root=OTHER), "certificate-of-another-root"),
        ([], "chain-length"),
        (admin_chain() * (limits.CHAIN_MAX_CERTIFICATES + 1), "chain-length"),
        (list(reversed(member_chain())), "certificate-lineage"),
    ],
)
def test_a_chain_that_gives_more_than_its_issuer_has_proves_nothing(
    chain: list[Signed], kind: str
) -> None:
    """Tier, properties, deadline and lineage are bounded from link to link."""
    assert kind_of(judge(chain)) == kind


def test_a_chain_costs_one_batch_of_signatures_and_none_when_its_shape_is_wrong() -> None:
    """The budget is spent on chains that could hold."""
    batches: list[int] = []

    def counted(items: Any) -> list[bool]:
        batches.append(len(items))
        return verify(items)

    for chain in (member_chain(), member_chain(tier=Tier.ADMIN)):
        certs.judge_chain(chain, cluster=CLUSTER, roots={ROOT: None}, subject=LEAF, verify=counted)
    assert batches == [2]


def test_a_chain_that_is_remembered_costs_no_signature_again() -> None:
    """Results are cached by key and bytes."""
    calls: list[int] = []

    def counted(items: Any) -> list[bool]:
        calls.append(len(items))
        return verify(items)

    trust = Trust(CLUSTER, ROOT, counted)
    for _ in range(3):
        assert isinstance(trust.judge(LEAF, member_chain()), Chain)
    assert calls == [2]


@pytest.mark.parametrize(
    ("child", "issuer", "expected"),
    [
        ('{"team":"blue"}', "{}", ""),
        ("{}", '{"team":"red"}', ""),
        ('{"team":"red","x":1}', '{"team":"red"}', ""),
        ('{"role":"web"}', '{"role":["web","db"]}', ""),
        ('{"role":["db"]}', '{"role":["web","db"]}', ""),
        ('{"role":["db","x"]}', '{"role":["web","db"]}', "role"),
        ('{"site":{"rack":4,"row":1}}', '{"site":{"rack":4}}', ""),
        ('{"site":{"rack":5}}', '{"site":{"rack":4}}', "site.rack"),
        ('{"site":"x"}', '{"site":{"rack":4}}', "site"),
        ('{"on":1}', '{"on":true}', "on"),
    ],
)
def test_what_an_admins_bounds_state_limits_what_it_gives(
    child: str, issuer: str, expected: str
) -> None:
    """What they do not state is free: the founder's bounds state nothing."""
    assert excess_of(child, issuer) == expected


# -- leases -------------------------------------------------------------------------------------


def test_a_member_is_current_until_its_lease_ends() -> None:
    """Authority stays, currency goes: what it published goes on."""
    trust = make_trust((ADMIN, admin_chain()), (LEAF, member_chain()))
    assert counts(trust) == (True, True)
    trust.expire(Nanos(T0 + 30 * DAY))
    assert counts(trust) == (True, False)
    assert LEAF in trust.take_changed()


@pytest.mark.parametrize(
    ("by", "change", "is_current"),
    [
        (OTHER, {}, True),
        (STRANGER, {}, False),
        (LEAF, {}, False),
        (OTHER, {"not_after": T0 + 31 * DAY}, False),
        (OTHER, {"certificate": b"x" * 32}, False),
        (OTHER, {"cluster": b"x" * 32}, False),
    ],
)
def test_a_lease_counts_by_any_admin_for_its_certificate_and_its_length(
    by: PeerId, change: dict[str, Any], is_current: bool
) -> None:
    """It adds no authority, and lasts no longer than the certificate allows."""
    trust = Trust(CLUSTER, ROOT, verify)
    trust.apply(record_of(LEAF, "cert", b"", encode(member_chain())))
    lease = make_lease(member_chain(), LEAF, by, **change)
    trust.apply(record_of(by, "lease", LEAF, encode(lease)))
    trust.apply(record_of(OTHER, "cert", b"", encode(admin_chain(OTHER))))
    assert counts(trust) == (True, is_current)


def test_an_access_deadline_ends_membership_before_the_lease() -> None:
    """The earlier of the two."""
    chain = member_chain(access_deadline=T0 + HOUR)
    trust = make_trust((ADMIN, admin_chain()), (LEAF, chain))
    assert trust.ends(LEAF) == T0 + HOUR


def test_a_lease_of_a_denied_admin_is_good_for_a_short_grace() -> None:
    """So that the other admins can sign again before anybody falls."""
    trust = make_trust((ADMIN, admin_chain()), (OTHER, admin_chain(OTHER)))
    trust.apply(deny_record(OTHER, make_deny(ADMIN, ROOT)))
    assert (counts(trust, ADMIN), counts(trust, OTHER)) == ((False, False), (True, True))
    assert trust.ends(OTHER) == T0 + MINUTE + limits.LEASE_GRACE_NS


def test_a_hello_is_judged_without_any_record() -> None:
    """Credentials carry the lease and the chain of the admin that signed it."""
    trust = Trust(CLUSTER, ROOT, verify)
    lease = make_lease(member_chain(), LEAF, OTHER)
    raw = leases.encode_credentials(member_chain(), lease, admin_chain(OTHER))
    admitted = trust.admit(LEAF, raw, T0)
    assert not isinstance(admitted, Rejection)
    assert admitted.ends == T0 + 30 * DAY
    assert LEAF not in trust.certificates, "a Hello makes nobody a member: records do"


def test_a_lease_of_ones_own_issuer_needs_no_chain_beside_ones_own() -> None:
    """The issuer's chain is the upper part of it."""
    raw = leases.encode_credentials(member_chain(), make_lease(member_chain(), LEAF), admin_chain())
    assert codec.decode(leases.Credentials, raw, "shown").signer == []  # type: ignore[union-attr]
    assert kind_of(Trust(CLUSTER, ROOT, verify).admit(LEAF, raw, T0)) == "holds"


@pytest.mark.parametrize(
    ("lease", "wall", "kind"),
    [
        (None, T0, "lease-ended"),
        (make_lease(member_chain(), LEAF, OTHER), T0 + 30 * DAY, "lease-ended"),
        (make_lease(member_chain(), LEAF, STRANGER), T0, "lease-ended"),
    ],
)
def test_a_hello_without_a_fresh_lease_is_refused(
    lease: Signed | None, wall: int, kind: str
) -> None:
    """No lease, an old one, one of nobody."""
    raw = leases.encode_credentials(member_chain(), lease, admin_chain(OTHER))
    assert kind_of(Trust(CLUSTER, ROOT, verify).admit(LEAF, raw, Nanos(wall))) == kind


# -- denies -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "payload", "kind"),
    [
        (LEAF, make_deny(), "holds"),
        (LEAF, make_deny(by=ROOT), "holds"),
        (ADMIN, make_deny(ADMIN, ROOT), "holds"),
        (LEAF, make_deny(by=OTHER, evidence=member_chain()), "deny-of-no-descendant"),
        (LEAF, make_deny(by=STRANGER, evidence=member_chain()), "deny-of-no-descendant"),
        (LEAF, make_deny(by=LEAF, evidence=member_chain()), "deny-of-no-descendant"),
        (LEAF, make_deny(cluster=b"x" * 32), "deny-of-another-cluster"),
        (LEAF, make_deny(generation=(1 << 32) - 1), "deny-generation"),
    ],
)
def test_only_an_ancestor_or_the_root_denies_and_only_the_root_an_admin(
    subject: PeerId, payload: bytes, kind: str
) -> None:
    """The deny proves it by itself."""
    trust = make_trust((ADMIN, admin_chain()), (LEAF, member_chain()))
    fault = trust.apply(deny_record(OTHER, payload))
    assert kind_of(fault) == kind
    assert counts(trust, subject) == ((False, False) if kind == "holds" else (True, True))


def test_an_admin_that_certifies_another_one_cannot_deny_it() -> None:
    """What the root gave, only a root takes: a certificate below oneself makes no descendant."""
    trust = make_trust((ADMIN, admin_chain()), (OTHER, admin_chain(OTHER)))
    assert trust.apply(deny_record(OTHER, make_deny(ADMIN, OTHER))) is None
    assert counts(trust, ADMIN) == (True, True)


def test_a_deny_kills_what_the_denied_one_issued() -> None:
    """Every certificate with it in its chain, and no other."""
    trust = make_trust((ADMIN, admin_chain()), (OTHER, admin_chain(OTHER)), (LEAF, member_chain()))
    trust.apply(deny_record(OTHER, make_deny(ADMIN, ROOT)))
    assert [counts(trust, peer)[0] for peer in (ADMIN, OTHER, LEAF)] == [False, True, False]


def test_a_deny_kills_certificates_of_other_admins_too() -> None:
    """A key that two admins let in is out when one of them denies it."""
    trust = make_trust((OTHER, admin_chain(OTHER)), (LEAF, member_chain(admin=OTHER)))
    trust.apply(deny_record(ADMIN, make_deny()))
    assert counts(trust) == (False, False)


def test_a_deny_is_not_taken_back_by_its_record() -> None:
    """Grow-only: neither a tombstone nor another value revives anybody."""
    trust = make_trust((ADMIN, admin_chain()), (LEAF, member_chain()))
    trust.apply(deny_record(ADMIN, make_deny()))
    key = denies.deny_key(make_deny())
    trust.apply(record_of(ADMIN, "deny", key, b"", tombstone=True))
    assert kind_of(trust.apply(record_of(ADMIN, "deny", key, b"garbage"))) == "deny-key"
    assert counts(trust) == (False, False)
    assert trust.take_buried() == [make_deny()]


def test_a_deny_that_was_proven_late_is_owed_when_its_record_is_buried() -> None:
    """Whether the succession or the deny came first."""
    heir = make_key("trust-heir")
    succession, payload = make_succession(ROOT, heir), make_deny(by=heir, evidence=[])
    record = deny_record(ADMIN, payload)
    for is_late in (False, True):
        trust = make_trust((ADMIN, admin_chain()), (LEAF, member_chain()))
        if is_late:
            assert trust.apply(record) is not None
            trust.follow([succession])
        else:
            trust.follow([succession])
            assert trust.apply(record) is None
        assert counts(trust) == (False, False)
        trust.apply(record_of(ADMIN, "deny", record.body.key, b"", tombstone=True))
        assert trust.take_buried() == [payload]


def test_no_number_of_other_denies_pushes_one_out_that_waits_for_its_root() -> None:
    """Neither junk of a leaf nor denies of the same root: a node that joins counts all of them."""
    heir = make_key("trust-heir")
    wanted = deny_record(ADMIN, make_deny(by=heir, evidence=[]))
    others = [
        *(
            deny_record(LEAF, make_deny(make_key(f"junk-{n}"), STRANGER, evidence=[]))
            for n in range(70)
        ),
        *(
            deny_record(ADMIN, make_deny(make_key(f"more-{n}"), heir, evidence=[]))
            for n in range(70)
        ),
    ]
    trust = make_trust((ADMIN, admin_chain()), (LEAF, member_chain()))
    for record in [wanted, *others]:
        trust.apply(record)
    trust.follow([make_succession(ROOT, heir)])
    assert counts(trust) == (False, False)
    assert all(trust.verdicts_of(make_key(f"more-{n}")) for n in range(70))


def test_a_deny_that_was_buried_before_it_was_proven_says_nothing() -> None:
    """Nobody who joins would hear of it either."""
    heir = make_key("trust-heir")
    trust = make_trust((ADMIN, admin_chain()), (LEAF, member_chain()))
    record = deny_record(ADMIN, make_deny(by=heir, evidence=[]))
    trust.apply(record)
    trust.apply(record_of(ADMIN, "deny", record.body.key, b"", tombstone=True))
    trust.follow([make_succession(ROOT, heir)])
    assert counts(trust) == (True, True)


def cited(payload: bytes) -> bytes:
    carried = codec.decode(DenyPayload, payload, "deny")
    assert isinstance(carried, DenyPayload)
    return deny_hash(carried.deny)


BY_ADMIN, BY_ROOT = make_deny(), make_deny(by=ROOT)


@pytest.mark.parametrize(
    ("payloads", "chain", "is_back"),
    [
        ([BY_ADMIN], member_chain(generation=2, cites=cited(BY_ADMIN)), True),
        ([BY_ADMIN], member_chain(generation=2), False),
        ([BY_ADMIN], member_chain(generation=1, cites=cited(BY_ADMIN)), False),
        ([BY_ADMIN], member_chain(admin=OTHER, generation=2, cites=cited(BY_ADMIN)), False),
        ([BY_ROOT], member_chain(generation=2, cites=cited(BY_ROOT)), False),
        (
            [BY_ROOT],
            admin_chain(LEAF, tier=Tier.LEAF, generation=2, cites=cited(BY_ROOT)),
            True,
        ),
        (
            [BY_ADMIN, BY_ROOT],
            admin_chain(LEAF, tier=Tier.LEAF, generation=2, cites=cited(BY_ADMIN)),
            False,
        ),
        ([BY_ADMIN, BY_ROOT], member_chain(generation=2, cites=cited(BY_ADMIN)), False),
    ],
)
def test_a_denied_key_comes_back_by_the_next_generation_only(
    payloads: list[bytes], chain: list[Signed], is_back: bool
) -> None:
    """It cites the deny and is of the denier or of the root, whatever the order of arrival."""
    records = [deny_record(OTHER, payload) for payload in payloads]
    records.append(record_of(LEAF, "cert", b"", encode(chain)))
    seen = set()
    for order in itertools.permutations(records):
        trust = make_trust((ADMIN, admin_chain()), (OTHER, admin_chain(OTHER)))
        for record in order:
            trust.apply(record)
        seen.add(LEAF in trust.certificates)
    assert seen == {is_back}


# -- roots --------------------------------------------------------------------------------------


def test_a_successor_makes_admins_and_the_old_ones_stay() -> None:
    """The cluster id survives; what came before the succession is judged again."""
    trust = make_trust((ADMIN, admin_chain()))
    successor = make_key("trust-successor")
    late = record_of(OTHER, "cert", b"", encode(admin_chain(OTHER, successor)))
    assert kind_of(trust.apply(late)) == "certificate-of-another-root"
    deny = deny_record(ADMIN, make_deny(ADMIN, successor, evidence=[]))
    trust.apply(record_of(ADMIN, "succession", b"", encode(make_succession(ROOT, successor))))
    assert [counts(trust, peer)[0] for peer in (ADMIN, OTHER)] == [True, True]
    assert kind_of(trust.apply(deny)) == "holds"


def test_the_line_of_roots_does_not_depend_on_the_order() -> None:
    """Forks, strangers and circles among them."""
    one, two, three = (make_key(f"trust-root-{n}") for n in "123")
    all_of_them = [
        make_succession(ROOT, one, T0 + 5),
        make_succession(ROOT, two, T0 + 1),
        make_succession(two, three),
        make_succession(three, ROOT),
        make_succession(STRANGER, one),
    ]
    lines = set()
    for order in itertools.permutations(all_of_them):
        trust = Trust(CLUSTER, ROOT, verify)
        for signed in order:
            trust.follow([signed])
        lines.add(tuple(trust.roots))
    assert lines == {(ROOT, two, three)}


def test_whoever_knows_the_first_root_only_follows_the_line_in_the_credentials() -> None:
    """A laptop that slept through a change of the root."""
    successor = make_key("trust-successor")
    chain = admin_chain(OTHER, successor)
    raw = leases.encode_credentials(
        chain, make_lease(chain, OTHER, OTHER), (), [make_succession(ROOT, successor)]
    )
    assert kind_of(Trust(CLUSTER, ROOT, verify).admit(OTHER, raw, T0)) == "holds"


def test_the_records_of_trust_mean_the_same_in_every_order() -> None:
    """Membership is a function of the set of records."""
    records = [
        record_of(ADMIN, "cert", b"", encode(admin_chain())),
        record_of(OTHER, "cert", b"", encode(admin_chain(OTHER))),
        record_of(LEAF, "cert", b"", encode(member_chain())),
        record_of(ADMIN, "lease", LEAF, encode(make_lease(member_chain(), LEAF))),
        deny_record(OTHER, make_deny(ADMIN, ROOT)),
    ]
    seen = set()
    for order in itertools.permutations(records):
        trust = Trust(CLUSTER, ROOT, verify)
        for record in order:
            trust.apply(record)
        seen.add((tuple(sorted(trust.certificates)), trust.ends(LEAF), trust.ends(OTHER)))
    assert seen == {((OTHER,), 0, 0)}
