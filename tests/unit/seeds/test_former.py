"""Former versions: which are kept, where their copies are, and the way back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pollen.core import limits
from pollen.core.codec import Refusal, encode
from pollen.core.commands import SeedCommand
from pollen.core.effects import BLOB, MODULE
from pollen.core.events import ModuleInspected
from pollen.core.ids import Hash, PeerId, RequestId
from pollen.core.names import Holding
from pollen.core.placement import State, tables
from pollen.core.placement.claims import Claim, Claims
from pollen.core.placement.roles import Role, roles_of
from pollen.core.seeds import Seed, publishing, specs
from pollen.core.seeds.former import plan_rollback, versions_of
from pollen.core.versionwords import RollbackCommand
from pollen.options import KEPT_MOST, SeedOptions
from tests.strategies import make_record
from tests.unit.names.test_named import A, B, writer


def content(number: int) -> Hash:
    return Hash(bytes([number]) * 32)


class Name:
    """A name and what its publishers do to it."""

    def __init__(self, kind: str = BLOB, **options: Any) -> None:
        self.kind, self.options = kind, options
        self.held: Holding[Seed] | None = None

    @property
    def names(self) -> dict[str, Holding[Seed]]:
        return {} if self.held is None else {"film": self.held}

    def take(self, planned: object, owner: PeerId) -> Seed:
        assert isinstance(planned, publishing.Publication), planned
        found = specs.decode_seed(owner, planned.payload)
        assert isinstance(found, Seed), found
        self.held = Holding(name="film", holder=found, shadowed=[])
        return found

    def seed(self, number: int, owner: PeerId = A, halted: set[Hash] | None = None) -> Seed:
        wish = SeedCommand(
            name="film",
            content=content(number).hex(),
            kind=self.kind,
            options=SeedOptions(**self.options),
            take_over=True,
        )
        functions = ["run"] if self.kind == MODULE else []
        seen = ModuleInspected(
            request=RequestId(1), content=content(number), size=9, functions=functions
        )
        by = msgspec.structs.replace(writer(owner), halted=halted or set())
        return self.take(publishing.plan_seed(wish, seen, by, self.names), owner)

    def ask(self, version: str, owner: PeerId = A, slug: str = "") -> object:
        command = RollbackCommand(target="film", version=version)
        numbers = {str(s.name_epoch): s for s in versions_of(self.held)} if self.held else {}
        wanted = numbers.get(version)
        held = self.held.holder.kept[0] if self.held and self.held.holder.kept else None
        seed = wanted or held
        seen = ModuleInspected(
            request=RequestId(1),
            content=seed.spec.content if seed else content(0),
            size=9,
            functions=[],
            slug=slug,
        )
        return plan_rollback(command, seen, writer(owner), self.names)

    def back(self, version: str = "") -> Seed:
        return self.take(self.ask(version), A)

    @property
    def contents(self) -> list[int]:
        assert self.held is not None
        return [seed.spec.content[0] for seed in versions_of(self.held)]

    def roles(self) -> dict[int, Role]:
        assert self.held is not None
        return {role.seed.spec.content[0]: role for role in roles_of(self.held, False)}


def test_the_version_before_is_wanted_while_the_newest_is_homeless() -> None:
    """And no older one, nor the one before of a name that is halted."""
    name = Name(MODULE)
    for number in (1, 2, 3):
        name.seed(number)
    assert name.held is not None
    for is_halted, wanted in ((False, [3, 2]), (True, [2])):
        roles = roles_of(name.held, is_halted, True)
        own = [role.seed.spec.content[0] for role in roles if role.heir == role.seed.seed]
        assert own == wanted
    leads = {role.leads for role in roles_of(name.held, False, True)}
    assert leads == {name.held.holder.seed}


@pytest.mark.parametrize("kind", [MODULE, BLOB])
def test_as_many_are_kept_as_the_newest_says(kind: str) -> None:
    name = Name(kind)
    for number in (1, 2, 3, 4):
        name.seed(number)
    assert name.contents == [4, 3, 2]
    name.options = {"keep": 0}
    name.seed(5)
    assert name.contents == [5]
    assert name.held is not None and name.held.holder.previous is not None
    name.options = {"keep": KEPT_MOST}
    for number in range(6, 20):
        name.seed(number)
    assert name.contents == list(range(19, 19 - KEPT_MOST - 1, -1))


def test_a_rollback_is_the_former_version_under_the_next_number() -> None:
    name = Name(allow=[("team", "red")])
    first = name.seed(1)
    name.options = {}
    second = name.seed(2)
    again = name.back()
    assert again.spec == msgspec.structs.replace(first.spec, name_epoch=3)
    assert name.contents == [1, 2]
    assert name.held is not None and name.held.holder.kept[0].seed == second.seed
    assert name.back().spec.content == content(2)
    assert name.contents == [2, 1]


def test_a_version_is_meant_by_its_number_or_by_digits_of_a_hash() -> None:
    name = Name()
    for number in (1, 2, 3):
        name.seed(number)
    assert name.back("1").spec.content == content(1)
    assert name.held is not None
    current = name.held.holder
    assert name.held.holder.kept[0].spec.content == content(3)
    assert isinstance(name.ask(content(3).hex()[:8]), publishing.Publication)
    for text, slug in [
        ("9", "version-not-found"),
        ("ffff", "version-not-found"),
        (str(current.name_epoch), "bad-request"),
        (current.seed.hex()[:8], "bad-request"),
    ]:
        refused = name.ask(text)
        assert isinstance(refused, Refusal) and refused.slug == slug, text


def test_without_a_former_version_there_is_no_way_back() -> None:
    name = Name()
    name.seed(1)
    refused = name.ask("")
    assert isinstance(refused, Refusal) and refused.slug == "version-not-found"
    assert "it is the first" in refused.reason
    name = Name(keep=0)
    name.seed(1)
    name.seed(2)
    refused = name.ask("")
    assert isinstance(refused, Refusal) and "--keep 0" in refused.reason


def test_a_content_that_went_is_said_and_nothing_is_published() -> None:
    name = Name()
    name.seed(1)
    name.seed(2)
    refused = name.ask("", slug="blob-not-found")
    assert isinstance(refused, Refusal) and refused.slug == "blob-not-found"
    assert "version 1" in refused.reason


def test_only_who_published_a_version_comes_back_to_it() -> None:
    name = Name()
    name.seed(1)
    name.seed(2)
    refused = name.ask("", owner=B)
    assert isinstance(refused, Refusal) and refused.slug == "denied"
    name.seed(3, owner=B)
    assert name.contents == [3], "nobody keeps versions of another one's"
    assert name.held is not None and name.held.holder.previous is not None


def test_nobody_states_for_another_one_what_is_kept() -> None:
    """A record with a foreign spec among the older ones: it is read as the record's owner's."""
    name = Name()
    foreign = name.seed(1, owner=B)
    own = Name().seed(7)
    payload = encode(specs.SpecRecord(own.raw, A, own.raw, [foreign.raw]))
    found = specs.decode_seed(A, payload)
    assert isinstance(found, Seed)
    assert {seed.owner for seed in found.kept} == {A}
    replaced = encode(specs.SpecRecord(own.raw, B, foreign.raw))
    found = specs.decode_seed(A, replaced)
    assert isinstance(found, Seed) and found.previous is not None and found.kept == ()


def test_former_versions_that_do_not_fit_are_left_out() -> None:
    name = Name(MODULE, keep=8, config={"a": "x" * 20_000})
    for number in range(1, 8):
        name.options["config"] = {"a": f"{number}" * 20_000}
        name.seed(number)
    assert name.held is not None
    assert 2 <= len(name.contents) <= 3
    former = [name.held.holder.previous, *name.held.holder.older]
    payload = specs.encode_record(name.held.holder.raw, [seed for seed in former if seed])
    assert len(payload) < limits.RECORD_MAX_BYTES


def test_copies_of_a_kept_blob_are_wanted_and_a_kept_module_runs_no_more() -> None:
    name = Name()
    for number in (1, 2, 3):
        name.seed(number)
    roles = name.roles()
    assert [roles[n].heir == roles[n].seed.seed for n in (3, 2, 1)] == [True, True, True]
    assert roles[3].former == (roles[2].seed.seed, roles[1].seed.seed)
    assert roles[3].elder == roles[2].seed.seed
    name = Name(MODULE)
    for number in (1, 2, 3):
        name.seed(number)
    roles = name.roles()
    assert {role.heir for role in roles.values()} == {roles[3].seed.seed}
    assert [roles[n].is_kept for n in (3, 2, 1)] == [False, True, True]
    assert roles[3].former == ()


def test_the_name_moves_when_a_copy_of_the_new_version_is_there() -> None:
    """The kept one has copies of its own, and gives the name up all the same."""
    name = Name()
    name.seed(1)
    name.seed(2)
    by_content = name.roles()
    roles = {role.seed.seed: role for role in by_content.values()}
    claims = Claims()
    claims.set_live(B, 1)
    ready = encode(Claim(int(State.READY)))
    old, new = by_content[1].seed.seed, by_content[2].seed.seed

    def named(key: Hash) -> str:
        row = tables.seed_row(key, roles, claims, (), lambda peer: 0, None)
        assert row is not None
        return row.name

    claims.apply(make_record(B, "claim", old, 1, 1, False, ready))
    assert (named(old), named(new)) == ("film", "")
    claims.apply(make_record(B, "claim", new, 1, 2, False, ready))
    assert (named(old), named(new)) == ("", "film")
    row = tables.seed_row(new, roles, claims, (), lambda peer: 0, None)
    assert row is not None and row.former == [old]


def test_a_halted_version_is_not_kept_beside_the_one_that_serves() -> None:
    name = Name(MODULE)
    first, second = name.seed(1), name.seed(2)
    third = name.seed(3, halted={second.seed})
    assert third.previous is not None and third.previous.seed == first.seed
    assert name.contents == [3, 1]
