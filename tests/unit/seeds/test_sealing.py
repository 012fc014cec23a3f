"""Sealed blobs: for whom they are, what may be sealed, and who may hold what nobody there reads."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pollen.core import limits
from pollen.core.codec import Refusal, encode
from pollen.core.commands import SeedCommand
from pollen.core.effects import BLOB, MODULE, SEALED, SITE
from pollen.core.events import ModuleInspected
from pollen.core.ids import ClusterId, Hash, Nanos, PeerId, RequestId
from pollen.core.names import Holding
from pollen.core.placement import tables
from pollen.core.placement.claims import Claims
from pollen.core.placement.roles import need_of, roles_of
from pollen.core.policy import Party
from pollen.core.seeds import Seed, publishing, sealing, specs
from pollen.core.trust import Certificate
from pollen.options import SeedOptions
from tests.unit.names.test_named import A, writer

NOW = Nanos(1_000)
CONTENT = Hash(b"c" * 32)
BLUE, RED = '{"team":"blue"}', '{"team":"red"}'


def member(number: int, properties: str = "{}", deadline: int = 0) -> Certificate:
    return Certificate(
        cluster=ClusterId(b"k" * 32),
        subject=PeerId(bytes([number]) * 32),
        issuer=PeerId(b"r" * 32),
        tier=0,
        properties=properties,
        lineage=[],
        generation=1,
        not_before=Nanos(0),
        access_deadline=Nanos(deadline),
    )


def recipients(members: list[Certificate], **options: Any) -> list[int]:
    """The numbers of those that it would be sealed for; the publisher is 9."""
    own = PeerId(bytes([9]) * 32)
    found = sealing.recipients_of("plan", SeedOptions(sealed=True, **options), own, members, NOW)
    assert not isinstance(found, Refusal), found
    return [node[0] for node in found]


def test_it_is_for_those_that_pass_the_gate_and_for_its_publisher() -> None:
    """By pairs and by an expression; without a gate for everybody."""
    members = [member(1, BLUE), member(2, RED), member(3, BLUE), member(9, RED)]
    assert recipients(members) == [1, 2, 3, 9]
    assert recipients(members, allow=[("team", "blue")]) == [1, 3, 9]
    assert recipients(members, allow_if='caller.props.team == "red"') == [2, 9]
    assert recipients([]) == [9]
    policy = f'caller.id != "{"01" * 32}" && seed.name == "plan"'
    assert recipients(members, allow=[("team", "blue")], allow_if=policy) == [3, 9]


def test_whoever_has_access_no_more_is_not_among_them() -> None:
    """Its certificate stands, and its deadline has passed."""
    assert recipients([member(1, deadline=999), member(2, deadline=1_001)]) == [2, 9]


def test_there_is_an_end_to_how_many_there_are() -> None:
    """The head of the upload has no room for more."""
    own = PeerId(b"o" * 32)
    many = [
        msgspec.structs.replace(member(1), subject=PeerId(number.to_bytes(32, "big")))
        for number in range(limits.RECIPIENTS_MAX)
    ]
    found = sealing.recipients_of("plan", SeedOptions(sealed=True), own, many, NOW)
    assert isinstance(found, Refusal) and "--allow-prop" in found.remedy
    found = sealing.recipients_of("plan", SeedOptions(sealed=True), own, many[1:], NOW)
    assert not isinstance(found, Refusal) and len(found) == limits.RECIPIENTS_MAX


def wish(**change: Any) -> SeedCommand:
    held: dict[str, Any] = {
        "name": "plan",
        "content": CONTENT.hex(),
        "kind": BLOB,
        "options": SeedOptions(sealed=True, allow=[("team", "blue")]),
        "recipients": ["0b" * 32, "0a" * 32],
    }
    return SeedCommand(**{**held, **change})


def published(command: SeedCommand) -> Seed:
    seen = ModuleInspected(request=RequestId(1), content=CONTENT, size=9, functions=[])
    planned = publishing.plan_seed(command, seen, writer(A), {})
    assert isinstance(planned, publishing.Publication), planned
    found = specs.decode_seed(A, planned.payload)
    assert isinstance(found, Seed), found
    return found


def test_a_spec_says_for_whom_it_was_sealed() -> None:
    """By the first digits, for people; and a node of before refuses to hold it."""
    found = published(wish())
    assert found.recipients == ["0a0a0a0a", "0b0b0b0b"]
    assert (found.kind, found.form, found.unknown) == (BLOB, SEALED, [])
    assert published(wish(options=SeedOptions(), recipients=[])).form == BLOB
    broken = msgspec.structs.replace(found.spec, options={"kind": BLOB, "recipients": 7})
    read = specs.decode_seed(A, specs.encode_record(encode(broken)))
    assert isinstance(read, Seed) and read.recipients == []


def test_the_most_recipients_leave_room_for_a_spec_and_its_former_ones() -> None:
    """A record holds three of the largest."""
    ids = [f"{number:08x}" + "0" * 56 for number in range(limits.RECIPIENTS_MAX)]
    raw = encode(published(wish(recipients=ids)).spec)
    assert 3 * len(raw) < limits.SPEC_MAX_BYTES


@pytest.mark.parametrize(
    ("change", "slug"),
    [
        ({"kind": SITE}, "config-invalid"),
        ({"kind": MODULE}, "config-invalid"),
        ({"recipients": []}, "bad-request"),
        ({"recipients": ["0a"]}, "bad-request"),
        ({"recipients": ["0a" * 32] * (limits.RECIPIENTS_MAX + 1)}, "bad-request"),
        ({"options": SeedOptions()}, "bad-request"),
        ({"options": SeedOptions(sealed=True, public=True)}, "config-invalid"),
    ],
)
def test_what_cannot_be_sealed_is_refused(change: dict[str, Any], slug: str) -> None:
    refused = publishing.check_seed(wish(**change), writer(A), {})
    assert isinstance(refused, Refusal) and refused.slug == slug
    assert publishing.check_seed(wish(), writer(A), {}) == CONTENT


def test_whoever_cannot_read_it_may_hold_it() -> None:
    """The gate of hosts stands, and that of readers is for readers."""
    options = SeedOptions(
        sealed=True,
        allow=[("team", "blue")],
        allow_if='caller.tier == "admin"',
        host=[("disk", "big")],
    )
    sealed = need_of(published(wish(options=options)))
    assert sealed.lets(Party(properties='{"disk":"big"}'))
    assert not sealed.lets(Party(properties=BLUE))
    options = msgspec.structs.replace(options, sealed=False)
    plain = need_of(published(wish(options=options, recipients=[])))
    assert not plain.lets(Party(properties='{"disk":"big"}'))


def test_the_muscles_are_told_that_it_is_sealed() -> None:
    """In its row, with the gate of its readers."""
    found = published(wish())
    holding = Holding(name="plan", holder=found, shadowed=[])
    roles = {role.seed.seed: role for role in roles_of(holding, is_halted=False)}
    row = tables.seed_row(found.seed, roles, Claims(), (), lambda peer: 1, None)
    assert row is not None and (row.kind, row.options.allow) == (SEALED, [("team", "blue")])
