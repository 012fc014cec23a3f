"""What an admin has another node do: who may, what comes back, what is said when nothing does."""

from __future__ import annotations

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core import limits
from pollen.core.commands import AdminCommand, Administered
from pollen.core.ids import SECOND, LinkId
from pollen.core.messages import AdminReply, AdminRequest, encode_message
from tests.unit.world import Machine, World

WAIT_MS = 5_000


def cluster() -> World:
    """a founded it; b is an admin, c and d are publishers."""
    world = World(1)
    world.found("a")
    world.run(SECOND)
    for name, tier in (("b", "admin"), ("c", "publisher"), ("d", "publisher")):
        assert isinstance(world.join(name, world.invite("a", tier)), Machine)
        world.run(3 * SECOND)
    return world


def request(world: World, name: str, args: bytes = b"args", verb: str = "load") -> AdminCommand:
    node = world.machines[name].key.hex()
    return AdminCommand(node=node, verb=verb, args=args, wait_ms=WAIT_MS)


def test_an_admin_has_another_node_do_something() -> None:
    world = cluster()
    for asker in ("a", "b"):
        reply = world.command(asker, request(world, "c"), wait=3 * SECOND)
        assert reply.result == Administered(body=b"args"), reply.reason


def test_nobody_else_may_and_both_sides_say_so() -> None:
    """The asker's node before anything is sent; the other to one that asks all the same."""
    world = cluster()
    reply = world.command("c", request(world, "d"))
    assert (reply.slug, reply.result) == ("denied", None)
    machine = world.machines["d"]
    raw = encode_message(AdminRequest(b"k", "load", b"", WAIT_MS))
    machine.keeps_trace = True
    world.post("d", ev.MessageReceived(link=LinkId(0), peer=world.machines["c"].key, body=raw))
    world.run(SECOND)
    assert not [effect for effect in machine.trace if isinstance(effect, fx.RunVerb)]
    assert [log.event for log in machine.logs][-1] == "admin-refused"


def test_a_verb_of_a_later_version_is_refused() -> None:
    world = cluster()
    reply = world.command("a", request(world, "c", verb="dance"), wait=2 * SECOND)
    assert reply.slug == "usage"
    assert "dance" in reply.reason


def test_what_is_too_large_for_a_message_is_refused_at_once() -> None:
    world = cluster()
    args = bytes(limits.ADMIN_ARGS_MAX_BYTES + 1)
    assert world.command("a", request(world, "c", args)).slug == "input-too-large"


def test_a_node_that_is_gone_is_waited_for_no_longer_than_was_said() -> None:
    world = cluster()
    world.kill("c")
    asked = world.ask_later("a", request(world, "c"))
    world.run(WAIT_MS * 1_000_000 - SECOND)
    assert asked not in world.machines["a"].replies
    world.run(2 * SECOND)
    reply = world.machines["a"].replies[asked]
    assert (reply.slug, "5 s" in reply.reason) == ("unreachable", True)


def test_an_answer_of_another_node_is_nothing() -> None:
    """Keys are easy to guess; the link says who speaks."""
    world = cluster()
    world.kill("c")
    asked = world.ask_later("a", request(world, "c"))
    world.run(SECOND)
    for number in range(8):
        raw = encode_message(AdminReply(number.to_bytes(8, "big"), b"forged"))
        world.post("a", ev.MessageReceived(link=LinkId(0), peer=world.machines["d"].key, body=raw))
    world.run(SECOND)
    assert asked not in world.machines["a"].replies


def test_a_node_does_so_much_at_once() -> None:
    world = cluster()
    many = [world.ask_later("a", request(world, "c")) for _ in range(limits.ADMIN_RUNS_MAX + 1)]
    world.run(3 * SECOND)
    slugs = [world.machines["a"].replies[one].slug for one in many]
    assert sorted(slugs) == [""] * limits.ADMIN_RUNS_MAX + ["overloaded"]
