"""Names, specs and publications: who holds what, and who may change it."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pollen.core.codec import Refusal, encode
from pollen.core.commands import SeedCommand, Seeded, SeedOptions
from pollen.core.events import ModuleInspected
from pollen.core.ids import ClusterId, Hash, PeerId, RequestId
from pollen.core.names import Holding
from pollen.core.names import named as names
from pollen.core.seeds import Seed, Writer, publishing, specs
from pollen.core.seeds.publishing import Publication
from pollen.core.trust import Certificate, Tier
from tests.unit.world import make_key

A, B, C = sorted(make_key(name) for name in "abc")
CONTENT = Hash(b"\6" * 32)


def member(peer: PeerId, tier: Tier, lineage: list[PeerId] | None = None) -> Certificate:
    return Certificate(
        ClusterId(b"c" * 32), peer, PeerId(b"r" * 32), tier, "{}", lineage or [], 1, 0
    )


MEMBERS = {
    A: member(A, Tier.PUBLISHER),
    B: member(B, Tier.ADMIN),
    C: member(C, Tier.LEAF),
}


def seed(owner: PeerId, name: str = "echo", epoch: int = 1, withdrawn: bool = False) -> Seed:
    options = SeedOptions()
    spec = specs.make_spec(
        name=name, name_epoch=epoch, content=CONTENT, size=9, functions=["run"], options=options
    )
    spec = msgspec.structs.replace(spec, withdrawn=withdrawn)
    found = specs.decode_seed(owner, specs.encode_record(encode(spec)))
    assert isinstance(found, Seed)
    return found


def holder(*seeds: Seed) -> Holding[Seed] | None:
    return names.resolve(seeds, MEMBERS).get("echo")


def writer(peer: PeerId) -> Writer:
    return Writer(node=peer, certificate=MEMBERS[peer], certificates=MEMBERS)


def plan(peer: PeerId, held: dict[str, Holding[Seed]], **change: Any) -> Any:
    options = SeedOptions(**change.pop("options", {}))
    command = SeedCommand(name="echo", content=CONTENT.hex(), options=options, **change)
    module = ModuleInspected(request=RequestId(1), content=CONTENT, size=9, functions=["run"])
    return publishing.plan_seed(command, module, writer(peer), held)


def test_the_higher_name_epoch_holds_the_name() -> None:
    """Whoever wrote it."""
    found = holder(seed(B, epoch=1), seed(A, epoch=2))
    assert found is not None
    assert found.holder.owner == A


def test_at_one_epoch_the_higher_tier_holds_and_the_other_is_shadowed() -> None:
    """After a partition both wrote epoch 1."""
    found = holder(seed(A), seed(B))
    assert found is not None
    assert (found.holder.owner, [s.owner for s in found.shadowed]) == (B, [A])


def test_a_leaf_holds_no_name() -> None:
    """What it may not publish does not count, on any node."""
    assert holder(seed(C, epoch=9)) is None


def test_an_owner_without_a_known_certificate_does_not_count() -> None:
    """Authority is derived from the records, not assumed."""
    assert holder(seed(PeerId(b"\7" * 32))) is None


def test_withdrawn_is_a_value_that_wins_by_its_epoch() -> None:
    """An old spec that comes back late does not raise the dead."""
    found = holder(seed(A, epoch=1), seed(A, epoch=2, withdrawn=True))
    assert found is not None
    assert not found.is_live


@pytest.mark.parametrize("name", ["", "Echo", "-x", "a" * 64, "a b", "é", "f" * 64, "a/b"])
def test_names_outside_the_rule_are_refused(name: str) -> None:
    """64 hex digits are a hash and never a name."""
    refusal = specs.check_name(name)
    assert refusal is not None
    assert refusal.slug == "name-invalid"


@pytest.mark.parametrize(
    "options",
    [
        {"memory_bytes": 1},
        {"memory_bytes": 1 << 40},
        {"timeout_ms": 0},
        {"min_replicas": -1},
        {"act_as": "root"},
        {"act_as": "publisher"},
    ],
)
def test_options_out_of_range_are_refused_with_a_remedy(options: dict[str, Any]) -> None:
    """``--act-as publisher`` needs ``--host-prop``: who may host may wield."""
    refusal = specs.check_options(SeedOptions(**options))
    assert refusal is not None
    assert (refusal.slug, bool(refusal.remedy)) == ("config-invalid", True)


def test_an_update_is_another_seed_and_embeds_the_old_one() -> None:
    """One level, by exact bytes: its hash is found again."""
    old = seed(A)
    planned = plan(
        A, {"echo": Holding(name="echo", holder=old, shadowed=[])}, options={"shared": True}
    )
    assert isinstance(planned, Publication)
    new = specs.decode_seed(A, planned.payload)
    assert isinstance(new, Seed)
    assert new.previous is not None
    assert (old.seed, 2) == (new.previous.seed, new.spec.name_epoch)
    assert isinstance(planned.answer, Seeded)
    assert (new.seed.hex(), old.seed.hex()) == (planned.answer.seed, planned.answer.replaced)


def test_an_update_names_the_options_that_it_changes() -> None:
    """It is easy to leave one out; values of ``config`` stay hidden."""
    first = plan(A, {}, options={"shared": True, "config": {"k": "secret"}})
    assert isinstance(first, Publication)
    old = specs.decode_seed(A, first.payload)
    assert isinstance(old, Seed)
    held = {"echo": Holding(name="echo", holder=old, shadowed=[])}
    planned = plan(A, held, options={"config": {"k": "other"}})
    assert isinstance(planned, Publication)
    assert isinstance(planned.answer, Seeded)
    assert planned.answer.changed == ["shared: True, now False", "config: other values"]
    assert isinstance(first.answer, Seeded)
    assert first.answer.changed == []


def test_the_same_wish_again_writes_nothing() -> None:
    """Seeding twice is idempotent."""
    answer = plan(A, {"echo": Holding(name="echo", holder=seed(A), shadowed=[])})
    assert isinstance(answer, Seeded)
    assert answer.unchanged


def test_a_held_name_is_refused_naming_its_holder() -> None:
    """A publisher cannot take it; an admin can, on purpose."""
    held = {"echo": Holding(name="echo", holder=seed(B), shadowed=[])}
    refused = plan(A, held, take_over=True)
    assert isinstance(refused, Refusal)
    assert (refused.slug, B.hex()[:8] in refused.reason) == ("name-taken", True)
    held = {"echo": Holding(name="echo", holder=seed(A), shadowed=[])}
    hesitant, decided = plan(B, held), plan(B, held, take_over=True)
    assert isinstance(hesitant, Refusal)
    assert "--take-over" in hesitant.remedy
    assert isinstance(decided, Publication)


def test_a_withdrawn_name_is_free_for_others_above_its_epoch() -> None:
    """The next epoch, no take-over."""
    gone = seed(B, epoch=4, withdrawn=True)
    planned = plan(A, {"echo": Holding(name="echo", holder=gone, shadowed=[])})
    assert isinstance(planned, Publication)
    assert isinstance(planned.answer, Seeded)
    assert planned.answer.name_epoch == 5


def test_a_leaf_publishes_nothing() -> None:
    """Denied, with what to ask for."""
    refused = plan(C, {})
    assert isinstance(refused, Refusal)
    assert refused.slug == "denied"


def test_a_spec_over_its_limit_is_refused() -> None:
    """It travels in every node's records."""
    refused = plan(A, {}, options={"config": {"k": "v" * 30_000}})
    assert isinstance(refused, Refusal)
    assert refused.slug == "config-invalid"


