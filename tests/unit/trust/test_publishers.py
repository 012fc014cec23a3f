"""The root's policy on publishers: which document counts, and whom it lets have which name."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
import pytest

from pollen.core.codec import Refusal, Rejection, Signed, encode
from pollen.core.ids import PeerId
from pollen.core.policy import PUBLISHERS, Policy, parse, read_policy
from pollen.core.records import Record
from pollen.core.trust import Tier, Trust, publishers
from pollen.core.trust.publishers import PublisherPolicy
from tests.unit.authority import (
    ADMIN,
    CLUSTER,
    LEAF,
    OTHER,
    ROOT,
    STRANGER,
    T0,
    make_certificate,
    make_succession,
    record_of,
)
from tests.unit.world import make_key, signer, verify

RED = make_certificate(LEAF, tier=Tier.PUBLISHER, properties='{"team":"red"}')


def make_policy(
    text: str, number: int = 1, root: PeerId = ROOT, by: PeerId | None = None
) -> tuple[PublisherPolicy, Signed]:
    """A policy that ``by`` signed, by default the root in it."""
    planned = Trust(CLUSTER, ROOT, verify).publishers.plan(root, T0, text)
    assert isinstance(planned, PublisherPolicy)
    policy = msgspec.structs.replace(planned, number=number)
    return policy, policy.signed(signer(by or root, by or root))


def carried(owner: PeerId, signed: Signed, key: bytes = b"publish") -> Record:
    return record_of(owner, "policy", key, encode(signed))


def text_of(*records: Record, trust: Trust | None = None) -> str:
    """The text that counts once these came."""
    trust = trust or Trust(CLUSTER, ROOT, verify)
    for record in records:
        trust.apply(record)
    return trust.publishers.text


def test_the_highest_number_counts_in_every_order() -> None:
    """Also among two that two halves made apart, and when the newest takes the policy away."""
    policies = [
        make_policy("true", 1),
        make_policy('caller.tier == "admin"', 2),
        make_policy('caller.tier == "leaf"', 2),
    ]
    records = [
        carried(owner, signed)
        for owner, (_, signed) in zip((ADMIN, OTHER, LEAF), policies, strict=True)
    ]
    seen = {text_of(*order) for order in itertools.permutations(records)}
    assert seen == {max((p for p, _ in policies[1:]), key=lambda policy: policy.hash).text}
    cleared = carried(STRANGER, make_policy("", 3)[1])
    orders = itertools.permutations([*records, cleared])
    assert {text_of(*order) for order in orders} == {""}


def test_the_newest_root_counts_whatever_number_an_older_one_wrote() -> None:
    """No retired key freezes the policy: each root counts its own from 1 on, in every order."""
    heir, last = make_key("policy-heir"), PublisherPolicy.NUMBER_MAX
    succession = record_of(ADMIN, "succession", heir, encode(make_succession(ROOT, heir, T0 + 5)))
    old = [carried(LEAF, make_policy("false", last)[1])]
    new = carried(ADMIN, make_policy("true", 1, heir)[1])
    for order in itertools.permutations([*old, new, succession]):
        trust = Trust(CLUSTER, ROOT, verify)
        assert text_of(*order, trust=trust) == "true"
        planned = trust.publishers.plan(heir, T0, "")
        assert isinstance(planned, PublisherPolicy) and planned.number == 2
        cleared = carried(ADMIN, planned.signed(signer(heir, heir)))
        assert text_of(cleared, trust=trust) == ""


def test_a_successor_counts_from_one_above_the_policy_before_it() -> None:
    """Also when the root before it used its numbers up: that is the way on."""
    heir = make_key("policy-heir")
    trust = Trust(CLUSTER, ROOT, verify)
    text_of(carried(ADMIN, make_policy("false", PublisherPolicy.NUMBER_MAX)[1]), trust=trust)
    refusal = trust.publishers.plan(ROOT, T0, "true")
    assert isinstance(refusal, Refusal) and "pln root succeed" in refusal.remedy
    trust.follow([make_succession(ROOT, heir, T0 + 5)])
    assert trust.publishers.text == "false", "what the root before it said still counts"
    planned = trust.publishers.plan(heir, T0, "true")
    assert isinstance(planned, PublisherPolicy) and planned.number == 1
    assert text_of(carried(ADMIN, planned.signed(signer(heir, heir))), trust=trust) == "true"


def test_a_record_under_another_key_changes_nothing_of_what_its_owner_carries() -> None:
    """Live or buried, before or after: what counts does not follow the order."""
    heir = make_key("policy-heir")
    good = carried(OTHER, make_policy("false", 2, heir)[1])
    junk = record_of(OTHER, "policy", b"zzz", b"\xc1")
    buried = record_of(OTHER, "policy", b"yyy", b"", tombstone=True)
    for order in itertools.permutations([good, junk, buried]):
        trust = Trust(CLUSTER, ROOT, verify)
        text_of(*order, trust=trust)
        trust.follow([make_succession(ROOT, heir, T0 + 5)])
        assert trust.publishers.text == "false"


def test_a_document_that_does_not_hold_changes_nothing() -> None:
    """Of another cluster, signed by somebody else, under another key, about something else."""
    policy, signed = make_policy("true", 9)
    foreign = msgspec.structs.replace(policy, cluster=b"x" * 32)
    strange = msgspec.structs.replace(policy, about="hosting")
    huge = msgspec.structs.replace(policy, number=(1 << 32) - 1)
    sign = signer(ROOT, ROOT)
    rows = [
        (carried(ADMIN, foreign.signed(sign)), "policy-of-another-cluster"),
        (carried(ADMIN, strange.signed(sign)), "policy-about"),
        (carried(ADMIN, huge.signed(sign)), "policy-number"),
        (carried(ADMIN, policy.signed(signer(ADMIN, ADMIN))), "policy-signature"),
        (carried(ADMIN, signed, b"host"), "policy-key"),
        (record_of(ADMIN, "policy", b"publish", b"\xc1"), "policy-malformed"),
    ]
    for record, kind in rows:
        trust = Trust(CLUSTER, ROOT, verify)
        fault = trust.apply(record)
        assert isinstance(fault, Rejection) and fault.kind == kind
        assert trust.publishers.counts is None


def test_a_policy_of_damaged_bytes_is_a_fault_and_says_nothing() -> None:
    """One byte changed or cut anywhere: never an exception, and never a policy that counts."""
    raw = encode(make_policy('caller.tier == "admin"', 3)[1])
    damaged = [raw[:at] for at in range(len(raw))]
    damaged += [raw[:at] + bytes([raw[at] ^ 0x41]) + raw[at + 1 :] for at in range(len(raw))]
    for payload in damaged:
        trust = Trust(CLUSTER, ROOT, verify)
        assert isinstance(trust.apply(record_of(ADMIN, "policy", b"publish", payload)), Rejection)
        assert trust.publishers.counts is None


def test_a_key_that_is_no_root_says_nothing_until_it_is_one() -> None:
    """A successor's policy counts with the succession; a displaced one's falls with it."""
    heir, earlier = make_key("policy-heir"), make_key("policy-earlier-heir")
    trust = Trust(CLUSTER, ROOT, verify)
    old = carried(ADMIN, make_policy("false", 1)[1])
    new = carried(OTHER, make_policy("true", 2, heir)[1])
    assert text_of(old, new, trust=trust) == "false"
    trust.follow([make_succession(ROOT, heir, T0 + 5)])
    assert trust.publishers.text == "true"
    trust.follow([make_succession(ROOT, earlier, T0 + 1)])
    assert trust.publishers.text == "false"


def test_a_policy_is_owed_until_an_admin_carries_it() -> None:
    """Its owner goes back to an older one: it stands, and is owed to the others once."""
    trust, admins = Trust(CLUSTER, ROOT, verify), {ADMIN, OTHER}
    old, new = make_policy("true", 1)[1], make_policy("false", 2)[1]
    trust.apply(carried(ADMIN, new))
    assert trust.publishers.take_owed(admins) is None
    trust.apply(carried(ADMIN, old))
    assert trust.publishers.text == "false"
    assert trust.publishers.take_owed(admins) == (b"publish", encode(new))
    assert trust.publishers.take_owed(admins) is None
    trust.apply(carried(OTHER, new))
    assert trust.publishers.take_owed(admins) is None
    trust.apply(carried(OTHER, old))
    assert trust.publishers.take_owed(admins) == (b"publish", encode(new))


def test_a_policy_that_no_admin_carries_is_owed_at_once() -> None:
    """A member that had it signed could go back to an older one, and joiners would follow that."""
    trust = Trust(CLUSTER, ROOT, verify)
    policy = make_policy("false", 2)[1]
    trust.apply(carried(LEAF, policy))
    assert trust.publishers.take_owed({ADMIN}) == (b"publish", encode(policy))
    assert trust.publishers.take_owed({ADMIN}) is None
    trust.apply(carried(ADMIN, policy))
    assert trust.publishers.take_owed({ADMIN}) is None
    assert trust.publishers.take_owed({OTHER}) == (b"publish", encode(policy)), "not an admin now"


def test_a_policy_is_read_with_the_publisher_and_the_name() -> None:
    """``caller`` is who publishes; ``seed.name`` the name; without a policy everybody may."""
    trust = Trust(CLUSTER, ROOT, verify)
    assert trust.publishers.lets("echo", RED)
    text = 'caller.props.team == "red" && seed.name.startsWith("red-")'
    text_of(carried(ADMIN, make_policy(text)[1]), trust=trust)
    blue = msgspec.structs.replace(RED, properties='{"team":"blue"}')
    lets = trust.publishers.lets
    assert [lets("red-echo", RED), lets("echo", RED), lets("red-echo", blue)] == [
        True,
        False,
        False,
    ]
    refusal = trust.publishers.refusal("echo", RED)
    assert isinstance(refusal, Refusal) and refusal.slug == "denied"
    assert 'seed.name.startsWith("red-") is false' in refusal.reason and text in refusal.remedy
    assert trust.publishers.refusal("red-echo", RED) is None


def test_the_text_is_read_once_for_all_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsing costs more than judging, and there may be ten thousand names and carriers."""
    reads: list[object] = []

    def counting(*given: Any, **named: Any) -> Policy:
        reads.append(given)
        return read_policy(*given, **named)

    monkeypatch.setattr(publishers, "read_policy", counting)
    policy, signed = make_policy('seed.name.startsWith("lab-")')
    trust = Trust(CLUSTER, ROOT, verify)
    text_of(*(carried(make_key(f"owner-{n}"), signed) for n in range(20)), trust=trust)
    may, why_not = policy.letting(), policy.judging()
    for name in (f"radio-{n}" for n in range(20)):
        assert not may(name, RED) and why_not(name, RED)
        assert not trust.publishers.lets(name, RED) and trust.publishers.why_not(name, RED)
    assert len(reads) <= 4


