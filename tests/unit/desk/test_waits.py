"""Who waits for a seed is answered once: when it is ready, replaced, or when the time is over."""

from __future__ import annotations

from pollen.core import limits
from pollen.core.commands import CheckSeedCommand, SeedState, WaitSeedCommand
from pollen.core.effects import Reply
from pollen.core.ids import MILLISECOND, SECOND, RequestId
from tests.unit.world import World, three


def asked(world: World, node: str, **wish: object) -> RequestId:
    return world.ask_later(node, WaitSeedCommand(**wish))  # type: ignore[arg-type]


def state(reply: Reply) -> SeedState:
    assert isinstance(reply.result, SeedState), reply
    return reply.result


def test_a_wait_is_answered_in_the_turn_in_which_the_last_host_is_ready() -> None:
    """Not at the next look of a clock."""
    world = three()
    published = world.seed("a", "echo", min_replicas=3)
    seed = published.result.seed  # type: ignore[union-attr]
    request = asked(world, "a", name="echo", seed=seed, wait_ms=10_000)
    replies = world.machines["a"].replies
    assert world.run_until(lambda: request in replies, 9 * SECOND, 10 * MILLISECOND)
    view = state(replies[request]).seed
    assert view is not None and (view.ready, view.wanted) == (3, 3)


def test_a_wait_ends_with_its_time() -> None:
    """The answer says how far it came."""
    world = three()
    world.seed("a", "echo", host=[("zone", "moon")])
    request = asked(world, "b", name="echo", wait_ms=200)
    world.run(SECOND)
    told = state(world.machines["b"].replies[request])
    assert told.seed is not None and told.seed.ready == 0
    assert any("no node may host echo" in warning for warning in told.warnings)


def test_a_wait_may_give_the_others_a_moment_once_one_host_is_ready() -> None:
    """One of them compiles for long."""
    world = three()
    slow = world.machines["c"].plane
    assert slow is not None
    slow.load = lambda effect: None  # type: ignore[method-assign]
    seed = world.seed("a", "echo", everywhere=True).result.seed  # type: ignore[union-attr]
    wish = {"name": "echo", "seed": seed, "wait_ms": 8_000}
    waits = {ms: asked(world, "a", **wish, rest_ms=ms) for ms in (0, 400)}
    world.run(3 * SECOND)
    replies = world.machines["a"].replies
    assert waits[0] not in replies
    view = state(replies[waits[400]]).seed
    assert view is not None and 0 < view.ready < view.wanted


def test_a_wait_for_a_version_that_another_one_replaced_ends_at_once() -> None:
    """Also one for a name that nobody holds."""
    world = three()
    world.seed("a", "echo")
    for wish in ({"name": "echo", "seed": "00" * 32}, {"name": "nowhere"}):
        request = asked(world, "a", wait_ms=60_000, **wish)
        world.run(MILLISECOND)
        assert request in world.machines["a"].replies


def test_a_seed_that_waits_to_be_called_is_not_waited_for() -> None:
    """Nobody is to host it; half a second is enough to be sure."""
    world = three()
    world.seed("a", "echo", min_replicas=0)
    request = asked(world, "a", name="echo", wait_ms=60_000)
    world.run(limits.WAIT_LOOK_NS + 100 * MILLISECOND)
    assert request in world.machines["a"].replies


def test_only_so_many_wait_at_a_time() -> None:
    """The next one is told so, and those who wait go on waiting."""
    world = three()
    world.seed("a", "echo", host=[("zone", "moon")])
    waits = [asked(world, "a", name="echo", wait_ms=400) for _ in range(limits.WAITS_MAX + 1)]
    world.run(MILLISECOND)
    replies = world.machines["a"].replies
    assert [replies[waits[-1]].slug] == ["overloaded"] and waits[0] not in replies
    world.run(SECOND)
    assert all(request in replies for request in waits)


def test_what_would_be_refused_whatever_the_module_is_refused_before_it_is_sent() -> None:
    """Name, options and tier; what is fine is told as such and publishes nothing."""
    world = three()
    fine = world.command("a", CheckSeedCommand(name="echo"))
    wrong = world.command("a", CheckSeedCommand(name="no name"))
    assert (fine.slug, wrong.slug) == ("", "name-invalid")
    assert world.machines["a"].node is not None
    assert not world.machines["a"].node._situation.names
