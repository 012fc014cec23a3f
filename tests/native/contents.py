"""Who gets a content of the muscles, and until when it stays. Each function is run in a process."""

from __future__ import annotations

import msgspec

from pollen.core import effects as fx
from pollen.core.ids import Hash
from tests.native.muscle import EXAMPLES, Muscle, link, seed_row, wait_for


def goes_to_hosts_alone() -> None:
    """A module's content goes to members that pass the gate of its hosts, for its publisher alone;
    what was uploaded for anybody goes for every publisher."""
    a, b = Muscle(), Muscle()
    link(a, b)
    data = (EXAMPLES / "echo.wasm").read_bytes()
    content = a.upload(data)
    own = seed_row("echo", content, ["echo"], [], a.peer)
    gated = msgspec.structs.replace(own, host=[("team", "blue")])
    stranger = seed_row("other", content, ["echo"], [], b.peer)

    def loads(row: fx.SeedRow, properties: str = "{}") -> str:
        for side in (a, b):
            side.rows = [row]
            side.push([a.peer, b.peer], properties=properties)
        number = sum(event["t"] == "load_finished" for event in b.events) + 1
        b.raw.load_seed(row.seed, [a.peer])
        return str(b.wait("load_finished", number)["reason"])

    refused = "no holder of the content sent it; the last one: the peer refused: blob-not-found"
    assert loads(gated, '{"team":"red"}') == refused
    assert loads(stranger) == refused
    assert a.upload(data, "?for=anybody") == content
    assert loads(stranger) == ""
    b.raw.unload_seed(stranger.seed)
    assert loads(gated, '{"team":"red"}') == refused
    assert loads(gated, '{"team":"blue"}') == ""
    for side in (a, b):
        side.raw.close(0)


def outlives_an_unload() -> None:
    """What was uploaded after the row of a seed came stays when that seed is unloaded: the row of
    the next one is on its way."""
    side = Muscle()
    side.seed("echo", ["echo"])
    (row,) = side.rows
    assert side.upload((EXAMPLES / "echo.wasm").read_bytes()) == row.content
    side.raw.unload_seed(row.seed)
    for number in range(1, 51):
        side.raw.inspect_module(number, row.content)
        assert side.wait("inspected", number)["slug"] == ""
    # It is let go with the seed that it was uploaded for.
    side.seed("echo", ["echo"])
    side.rows = [msgspec.structs.replace(row, name="", seed=Hash(b"later".ljust(32, b".")))]
    side.push([side.peer])
    side.raw.unload_seed(side.rows[0].seed)

    def is_gone() -> bool:
        number = sum(event["t"] == "inspected" for event in side.events) + 1
        side.raw.inspect_module(number, row.content)
        return bool(side.wait("inspected", number)["slug"] == "blob-not-found")

    wait_for(is_gone, "the content is let go")
    side.raw.close(0)