def test_a_policy_that_cannot_be_read_lets_nobody_publish() -> None:
    """A newer Pollen wrote it, or its tree says something else."""
    policy, _ = make_policy("true", 4)
    for odd in (
        msgspec.structs.replace(policy, text="caller.zone ~ 7"),
        msgspec.structs.replace(policy, tree="false"),
        msgspec.structs.replace(policy, text=""),
    ):
        trust = Trust(CLUSTER, ROOT, verify)
        trust.apply(carried(ADMIN, odd.signed(signer(ROOT, ROOT))))
        assert not trust.publishers.lets("echo", RED)
        refusal = trust.publishers.refusal("echo", RED)
        assert isinstance(refusal, Refusal)
        assert "not readable here" in refusal.reason and "update Pollen" in refusal.remedy
        assert not odd.is_readable


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('caller.team == "red"', "at character 1"),
        ('seed.owner == "a"', "there is seed.name"),
        ('node.tier == "leaf"', "begins with caller and seed"),
        ("(" * 17 + "true" + ")" * 17, "over 16 deep"),
        (" && ".join(["true"] * 80), "over 64 parts"),
        ("true" + " " * 1024, "over 1024 bytes"),
    ],
)
def test_a_text_that_is_no_policy_is_refused_with_its_place(text: str, words: str) -> None:
    """``bad-policy`` by the words of the command that sets it."""
    refusal = Trust(CLUSTER, ROOT, verify).publishers.plan(ROOT, T0, text)
    assert isinstance(refusal, Refusal) and refusal.slug == "bad-policy"
    assert refusal.reason.startswith("set-policy publish: ")
    assert words in refusal.reason + refusal.remedy


def test_the_last_number_is_refused_and_not_wrapped() -> None:
    """The counter has an end, and a document at it still counts."""
    trust = Trust(CLUSTER, ROOT, verify)
    text_of(carried(ADMIN, make_policy("true", PublisherPolicy.NUMBER_MAX)[1]), trust=trust)
    assert trust.publishers.text == "true"
    refusal = trust.publishers.plan(ROOT, T0, "false")
    assert isinstance(refusal, Refusal) and refusal.slug == "denied"


def test_the_owner_of_a_seed_is_called_the_caller() -> None:
    """One word for one thing: the scope has no ``seed.owner``."""
    assert PUBLISHERS.fields == {"caller": ("tier", "id", "props"), "seed": ("name",)}
    assert not isinstance(parse("has(caller.id)", PUBLISHERS), Refusal)
