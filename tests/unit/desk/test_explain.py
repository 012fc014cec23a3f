"""``pln why``: the plan's and the router's decisions in words, with the numbers they came from."""

from __future__ import annotations

import msgspec

from pollen.cli.status import status_lines
from pollen.core.commands import StatusCommand
from pollen.core.ids import SECOND
from pollen.core.whywords import WhyCall, WhyCallCommand, WhyPlace, WhyPlaceCommand
from pollen.sim.muscles import modules
from tests.unit.services.helpers import serve
from tests.unit.world import World, three


def settled(**options: object) -> World:
    world = three()
    world.seed("a", "echo", **options)
    world.run(3 * SECOND)
    return world


def why_place(world: World, at: str = "a", target: str = "echo") -> WhyPlace:
    told = world.ask(at, WhyPlaceCommand(target=target))
    assert isinstance(told, WhyPlace)
    return told


def why_call(world: World, at: str, **asked: str) -> WhyCall:
    told = world.ask(at, WhyCallCommand(target="echo", **asked))
    assert isinstance(told, WhyCall)
    return told


def test_the_ranking_that_is_told_is_the_plans() -> None:
    """Chosen nodes first, by falling rank and rising cost, and they are those that serve."""
    world = settled()
    told = why_place(world)
    assert [view.rank for view in told.nodes] == [1, 2, 3]
    assert [view.chosen for view in told.nodes] == [True, True, False]
    costs = [view.cost for view in told.nodes]
    assert costs == sorted(costs)
    serving = {m.name for m in world.machines.values() if m.loaded}
    assert {view.name for view in told.nodes if view.claim == "ready"} == serving
    assert {view.name for view in told.nodes if view.chosen} == serving


def test_all_nodes_tell_the_same_ranking() -> None:
    """It is a function of the records."""
    world = settled()
    assert why_place(world, "a").nodes == why_place(world, "b").nodes == why_place(world, "c").nodes


def test_what_waits_for_its_content_says_so() -> None:
    """Also where the same bytes are here for another publisher: they are not run for this one."""
    world = settled(min_replicas=1)
    hosts = {m.name for m in world.machines.values() if m.loaded}
    for name in {"a"} | hosts:
        world.crash(name)
    world.run(5 * SECOND)
    last = next(m for m in world.machines.values() if m.is_up)
    world.seed(last.name, "mine", min_replicas=1)
    world.run(5 * SECOND)
    assert len(last.loaded) == 1
    (reason,) = {v.reason for v in why_place(world, last.name).nodes if v.chosen}
    assert reason.endswith("wanted; it still loads: unreachable: no holder could be reached")


def test_a_node_that_cannot_host_says_why() -> None:
    """Offline, or without the property."""
    world = settled()
    world.kill("b")
    world.run(5 * SECOND)
    assert {v.name: v.reason for v in why_place(world).nodes}["b"] == "it is offline or left"
    world = settled(host=[("gpu", "yes")])
    told = why_place(world)
    assert (told.wanted, told.why[0]) == (0, "0 of 3 live nodes may host it")
    assert {view.reason for view in told.nodes} == {"it lacks a property of its host: gpu=yes"}
    assert "no node qualifies" in told.why
    assert "a node that may: pln invite --prop gpu=yes, then there: pln join TOKEN" in told.why


def test_why_place_tells_of_copies_that_are_awaited() -> None:
    """Two copies are asked for, and one is here: no node lacks."""
    world = settled()
    data = b"film"
    modules.make(data, modules.Module(size=9, functions=(), is_file=True))
    world.seed("a", "film", data, min_replicas=2)
    world.run(10 * SECOND)
    film = why_place(world, target="film")
    gone = next(view.name for view in film.nodes if view.claim == "ready" and view.name != "a")
    world.leave(gone)
    world.run(5 * SECOND)
    told = why_place(world, target="film")
    reason = "it left with its copy, which is awaited for ten minutes"
    assert {view.name: view.reason for view in told.nodes}[gone] == reason
    assert "1 of them on the disks of nodes that left and are awaited" in told.why
    assert (told.wanted, told.ready) == (1, 1)


def test_a_seed_that_nobody_may_host_degrades_the_cluster() -> None:
    """And the warning says what to ask."""
    status = settled(host=[("gpu", "yes")]).ask("a", StatusCommand())
    assert not status.healthy
    assert status.warnings == ["no node may host echo; see: pln why place echo"]


def test_the_ways_of_a_call_are_nearest_first() -> None:
    """A host's own way is itself, at no price; elsewhere the measured ones."""
    world = settled()
    hosts = {m.name for m in world.machines.values() if m.loaded}
    for name in "abc":
        told = why_call(world, name)
        assert {way.name for way in told.ways} == hosts
        prices = [way.price_us for way in told.ways]
        assert prices == sorted(prices)
        assert (told.ways[0].price_source == "here") == (name in hosts)
        assert told.allowed


