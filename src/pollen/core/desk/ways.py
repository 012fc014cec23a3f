"""How packets to a member go, and what would help: the words of ``pln why path``.

Decides: nothing; the words and the numbers.
Does not know: how a way is found (``paths``); what the muscles tried.
Invariants: pure; it says what this node knows and not more: what stands before another member is
    that member's own word.
Source: docs/design/cli.md#why; RFC 4787, 4.1.
"""

from __future__ import annotations

from collections.abc import Iterator

from pollen.core.codec import Refusal
from pollen.core.desk.views import Screen, path_of
from pollen.core.ids import PeerId
from pollen.core.paths import Nat
from pollen.core.whywords import WhyPath

_NATS = {
    Nat.UNKNOWN: "nothing is known yet of what stands before it",
    Nat.NONE: "nothing stands before it: others see it where it says that it is",
    Nat.BEHIND: "a router stands before it, and one member alone sees it from outside",
    Nat.SAME: "a router stands before it that shows all others the same address",
    Nat.OTHER: "a router stands before it that shows each of the others another address",
}


def why_path(screen: Screen, target: str) -> WhyPath | Refusal:
    """The answer to ``WhyPathCommand``."""
    peer = screen.members.find_named(target)
    if isinstance(peer, Refusal):
        return peer
    if peer == screen.node:
        return Refusal("usage", "that is this node", "name another one: pln status nodes")
    state = screen.paths.state(peer)
    samples = screen.telemetry.peers if screen.telemetry else []
    sample = next((sample for sample in samples if sample.peer == peer), None)
    path, path_ms = path_of(screen, peer, sample)
    return WhyPath(
        node=peer.hex(),
        name=screen.members.name_of(peer),
        path=path,
        path_ms=path_ms,
        address="" if state is None else state.address,
        rtt_us=0 if sample is None else sample.rtt_us,
        nat=screen.paths.nat_of(screen.node).name.lower(),
        node_nat=screen.paths.nat_of(peer).name.lower(),
        hops=[screen.members.name_of(hop) for hop in screen.paths.hops(peer)],
        seen_at=list(screen.paths.seen_at()),
        why=list(_why(screen, peer, path)),
    )


def _why(screen: Screen, peer: PeerId, path: str) -> Iterator[str]:
    paths, name = screen.paths, screen.members.name_of(peer)
    own_nat, nat = paths.nat_of(screen.node), paths.nat_of(peer)
    yield f"this node: {_NATS[own_nat]}"
    yield f"{name}, by its own word: {_NATS[nat]}"
    hops = [screen.members.name_of(hop) for hop in paths.hops(peer)]
    if hops:
        yield f"members that pass packets on between them, best first: {', '.join(hops)}"
    elif path != "direct":
        yield "no member that passes packets on is directly linked with both"
    yield from _what_helps(path, own_nat, nat, hops)


def _what_helps(path: str, own: Nat, other: Nat, hops: list[str]) -> Iterator[str]:
    if path == "direct":
        return
    if _is_hard(own, other):
        yield "two such routers open no direct path, or only if one lets everybody in"
        yield "what helps: forward the UDP port of one of the two nodes in its router"
    elif path:
        yield "a direct path is sought again every few seconds"
    if not path and not hops:
        yield "what helps: a member that both reach, such as one with a public address"


def _is_hard(own: Nat, other: Nat) -> bool:
    """Whether one of two routers shows each peer another address, and the other hides its node."""
    return Nat.OTHER in (own, other) and Nat.NONE not in (own, other)
