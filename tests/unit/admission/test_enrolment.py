"""Whole nodes: any admin invites, members carry, leases are renewed, the denied are cut."""

from __future__ import annotations

from typing import Any

from pollen.core import codec, limits
from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core.admission import JoinRequest, invites
from pollen.core.codec import Refusal, encode
from pollen.core.commands import AuditCommand
from pollen.core.ids import DAY, MINUTE, SECOND, PeerId
from pollen.core.trust.denies import Deny, issue_deny
from tests.unit.turns import turn_at
from tests.unit.world import WALL_ZERO, Machine, World, make_key, signer


def with_admin() -> World:
    """a has the root key, b is an admin without it, c a publisher of a."""
    world = World(1)
    world.found("a")
    world.run(SECOND)
    for name, tier in (("b", "admin"), ("c", "publisher")):
        assert isinstance(world.join(name, world.invite("a", tier)), Machine)
        world.run(3 * SECOND)
    return world


def trust_of(world: World, name: str) -> Any:
    node = world.machines[name].node
    assert node is not None
    return node._members.trust


def key(world: World, name: str) -> PeerId:
    return world.machines[name].key


def deny(
    world: World, by: str, subject: str, *, root: bool = False, generation: int = 1, issued: int = 0
) -> None:
    """A deny comes to ``by`` as a record of its own, as its command will publish it."""
    machine = world.machines[by]
    assert machine.node is not None
    chain = trust_of(world, by).chain_of(key(world, subject))
    issuer = machine.root if root and machine.root else machine.key
    at = issued or world.now + 1
    document = Deny(world.cluster_id, key(world, subject), generation, issuer, at)
    payload = issue_deny(document, signer(machine.key, machine.root), () if root else chain.carried)
    turn = turn_at(world.now, machine.node._records)
    machine.node._consequences.publish_deny(payload, turn)
    world.post(by, ev.TablesStale())


def rows_of(world: World, name: str) -> list[bytes]:
    return sorted(world.machines[name].peers)


def codes(world: World, name: str) -> list[int]:
    """The codes with which a node closed links, up to now."""
    return [e.code for e in world.machines[name].trace if isinstance(e, fx.CloseLink)]


def test_an_admin_without_the_root_key_lets_members_in() -> None:
    """Its node key signs; everybody believes it."""
    world = with_admin()
    assert isinstance(world.join("d", world.invite("b")), Machine)
    world.run(5 * SECOND)
    for name in "abcd":
        assert rows_of(world, name) == sorted(key(world, n) for n in "abcd")
        assert trust_of(world, name).certificates[key(world, "d")].lineage == [key(world, "b")]


def test_whoever_lets_a_member_in_puts_it_on_record_once() -> None:
    """Under its own key, for `pln audit` on every node; the same token again adds nothing."""
    world = with_admin()
    joiner = make_key("d")
    token = world.invite("b", "publisher", subject=joiner.hex())
    assert isinstance(world.join("d", token), Machine)
    world.run(5 * SECOND)
    assert ask(world, "b", joiner, token).slug == ""
    world.run(5 * SECOND)
    for name in "abcd":
        acts = world.ask(name, AuditCommand()).acts
        assert [(act.by, act.verb, act.subject, act.detail) for act in acts] == [
            (key(world, "b").hex(), "admit", joiner.hex(), "publisher {}"),
            (key(world, "a").hex(), "admit", key(world, "c").hex(), "publisher {}"),
            (key(world, "a").hex(), "admit", key(world, "b").hex(), "admin {}"),
        ]


def test_a_token_that_is_redeemed_again_and_again_adds_one_record() -> None:
    """Its joiner never shows itself, so each time looks like the first one."""
    world = with_admin()
    joiner = make_key("d")
    token = world.invite("b", subject=joiner.hex())
    for _ in range(5):
        assert ask(world, "b", joiner, token).slug == ""
        world.run(SECOND)
    acts = world.ask("a", AuditCommand()).acts
    assert [act.subject for act in acts].count(joiner.hex()) == 1


def test_a_token_bound_to_a_key_is_good_at_every_admin() -> None:
    """The admin that is asked signs, whoever made the token."""
    world = with_admin()
    joiner = make_key("d")
    token = world.invite("b", subject=joiner.hex())
    world.kill("b")
    body = ask(world, "a", joiner, token)
    assert body.slug == ""