def test_of_an_update_that_is_ready_nowhere_the_version_before_is_told() -> None:
    """That is what a call gets: its functions, its hosts, and no word of a lost seed."""
    world = settled(min_replicas=2)
    old = world.ask("a", StatusCommand()).seeds[0]
    hosts = sorted(m.name for m in world.machines.values() if m.loaded)
    new = world.seed("a", "echo", host=[("gpu", "yes")]).result
    world.run(5 * SECOND)
    told = why_call(world, "a")
    assert (told.seed, sorted(way.name for way in told.ways)) == (old.seed, hosts)
    waits = f"the newest version {new.seed[:8]} is ready nowhere, and this one serves on"
    assert any(text.startswith(waits) for text in told.why)
    status = world.ask("a", StatusCommand())
    (view,) = status.seeds
    assert (view.seed, view.ready, view.before.ready) == (new.seed, 0, 2)
    assert (view.before.seed, view.before.functions) == (old.seed, old.functions)
    assert any(f"{old.seed[:8]} serves on; see: pln why place" in w for w in status.warnings)
    assert not any("no node may host" in w for w in status.warnings)
    assert "2 replicas" in status.summary and not status.healthy
    assert any(old.seed[:8] in text for text in why_place(world).why)
    assert "0/0" not in "\n".join(status_lines(msgspec.to_builtins(status), ("seeds",), 200, True))
    world.seed("a", "echo", min_replicas=1)
    world.run(10 * SECOND)
    assert world.ask("a", StatusCommand()).seeds[0].before is None


def test_who_may_not_call_is_told_what_is_missing() -> None:
    """The gate is the seed's, the properties are the caller's."""
    told = why_call(settled(allow=[("team", "red")]), "b")
    assert not told.allowed
    assert "this node may not call it: it lacks team=red" in told.why


def test_a_policy_on_callers_is_told_part_by_part() -> None:
    """With the values of the node that asks; a part that leads nowhere is missing."""
    policy = 'caller.tier == "admin" && caller.props.team == "red"'
    told = why_call(settled(allow_if=policy), "a")
    assert not told.allowed
    assert [(part.depth, part.text, part.value) for part in told.policy] == [
        (0, policy, "missing"),
        (1, 'caller.tier == "admin"', "true"),
        (2, "caller.tier", '"admin"'),
        (1, 'caller.props.team == "red"', "missing"),
        (2, "caller.props.team", "missing"),
    ]
    why = "this node may not call it: --allow is not true of it: "
    assert f'{why}caller.props.team == "red" is missing' in told.why
    told = why_call(settled(allow_if='caller.tier == "admin"'), "a")
    assert (told.allowed, told.policy[0].value) == (True, "true")
    assert not [line for line in told.why if "may not" in line]
    told = why_call(settled(allow_if='caller.tier == "admin"', allow=[("team", "red")]), "a")
    assert (told.allowed, told.policy[0].value) == (False, "true")


def test_the_services_that_a_seed_may_ask_are_told_with_whom_their_gates_shut_out() -> None:
    """The publisher must be let in, and then the hosts."""
    world = settled(allow_services=["db"], min_replicas=1, everywhere=True)

    def said() -> str:
        return next(line for line in why_call(world, "a").why if "service db" in line)

    assert said() == "it may ask service db, which nobody serves"
    serve(world, "c", "db")
    assert said() == "it may ask service db at c"
    ids = {name: machine.key.hex() for name, machine in world.machines.items()}
    serve(world, "c", "db", allow_if=f'caller.id == "{ids["b"]}"')
    assert said() == (
        "it may not ask service db: the gate at c does not let in a, who published the seed"
    )
    serve(world, "c", "db", allow_if=f'caller.id == "{ids["a"]}" || caller.id == "{ids["b"]}"')
    assert said() == ("it may ask service db at c, but not from c: the gate does not let it in")
    serve(world, "b", "db", beside=True)
    assert said() in ("it may ask service db at b, c", "it may ask service db at c, b")
    world = settled(allow_services=["db"], host=[("gpu", "yes")])
    serve(world, "c", "db")
    assert "it may ask service db at c" in why_call(world, "a").why


def test_the_gate_of_a_service_that_lets_in_no_host_is_told() -> None:
    """The publisher alone is not enough: a guest comes from where it runs."""
    world = settled(allow_services=["db"])
    hosts = [name for name, machine in world.machines.items() if machine.loaded]
    alone = next(name for name in world.machines if name not in hosts)
    owner = world.machines["a"].key.hex()
    serve(world, alone, "db", allow_if=f'caller.id == "{owner}"')
    said = next(line for line in why_call(world, "a").why if "service db" in line)
    shut = [name for name in hosts if name != "a"]
    if "a" in hosts:
        assert said.endswith(f"but not from {', '.join(shut)}: the gate does not let it in")
    else:
        assert said.startswith("it may not ask service db")


def test_a_policy_on_hosts_is_told_of_each_node() -> None:
    """The part that keeps it from hosting stands in its reason."""
    told = why_place(settled(host_if='node.props.gpu == "yes" || node.tier == "root"'))
    assert (told.wanted, told.why[0]) == (0, "0 of 3 live nodes may host it")
    assert {view.reason for view in told.nodes} == {
        '--host-if is not true of it: node.props.gpu == "yes" is missing'
    }
    assert any("--host-if asks for: node.props.gpu" in line for line in told.why)
    told = why_place(settled(host_if='node.tier == "admin"'))
    assert all(view.policy[0].text == 'node.tier == "admin"' for view in told.nodes)
    assert {view.policy[0].value == "true" for view in told.nodes if view.rank} == {True}


def test_what_is_not_there_is_refused_with_what_is() -> None:
    """A name that is near; the functions that there are."""
    world = settled()
    refused = world.command("a", WhyPlaceCommand(target="ehco"))
    assert (refused.slug, refused.remedy) == ("seed-not-found", "did you mean: echo")
    refused = world.command("a", WhyCallCommand(target="echo", function="nope"))
    assert refused.slug == "function-not-found"


def test_asking_changes_nothing() -> None:
    """What a node shows is the same before and after."""
    world = settled()
    before = world.ask("a", StatusCommand())
    why_place(world)
    why_call(world, "a")
    assert world.ask("a", StatusCommand()).seeds == before.seeds
