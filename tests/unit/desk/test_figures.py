"""A node's own figures: the same as its status has, and read without making one."""

from __future__ import annotations

import msgspec
import pytest

from pollen.core.commands import FiguresCommand, OwnFigures, StatusCommand
from pollen.core.desk import views
from pollen.core.effects import Reply
from pollen.core.events import Commanded, SeedSample, Telemetry
from pollen.core.ids import SECOND, Hash, Now, RequestId
from tests.unit.desk.test_explain import settled
from tests.unit.flood import WALL, Turns, framed, make_node, make_writers
from tests.unit.test_flood import RING
from tests.unit.world import World


def figures(world: World, at: str, *, nodes: bool = False) -> OwnFigures:
    told = world.ask(at, FiguresCommand(nodes=nodes))
    assert isinstance(told, OwnFigures)
    return told


def counted(turns: Turns, count: int) -> Telemetry:
    """So many seeds ran here; one of them has no name any more, one never ran."""
    names = list(turns.node._situation.names.values())[:count]
    seeds = [SeedSample(h.holder.seed, 9, 2, 0, 0, 100, 5, 0) for h in names]
    seeds[0] = msgspec.structs.replace(seeds[0], good=0, failures=0)
    seeds.append(SeedSample(Hash(bytes(32)), 9, 2, 0, 0, 100, 5, 0))
    return Telemetry(peers=[], seeds=seeds, memory_bytes=77, events_dropped=0, control_stalls=0)


def test_the_figures_are_those_of_the_status_and_no_seed_is_shown_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each second somebody looks: what is made for it is what ran here, not every seed."""
    turns = Turns(make_node(RING))
    turns.take(framed(make_writers(RING, 20, 1, 0)))
    now = Now(SECOND, WALL + SECOND)  # type: ignore[arg-type]
    turns.node.handle(counted(turns, 5), now)

    def asked(command: StatusCommand | FiguresCommand) -> object:
        out = turns.node.handle(Commanded(request=RequestId(1), command=command), now)
        (reply,) = [e for e in out if isinstance(e, Reply)]
        assert not reply.slug
        return reply.result

    status = asked(StatusCommand())
    monkeypatch.delattr(views, "_seed_view")
    told = asked(FiguresCommand())
    assert isinstance(told, OwnFigures) and isinstance(status, views.Status)
    ran = [seed for seed in status.seeds if seed.calls]
    assert len(ran) == 4 < len(status.seeds)
    assert [(s.name, s.calls, s.failures) for s in told.figures.seeds] == [
        (s.name, s.calls, s.failures) for s in ran
    ]
    assert (told.figures.memory_bytes, told.figures.uptime_ms) == (77, status.uptime_ms)
    assert told.nodes == []


def test_whoever_asks_all_nodes_is_told_who_is_online() -> None:
    """This node first, and nobody who is away."""
    world = settled()
    assert [n.name for n in figures(world, "b", nodes=True).nodes] == ["b", "a", "c"]
    world.kill("a")
    world.run(5 * SECOND)
    told = figures(world, "b", nodes=True).nodes
    assert [(n.name, n.state) for n in told] == [("b", "self"), ("c", "online")]
    views_of_status = {n.name: n for n in world.ask("b", StatusCommand()).nodes}
    assert [n.ready for n in told] == [views_of_status[n.name].ready for n in told]
