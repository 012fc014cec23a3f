"""Whole nodes: who serves a name, whom it lets in, and what the muscles are told of it."""

from __future__ import annotations

from typing import Any

import pytest

from pollen.core.codec import encode
from pollen.core.commands import DenyCommand, GrantCommand, UnseedCommand
from pollen.core.ids import SECOND
from pollen.core.kinds import SERVICE
from pollen.core.rootwords import SetPolicyCommand
from pollen.core.services import records
from pollen.core.servicewords import (
    ConnectCommand,
    ServeCommand,
    ServicesCommand,
    UnserveCommand,
)
from tests.unit.admission.test_granting import refused, with_leaf
from tests.unit.services.helpers import providers, row, serve, served, shown, slug_of
from tests.unit.world import World, three

# -- serving -------------------------------------------------------------------------------------


def test_a_served_name_is_known_everywhere_and_its_target_on_its_own_node_only() -> None:
    """Records travel; where a service is does not."""
    world = three()
    said = serve(world, "b")
    assert (said.target, said.datagrams, said.providers, said.unchanged) == (
        "127.0.0.1:8080",
        False,
        ["b"],
        False,
    )
    assert [providers(world, at) for at in "abc"] == [["b"]] * 3
    held = served(world, "b")
    assert held is not None and (held.target, held.allow) == ("127.0.0.1:8080", [])
    assert [served(world, at) for at in "ac"] == [None, None]
    assert [shown(world, at).target for at in "abc"] == ["", "127.0.0.1:8080", ""]
    assert [(p.name, p.state, p.port) for p in shown(world, "b").providers] == [("b", "self", 8080)]


def test_serving_the_same_again_changes_nothing() -> None:
    """And another target is an update under the same epoch."""
    world = three()
    first = serve(world, "b")
    assert serve(world, "b").unchanged
    moved = serve(world, "b", target="9090")
    assert (moved.unchanged, moved.name_epoch) == (False, first.name_epoch)
    held = served(world, "b")
    assert held is not None and held.target == "127.0.0.1:9090"
    assert shown(world, "c").providers[0].port == 9090


def test_a_name_of_another_node_is_taken_on_purpose_only() -> None:
    """Beside for any publisher, over for those with authority."""
    world = three()
    serve(world, "b")
    slug, reason = refused(world, "c", ServeCommand(name="api", target="1"))
    assert (slug, "node b serves 'api'" in reason) == ("name-taken", True)
    assert slug_of(world, "c", ServeCommand(name="api", target="1", take_over=True)) == "name-taken"
    assert serve(world, "c", beside=True).providers == ["c", "b"]
    assert sorted(providers(world, "a")) == ["b", "c"]
    assert serve(world, "a", take_over=True).providers == ["a"]
    assert [providers(world, at) for at in "abc"] == [["a"]] * 3
    assert (served(world, "b"), served(world, "c")) == (None, None)


def test_who_serves_beside_another_speaks_as_that_one_does() -> None:
    """A client of streams cannot be handed to a service of datagrams."""
    world = three()
    serve(world, "b")
    slug, reason = refused(world, "c", ServeCommand(name="api", target="udp:53", beside=True))
    assert (slug, "'api' is served by TCP, and 'udp:53' is reached by UDP" in reason) == (
        "usage",
        True,
    )


def test_unserving_leaves_the_others() -> None:
    """The last one ends the name, and an older record does not bring it back."""
    world = three()
    serve(world, "b")
    serve(world, "a", take_over=True)
    serve(world, "c", beside=True)
    assert world.ask("c", UnserveCommand(name="api")).providers == ["a"]
    world.run(2 * SECOND)
    assert providers(world, "b") == ["a"]
    assert slug_of(world, "c", UnserveCommand(name="api")) == "service-not-found"
    world.ask("a", UnserveCommand(name="api"))
    world.run(2 * SECOND)
    assert [row(world, at) for at in "abc"] == [None] * 3
    assert serve(world, "b").providers == ["b"]
    assert providers(world, "c") == ["b"]


def test_an_admin_withdraws_a_name_from_everybody() -> None:
    """A publisher does so for what it let in only."""
    world = three()
    serve(world, "b")
    serve(world, "c", beside=True)
    assert slug_of(world, "c", UnserveCommand(name="api", everywhere=True)) == "name-taken"
    assert world.ask("a", UnserveCommand(name="api", everywhere=True)).providers == []
    world.run(2 * SECOND)
    assert [row(world, at) for at in "abc"] == [None] * 3
    assert (served(world, "b"), served(world, "c")) == (None, None)