def test_an_ancestor_may_withdraw_what_its_descendant_published() -> None:
    """So may an admin; a stranger may not."""
    members = {A: member(A, Tier.PUBLISHER), C: member(C, Tier.PUBLISHER, lineage=[A])}
    held = {"echo": Holding(name="echo", holder=seed(C), shadowed=[])}
    ancestor = Writer(node=A, certificate=members[A], certificates=members)
    assert isinstance(publishing.plan_unseed("echo", ancestor, held), Publication)
    stranger = Writer(node=PeerId(b"\7" * 32), certificate=members[A], certificates=members)
    refused = publishing.plan_unseed("echo", stranger, held)
    assert isinstance(refused, Refusal)
    assert refused.slug == "denied"


def test_a_target_is_a_name_a_prefixed_name_or_a_hash() -> None:
    """And a unique beginning of a hash."""
    one = Holding(name="echo", holder=seed(A), shadowed=[])
    held = {"echo": one}
    text = one.holder.seed.hex()
    for target in ("echo", "seed/echo", text, text[:8]):
        assert one == names.find_named(target, held)


def test_an_unknown_seed_is_guessed_at() -> None:
    """Did you mean."""
    refused = names.find_named("ehco", {"echo": Holding(name="echo", holder=seed(A), shadowed=[])})
    assert isinstance(refused, Refusal)
    assert (refused.slug, refused.remedy) == ("seed-not-found", "did you mean: echo")


def test_an_ambiguous_prefix_lists_what_to_paste() -> None:
    """Two hashes begin alike."""
    one, two = seed(A, "one"), seed(A, "two")
    twin = msgspec.structs.replace(two, seed=Hash(one.seed[:16] + two.seed[16:]))
    held = {s.spec.name: Holding(name=s.spec.name, holder=s, shadowed=[]) for s in (one, twin)}
    refused = names.find_named(one.seed.hex()[:12], held)
    assert isinstance(refused, Refusal)
    assert (refused.slug, refused.remedy.count("pln unseed")) == ("ambiguous", 2)


def test_an_update_of_a_halted_version_replaces_the_one_before_it() -> None:
    """The newest one not halted is embedded; the same wish again is another try."""
    old = seed(A)
    halted = msgspec.structs.replace(seed(A, epoch=2), previous=old)
    held = {"echo": Holding(name="echo", holder=halted, shadowed=[])}
    given = Writer(node=A, certificate=MEMBERS[A], certificates=MEMBERS, halted=[halted.seed])
    command = SeedCommand(name="echo", content=CONTENT.hex(), options=SeedOptions())
    module = ModuleInspected(request=RequestId(1), content=CONTENT, size=9, functions=["run"])
    planned = publishing.plan_seed(command, module, given, held)
    assert isinstance(planned, Publication)
    made = specs.decode_seed(A, planned.payload)
    assert isinstance(made, Seed)
    assert made.previous is not None
    assert (made.spec.name_epoch, made.previous.seed) == (3, old.seed)
