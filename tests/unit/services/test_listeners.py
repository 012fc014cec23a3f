"""Whole nodes: which listeners stand, and what is tried again."""

from __future__ import annotations

import msgspec
import pytest

from pollen.core import events as ev
from pollen.core.effects import OpenListener
from pollen.core.ids import SECOND
from pollen.core.servicewords import (
    ConnectCommand,
    DisconnectCommand,
    ServeCommand,
)
from tests.unit.services.helpers import listeners, row, serve, slug_of
from tests.unit.world import three


def test_a_listener_takes_the_port_of_the_service() -> None:
    """The same wish again is the same listener."""
    world = three()
    serve(world, "b")
    said = world.ask("c", ConnectCommand(service="api"))
    assert (said.bound, said.provider, said.unchanged) == ("127.0.0.1:8080", "", False)
    assert world.ask("c", ConnectCommand(service="api")).unchanged
    assert listeners(world, "c") == [("api", "127.0.0.1:8080", "open")]


def test_one_provider_may_be_meant() -> None:
    """By name or by the first digits of its id."""
    world = three()
    serve(world, "b")
    serve(world, "c", beside=True)
    said = world.ask("a", ConnectCommand(service="api@c", local="7000"))
    assert (said.bound, said.provider) == ("127.0.0.1:7000", "c")
    digits = world.machines["b"].key.hex()[:8]
    assert world.ask("a", ConnectCommand(service=f"api@{digits}", local="7001")).provider == "b"
    reply = world.command("a", ConnectCommand(service="api@a"))
    assert (reply.slug, "does not serve" in reply.reason) == ("service-not-found", True)
    assert len(reply.remedy.splitlines()) == 2


def test_a_gate_that_lets_this_node_in_nowhere_is_said_at_once() -> None:
    """Before any client comes; another node may connect."""
    world = three()
    serve(world, "b", allow_if='caller.tier == "admin"')
    reply = world.command("c", ConnectCommand(service="api"))
    assert (reply.slug, 'caller.tier == "admin"' in reply.remedy) == ("denied", True)
    assert world.ask("a", ConnectCommand(service="api")).bound == "127.0.0.1:8080"


def test_an_address_that_is_open_to_others_must_be_meant() -> None:
    """Whoever comes there comes as this node."""
    world = three()
    serve(world, "b")
    command = ConnectCommand(service="api", local="0.0.0.0:80")
    assert slug_of(world, "c", command) == "denied"
    said = world.ask("c", ConnectCommand(service="api", local="0.0.0.0:80", any_user=True))
    assert said.bound == "0.0.0.0:80"


@pytest.mark.parametrize(
    ("service", "local", "slug"),
    [
        ("apj", "", "service-not-found"),
        ("api", "x", "usage"),
        ("api", "70000", "usage"),
        ("api", "host:80", "usage"),
        ("api", "unix:x", "usage"),
    ],
)
def test_a_wish_that_makes_no_sense_opens_nothing(service: str, local: str, slug: str) -> None:
    """A near name is proposed."""
    world = three()
    serve(world, "b")
    reply = world.command("c", ConnectCommand(service=service, local=local))
    assert (reply.slug, bool(reply.remedy)) == (slug, True)
    assert listeners(world, "c") == []


def test_listeners_stand_again_after_a_restart() -> None:
    """At the same place, though their service is not there yet."""
    world = three()
    serve(world, "b")
    world.ask("c", ConnectCommand(service="api", local="7000"))
    world.kill("b")
    world.kill("c")
    world.run(SECOND)
    world.start("c")
    world.run(5 * SECOND)
    assert listeners(world, "c") == [("api", "127.0.0.1:7000", "open")]


def test_a_listener_that_cannot_stand_again_is_shown_and_tried_again() -> None:
    """Its reason is logged once."""
    world = three()
    serve(world, "b")
    world.ask("c", ConnectCommand(service="api", local="7000"))
    world.kill("c")
    world.run(SECOND)
    world.machines["c"].taken_ports.add("127.0.0.1:7000")
    world.start("c")
    world.run(12 * SECOND)
    assert listeners(world, "c") == [("api", "127.0.0.1:7000", "failed")]
    lines = [log for log in world.machines["c"].logs if log.event == "listener-failed"]
    assert len(lines) == 1
    world.machines["c"].taken_ports.clear()
    world.run(6 * SECOND)
    assert listeners(world, "c") == [("api", "127.0.0.1:7000", "open")]


def test_a_port_that_is_taken_is_an_error_only_when_it_was_asked_for() -> None:
    """Without one any port will do, and stays the same from then on."""
    world = three()
    serve(world, "b")
    world.machines["c"].taken_ports.add("127.0.0.1:8080")
    assert slug_of(world, "c", ConnectCommand(service="api", local="8080")) == "port-in-use"
    assert listeners(world, "c") == []
    said = world.ask("c", ConnectCommand(service="api"))
    assert said.bound.startswith("127.0.0.1:") and not said.bound.endswith((":0", ":8080"))
    world.kill("c")
    world.run(SECOND)
    world.start("c")
    world.run(5 * SECOND)
    assert listeners(world, "c") == [("api", said.bound, "open")]


@pytest.mark.parametrize("target", ["api", "127.0.0.1:7000", "7000"])
def test_what_is_disconnected_stays_so(target: str) -> None:
    """By service or by place; it is gone after a restart as well."""
    world = three()
    serve(world, "b")
    world.ask("c", ConnectCommand(service="api", local="7000"))
    assert world.ask("c", DisconnectCommand(target=target)).bound == ["127.0.0.1:7000"]
    assert listeners(world, "c") == []
    reply = world.command("c", DisconnectCommand(target=target))
    assert (reply.slug, bool(reply.remedy)) == ("service-not-found", True)
    world.kill("c")
    world.run(SECOND)
    world.start("c")
    world.run(5 * SECOND)
    assert listeners(world, "c") == []


