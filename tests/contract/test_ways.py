"""How packets go to a peer, as the runtime relies on it: one claim for the fake and the real."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from pollen.core import effects as fx
from pollen.core import events as ev
from pollen.core.ids import PeerId
from pollen.runtime.loop.native import slug_of
from tests.contract.conftest import Side, linked

pytestmark = pytest.mark.timeout(60)


def test_where_a_links_packets_go_is_told_at_once(sides: Callable[[str], Side]) -> None:
    """The first way is an event of its own, after the Hello, at both ends."""
    a, b = linked(sides)
    for side, other in ((a, b), (b, a)):
        moved = side.wait(ev.PathMoved)
        assert moved.link == side.wait(ev.HelloReceived).link
        assert (moved.peer, moved.address) == (other.peer, other.addresses[0])
        assert side.events.index(moved) > side.events.index(side.wait(ev.HelloReceived))


def test_the_ways_to_a_peer_are_shown(sides: Callable[[str], Side]) -> None:
    """The paths of its link, and where it was ever said to be; of a stranger nothing."""
    a, b = linked(sides)
    known = msgspec.msgpack.decode(a.muscles.paths(b.peer))
    assert known.keys() == {"since_ms", "paths", "candidates"} and known["since_ms"] < 60_000
    path = next(path for path in known["paths"] if path["selected"])
    assert path.keys() == {"kind", "address", "via", "selected", "rtt_us"}
    assert (path["kind"], path["address"], path["via"]) == ("ip", b.addresses[0], b"")
    here = {"kind": "ip", "address": b.addresses[0], "active": True}
    assert here in known["candidates"]
    stranger = msgspec.msgpack.decode(a.muscles.paths(b"s" * 32))
    assert (stranger["paths"], stranger["candidates"]) == ([], [])


def test_a_dial_through_members_where_none_relays_fails_as_an_event(
    sides: Callable[[str], Side], native: Any
) -> None:
    """The row names a next hop, and that one passes nothing on before it is told to."""
    a, b = linked(sides)
    far = PeerId(native.generate_key().public)
    rows = [
        fx.PeerRow(peer=peer, name="n", properties="{}", price_us=0, hops=hops)
        for peer, hops in ((a.peer, []), (b.peer, []), (far, [b.peer]))
    ]
    for side in (a, b):
        lanes = {"peers": fx.LaneRows(rows=rows)}
        side.port.carry_out(fx.PushTables(generation=1, base=0, lanes=lanes, lease_ms=15_000))
    a.port.carry_out(fx.Dial(peer=far, addresses=[], by_mesh=True))
    failed = a.wait(ev.DialFailed)
    assert (failed.peer, failed.slug) == (far, "unreachable")


def test_what_is_passed_on_and_where_a_node_is_seen_are_set(sides: Callable[[str], Side]) -> None:
    """Both may be set at any time; what is no address is refused."""
    a = sides("a")
    a.port.carry_out(fx.SetRelay(relays=True, bytes_per_s=1_000_000))
    a.port.carry_out(fx.SetRelay(relays=False, bytes_per_s=0))
    a.port.carry_out(fx.SetSeen(addresses=["127.0.0.1:60611", "[::1]:60611"]))
    a.port.carry_out(fx.SetSeen(addresses=[]))
    assert a.faults == []
    with pytest.raises(Exception) as raised:
        a.muscles.set_seen(["nowhere"])
    assert slug_of(raised.value) == "bad-request"


def test_a_service_that_no_client_asked_for_has_no_answers(sides: Callable[[str], Side]) -> None:
    """Nor one that nobody serves."""
    a, _ = linked(sides)
    assert msgspec.msgpack.decode(a.muscles.answers("nobody")) == []
