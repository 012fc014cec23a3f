"""``pln why service``: who is tried, whom a gate keeps out, and who does not count."""

from __future__ import annotations

from typing import Any

from pollen.core.ids import SECOND
from pollen.core.servicewords import ConnectCommand, ServeCommand
from pollen.core.whywords import WhyService, WhyServiceCommand
from tests.unit.services.helpers import providers, serve, shown, slug_of
from tests.unit.world import World, three


def why(world: World, at: str, target: str = "api") -> WhyService:
    told = world.ask(at, WhyServiceCommand(target=target))
    assert isinstance(told, WhyService)
    return told


def test_the_order_that_is_told_is_that_of_the_muscles() -> None:
    """With what each costs, and how packets get there."""
    world = three()
    serve(world, "b")
    serve(world, "c", beside=True)
    for at in "abc":
        told = why(world, at)
        assert [way.name for way in told.providers] == providers(world, at)
    first, second = why(world, "b").providers
    assert (first.name, first.state, first.price_us, first.price_source) == ("b", "self", 0, "here")
    assert (second.state, second.path, second.lets, second.gate) == ("online", "direct", True, "")
    assert why(world, "b").why[0] == "this node serves it itself, and is tried first"
    near = why(world, "a").providers[0].name
    assert why(world, "a").why[0] == f"{near} is tried first, the nearest of 2 that are online"


def test_a_provider_that_is_away_is_told_and_not_tried() -> None:
    """It stands in the list, with its state."""
    world = three()
    serve(world, "b")
    world.crash("b")
    world.run(30 * SECOND)
    told = why(world, "a")
    assert [(way.name, way.state) for way in told.providers] == [("b", "offline")]
    assert told.why == ["nobody who serves it is online"]
    serve(world, "c", beside=True)
    assert why(world, "a").why == ["c is the only one that is online"]
    assert why(world, "a", "api@c").why == ["c alone is asked for"]
    assert why(world, "a", "api@b").why == ["b alone is asked for, and is not online"]


def test_a_gate_is_told_with_whom_it_keeps_out() -> None:
    """This node first, and then the others."""
    world = three()
    serve(world, "b", allow=[("team", "red")], allow_if='caller.tier == "admin"')
    gate = 'team=red and caller.tier == "admin"'
    told = why(world, "c")
    assert not told.allowed and [way.lets for way in told.providers] == [False]
    assert told.why[1:] == [
        f"the gate at b does not let this node in; it asks for: {gate}",
        f"the gate at b does not let in a; it asks for: {gate}",
    ]
    assert why(world, "b").why[1] == f"the gate at b does not let this node in; it asks for: {gate}"


def test_who_serves_by_another_kind_does_not_count_and_is_told() -> None:
    """Two nodes may publish both at the same moment."""
    world = three()
    for node, target in (("b", "53"), ("c", "udp:53")):
        world.ask_later(node, ServeCommand(name="api", target=target))
    world.run(2 * SECOND)
    told = why(world, "a")
    (counts,) = told.providers
    other = {"b": "c", "c": "b"}[counts.name]
    by, than = ("UDP", "TCP") if other == "c" else ("TCP", "UDP")
    assert f"{other} does not count: it serves the name by {by}, and others by {than}" in told.why
    assert shown(world, "a").other_kind == [other]


def test_who_was_taken_over_is_told() -> None:
    """Its own record stands until it is withdrawn."""
    world = three()
    serve(world, "b")
    serve(world, "a", take_over=True)
    assert "b does not count: the name was taken over, or withdrawn for all" in why(world, "c").why


def test_one_provider_is_meant_by_its_name_or_the_digits_of_its_id() -> None:
    """What listens here is told as well."""
    world = three()
    serve(world, "b")
    serve(world, "c", beside=True)
    digits = world.machines["c"].key.hex()[:8]
    for node in ("c", digits):
        assert [way.name for way in why(world, "a", f"api@{node}").providers] == ["c"]
    bound = world.ask("a", ConnectCommand(service="api@c", local="9000")).bound
    assert why(world, "a").why[-1] == f"clients of this machine find it at {bound}, for c alone"
    assert why(world, "b").why[-1] == "here it is at 127.0.0.1:8080"


def test_what_nobody_serves_is_not_found() -> None:
    """And a node that does not serve it neither."""
    world = three()
    serve(world, "b")

    def slug(target: str) -> str:
        asked: Any = WhyServiceCommand(target=target)
        return slug_of(world, "a", asked)

    assert slug("apy") == slug("api@a") == "service-not-found"
    assert slug("api@") == "usage"
