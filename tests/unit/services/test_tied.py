"""Services that are programs: they end with the program, and with the node that served them."""

from __future__ import annotations

from pollen.core.ids import SECOND
from pollen.core.servicewords import ServeCommand, UnserveCommand
from tests.unit.services.helpers import providers, row, serve, served, slug_of
from tests.unit.world import three

PROGRAM, OTHER = "unix:/run/s1-0.sock", "unix:/run/s2-0.sock"


def test_a_program_is_served_no_more_after_a_restart_of_its_node() -> None:
    """Nobody is led to a socket that is gone; others of the name go on."""
    world = three()
    serve(world, "b", target=PROGRAM, tied=True)
    serve(world, "c", beside=True)
    assert sorted(providers(world, "a")) == ["b", "c"]
    world.kill("b")
    world.run(SECOND)
    world.start("b")
    world.run(5 * SECOND)
    assert [providers(world, at) for at in "abc"] == [["c"]] * 3
    assert served(world, "b") is None
    # And after another one, which finds its word on the disk.
    world.kill("b")
    world.start("b")
    world.run(5 * SECOND)
    assert providers(world, "a") == ["c"]
    assert served(world, "b") is None


def test_a_name_that_only_a_program_had_is_free_after_a_restart() -> None:
    """Its record goes."""
    world = three()
    serve(world, "b", target=PROGRAM, tied=True)
    world.crash("b")
    world.run(SECOND)
    world.start("b")
    world.run(5 * SECOND)
    assert [row(world, at) for at in "abc"] == [None] * 3
    assert serve(world, "c").providers == ["c"]


def test_a_program_that_is_back_at_once_is_served_on() -> None:
    """It asks again before anything was withdrawn."""
    world = three()
    serve(world, "b", target=PROGRAM, tied=True)
    world.kill("b")
    world.start("b")
    serve(world, "b", target=OTHER, tied=True)
    world.run(5 * SECOND)
    held = served(world, "b")
    assert held is not None and held.target == OTHER
    assert providers(world, "a") == ["b"]


def test_the_end_of_a_program_ends_what_is_its_own_only() -> None:
    """Not what is served from elsewhere by now, nor what a person served."""
    world = three()
    serve(world, "b", target=PROGRAM, tied=True)
    ended = UnserveCommand(name="api", tied=OTHER)
    assert slug_of(world, "b", ended) == "service-not-found"
    assert providers(world, "a") == ["b"]
    world.ask("b", UnserveCommand(name="api", tied=PROGRAM))
    world.run(2 * SECOND)
    assert row(world, "a") is None
    serve(world, "b", target=PROGRAM)
    assert slug_of(world, "b", UnserveCommand(name="api", tied=PROGRAM)) == "service-not-found"
    assert providers(world, "a") == ["b"]


def test_a_program_takes_no_name_from_this_node_nor_loses_it_so() -> None:
    """Its end would take away what somebody else serves."""
    world = three()
    serve(world, "b", target=PROGRAM, tied=True)
    serve(world, "b", name="old")
    for name, target, tied in (
        ("api", OTHER, True),
        ("api", "8080", False),
        ("old", PROGRAM, True),
    ):
        command = ServeCommand(name=name, target=target, tied=tied)
        reply = world.command("b", command)
        assert (reply.slug, f"pln unserve {name}" in reply.remedy) == ("name-taken", True)
    assert serve(world, "b", target=PROGRAM, tied=True).unchanged
    world.ask("b", UnserveCommand(name="api"))
    assert serve(world, "b").providers == ["b"]