def ask(world: World, at: str, joiner: PeerId, token: str) -> invites.JoinReply:
    raw = invites.token_bytes(token)
    assert isinstance(raw, bytes)
    reply = world.ask_join(world.machines[at], joiner, encode(JoinRequest(raw, "d")))
    decoded = codec.decode(invites.JoinReply, reply, "reply")
    assert isinstance(decoded, invites.JoinReply)
    return decoded


def test_any_member_carries_a_request_to_the_issuer() -> None:
    """c is a publisher: it brings the token to b and the answer back; the nonce is spent at b."""
    world = with_admin()
    token = world.invite("b")
    assert ask(world, "c", make_key("d"), token).slug == ""
    assert "is used" in ask(world, "b", make_key("e"), token).reason


def test_a_request_whose_issuer_is_out_of_reach_is_refused_in_words() -> None:
    """Not carried further, not forgotten."""
    world = with_admin()
    token = world.invite("b")
    world.kill("b")
    world.run(20 * SECOND)
    reply = ask(world, "c", make_key("d"), token)
    assert (reply.slug, "must answer this" in reply.reason) == ("unreachable", True)


def test_a_deny_cuts_links_and_rows_at_once_everywhere() -> None:
    """Within a second of its arrival: link closed as denied, row gone, no way back in."""
    world = with_admin()
    world.seed("c", "echo")
    world.run(2 * SECOND)
    deny(world, "a", "c")
    world.run(SECOND)
    for name in "ab":
        assert rows_of(world, name) == sorted(key(world, n) for n in "ab")
        assert limits.CLOSE_DENIED in codes(world, name)
        assert not [r for r in world.machines[name].seeds.values() if r.name], "no name of its"
    world.run(60 * SECOND)
    assert rows_of(world, "a") == sorted(key(world, n) for n in "ab")


def test_a_deny_survives_a_restart_and_the_loss_of_its_issuer() -> None:
    """A durable record that everybody keeps."""
    world = with_admin()
    deny(world, "a", "c")
    world.run(SECOND)
    for name in "ab":
        world.kill(name)
    world.start("b")
    world.run(30 * SECOND)
    assert trust_of(world, "b").is_denied(key(world, "c"))


def test_a_deny_whose_record_is_buried_is_published_by_the_other_admins() -> None:
    """Its owner cannot take it back; who comes later hears of it."""
    world = with_admin()
    deny(world, "a", "c")
    world.run(SECOND)
    node = world.machines["a"].node
    assert node is not None
    (held,) = node._records.live_of("deny")
    node._records.bury("deny", held.body.key)
    world.post("a", ev.TablesStale())
    world.run(2 * SECOND)
    other = world.machines["b"].node
    assert other is not None
    owners = [record.body.owner for record in other._records.live_of("deny")]
    assert key(world, "b") in owners


def test_a_denied_node_is_dialled_no_more() -> None:
    """It would be refused each time."""
    world = with_admin()
    deny(world, "a", "c")
    world.run(5 * SECOND)
    world.machines["a"].trace.clear()
    world.run(120 * SECOND)
    dialled = [e.peer for e in world.machines["a"].trace if isinstance(e, fx.Dial)]
    assert key(world, "c") not in dialled


def test_only_who_may_lift_a_deny_lets_its_subject_in_again() -> None:
    """b may not; a may, with the next generation."""
    world = with_admin()
    deny(world, "a", "c")
    world.run(SECOND)
    refused = ask(world, "b", key(world, "c"), world.invite("b"))
    assert (refused.slug, "denied by" in refused.reason) == ("denied", True)
    world.kill("c")
    token = world.invite("a")
    assert not isinstance(world.join("c", token), Refusal)
    world.run(10 * SECOND)
    assert trust_of(world, "b").certificates[key(world, "c")].generation == 2
    assert rows_of(world, "b") == sorted(key(world, n) for n in "abc")


def test_a_token_from_before_the_deny_lets_nobody_in_again() -> None:
    """Not at the denier either: what it gave away before it forgave nobody."""
    world = with_admin()
    old = world.invite("a", subject=key(world, "c").hex())
    world.run(SECOND)
    deny(world, "a", "c", issued=WALL_ZERO + world.now)
    world.run(SECOND)
    refused = ask(world, "a", key(world, "c"), old)
    assert (refused.slug, "after the token was made" in refused.reason) == ("denied", True)
    new = world.invite("a", subject=key(world, "c").hex())
    assert ask(world, "a", key(world, "c"), new).slug == ""