def test_an_answer_for_a_listener_that_is_gone_is_harmless() -> None:
    """It was closed while the muscles opened it."""
    world = three()
    world.post("c", ev.ListenerOpened(listener=99, bound="127.0.0.1:1"))
    world.run(SECOND)
    assert listeners(world, "c") == []


def test_a_proxy_is_a_listener_without_a_service() -> None:
    """At its own port, for this machine only; it stands again like every other."""
    world = three()
    said = world.ask("c", ConnectCommand(service=""))
    assert (said.service, said.bound) == ("", "127.0.0.1:1080")
    assert slug_of(world, "c", ConnectCommand(service="", local="0.0.0.0:1", any_user=True)) == (
        "denied"
    )
    world.machines["c"].taken_ports.add("127.0.0.1:1080")
    assert slug_of(world, "c", ConnectCommand(service="", local="1080")) == ""
    assert world.ask("c", DisconnectCommand(target="1080")).bound == ["127.0.0.1:1080"]
    assert slug_of(world, "c", ConnectCommand(service="")) == "port-in-use"
    assert listeners(world, "c") == []


def test_a_proxy_elsewhere_has_a_file_of_passwords_and_keeps_it() -> None:
    """Whoever comes there is known by a password alone; one service has no place for one."""
    world = three()
    machine = world.machines["c"]
    machine.keeps_trace = True
    serve(world, "b", "web")
    wish = ConnectCommand(service="", local="0.0.0.0:1080")
    reply = world.command("c", wish)
    assert (reply.slug, "--auth FILE" in reply.remedy) == ("denied", True)
    for auth, name in (("users", ""), ("/users", "web")):
        asked = ConnectCommand(service=name, local="0.0.0.0:1080", auth=auth)
        assert slug_of(world, "c", asked) == "usage"
    said = world.ask("c", msgspec.structs.replace(wish, auth="/users"))
    assert said.bound == "0.0.0.0:1080"
    world.kill("c")
    world.run(SECOND)
    world.start("c")
    world.run(5 * SECOND)
    asked = [effect for effect in machine.trace if isinstance(effect, OpenListener)]
    assert [held.auth for held in asked] == ["/users", "/users"]
    # Another file is another listener.
    other = msgspec.structs.replace(wish, auth="/others")
    assert slug_of(world, "c", other) == "port-in-use"


def test_two_listeners_of_one_port_stand_again_both() -> None:
    """One of streams and one of datagrams; closing one leaves the other on disk."""
    world = three()
    serve(world, "b", "web")
    serve(world, "b", "dns", target="udp:53")
    for name in ("web", "dns"):
        world.ask("c", ConnectCommand(service=name, local="5353"))
    for wanted in (["dns", "web"], ["web"]):
        world.kill("c")
        world.run(SECOND)
        world.start("c")
        world.run(5 * SECOND)
        assert [service for service, _, _ in listeners(world, "c")] == wanted
        if len(wanted) == 2:
            world.ask("c", DisconnectCommand(target="dns"))


def test_a_place_of_another_listener_is_refused() -> None:
    """Whatever its state, so that closing one never forgets the other."""
    world = three()
    serve(world, "b", "api")
    serve(world, "b", "db", target="5432")
    world.ask("c", ConnectCommand(service="api", local="7000"))
    reply = world.command("c", ConnectCommand(service="db", local="7000"))
    assert (reply.slug, "pln disconnect 127.0.0.1:7000" in reply.remedy) == ("port-in-use", True)
    world.kill("c")
    world.machines["c"].taken_ports.add("127.0.0.1:7000")
    world.start("c")
    world.run(5 * SECOND)
    for name in ("api", "db"):
        reply = world.command("c", ConnectCommand(service=name, local="7000"))
        assert (reply.slug, "(failed)" in reply.reason) == ("port-in-use", True)
    assert len(listeners(world, "c")) == 1


def test_a_listener_never_stands_where_a_service_of_this_node_is() -> None:
    """Its clients would be led back to it, each with another tunnel, until no file is left."""
    world = three()
    serve(world, "b")
    said = world.ask("b", ConnectCommand(service="api"))
    assert said.bound.startswith("127.0.0.1:") and not said.bound.endswith((":0", ":8080"))
    reply = world.command("b", ConnectCommand(service="api", local="8080"))
    assert (reply.slug, "for ever" in reply.reason) == ("port-in-use", True)
    assert slug_of(world, "b", ConnectCommand(service="", local="8080")) == "port-in-use"


def test_what_a_listener_of_this_node_has_is_served_by_nobody() -> None:
    """Each client would be handed on to where it came from."""
    world = three()
    serve(world, "b")
    world.ask("c", ConnectCommand(service="api", local="9000"))
    reply = world.command("c", ServeCommand(name="round", target="9000"))
    assert (reply.slug, "pln disconnect 127.0.0.1:9000" in reply.remedy) == ("usage", True)
    assert row(world, "c", "round") is None
    assert serve(world, "c", name="other", target="udp:9000").target == "127.0.0.1:9000"
    world.ask("c", DisconnectCommand(target="9000"))
    assert serve(world, "c", name="round", target="9000").target == "127.0.0.1:9000"