def test_seeds_and_services_share_one_name_space() -> None:
    """Whichever came first; a name that was given back is free."""
    world = three()
    assert world.seed("b", "api").slug == ""
    world.run(2 * SECOND)
    slug, reason = refused(world, "c", ServeCommand(name="api", target="1"))
    assert (slug, "node b holds the name 'api' with a seed" in reason) == ("name-taken", True)
    world.ask("b", UnseedCommand(target="api"))
    world.run(2 * SECOND)
    serve(world, "c")
    reply = world.seed("b", "api")
    assert (reply.slug, "serves 'api'" in reply.reason) == ("name-taken", True)
    world.ask("c", UnserveCommand(name="api"))
    world.run(2 * SECOND)
    assert world.seed("b", "api").slug == ""


def test_a_service_is_served_again_after_a_restart() -> None:
    """The target is on disk with the record."""
    world = three()
    serve(world, "b", proxy_header=True)
    world.kill("b")
    world.run(60 * SECOND)
    assert (row(world, "a") is None, providers(world, "a")) == (False, [])
    assert shown(world, "a").providers[0].state == "offline"
    world.start("b")
    world.run(10 * SECOND)
    assert providers(world, "a") == ["b"]
    held = served(world, "b")
    assert held is not None and (held.target, held.proxy_header) == ("127.0.0.1:8080", True)


def test_a_denied_member_serves_nothing() -> None:
    """Its name is free again for others."""
    world = three()
    serve(world, "b")
    serve(world, "b", "both")
    serve(world, "c", "both", beside=True)
    assert world.ask("a", DenyCommand(targets=["b"])).services == ["api"]
    world.run(3 * SECOND)
    assert [row(world, at) for at in "ac"] == [None, None]
    assert serve(world, "c").providers == ["c"]


def test_a_leaf_serves_nothing_and_is_told_how_it_could() -> None:
    """Also when it became one: its record does not count any more, and its muscles hear that."""
    world = with_leaf()
    serve(world, "c")
    world.ask("a", GrantCommand(target="c", tier="leaf"))
    world.run(3 * SECOND)
    assert [row(world, at) for at in "abd"] == [None] * 3
    assert served(world, "c") is None
    slug, reason = refused(world, "c", ServeCommand(name="x", target="1"))
    assert (slug, "is a leaf" in reason) == ("denied", True)


def test_the_policy_of_the_root_says_who_serves_which_name() -> None:
    """As with seeds: whoever it refuses does not count, and cannot begin."""
    world = with_leaf()
    serve(world, "c")
    world.ask("a", SetPolicyCommand(expression='caller.tier == "admin"'))
    world.run(3 * SECOND)
    assert [row(world, at) for at in "abd"] == [None] * 3
    assert served(world, "c") is None
    assert slug_of(world, "c", ServeCommand(name="y", target="1")) == "denied"
    world.ask("a", SetPolicyCommand(clear=True))
    world.run(3 * SECOND)
    assert providers(world, "d") == ["c"]
    assert served(world, "c") is not None


def test_the_muscles_are_told_the_gate() -> None:
    """Pairs as they are, the expression as a tree."""
    world = three()
    serve(world, "b", allow=[("team", "red")], allow_if='caller.tier == "admin"')
    held = served(world, "b")
    assert held is not None and held.policy is not None
    assert held.allow == [("team", "red")]
    assert (held.policy.tree != "", held.policy.lets_strangers) == (True, False)
    view = shown(world, "c").providers[0]
    assert (view.allow, view.allow_if) == ([("team", "red")], 'caller.tier == "admin"')


@pytest.mark.parametrize(
    ("fields", "slug", "says"),
    [
        ({"name": "API"}, "name-invalid", "is not a valid name"),
        ({"target": ""}, "usage", "not a place where something listens"),
        ({"target": "0"}, "usage", "not a place"),
        ({"target": "65536"}, "usage", "not a place"),
        ({"target": "http://x:80"}, "usage", "not a place"),
        ({"target": "tcp:"}, "usage", "not a place"),
        ({"target": "a b:80"}, "usage", "not a place"),
        ({"target": "::1:80"}, "usage", "not a place"),
        ({"target": "unix:run/x"}, "usage", "not a whole path"),
        ({"target": "unix:/" + "x" * 120}, "path-too-long", "over 107"),
        ({"allow_if": "caller.tier =="}, "bad-policy", ""),
        ({"allow": [("k", str(n)) for n in range(17)]}, "config-invalid", "17 pairs"),
        ({"idle_ms": 5, "target": "udp:53"}, "config-invalid", "5 ms"),
    ],
)
def test_what_makes_no_sense_is_refused_with_a_remedy(
    fields: dict[str, Any], slug: str, says: str
) -> None:
    """And nothing is published."""
    world = three()
    reply = world.command("b", ServeCommand(**({"name": "api", "target": "80"} | fields)))
    assert (reply.slug, says in reply.reason, bool(reply.remedy)) == (slug, True, True)
    assert world.ask("b", ServicesCommand()).services == []