def test_a_spent_token_is_no_way_back_for_a_denied_key() -> None:
    """The same joiner is answered alike, but not with credentials that a deny killed."""
    world = with_admin()
    token = world.invite("a")
    world.join("d", token)
    world.run(SECOND)
    assert ask(world, "a", key(world, "d"), token).slug == ""
    deny(world, "a", "d")
    world.run(SECOND)
    assert ask(world, "a", key(world, "d"), token).slug == "denied"


def test_an_admin_takes_back_leases_that_ended_long_ago() -> None:
    """Who left for ever is not in its records for ever; who is here keeps a lease."""
    world = with_admin()
    world.kill("c")
    world.run(MINUTE)
    shift(world, limits.LEASE_NS + limits.LEASE_KEEP_NS, "ab")
    world.run(25 * MINUTE)
    node = world.machines["a"].node
    assert node is not None
    leases = node._records.live_of("lease")
    # What somebody said of its own lease goes with its other records.
    leased = {bytes(r.body.key) for r in leases if r.body.owner != r.body.key}
    assert key(world, "c") not in leased
    assert rows_of(world, "a") == sorted(key(world, n) for n in "ab")


def test_the_roots_deny_of_an_admin_fells_whom_it_let_in() -> None:
    """Its children go with it; those of others stay."""
    world = with_admin()
    world.join("d", world.invite("b"))
    world.run(5 * SECOND)
    deny(world, "a", "b", root=True)
    world.run(SECOND)
    assert rows_of(world, "a") == sorted(key(world, n) for n in "ac")


def shift(world: World, nanos: int, names: str = "abc") -> None:
    """Everybody's wall clock goes on by so much."""
    for name in names:
        world.machines[name].clock.wall_offset += nanos


def test_leases_are_renewed_at_half_life_by_one_admin() -> None:
    """Nobody is asked, nobody falls; the admins do not all sign."""
    world = with_admin()
    before = trust_of(world, "a").ends(key(world, "c"))
    shift(world, 15 * DAY + SECOND)
    world.run(10 * SECOND)
    for name in "abc":
        assert trust_of(world, name).ends(key(world, "c")) > before + 14 * DAY
    assert rows_of(world, "a") == sorted(key(world, n) for n in "abc")
    signed = [
        record
        for record in world.machines["a"].node._records.live_of("lease")  # type: ignore[union-attr]
        if record.body.key == key(world, "c")
    ]
    assert len(signed) <= 2


def test_a_laptop_that_slept_for_sixty_days_comes_back_by_itself() -> None:
    """Its lease is long over; it asks a member, which lends or carries."""
    world = with_admin()
    world.kill("c")
    for _ in range(5):
        shift(world, 12 * DAY)
        world.run(30 * SECOND)
    world.start("c")
    world.run(30 * SECOND)
    assert rows_of(world, "c") == sorted(key(world, n) for n in "abc")
    assert rows_of(world, "a") == sorted(key(world, n) for n in "abc")


def test_a_laptop_that_was_denied_while_it_slept_does_not_come_back() -> None:
    """Its request for a lease is refused."""
    world = with_admin()
    world.kill("c")
    deny(world, "a", "c")
    shift(world, 60 * DAY)
    world.run(30 * SECOND)
    world.start("c")
    world.run(60 * SECOND)
    assert rows_of(world, "a") == sorted(key(world, n) for n in "ab")
    logs = {log.event for log in world.machines["c"].logs}
    assert "lease-renewed" not in logs


def test_a_cluster_whose_nodes_all_slept_for_sixty_days_comes_back() -> None:
    """The root in a drawer: an admin lends to itself, and then to the rest."""
    world = with_admin()
    for name in "abc":
        world.kill(name)
        world.machines[name].root = None
    shift(world, 60 * DAY)
    for name in "abc":
        world.start(name)
    world.run(60 * SECOND)
    for name in "abc":
        assert rows_of(world, name) == sorted(key(world, n) for n in "abc")


def test_a_lease_that_ends_cuts_the_link() -> None:
    """No admin is left to renew it."""
    world = with_admin()
    world.join("d", world.invite("a"))
    world.run(5 * SECOND)
    world.kill("a")
    world.kill("b")
    world.run(20 * SECOND)
    shift(world, 31 * DAY, "c")
    world.run(SECOND)
    assert key(world, "d") not in rows_of(world, "c")
    assert limits.CLOSE_DENIED in codes(world, "c")
