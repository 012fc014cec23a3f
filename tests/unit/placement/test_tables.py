"""The leased tables: rows as functions, and what is pushed when."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pollen.core import effects as fx
from pollen.core import limits
from pollen.core.codec import encode
from pollen.core.ids import SECOND, Hash, Nanos, PeerId
from pollen.core.placement import State, tables
from pollen.core.placement.claims import Claim, Claims
from pollen.core.placement.roles import Role
from pollen.core.placement.tables import Tables
from pollen.core.seeds import Seed, decode_seed, specs
from pollen.options import SeedOptions
from tests.strategies import make_record
from tests.unit.names.test_named import A, B, C, seed
from tests.unit.turns import effects_of

T0 = Nanos(1)
NEW, OLD = seed(A, epoch=2), seed(A)
ROLES = {
    NEW.seed: Role(name="echo", seed=NEW, heir=NEW.seed, leads=NEW.seed, elder=OLD.seed),
    OLD.seed: Role(name="echo", seed=OLD, heir=NEW.seed, leads=NEW.seed),
}
PRICES = {A: 5, B: 5, C: 1}


def claimed(*said: tuple[PeerId, Seed, State]) -> Claims:
    held = Claims()
    for node, of, state in said:
        held.set_live(node, 1)
        held.apply(make_record(node, "claim", of.seed, 1, 1, False, encode(Claim(int(state)))))
    return held


def row_of(key: Hash, held: Claims, hosted: Seed | None = None) -> fx.SeedRow | None:
    return tables.seed_row(key, ROLES, held, [B, A], PRICES.__getitem__, hosted)


def test_replicas_are_nearest_first_and_by_id_among_equals() -> None:
    """As the prices are when the row is made."""
    held = claimed(*((node, NEW, State.READY) for node in (A, B, C)))
    row = row_of(NEW.seed, held)
    assert row is not None
    assert (row.replicas, row.wake) == ([C, A, B], [])


@pytest.mark.parametrize("has_new", [True, False])
@pytest.mark.parametrize("has_old", [True, False])
def test_one_row_has_the_name_whoever_is_ready(has_new: bool, has_old: bool) -> None:
    """A former file has a row of its own. Both had the name while nobody held either, so nodes
    named one or the other by the order in which their rows came."""
    roles = {**ROLES, OLD.seed: Role(name="echo", seed=OLD, heir=OLD.seed, leads=NEW.seed)}
    said = [(A, NEW, State.READY)] * has_new + [(B, OLD, State.READY)] * has_old
    held = claimed(*said)
    rows = [tables.seed_row(k, roles, held, (), PRICES.__getitem__, None) for k in roles]
    named = [row.seed for row in rows if row is not None and row.name]
    assert named == [OLD.seed if has_old and not has_new else NEW.seed]


def test_who_drains_serves_while_nobody_is_ready() -> None:
    """A row is never empty while somebody still serves."""
    row = row_of(NEW.seed, claimed((A, NEW, State.DRAINING), (B, NEW, State.LOADING)))
    assert row is not None
    assert row.replicas == [A]
    row = row_of(NEW.seed, claimed((A, NEW, State.DRAINING), (B, NEW, State.READY)))
    assert row is not None
    assert row.replicas == [B]


def test_a_cold_row_lists_whom_to_wake() -> None:
    """The first ranks, in the order of the plan."""
    row = row_of(NEW.seed, claimed())
    assert row is not None
    assert (row.name, row.replicas, row.wake) == ("echo", [], [B, A])


def test_a_name_leads_to_the_old_seed_until_the_new_one_is_ready() -> None:
    """Exactly one row carries the name."""
    held = claimed((A, OLD, State.READY), (B, NEW, State.LOADING))
    rows = [row_of(key, held) for key in ROLES]
    assert [row.name for row in rows if row] == ["", "echo"]
    held.apply(make_record(B, "claim", NEW.seed, 1, 2, False, encode(Claim(int(State.READY)))))
    rows = [row_of(key, held) for key in ROLES]
    assert [row.name for row in rows if row] == ["echo", ""]


def test_an_old_seed_that_serves_nowhere_has_a_row_only_where_it_is_loaded() -> None:
    """What is loaded must have its row; nobody else needs one."""
    assert row_of(OLD.seed, claimed()) is None
    row = row_of(OLD.seed, claimed(), hosted=OLD)
    assert row is not None
    assert row.name == ""


ROW = row_of(NEW.seed, claimed((A, NEW, State.READY)))
MORE = row_of(NEW.seed, claimed((A, NEW, State.READY), (B, NEW, State.READY)))


def seeds_in(push: fx.PushTables) -> list[fx.SeedRow]:
    return push.lanes[fx.SEEDS].rows


def pushes(out: list[fx.Effect]) -> list[fx.PushTables]:
    return [effect for effect in out if isinstance(effect, fx.PushTables)]


def pushed(held: Tables, now: int) -> list[fx.Effect]:
    return effects_of(now, lambda turn: held.push(turn, is_urgent=False))


def held_tables() -> Tables:
    held = Tables()
    held.seeds.set(NEW.seed, ROW)
    pushed(held, T0)
    return held


def test_the_first_push_is_whole_and_the_next_a_delta() -> None:
    """Generations rise by one; a delta names its base and holds what changed."""
    held = Tables()
    held.seeds.set(NEW.seed, ROW)
    (whole,) = pushes(pushed(held, T0))
    held.seeds.set(NEW.seed, MORE)
    (delta,) = pushes(pushed(held, Nanos(T0 + SECOND)))
    assert (whole.generation, whole.base, delta.generation, delta.base) == (1, 0, 2, 1)
    assert (seeds_in(whole), seeds_in(delta)) == ([ROW], [MORE])


def test_changes_that_can_wait_are_pushed_ten_times_a_second() -> None:
    """A replica more is no hurry; a timer carries it."""
    held = held_tables()
    held.seeds.set(NEW.seed, MORE)
    (timer,) = pushed(held, Nanos(T0 + 1))
    assert isinstance(timer, fx.SetTimer)
    assert pushed(held, Nanos(T0 + 2)) == []
    assert len(pushes(pushed(held, timer.at))) == 1


def test_a_change_that_was_undone_before_its_push_is_not_pushed() -> None:
    """Only the difference to what was told counts."""
    held = held_tables()
    held.seeds.set(NEW.seed, MORE)
    held.seeds.set(NEW.seed, ROW)
    assert pushed(held, Nanos(T0 + SECOND)) == []


def test_a_row_that_goes_is_pushed_at_once() -> None:
    """Deny and loss never wait, and carry along what waited."""
    held = held_tables()
    held.peers.set(A, tables.peer_row(A, certificate(), "a", 1, []))
    pushed(held, Nanos(T0 + 1))
    held.seeds.set(NEW.seed, None)
    held.peers.set(A, None)
    (push,) = pushes(pushed(held, Nanos(T0 + 2)))
    assert ([NEW.seed], [A]) == (push.lanes[fx.SEEDS].gone, push.lanes[fx.PEERS].gone)


def certificate() -> object:
    from tests.unit.names.test_named import MEMBERS

    return MEMBERS[A]


@pytest.mark.parametrize(
    "change", [{"options": SeedOptions(allow=[("a", "b")])}, {"name": ""}], ids=["gate", "name"]
)
def test_gates_and_names_never_wait(change: dict[str, Any]) -> None:
    """Whoever may no longer call may not for another tenth of a second either; and who is told
    that an update serves calls the update."""
    held = held_tables()
    assert ROW is not None
    row = fx.SeedRow(**{**{f: getattr(ROW, f) for f in ROW.__struct_fields__}, **change})
    held.seeds.set(NEW.seed, row)
    (push,) = pushes(pushed(held, Nanos(T0 + 1)))
    assert push.lanes[fx.SEEDS].rows == [row]


def test_a_change_of_what_policies_read_never_waits() -> None:
    """A tier that falls takes calls away as a property does."""
    held = held_tables()
    publisher = certificate()
    held.peers.set(A, tables.peer_row(A, publisher, "a", 1, []))
    pushed(held, Nanos(T0 + 1))
    held.peers.set(A, tables.peer_row(A, msgspec.structs.replace(publisher, tier=0), "a", 1, []))
    (push,) = pushes(pushed(held, Nanos(T0 + 2)))
    assert push.lanes[fx.PEERS].rows[0].words == [("tier", "leaf"), ("id", A.hex())]


def test_a_row_carries_the_policy_that_the_muscles_evaluate() -> None:
    """With the verdict on strangers; one that cannot be read has no tree and lets nobody pass."""
    text = "!has(caller.props.banned)"
    kept = row_with({"allow_if": [text, '["not",["has",["path","caller","props","banned"]]]']})
    words = [("name", "echo"), ("owner", A.hex())]
    assert kept == fx.PolicyRow(
        tree='["not",["has",["path","caller","props","banned"]]]', seed=words, lets_strangers=True
    )
    shut = fx.PolicyRow(tree="", seed=words, lets_strangers=False)
    for carried in (
        [text, "true"],
        ["caller.zone", "true"],
        [text],
        [],
        "true",
        True,
        7,
        {"a": "b"},
    ):
        assert row_with({"allow_if": carried}) == shut
    assert row_with({}) is None


def test_a_stranger_lacks_what_the_pairs_of_a_public_seed_ask_for() -> None:
    """It has no properties: for the door such a seed is not public, as with a policy."""
    for allow, is_open in (([], True), ([("team", "red")], False)):
        options = SeedOptions(public=True, allow=allow)
        spec = specs.make_spec(
            name="echo", name_epoch=1, content=NEW.spec.content, size=9, functions=["run"],
            options=options,
        )  # fmt: skip
        held = decode_seed(A, specs.encode_record(encode(spec)))
        assert isinstance(held, Seed)
        row = tables.seed_row(held.seed, {}, Claims(), [], lambda peer: 1, held)
        assert row is not None
        assert (row.options.public, row.options.allow) == (is_open, allow)
        assert held.options.public, "what was published is not rewritten"


def row_with(options: dict[str, Any]) -> fx.PolicyRow | None:
    """The policy in the row of a spec with these options in its map."""
    spec = msgspec.structs.replace(NEW.spec, options=options)
    held = decode_seed(A, specs.encode_record(encode(spec)))
    assert isinstance(held, Seed)
    assert held.unknown == (["--allow"] if held.allow_if and not held.allow_if.tree else [])
    row = tables.seed_row(held.seed, {}, Claims(), [], lambda peer: 1, held)
    assert row is not None
    return row.policy


def test_a_price_moves_the_row_of_its_peer_alone_and_can_wait() -> None:
    """A seed row is not sent again for a price."""
    held = held_tables()
    held.peers.set(A, tables.peer_row(A, certificate(), "a", 1, []))
    pushed(held, Nanos(T0 + 1))
    held.peers.set(A, tables.peer_row(A, certificate(), "a", 9, []))
    (timer,) = pushed(held, Nanos(T0 + 2))
    assert isinstance(timer, fx.SetTimer)
    (push,) = pushes(pushed(held, timer.at))
    assert [row.price_us for row in push.lanes[fx.PEERS].rows] == [9]
    assert list(push.lanes) == [fx.PEERS]


def test_a_lease_is_renewed_when_nothing_changes() -> None:
    """An empty delta, well before the lease ends."""
    held = held_tables()
    assert limits.TABLE_RENEW_NS * 3 < limits.TABLE_LEASE_MS * 1_000_000
    assert pushed(held, Nanos(T0 + SECOND)) == []
    (push,) = pushes(pushed(held, Nanos(T0 + limits.TABLE_RENEW_NS)))
    assert (push.base, push.lanes) == (1, {})


def test_a_stale_table_is_pushed_whole() -> None:
    """The muscles restarted or lost a push."""
    held = held_tables()
    held.forget()
    (push,) = pushes(pushed(held, Nanos(T0 + 1)))
    assert (push.base, len(push.lanes[fx.SEEDS].rows)) == (0, 1)
