"""Successors that were made apart: what the displaced one denied is void, at every node alike."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pytest

from pollen.core import codec, limits
from pollen.core.codec import Signed, encode
from pollen.core.ids import PeerId
from pollen.core.records import Record
from pollen.core.trust import ProvenDeny, Tier, Trust, leases
from pollen.core.trust.authority import Admitted
from pollen.core.trust.denies import DenyPayload, deny_hash, deny_key
from tests.unit.authority import (
    ADMIN,
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
from tests.unit.world import make_key

STANDS, DISPLACED = make_key("heir-stands"), make_key("heir-displaced")
EARLIER, LATER = make_succession(ROOT, STANDS, T0 + 1), make_succession(ROOT, DISPLACED, T0 + 2)
BY_DISPLACED = make_deny(LEAF, DISPLACED, evidence=[])


def succeeds(signed: Signed, successor: PeerId) -> Record:
    return record_of(ADMIN, "succession", successor, encode(signed))


DISPLACES = [succeeds(EARLIER, STANDS), succeeds(LATER, DISPLACED)]
# What leads from the one that stands to the other one: it is a root of the line after all.
BACK = succeeds(make_succession(STANDS, DISPLACED, T0 + 3), DISPLACED)


def member_trust() -> Trust:
    """An admin of the first root, and two members below it."""
    return make_trust(
        (ADMIN, admin_chain()), (LEAF, member_chain()), (STRANGER, member_chain(STRANGER))
    )


def cited(payload: bytes) -> bytes:
    carried = codec.decode(DenyPayload, payload, "deny")
    assert isinstance(carried, DenyPayload)
    return deny_hash(carried.deny)


def seen(trust: Trust) -> tuple[object, ...]:
    """All that follows from denies: the line, who counts and until when, each deny that holds."""
    keys = (ADMIN, OTHER, LEAF, STRANGER)
    return (
        tuple(trust.roots),
        frozenset(trust.certificates),
        tuple(trust.ends(key) for key in keys),
        tuple(frozenset(v.hash for v in trust.verdicts_of(key)) for key in keys),
    )


def in_every_order(records: Sequence[Record]) -> set[tuple[object, ...]]:
    """What nodes see that were told of these records, one for each order in which they came."""
    found = set()
    for order in itertools.permutations(records):
        trust = member_trust()
        for record in order:
            trust.apply(record)
        found.add(seen(trust))
    return found


def told(records: Iterable[Record]) -> Trust:
    trust = member_trust()
    for record in records:
        trust.apply(record)
    return trust


def test_what_a_displaced_successor_denied_is_void_in_every_order() -> None:
    """Also what an admin denied that only the displaced one made."""
    below = member_chain(STRANGER, OTHER, admin_chain(OTHER, DISPLACED))
    records = [
        *DISPLACES,
        record_of(OTHER, "cert", b"", encode(admin_chain(OTHER, DISPLACED))),
        deny_record(ADMIN, BY_DISPLACED),
        deny_record(OTHER, make_deny(STRANGER, OTHER, evidence=below)),
    ]
    assert in_every_order(records) == {seen(told(DISPLACES))}
    trust = told(records)
    assert list(trust.roots) == [ROOT, STANDS]
    assert set(trust.certificates) == {ADMIN, LEAF, STRANGER}
    assert {LEAF, STRANGER} <= set(trust.current)


def test_its_denies_hold_again_once_it_is_a_root_of_the_line_in_every_order() -> None:
    """The root that stands signs it after all: nothing of it was forgotten meanwhile."""
    records = [*DISPLACES, BACK, deny_record(ADMIN, BY_DISPLACED)]
    alike = {seen(told(order)) for order in ([*records], [records[3], *records[:3]])}
    assert in_every_order(records) == alike
    trust = told(records)
    assert list(trust.roots) == [ROOT, STANDS, DISPLACED]
    assert set(trust.certificates) == {ADMIN, STRANGER}


def test_no_number_of_denies_by_a_displaced_successor_puts_anybody_out() -> None:
    """Nor keeps anybody out: neither the cap of denies nor that of generations is reached."""
    trust = told(DISPLACES)
    for number in range(limits.DENIES_NAMED_MAX + 6):
        for subject in (ADMIN, LEAF, STRANGER):
            generation = limits.DENY_GENERATION_MAX
            payload = make_deny(subject, DISPLACED, generation, evidence=[], reason=str(number))
            assert trust.apply(deny_record(STRANGER, payload)) is not None
    assert {ADMIN, LEAF, STRANGER} <= set(trust.current)
    assert trust.verdicts_of(LEAF) == []
    by_root = make_deny(by=ROOT)
    assert trust.apply(deny_record(ADMIN, by_root)) is None
    back = admin_chain(LEAF, tier=Tier.LEAF, generation=2, cites=cited(by_root))
    trust.apply(record_of(LEAF, "cert", b"", encode(back)))
    assert LEAF in trust.certificates


def test_a_void_deny_lifts_no_other_one_in_any_order() -> None:
    """A certificate that cites it cites none of those that it names."""
    by_root = make_deny(by=ROOT)
    naming = make_deny(LEAF, DISPLACED, evidence=[], after=[cited(by_root)])
    back = admin_chain(LEAF, tier=Tier.LEAF, generation=2, cites=cited(naming))
    records = [
        *DISPLACES,
        deny_record(ADMIN, by_root),
        deny_record(ADMIN, naming),
        record_of(LEAF, "cert", b"", encode(back)),
    ]
    assert len(in_every_order(records)) == 1
    assert LEAF not in told(records).certificates
    assert LEAF in told([*records, BACK]).certificates


def test_a_deny_holds_while_one_of_its_proofs_does_in_every_order() -> None:
    """Two members carry one deny of an admin: below the root, and below the displaced one."""
    deny = make_deny()
    carried = codec.decode(DenyPayload, deny, "deny")
    assert isinstance(carried, DenyPayload)
    other = DenyPayload(carried.deny, member_chain(parent=admin_chain(ADMIN, DISPLACED)))
    records = [*DISPLACES, deny_record(ADMIN, deny), deny_record(OTHER, encode(other))]
    assert len(in_every_order(records)) == 1
    assert LEAF not in told(records).certificates
    assert LEAF in told([*DISPLACES, records[3]]).certificates


@pytest.mark.parametrize("is_buried_first", [True, False])
def test_a_deny_that_was_buried_is_gone_once_it_is_void(is_buried_first: bool) -> None:
    """Nobody who joins would hear of it, should its root come back; nor is it owed to anybody."""
    buried = record_of(ADMIN, "deny", deny_key(BY_DISPLACED), b"", tombstone=True)
    trust = told([DISPLACES[1], deny_record(ADMIN, BY_DISPLACED)])
    assert LEAF not in trust.certificates
    last = [buried, DISPLACES[0]] if is_buried_first else [DISPLACES[0], buried]
    for record in [*last, BACK]:
        trust.apply(record)
    assert trust.take_buried() == []
    assert seen(trust) == seen(told([*DISPLACES, buried, BACK]))


def test_who_was_denied_in_vain_is_told_from_who_was_never_denied() -> None:
    """By which displaced key, whatever order; junk of keys that nobody signed is not among it."""
    junk = make_deny(STRANGER, make_key("nobody"), evidence=[])
    below = member_chain(STRANGER, OTHER, admin_chain(OTHER, DISPLACED))
    void = [BY_DISPLACED, make_deny(STRANGER, OTHER, evidence=below)]
    records = [*DISPLACES, *(deny_record(ADMIN, payload) for payload in (*void, junk))]
    for order in itertools.permutations(records):
        displaced = told(order).displaced()
        assert [(link.successor, link.root) for link, _ in displaced] == [(DISPLACED, ROOT)]
        assert subjects(displaced[0][1]) == {LEAF, STRANGER}
    assert [link for link, _ in told([*records, BACK]).displaced()] == []


def subjects(verdicts: Sequence[ProvenDeny]) -> set[PeerId]:
    return {PeerId(verdict.deny.subject) for verdict in verdicts}


def test_whose_deny_is_void_from_now_on_is_told_once() -> None:
    """To whoever had counted it; a node that never did has nothing to tell."""
    trust = told([DISPLACES[1], deny_record(ADMIN, BY_DISPLACED)])
    assert trust.take_voided() == []
    trust.apply(DISPLACES[0])
    assert trust.take_voided() == [LEAF]
    assert trust.take_voided() == []
    assert told([*DISPLACES, deny_record(ADMIN, BY_DISPLACED)]).take_voided() == []


def test_who_only_showed_a_chain_of_a_displaced_successor_is_no_member_any_more() -> None:
    """Its records are still on their way: nothing of it was published here."""
    trust = told([DISPLACES[1]])
    chain = admin_chain(OTHER, DISPLACED)
    raw = leases.encode_credentials(chain, make_lease(chain, OTHER, OTHER), (), [LATER])
    assert isinstance(trust.admit(OTHER, raw, T0), Admitted)
    assert trust.ends(OTHER) > T0
    trust.take_changed()
    trust.apply(DISPLACES[0])
    assert trust.ends(OTHER) == 0
    assert OTHER not in trust.current
    assert OTHER in trust.take_changed()


def test_who_only_showed_a_chain_of_the_line_stays_when_the_root_is_succeeded() -> None:
    """Nor whoever lives by its lease: no link is cut for a succession that came before records."""
    trust = told([])
    chain, below = admin_chain(OTHER), member_chain(STRANGER, OTHER)
    for peer, shows in ((OTHER, chain), (STRANGER, below)):
        lease = make_lease(shows, peer, OTHER)
        raw = leases.encode_credentials(shows, lease, (), [])
        assert isinstance(trust.admit(peer, raw, T0), Admitted)
    trust.apply(record_of(STRANGER, "cert", b"", encode(below)))
    trust.expire(T0)
    ends = [trust.ends(peer) for peer in (OTHER, STRANGER)]
    assert min(ends) > T0
    trust.apply(DISPLACES[0])
    assert [trust.ends(peer) for peer in (OTHER, STRANGER)] == ends
    assert {OTHER, STRANGER} <= set(trust.current)
