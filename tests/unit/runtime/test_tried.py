"""What the muscles tried, beside what the brain says of a way."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from pollen.core.commands import Drained
from pollen.core.whywords import AnsweredView, ProviderWay, TriedView, WhyPath, WhyService
from pollen.runtime.loop.native import Muscles
from pollen.runtime.tried import with_tried

LAN, WAN = "10.0.2.2:60611", "203.0.113.80:60611"


class Told:
    """Muscles that know some ways to one peer."""

    def __init__(self, *paths: tuple[str, bool]) -> None:
        self._paths = paths

    def paths(self, peer: bytes) -> bytes:
        assert peer == b"p" * 32
        said: dict[str, Any] = {"since_ms": 5}
        said["paths"] = [
            {"kind": "ip" if at else "mesh", "address": at, "via": b"", "selected": used}
            | {"rtt_us": 700}
            for at, used in self._paths
        ]
        known = [{"kind": "ip", "address": at, "active": False} for at in (WAN, LAN)]
        said["candidates"] = [*known, {"kind": "mesh", "address": "", "active": True}]
        return msgspec.msgpack.encode(said)


def answer(path: str) -> WhyPath:
    return WhyPath(
        node=(b"p" * 32).hex(), name="attic", path=path, path_ms=1, address="", rtt_us=700,
        nat="same", node_nat="other", hops=[], seen_at=[], why=["first"],
    )  # fmt: skip


async def why(path: str, *paths: tuple[str, bool]) -> WhyPath:
    told = await with_tried(answer(path), cast(Muscles, Told(*paths)))
    assert isinstance(told, WhyPath)
    return told


async def test_addresses_at_which_a_direct_path_was_sought_are_named() -> None:
    """The way in use stands first; what has no path is told in words as well."""
    told = await why("via vps", ("", True))
    assert told.tried == [
        TriedView(address="", state="used", rtt_us=700),
        TriedView(address=LAN, state="tried"),
        TriedView(address=WAN, state="tried"),
    ]
    words = f"addresses at which it was sought, without a path now: {LAN}, {WAN}"
    assert told.why == ["first", words]


async def test_a_direct_path_that_is_not_used_is_named() -> None:
    """As for the moment in which packets go back to it."""
    told = await why("via vps", (WAN, False), ("", True))
    assert [(one.address, one.state) for one in told.tried] == [
        ("", "used"),
        (WAN, "open"),
        (LAN, "tried"),
    ]
    assert f"a direct path is open and not used: {WAN}" in told.why


async def test_of_a_direct_way_nothing_more_is_said() -> None:
    """The other addresses are no news to anybody then, and stand in the JSON."""
    told = await why("direct", (WAN, True))
    states = [(one.address, one.state) for one in told.tried]
    assert (told.why, states[:2]) == (["first"], [(WAN, "used"), ("", "tried")])


async def test_any_other_answer_passes_as_it_is() -> None:
    """And that of a node whose muscles are not there yet."""
    other = Drained(seeds=3)
    assert await with_tried(other, cast(Muscles, Told())) is other
    asked = answer("direct")
    assert await with_tried(asked, None) is asked


class Said:
    """Muscles that led clients to some providers."""

    def __init__(self, *answers: tuple[str, str, int]) -> None:
        self._answers = answers

    def answers(self, service: str) -> bytes:
        assert service == "web"
        return msgspec.msgpack.encode(
            [
                {"node": node.encode() * 32, "slug": slug, "reason": "full", "ago_ms": ago}
                for node, slug, ago in self._answers
            ]
        )


async def why_service(*answers: tuple[str, str, int]) -> WhyService:
    way = {"state": "online", "lets": True, "gate": "", "price_us": 1, "price_source": "measured"}
    ways = [ProviderWay(node=(n.encode() * 32).hex(), name=n, path="", **way) for n in "ab"]
    asked = WhyService(
        name="web", datagrams=False, name_epoch=1, allowed=True, why=["first"], providers=ways
    )
    told = await with_tried(asked, cast(Muscles, Said(*answers)))
    assert isinstance(told, WhyService)
    return told


async def test_what_a_provider_answered_last_is_told() -> None:
    """That of the one which was tried last in words; of who serves it no more nothing."""
    told = await why_service(("a", "overloaded", 900), ("b", "", 400), ("z", "denied", 1))
    assert [way.answered for way in told.providers] == [
        AnsweredView(slug="overloaded", reason="full", ago_ms=900),
        AnsweredView(slug="", reason="full", ago_ms=400),
    ]
    assert told.why == ["first", "the last client of this node was led to b, which took it"]
    told = await why_service(("a", "overloaded", 1))
    last = "the last client of this node was led to a, which refused it: full [overloaded]"
    assert told.why[1:] == [last] and told.providers[1].answered is None


async def test_of_a_service_that_nobody_used_nothing_more_is_said() -> None:
    """As it is."""
    told = await why_service()
    assert (told.why, [way.answered for way in told.providers]) == (["first"], [None, None])
