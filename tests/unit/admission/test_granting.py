"""Whole nodes: admins grant, deny and let in again, and what follows everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from pollen.core import limits
from pollen.core.commands import (
    AuditCommand,
    DenyCommand,
    GrantCommand,
    MembersCommand,
    StatusCommand,
    UndenyCommand,
)
from pollen.core.ids import DAY, MILLISECOND, SECOND
from pollen.core.labels import denied_text, read_denier
from tests.unit.admission.test_enrolment import codes, key, rows_of, trust_of, with_admin
from tests.unit.world import Machine, World


def members(world: World, name: str) -> dict[str, Any]:
    """What ``pln members`` shows at a node, by name."""
    return {view.name: view for view in world.ask(name, MembersCommand()).members}


def refused(world: World, name: str, command: Any) -> tuple[str, str]:
    """Slug and reason of a command that is refused."""
    reply = world.command(name, command)
    return reply.slug, reply.reason


def with_leaf() -> World:
    """a has the root key, b is an admin, c a publisher of a, d a publisher of b."""
    world = with_admin()
    assert isinstance(world.join("d", world.invite("b", "publisher")), Machine)
    world.run(3 * SECOND)
    return world


def test_a_grant_takes_effect_everywhere_without_a_reconnect() -> None:
    """Rows have the new properties, and no link was closed."""
    world = with_leaf()
    before = {name: codes(world, name) for name in "abcd"}
    said = world.ask("a", GrantCommand(target="c", properties='{"team":"red"}'))
    assert (said.changed, said.takes, said.falls, said.generation) == (True, [], [], 2)
    world.run(2 * SECOND)
    for name in "abd":
        assert world.machines[name].peers[key(world, "c")].properties == '{"team":"red"}'
    assert members(world, "c")["c"].properties == '{"team":"red"}'
    assert {name: codes(world, name) for name in "abcd"} == before


def test_a_grant_that_takes_away_cuts_nobody() -> None:
    """A deny and the next generation leave together: the member stays linked all the while."""
    world = with_leaf()
    world.ask("a", GrantCommand(target="c", properties='{"team":"red"}'))
    world.run(2 * SECOND)
    before = {name: codes(world, name) for name in "abcd"}
    asked = GrantCommand(target="c", tier="leaf", drops=["team"], dry_run=True)
    said = world.ask("a", asked)
    assert said.takes == ["the tier publisher", "the property team"]
    world.run(SECOND)
    assert members(world, "b")["c"].tier == "publisher", "a dry run changes nothing"
    world.ask("a", GrantCommand(target="c", tier="leaf", drops=["team"]))
    world.run(2 * SECOND)
    for name in "abcd":
        view = members(world, name)["c"]
        assert (view.tier, view.properties) == ("leaf", "{}")
        assert rows_of(world, name) == sorted(key(world, n) for n in "abcd")
    assert {name: codes(world, name) for name in "abcd"} == before


def test_a_member_that_was_away_gets_what_it_was_given_when_it_comes_back() -> None:
    """It shows what it had; the others know better, and it hears of it over the link."""
    world = with_leaf()
    world.kill("c")
    world.ask("a", GrantCommand(target="c", properties='{"team":"red"}'))
    world.ask("a", GrantCommand(target="c", tier="leaf"))
    world.run(20 * SECOND)
    world.start("c")
    world.run(20 * SECOND)
    assert members(world, "c")["c"].tier == "leaf"
    assert rows_of(world, "a") == sorted(key(world, n) for n in "abcd")
    world.kill("c")
    world.start("c")
    world.run(5 * SECOND)
    assert members(world, "c")["c"].properties == '{"team":"red"}', "it is on its disk"


def test_an_admin_grants_its_own_members_and_no_others() -> None:
    """b made d; a, which has the root key, may move anybody."""
    world = with_leaf()
    slug, reason = refused(world, "b", GrantCommand(target="c", properties='{"x":1}'))
    assert (slug, "stands below node" in reason) == ("denied", True)
    assert world.ask("b", GrantCommand(target="d", properties='{"x":1}')).generation == 2
    world.run(2 * SECOND)
    assert world.ask("a", GrantCommand(target="d", properties='{"x":2}')).generation == 3
    world.run(2 * SECOND)
    for name in "abcd":
        assert members(world, name)["d"].properties == '{"x":2}'


@pytest.mark.parametrize(
    ("by", "command", "slug", "reason"),
    [
        ("b", GrantCommand(target="d", tier="admin"), "denied", "root key is not on this node"),
        ("d", GrantCommand(target="c", tier="leaf"), "denied", "not an admin"),
        ("b", GrantCommand(target="a", tier="leaf"), "denied", "root key is not on this node"),
        ("a", GrantCommand(target="nobody"), "peer-not-found", "no member"),
        ("a", GrantCommand(target="c", tier="king"), "bad-request", "not a tier"),
        ("a", GrantCommand(target="c", drops=["zone"]), "bad-request", "no property 'zone'"),
        ("a", GrantCommand(target="c", properties="[]"), "bad-request", "no JSON object"),
        ("a", DenyCommand(targets=["a"]), "bad-request", "does not deny itself"),
        ("b", DenyCommand(targets=["a"]), "denied", "root key is not on this node"),
        ("b", DenyCommand(targets=["c"]), "denied", "stands below node"),
        ("d", DenyCommand(targets=["c"]), "denied", "not an admin"),
        ("b", DenyCommand(targets=["d", "nobody"]), "peer-not-found", "no member"),
        ("a", UndenyCommand(target="c"), "bad-request", "is not denied"),
    ],
)
def test_who_may_not_is_told_why_and_nothing_changes(
    by: str, command: Any, slug: str, reason: str
) -> None:
    """Every refusal has a reason, and a command of several targets is refused as a whole."""
    world = with_leaf()
    before = {name: members(world, "a")[name] for name in "abcd"}
    assert refused(world, by, command)[0] == slug
    assert reason in refused(world, by, command)[1]
    world.run(2 * SECOND)
    after = members(world, "a")
    assert all(after[n].generation == before[n].generation for n in "abcd")
    assert all(after[n].state != "denied" for n in "abcd")


def test_a_deny_takes_those_below_and_says_so_before() -> None:
    """b falls, and with it d; a dry run names both, and the seeds that go."""
    world = with_leaf()
    world.seed("d", "echo")
    world.run(3 * SECOND)
    asked = world.ask("a", DenyCommand(targets=["b"], dry_run=True))
    assert [fallen.name for fallen in asked.falls] == ["d"]
    assert (asked.seeds, asked.replicas > 0) == (["echo"], True)
    world.run(SECOND)
    assert members(world, "a")["b"].state == "online"
    world.ask("a", DenyCommand(targets=["b"], reason="it was stolen"))
    world.run(SECOND)
    for name in "ac":
        shown = members(world, name)
        assert (shown["b"].state, shown["b"].reason) == ("denied", "it was stolen")
        assert (shown["b"].denied_by, shown["d"].reason) == ("the root", "it stood below b")
        assert limits.CLOSE_DENIED in codes(world, name)
        assert rows_of(world, name) == sorted(key(world, n) for n in "ac")


def test_who_is_denied_is_told_so_where_it_looks() -> None:
    """Its peers closed their links and say why; it hears no more of the cluster than that."""
    world = with_leaf()
    assert world.ask("c", StatusCommand()).warnings == []
    world.ask("a", DenyCommand(targets=["c"]))
    world.run(3 * SECOND)
    said = "let this node in no more: it was denied by a; on an admin's machine: pln undeny "
    for _ in range(2):
        status = world.ask("c", StatusCommand())
        assert any(said + status.node[:8] in text for text in status.warnings)
        assert (status.denied_by, status.shut_out) == ("a", ["a", "b", "d"])
        world.run(60 * SECOND)
    assert world.ask("a", StatusCommand()).denied_by == ""
    world.ask("a", UndenyCommand(target="c"))
    world.run(90 * SECOND)
    assert world.ask("c", StatusCommand()).warnings == []


@pytest.mark.parametrize("text", ["", "not a member", "denied by ", "denied by \x1b[2J", "attic"])
def test_whatever_else_a_peer_closes_with_names_nobody(text: str) -> None:
    assert read_denier(text) == ""
    assert read_denier(denied_text("the root")) == "the root"


def test_without_cascade_those_below_stay() -> None:
    """They are certified by the root first; no link of theirs is cut."""
    world = with_leaf()
    said = world.ask("a", DenyCommand(targets=["b"], cascade=False))
    assert ([f.name for f in said.kept], said.falls) == (["d"], [])
    world.run(3 * SECOND)
    for name in "acd":
        shown = members(world, name)
        assert (shown["b"].state, shown["d"].issuer_name) == ("denied", "the root")
        assert rows_of(world, name) == sorted(key(world, n) for n in "acd")


def test_a_denied_member_is_let_in_again() -> None:
    """With what it had; and those below it come back with it."""
    world = with_leaf()
    world.ask("a", DenyCommand(targets=["b"]))
    world.run(20 * SECOND)
    assert rows_of(world, "a") == sorted(key(world, n) for n in "ac")
    world.ask("a", UndenyCommand(target="b"))
    world.run(90 * SECOND)
    for name in "abcd":
        assert {view.state for view in members(world, name).values()} <= {"self", "online"}
        assert members(world, name)["b"].generation == 2


def test_a_cluster_whose_root_key_is_lost_goes_on_with_one_admin() -> None:
    """b invites, changes and denies its own, and renews leases; what the root alone may is gone."""
    world = with_leaf()
    world.kill("a")
    world.run(20 * SECOND)
    assert isinstance(world.join("e", world.invite("b", "publisher")), Machine)
    world.run(3 * SECOND)
    assert world.ask("b", GrantCommand(target="d", tier="leaf")).tier == "leaf"
    world.ask("b", DenyCommand(targets=["e"]))
    world.run(3 * SECOND)
    assert {n: members(world, "c")[n].state for n in "de"} == {"d": "online", "e": "denied"}
    slug, reason = refused(world, "b", GrantCommand(target="d", tier="admin"))
    assert (slug, "root key is not on this node" in reason) == ("denied", True)
    slug, _ = refused(world, "b", DenyCommand(targets=["c"]))
    assert slug == "denied", "a let it in, and a is gone"
    before = trust_of(world, "b").ends(key(world, "c"))
    world.skip(20 * DAY)
    world.run(60 * SECOND)
    assert trust_of(world, "b").ends(key(world, "c")) > before
    assert members(world, "b")["c"].state == "online"


def test_two_denies_of_two_halves_are_lifted_together() -> None:
    """Neither knew of the other: undeny says a third that names both."""
    world = with_leaf()
    for name in "acd":
        world.kill(name)
    world.ask("b", DenyCommand(targets=["d"]))
    world.run(SECOND)
    world.kill("b")
    for name in "ac":
        world.start(name)
    world.run(2 * SECOND)
    world.ask("a", DenyCommand(targets=["d"]))
    for name in "bd":
        world.start(name)
    world.run(20 * SECOND)
    assert len(trust_of(world, "a").verdicts_of(key(world, "d"))) == 2
    slug, _ = refused(world, "b", UndenyCommand(target="d"))
    assert slug == "denied", "the root denied it, and only the root lifts that"
    world.ask("a", UndenyCommand(target="d"))
    world.run(90 * SECOND)
    assert members(world, "c")["d"].state == "online"
    assert len(trust_of(world, "c").verdicts_of(key(world, "d"))) == 3


def test_what_was_taken_away_before_a_deny_does_not_come_back_with_an_undeny() -> None:
    """Also when its subject was away all the while, and published the old certificate alone."""
    world = with_leaf()
    world.ask("a", GrantCommand(target="c", tier="publisher", properties='{"team":"red"}'))
    world.run(5 * SECOND)
    world.kill("c")
    world.run(2 * SECOND)
    world.ask("a", GrantCommand(target="c", tier="leaf", drops=["team"]))
    world.run(SECOND)
    world.ask("a", DenyCommand(targets=["c"]))
    world.run(SECOND)
    assert members(world, "b")["c"].tier == "leaf"
    world.ask("a", UndenyCommand(target="c"))
    world.run(2 * SECOND)
    back = members(world, "b")["c"]
    assert (back.tier, back.properties) == ("leaf", "{}")


def test_what_admins_did_is_told_everywhere() -> None:
    """Who, what, to whom and with which words; the newest first."""
    world = with_leaf()
    world.ask("a", GrantCommand(target="c", properties='{"team":"red"}'))
    world.run(SECOND)
    world.ask("b", DenyCommand(targets=["d"], reason="lost in a train"))
    world.run(2 * SECOND)
    acts = world.ask("c", AuditCommand()).acts
    shown = [(act.by_name, act.verb, act.subject_name, act.detail) for act in acts]
    assert shown[:2] == [
        ("b", "deny", "d", "lost in a train"),
        ("a", "grant", "c", 'publisher {"team":"red"}'),
    ]
    assert len(world.ask("c", AuditCommand(most=1)).acts) == 1


def test_a_node_follows_its_own_properties() -> None:
    """A host gate that it passes since a minute ago makes it a host."""
    world = with_leaf()
    world.seed("a", "echo", host=[("zone", "attic")], min_replicas=1)
    world.run(3 * SECOND)
    assert not any(world.machines[name].loaded for name in "abcd")
    world.ask("a", GrantCommand(target="c", properties='{"zone":"attic"}'))
    world.run(5 * SECOND)
    assert [name for name in "abcd" if world.machines[name].loaded] == ["c"]


@pytest.mark.parametrize(
    "command",
    [
        GrantCommand(target="a", tier="publisher"),
        GrantCommand(target="a", tier="leaf", dry_run=True),
        GrantCommand(target="a", until_unix_ms=1_800_000_000_000),
    ],
)
def test_the_last_admin_stays_one(command: GrantCommand) -> None:
    """Without one nobody could grant; with another one it may go."""
    world = World()
    world.found("a")
    assert isinstance(world.join("c", world.invite("a", "publisher")), Machine)
    world.run(3 * SECOND)
    reply = world.command("a", command)
    assert reply.slug == "denied" and "no admin would be left without a" in reply.reason
    assert "pln grant PEER --admin" in reply.remedy
    assert members(world, "c")["a"].tier == "admin"
    world.ask("a", GrantCommand(target="c", tier="admin"))
    assert world.ask("a", command).takes


def test_the_root_may_ask_for_the_end_of_the_last_admin_elsewhere() -> None:
    """It makes another one whenever it likes."""
    world = World()
    world.found("a")
    assert isinstance(world.join("c", world.invite("a", "publisher")), Machine)
    world.run(3 * SECOND)
    assert world.ask("c", GrantCommand(target="a", tier="leaf", by_root=True)).request
    assert world.ask("c", DenyCommand(targets=["a"], by_root=True)).request


def test_a_cluster_without_an_admin_says_so() -> None:
    """The only one was away until its lease ended."""
    world = World()
    world.found("a")
    long = limits.LEASE_MAX_NS // MILLISECOND
    assert isinstance(world.join("c", world.invite("a", "publisher", lease_ms=long)), Machine)
    world.run(3 * SECOND)
    assert not any("no admin" in text for text in world.ask("c", StatusCommand()).warnings)
    world.kill("a")
    world.skip(limits.LEASE_NS + DAY)
    world.run(SECOND)
    status = world.ask("c", StatusCommand())
    assert not status.healthy
    assert any("this cluster has no admin" in text for text in status.warnings)
