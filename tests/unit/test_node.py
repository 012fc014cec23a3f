"""Whole nodes against each other: join, mesh, seed, take-over from disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from pollen.core import effects as fx
from pollen.core.commands import StatusCommand, UnseedCommand
from pollen.core.ids import SECOND
from pollen.core.messages import Digest, decode_message
from tests.unit.world import World, three


def named_rows(world: World, name: str) -> dict[str, fx.SeedRow]:
    return {row.name: row for row in world.machines[name].seeds.values() if row.name}


def keys(world: World, names: str) -> list[bytes]:
    return sorted(world.machines[name].key for name in names)


def test_three_joined_nodes_form_a_full_mesh() -> None:
    """Everybody dials everybody it hears of, and one link a pair stays."""
    world = three()
    for name in "abc":
        assert keys(world, "abc") == sorted(world.machines[name].peers)
        assert len(list(world.network.ends_of(world.machines[name]))) == 2


def test_a_seed_runs_on_two_nodes_and_every_table_says_which() -> None:
    """The default minimum is 2: the plan picks them, whoever published."""
    world = three()
    seed = bytes.fromhex(world.seed("a", "echo").result.seed)
    world.run(2 * SECOND)
    hosts = sorted(m.key for m in world.machines.values() if seed in m.loaded)
    assert len(hosts) == 2
    for name in "abc":
        assert hosts == sorted(named_rows(world, name)["echo"].replicas)


def test_a_seed_everywhere_becomes_ready_on_all() -> None:
    """``everywhere`` means every member; every table lists all three."""
    world = three()
    reply = world.seed("a", "echo", everywhere=True)
    assert reply.slug == ""
    world.run(2 * SECOND)
    for name in "abc":
        assert keys(world, "abc") == sorted(named_rows(world, name)["echo"].replicas)
    assert world.machines["a"].key == world.machines["b"].loaded[bytes.fromhex(reply.result.seed)]


def test_the_nearest_replica_is_the_node_itself() -> None:
    """A row lists replicas nearest first; this node's own price is zero."""
    world = three()
    world.seed("a", "echo", everywhere=True)
    world.run(2 * SECOND)
    for name in "abc":
        assert world.machines[name].key == named_rows(world, name)["echo"].replicas[0]


def test_a_node_that_was_stopped_loads_from_a_survivor() -> None:
    """C, enrolled earlier, starts after A was killed: B gives it the module."""
    world = three()
    world.kill("c")
    world.run(SECOND)
    seed = bytes.fromhex(world.seed("a", "echo").result.seed)
    world.run(2 * SECOND)
    world.kill("a")
    world.run(SECOND)
    world.start("c")
    world.run(5 * SECOND)
    assert world.machines["b"].key == world.machines["c"].loaded[seed]
    assert keys(world, "bc") == sorted(named_rows(world, "c")["echo"].replicas)
    assert keys(world, "bc") == sorted(named_rows(world, "b")["echo"].replicas)


def test_a_killed_node_leaves_the_tables_within_three_seconds() -> None:
    """Calls are routed around it in the muscles at once; its membership ends by a verdict."""
    world = three()
    world.seed("a", "echo")
    world.run(2 * SECOND)
    world.kill("b")
    world.run(3 * SECOND)
    assert keys(world, "ac") == sorted(world.machines["a"].peers)
    assert keys(world, "ac") == sorted(named_rows(world, "a")["echo"].replicas)


def test_a_total_restart_comes_back_from_disk() -> None:
    """Names, members and addresses survive; claims are made again."""
    world = three()
    world.seed("b", "echo", everywhere=True)
    world.run(2 * SECOND)
    for name in "abc":
        world.kill(name)
    world.run(SECOND)
    for name in "abc":
        world.start(name)
    world.run(5 * SECOND)
    for name in "abc":
        assert keys(world, "abc") == sorted(named_rows(world, name)["echo"].replicas)


def test_an_update_serves_the_old_seed_until_the_new_one_is_ready() -> None:
    """While no host is ready with the new spec, the name still leads to the old one."""
    world = three()
    old = bytes.fromhex(world.seed("a", "echo", everywhere=True).result.seed)
    world.run(2 * SECOND)
    reply = world.seed("a", "echo", data=b"second", everywhere=True)
    new = bytes.fromhex(reply.result.seed)
    assert old.hex() == reply.result.replaced
    for effect in world.machines["b"].trace:
        if isinstance(effect, fx.PushTables):
            for row in effect.lanes.get(fx.SEEDS, fx.LaneRows()).rows:
                assert not (row.seed == new and row.name and not row.replicas)
    world.run(15 * SECOND)
    for name in "abc":
        assert new == named_rows(world, name)["echo"].seed
        assert [new] == list(world.machines[name].loaded)


def test_unseed_takes_the_seed_away_everywhere() -> None:
    """Withdrawn is a value: rows and replicas go on every node."""
    world = three()
    world.seed("a", "echo")
    world.run(2 * SECOND)
    world.ask("a", UnseedCommand(target="echo"))
    world.run(2 * SECOND)
    for name in "abc":
        assert world.machines[name].seeds == {}
        assert world.machines[name].loaded == {}


def test_status_says_what_is_there() -> None:
    """The health line counts nodes, seeds and replicas."""
    world = three()
    world.seed("a", "echo")
    world.run(2 * SECOND)
    status = world.ask("c", StatusCommand())
    assert status.summary == "healthy: 3 of 3 nodes, 1 seed, 2 replicas"
    world.kill("b")
    world.run(3 * SECOND)
    status = world.ask("c", StatusCommand())
    assert status.summary.startswith("degraded: 2 of 3 nodes")
    assert status.warnings == ["node b is offline; there: pln up -d"]


def test_idle_nodes_only_renew_their_tables() -> None:
    """Once settled, roots are compared and nothing is written; empty pushes renew leases."""
    world = three()
    world.seed("a", "echo")
    world.run(60 * SECOND)
    for machine in world.machines.values():
        machine.trace.clear()
    world.run(20 * SECOND)
    for machine in world.machines.values():
        kinds = {type(effect) for effect in machine.trace}
        assert kinds == {fx.PushTables, fx.SetTimer, fx.SendMessage}
        for effect in machine.trace:
            if isinstance(effect, fx.SendMessage):
                assert isinstance(decode_message(effect.body), Digest)
            if isinstance(effect, fx.PushTables):
                assert not effect.lanes


SCRIPT = """
import hashlib, msgspec
from tests.unit.world import three
world = three(7)
world.seed("a", "echo"); world.run(10**9)
world.kill("a"); world.run(10**10); world.start("a"); world.run(10**10)
state = hashlib.blake2b()
for machine in world.machines.values():
    for effect in machine.trace:
        state.update(type(effect).__name__.encode() + msgspec.msgpack.encode(effect))
print(state.hexdigest())
"""


def test_effects_do_not_depend_on_the_hash_seed() -> None:
    """Nothing order-sensitive iterates a set: one seed, two PYTHONHASHSEED values, one trace."""
    root = Path(__file__).parent.parent.parent
    seen = set()
    for hash_seed in ("1", "2"):
        path = os.pathsep.join([str(root / "src"), str(root)])
        env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": path}
        run = subprocess.run(
            [sys.executable, "-c", SCRIPT], env=env, capture_output=True, text=True, check=True
        )
        seen.add(run.stdout)
    assert len(seen) == 1