@pytest.mark.parametrize(
    ("text", "target", "datagrams"),
    [
        ("80", "127.0.0.1:80", False),
        ("tcp:80", "127.0.0.1:80", False),
        ("udp:53", "127.0.0.1:53", True),
        ("nas.lan:443", "nas.lan:443", False),
        ("[::1]:80", "[::1]:80", False),
        ("udp:10.0.0.9:53", "10.0.0.9:53", True),
        ("unix:/run/db", "unix:/run/db", False),
    ],
)
def test_a_target_is_written_in_many_ways(text: str, target: str, datagrams: bool) -> None:
    """A port alone is of this machine."""
    world = three()
    said = serve(world, "b", target=text)
    assert (said.target, said.datagrams) == (target, datagrams)


# -- what once went wrong --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "slug"),
    [
        (ConnectCommand(service="dns", idle_ms=-1), "config-invalid"),
        (ConnectCommand(service="dns", idle_ms=1 << 63), "config-invalid"),
        (ConnectCommand(service="api", idle_ms=5_000), "usage"),
        (ConnectCommand(service="api@"), "usage"),
        (ConnectCommand(service="api@d"), "service-not-found"),
        (ConnectCommand(service="api", local="[::ffff:127.0.0.1]:80"), "denied"),
        (ServeCommand(name="x", target="1", beside=True, take_over=True), "usage"),
        (ServeCommand(name="x", target="udp:1", proxy_header=True), "usage"),
        (ServeCommand(name="x", target="1", idle_ms=5_000), "usage"),
    ],
)
def test_words_that_would_do_nothing_or_harm_are_refused(command: Any, slug: str) -> None:
    """With a remedy, and at once."""
    world = three()
    serve(world, "b")
    serve(world, "b", "dns", target="udp:53")
    reply = world.command("c", command)
    assert (reply.slug, bool(reply.remedy)) == (slug, True)


def test_what_is_taken_over_is_no_target_here_any_more() -> None:
    """It is shown where it counts."""
    world = three()
    serve(world, "b")
    serve(world, "a", take_over=True)
    assert shown(world, "b").target == ""


def test_no_publisher_keeps_a_name_for_ever() -> None:
    """At the highest epoch a higher tier takes it; what is above that is no record."""
    world = three()
    for epoch, tried in ((records.EPOCH_MAX, ["b"]), (records.EPOCH_MAX + 1, [])):
        payload = encode(records.ServiceRecord("api", epoch, False, False, 80))
        publish(world, "b", payload)
        assert providers(world, "c") == tried
    publish(world, "b", encode(records.ServiceRecord("api", records.EPOCH_MAX, False, False, 80)))
    assert serve(world, "a", take_over=True).providers == ["a"]
    assert [providers(world, at) for at in "abc"] == [["a"]] * 3
    world.ask("a", UnserveCommand(name="api", everywhere=True))
    world.run(2 * SECOND)
    assert [row(world, at) for at in "abc"] == [None] * 3


def publish(world: World, name: str, payload: bytes) -> None:
    """A node that obeys no rule publishes a record of a service."""
    node = world.machines[name].node
    assert node is not None
    node._records.publish(SERVICE, b"api", payload)
    world.run(2 * SECOND)


def test_what_nobody_else_spoke_of_leaves_nothing_behind() -> None:
    """A name that is served and given back twenty times takes no room among the owner's records."""
    world = three()

    def held() -> int:
        node = world.machines["b"].node
        assert node is not None
        return sum(1 for r in node._records.all_records() if r.body.kind == SERVICE and r.is_live)

    for number in range(20):
        serve(world, "b", f"n{number}")
        world.ask("b", UnserveCommand(name=f"n{number}"))
    assert held() == 0
