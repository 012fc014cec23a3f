"""Where others see this node, and what follows from that.

Decides: under which addresses peers may try a direct path to this node, and what kind of address
    translation stands before it.
Does not know: links; who told something first.
Invariants: an address of which two members say the same goes before any other; while there is one,
    no address of a single member counts. At most ``ADDRESSES_MAX`` count, so a member that lies
    aims at most the few packets of one attempt at somebody else. Nothing is believed of an address
    that no other machine can have: loopback, link-local, multicast.
Source: docs/internals/paths.md#seen; RFC 4787, 4.1. Refused: a public STUN server, who would be a
    third party; the QUIC extension for it, which asks relays that this mesh does not have.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from pollen.core.ids import SECOND, Nanos, PeerId
from pollen.core.paths.near import Nat
from pollen.core.peers import host_of

# Guess: one attempt at four sends no more than a dozen packets.
ADDRESSES_MAX = 4
# What a member said counts for so long after its link ended. Source: mappings of UDP last two
# minutes or more (RFC 4787 REQ-5).
KEEP_NS = 120 * SECOND


class Said(msgspec.Struct, kw_only=True):
    """What one member said. ``until``: 0 while it is linked."""

    address: str
    until: Nanos = Nanos(0)


class Sightings:
    """What the members say of where they see this node."""

    def __init__(self) -> None:
        self._said: dict[PeerId, Said] = {}

    def note(self, peer: PeerId, address: str, own: Collection[str]) -> bool:
        """A linked member says so; ``own``: the addresses that everybody knows of this node. False
        when it is none that a machine can have for others."""
        if address in own:
            self._said.pop(peer, None)
            return True
        if not is_believable(address):
            return False
        self._said[peer] = Said(address=address)
        return True

    def note_unlinked(self, peer: PeerId, now: Nanos) -> None:
        """Its link ended: what it said is true for a while."""
        said = self._said.get(peer)
        if said is not None and not said.until:
            said.until = Nanos(now + KEEP_NS)

    def forget_old(self, now: Nanos) -> None:
        """What was said too long ago is true no more."""
        for peer in [p for p, said in self._said.items() if said.until and said.until <= now]:
            del self._said[peer]

    def addresses(self) -> list[str]:
        """Where to try a direct path to this node: what most members say, in order."""
        counts: dict[str, int] = {}
        for said in self._said.values():
            counts[said.address] = counts.get(said.address, 0) + 1
        agreed = [address for address, count in counts.items() if count > 1]
        return sorted(agreed or counts, key=lambda a: (-counts[a], a))[:ADDRESSES_MAX]

    def nat(self, linked: int) -> Nat:
        """What stands before this node, with which so many members are directly linked."""
        addresses = [said.address for said in self._said.values()]
        if not addresses:
            return Nat.NONE if linked else Nat.UNKNOWN
        if len(addresses) == 1:
            return Nat.BEHIND
        return Nat.OTHER if len(set(addresses)) == len(addresses) else Nat.SAME


def is_believable(address: str) -> bool:
    """Whether another machine may see this one there."""
    host = host_of(address)
    if host is None:
        return False
    is_nobody = host.is_unspecified or host.is_multicast or host.is_link_local
    return not (host.is_loopback or is_nobody)
